"""A disk cache of tower outputs and token layout of clips, for runs whose towers are frozen.

Every entry is a safetensors file whose name is a hash of what it depends on: the clip's files and text, the processor's settings,
the base model and how it is loaded. Any change gives another name, so an entry is never stale, only unused.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import inject_adapter_in_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..processing_omnisent import OmniSentProcessor
from ..thinker_inputs_omnisent import TOWER_INPUTS
from ..thinker_omnisent import TOWERS, Thinker, pinned_revision, thinker_config
from ..towers_omnisent import tower_features
from .arguments import ModelArguments, OmniSentTrainingArguments
from .backbone import base_of, load_towers, lora_config
from .bad_clips import warn_if_partial
from .environment import installed_version

VERSION = 2  # raise when the same clip and settings would give another entry
# Packages that read files or compute tower outputs; another version may give another entry.
PACKAGES = ("omnisent", "torch", "transformers", "bitsandbytes", "numpy", "av", "soxr", "qwen-omni-utils")
LAYOUT = ("input_ids", "position_ids", "clip_mask")
SUFFIX = ".safetensors"

logger = logging.getLogger("omnisent.feature_cache")


@dataclass(frozen=True)
class CacheInfo:
    """Contents of a cache folder; `size` is in bytes."""

    entries: int
    size: int


@dataclass(frozen=True)
class FeatureCache:
    """The entries for one backbone and processor.

    Args:
        folder: of the entries; several runs, with any settings, may share it.
        settings: what an entry depends on besides its clip, as JSON.
    """

    folder: Path
    settings: str

    def path(self, clip: Mapping[str, Any]) -> Path:
        """The path of a clip's entry, whether it exists or not."""
        name = hashlib.sha256(f"{self.settings}{json.dumps(clip_content(clip))}".encode()).hexdigest()
        return self.folder / name[:2] / f"{name}{SUFFIX}"

    def load(self, clip: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The entry of a clip: what `encode` gives, with `audio_embeds` and `video_embeds` in place of audio and video.

        Raises:
            FileNotFoundError: when there is none.
            ValueError: when it is incomplete.
        """
        path = self.path(clip)
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path}: not a complete cache entry ({error}); start the run again to rebuild it"
            ) from error

    def has(self, clip: Mapping[str, Any]) -> bool:
        """Whether a clip has a complete entry; an incomplete one is removed."""
        path = self.path(clip)
        if not path.is_file():
            return False
        try:
            with safe_open(path, "pt"):  # compares the header with the file's length
                pass
        except SafetensorError:
            logger.warning("%s is incomplete and is computed again", path)
            path.unlink(missing_ok=True)
            return False
        return True

    def store(self, clip: Mapping[str, Any], entry: Mapping[str, torch.Tensor]) -> None:
        """Write an entry atomically; two processes may write the same one."""
        path = self.path(clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".part-{os.getpid()}")
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in entry.items()}, draft)
        draft.replace(path)


def open_cache(folder: str | Path, model_args: ModelArguments, processor: OmniSentProcessor) -> FeatureCache:
    """The cache in a folder, for this backbone and this processor.

    Raises:
        ValueError: when an adapter changes the towers, so that their outputs cannot be cached.
    """
    if _changes_towers(model_args):
        raise ValueError(
            "feature_cache: the adapter changes the audio and vision towers, so their outputs cannot be cached; train with"
            " lora_preset llm, or leave feature_cache out"
        )
    return FeatureCache(Path(folder), json.dumps(input_settings(model_args, processor), sort_keys=True, default=str))


def clip_content(clip: Mapping[str, Any]) -> dict[str, Any]:
    """What the inputs of a clip depend on: its texts, and the digests of its files."""
    content = {name: clip.get(name) for name in ("text", "context")}
    content |= {name: clip[name] for name in ("instruction",) if name in clip}
    media = {name: clip.get(name) and _file_digest(clip[name], _stamp(clip[name])) for name in ("video", "audio")}
    return content | media


def input_settings(model_args: ModelArguments, processor: OmniSentProcessor) -> dict[str, Any]:
    """What the inputs and the states of a frozen model depend on besides the clips."""
    return {
        "version": VERSION,
        "packages": {name: installed_version(name) for name in PACKAGES},
        "processor": processor.to_dict(),
        "chat_template": processor.chat_template,
        "tokenizer": hashlib.sha256(processor.tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "base": _base(model_args),
        **{
            name: getattr(model_args, name)
            for name in ("dtype", "quantization", "quantize_towers", "attn_implementation")
        },
    }


def fill_cache(
    cache: FeatureCache,
    model_args: ModelArguments,
    clips: Sequence[Mapping[str, Any]],
    processor: OmniSentProcessor,
    args: OmniSentTrainingArguments,
) -> None:
    """Compute the missing entries, split among the processes of the run. The towers are loaded only while this runs.

    Args:
        cache: of this backbone and processor.
        model_args: the backbone.
        clips: as the processor takes them.
        processor: with the run's settings.
        args: workers and processes.
    """
    missing = [clip for clip in clips if not cache.has(clip)]
    logger.info("feature cache %s: %d of %d clips found", cache.folder, len(clips) - len(missing), len(clips))
    own = missing[args.process_index :: args.world_size]
    if own:
        _compute(cache, load_towers(model_args, args.device), own, processor, args)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _compute(
    cache: FeatureCache,
    thinker: Thinker,
    clips: Sequence[Mapping[str, Any]],
    processor: OmniSentProcessor,
    args: OmniSentTrainingArguments,
) -> None:
    loader = DataLoader(_Encoded(clips, processor), batch_size=None, num_workers=args.dataloader_num_workers)
    progress = tqdm(loader, total=len(clips), desc="tower features", unit="clip", disable=args.disable_tqdm)
    device = next(thinker.parameters()).device
    for clip, encoded in zip(clips, progress, strict=True):
        with torch.no_grad():
            features = tower_features(thinker, **{k: v.to(device) for k, v in _batch(processor, encoded).items()})
        for name, values in features.items():
            if not bool(values.isfinite().all()):
                raise ValueError(
                    f"clip {encoded['clip_id']}: {name} of the towers have NaN or infinite values; it is not cached"
                )
        warn_if_partial(encoded)
        cache.store(clip, {**{name: encoded[name] for name in LAYOUT if name in encoded}, **features})


def cache_info(folder: str | Path) -> CacheInfo:
    """How many entries a cache holds, and how large they are.

    Raises:
        FileNotFoundError: when there is no such folder.
    """
    sizes = [path.stat().st_size for path in _entries(folder)]
    return CacheInfo(len(sizes), sum(sizes))


def clear_cache(folder: str | Path) -> CacheInfo:
    """Remove every entry, and no other file; returns what was removed.

    Raises:
        FileNotFoundError: when there is no such folder.
    """
    info = cache_info(folder)
    for path in _entries(folder):
        path.unlink()
    return info


def _entries(folder: str | Path) -> list[Path]:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such cache folder")
    return sorted(Path(folder).glob(f"[0-9a-f][0-9a-f]/{'[0-9a-f]' * 64}{SUFFIX}"))


def _batch(processor: OmniSentProcessor, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The towers' inputs of one encoded clip."""
    batch = processor.pad([encoded])
    return {name: batch[name] for name in TOWER_INPUTS if name in batch}


def _changes_towers(arguments: ModelArguments) -> bool:
    base, revision = base_of(arguments)
    with torch.device("meta"):
        thinker = Thinker(thinker_config(base, revision=revision))
        inject_adapter_in_model(lora_config(arguments), thinker, low_cpu_mem_usage=True)
    return any("lora_" in name and name.startswith(TOWERS) for name, _ in thinker.named_parameters())


def _base(arguments: ModelArguments) -> str:
    """Identifies the base model: a Hub id with its commit, or the names, sizes and times of a folder's weights."""
    base, revision = base_of(arguments)
    if not os.path.isdir(base):
        return f"{base}@{pinned_revision(base, revision)}"
    weights = sorted(Path(base).glob(f"*{SUFFIX}"))
    return json.dumps([str(Path(base).resolve()), *[(path.name, *_stamp(path)) for path in weights]])


def _stamp(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@cache
def _file_digest(path: str, stamp: tuple[int, int]) -> str:
    """Digest of a file; it is read again when its size or time changes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


class _Encoded(Dataset):
    def __init__(self, clips: Sequence[Mapping[str, Any]], processor: OmniSentProcessor):
        self.clips, self.processor = clips, processor

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.processor.encode(self.clips[index])
