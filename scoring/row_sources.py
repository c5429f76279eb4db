"""What rows of scores depend on, as values that are compared when an interrupted command resumes. Reads no weights and no media."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..modeling_omnisent import bundle_folder
from ..thinker_omnisent import pinned_revision
from .loading import Loading


def loading_settings(loading: Loading) -> dict[str, Any]:
    """How a model is loaded, by the names of the options."""
    resolved = loading.resolved()
    return {**asdict(resolved), "device": torch.device(resolved.device).type}


def weights_of(model: str) -> str:
    """Identifies a model: the commit of a Hub id, or the names, sizes and times of a folder's files."""
    if not os.path.isdir(model):
        return pinned_revision(model, None) or bundle_folder(model).name
    return files_of(Path(model), (".safetensors", ".json", ".jinja"))


def files_of(folder: Path, suffixes: Sequence[str] | None = None) -> str:
    """Identifies the files in a folder, at any depth, by their names, sizes and times; `None` for those with any suffix."""
    files = sorted(path for path in folder.rglob("*") if suffixes is None or path.suffix in suffixes)
    return digest_of([(str(path.relative_to(folder)), stamp_of(path)) for path in files if path.is_file()])


def stamp_of(path: str | os.PathLike) -> tuple[int, int] | None:
    """Size and modification time; `None` if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def digest_of(value: Any) -> str:
    """A short digest of what can be written as JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
