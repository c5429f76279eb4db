"""Tensors on disk under keys, in few large files that are memory-mapped; several processes and runs may write at once.

A file (a shard) is in safetensors format, and its header says which entries it holds. Every writer writes shards of its own, each
under a new name and complete or not at all. Knows no clip and no model.
"""

import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

SUFFIX, DRAFT_SUFFIX = ".safetensors", ".part"
NAME = "[0-9a-f]" * 32  # of a folder of settings, and of a shard
EARLIER = f"[0-9a-f][0-9a-f]/{'[0-9a-f]' * 64}{SUFFIX}"  # one file an entry, as earlier versions wrote them
ENTRIES = "entries"  # in a shard's metadata: the names of the tensors of each entry, as JSON
# A shard is written when it has so many bytes or its first entry is so many seconds old: a killed process loses no more.
SHARD_BYTES = 128 * 10**6
SHARD_SECONDS = 30.0

logger = logging.getLogger("omnisent.feature_store")


@dataclass(frozen=True)
class CacheInfo:
    """Contents of a cache folder.

    Attributes:
        entries: how many different ones, by the kind that their keys begin with.
        size: of all files, in bytes.
        earlier: how many files are of an earlier version, and not used.
    """

    entries: dict[str, int]
    size: int
    earlier: int

    @property
    def in_words(self) -> str:
        """For people: how much of what."""
        kinds = [f"{count} {kind.replace('_', ' ')}" for kind, count in self.entries.items()]
        earlier = f", and {self.earlier} files of an earlier version, which are not used" if self.earlier else ""
        return f"{', '.join(kinds) or 'no entries'}, {self.size / 1e6:.1f} MB{earlier}"


class FeatureStore:
    """Entries, each of a few tensors by name, in the shards of one folder.

    Shards are opened when they are first read, in each process. What other processes have written is found at the start, at
    every `flush`, and by `refresh`.

    Args:
        folder: of the shards; need not exist.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._entries: dict[str, tuple[str, list[str]]] = {}  # by key: shard, names of the tensors
        self._known: set[str] = set()  # shards whose headers were read
        self._open: dict[str, Any] = {}
        self._pending: dict[str, dict[str, torch.Tensor]] = {}
        self._pending_bytes, self._pending_since = 0, 0.0
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a process opens files itself

    def __contains__(self, key: str) -> bool:
        return key in self._entries or key in self._pending

    def refresh(self) -> None:
        """Find the shards that were written since the last time; one that is incomplete is removed, with a warning."""
        for path in sorted(self.folder.glob(NAME + SUFFIX)):
            if path.name in self._known:
                continue
            try:
                entries = _entries_of(path)
            except FileNotFoundError:  # another process has found it incomplete
                continue
            except ValueError as error:
                logger.warning("%s is incomplete and is removed; its entries are computed again: %s", path, error)
                path.unlink(missing_ok=True)
                continue
            self._known.add(path.name)
            self._entries |= {key: (path.name, names) for key, names in entries.items()}

    def load(self, key: str) -> dict[str, torch.Tensor]:
        """The tensors of an entry. They are the mapped file itself, so do not write to them.

        Raises:
            FileNotFoundError: when there is no such entry.
            ValueError: when its shard is incomplete or gone.
        """
        if key not in self._entries:
            raise FileNotFoundError(
                f"{self.folder}: no entry {key}; start the run again, which computes what is missing or has changed"
            )
        shard, names = self._entries[key]
        if shard not in self._open:
            path = self.folder / shard
            try:
                self._open[shard] = _opened(path)
            except (FileNotFoundError, ValueError) as error:
                raise ValueError(f"{path} is not complete ({error}); start the run again to rebuild it") from error
        return {name: self._open[shard].get_tensor(f"{key}/{name}") for name in names}

    def add(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep an entry for the next shard, and write that shard if it is large or old enough."""
        if not self._pending:
            self._pending_bytes, self._pending_since = 0, time.monotonic()
        self._pending[key] = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self._pending_bytes += sum(tensor.nbytes for tensor in self._pending[key].values())
        if self._pending_bytes >= SHARD_BYTES or time.monotonic() - self._pending_since >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the entries that are not written yet.

        Raises:
            OSError: when they cannot be written.
        """
        pending, self._pending = self._pending, {}
        if pending:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{uuid.uuid4().hex}{SUFFIX}"
            draft = path.with_suffix(DRAFT_SUFFIX)
            tensors = {f"{key}/{name}": tensor for key, entry in pending.items() for name, tensor in entry.items()}
            try:
                save_file(tensors, draft, metadata={ENTRIES: json.dumps({key: [*e] for key, e in pending.items()})})
                draft.replace(path)
            except SafetensorError as error:
                raise OSError(f"{draft}: cannot be written ({error}); free space, or correct feature_cache") from error
            finally:
                draft.unlink(missing_ok=True)
        self.refresh()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Writes what was added in here at the end, also after an error."""
        try:
            yield
        finally:
            self.flush()


def cache_info(folder: str | Path) -> CacheInfo:
    """What the folder of a cache holds, for all settings together.

    Raises:
        FileNotFoundError: when there is no such folder.
    """
    shards, drafts, earlier = _files(folder)
    keys = set()
    for path in shards:
        with suppress(FileNotFoundError, ValueError):  # incomplete ones hold no entries
            keys |= {(path.parent, key) for key in _entries_of(path)}
    kinds = [key.partition("/")[0] for _, key in keys]
    return CacheInfo(
        {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        sum(path.stat().st_size for path in (*shards, *drafts, *earlier) if path.is_file()),
        len(earlier),
    )


def clear_cache(folder: str | Path) -> CacheInfo:
    """Remove the files of a cache, also those of earlier versions and killed processes, and no others; returns what they held.

    Raises:
        FileNotFoundError: when there is no such folder.
    """
    info = cache_info(folder)
    files = [path for kind in _files(folder) for path in kind]
    for path in files:
        path.unlink(missing_ok=True)
    for own in {path.parent for path in files}:
        with suppress(OSError):  # it holds other files
            own.rmdir()
    return info


def _files(folder: str | Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The shards of a cache, what killed processes have left, and entries of earlier versions."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such cache folder")
    patterns = (f"{NAME}/{NAME}{SUFFIX}", f"{NAME}/{NAME}{DRAFT_SUFFIX}", EARLIER)
    shards, drafts, earlier = (sorted(Path(folder).glob(pattern)) for pattern in patterns)
    return shards, drafts, earlier


def _opened(path: Path) -> Any:
    """A shard, memory-mapped; FileNotFoundError when it is gone, ValueError when its length is not that in its header."""
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _entries_of(path: Path) -> dict[str, list[str]]:
    """The names of the tensors of each entry in a shard; raises as `_opened`."""
    shard = _opened(path)
    entries: dict[str, list[str]] = json.loads((shard.metadata() or {}).get(ENTRIES, "{}"))
    missing = {f"{key}/{name}" for key, names in entries.items() for name in names} - set(shard.keys())
    if missing:
        raise ValueError(f"its header lacks {min(missing)}")
    return entries
