"""A disk cache of tower outputs and token layout of clips, for runs whose towers are frozen.

Entries are found by a hash of what they depend on: tower outputs by the clip's files, its token layout by its text and prompt too,
and both by the settings of the processor, the base model and how it is loaded. Any change gives another hash, so an entry is never
stale, only unused. Clips and questions of the same files share their tower outputs.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..adapter_omnisent import inject_lora
from ..families_omnisent import family_of
from ..family_omnisent import TOWERS, Thinker
from ..processing_omnisent import SETTINGS, OmniSentProcessor
from ..thinker_inputs_omnisent import TOWER_INPUTS
from ..thinker_omnisent import pinned_revision, thinker_config
from ..towers_omnisent import tower_features
from .arguments import ModelArguments, OmniSentTrainingArguments
from .backbone import base_of, load_towers, lora_config
from .bad_clips import warn_if_partial
from .environment import installed_version
from .feature_store import FeatureStore

VERSION = 3  # raise when the same clip and settings would give another entry
# Packages that read files or compute tower outputs; another version may give another entry.
PACKAGES = ("omnisent", "torch", "transformers", "bitsandbytes", "numpy", "av", "soxr", "qwen-omni-utils")
LAYOUT = ("input_ids", "position_ids", "clip_mask")
# Settings of a processor that change the token layout alone.
PROMPT_SETTINGS = (
    *("system_prompt", "instruction", "transcript_template", "context_template", "context_clips", "examples"),
    *("text_case", "pool_over"),
)
Digests = dict[tuple[str, int, int], str]  # of files, by path, size and time
_DIGESTS: Digests = {}

logger = logging.getLogger("omnisent.feature_cache")


@dataclass(frozen=True)
class FeatureCache:
    """The entries for one backbone and processor.

    Args:
        store: of tower outputs with the same settings.
        prompt: digest of what the token layout depends on besides the clip.
        digests: of the files that were read so far; a worker gets a copy, and does not read them again.
    """

    store: FeatureStore
    prompt: str
    digests: Digests = field(default_factory=lambda: _DIGESTS, repr=False)

    def keys(self, clip: Mapping[str, Any]) -> tuple[str, str]:
        """The keys of a clip's tower outputs and of its token layout.

        Raises:
            FileNotFoundError: when one of its files is missing.
        """
        texts, media = _texts(clip), _media(clip, self.digests)
        return f"tower_outputs/{_digest(media)}", f"token_layouts/{_digest([self.prompt, texts, media])}"

    def load(self, clip: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The entry of a clip: what `encode` gives, with `audio_embeds` and `video_embeds` in place of audio and video.

        Raises:
            FileNotFoundError: when there is none.
            ValueError: when it is incomplete.
        """
        features, layout = self.keys(clip)
        return self.store.load(layout) | self.store.load(features)

    def has(self, clip: Mapping[str, Any]) -> bool:
        """Whether a clip has a complete entry."""
        return all(key in self.store for key in self.keys(clip))


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
    settings = input_settings(model_args, processor)
    return FeatureCache(FeatureStore(Path(folder) / _digest(settings["towers"])), _digest(settings["prompt"]))


def clip_content(clip: Mapping[str, Any]) -> dict[str, Any]:
    """What the inputs of a clip depend on: its texts, and the digests of its files."""
    return _texts(clip) | _media(clip, _DIGESTS)


def input_settings(model_args: ModelArguments, processor: OmniSentProcessor) -> dict[str, Any]:
    """What the inputs and the states of a frozen model depend on besides the clips: `towers` for the towers' outputs, and `prompt`
    for the rest of the inputs.
    """
    settings = {name: getattr(processor, name) for name in SETTINGS}
    settings["feature_extractor"] = processor.feature_extractor.to_dict()
    settings["feature_extractor"].pop("auto_map", None)  # it is there once the processor has been saved
    prompt = {name: settings.pop(name) for name in PROMPT_SETTINGS}
    with_text = "text" in settings["modalities"]
    settings["modalities"] = [name for name in settings["modalities"] if name != "text"]
    return {
        "towers": {
            "version": VERSION,
            "packages": {name: installed_version(name) for name in PACKAGES},
            "processor": settings,
            "base": _base(model_args),
            **{
                name: getattr(model_args, name)
                for name in ("dtype", "quantization", "quantize_towers", "attn_implementation")
            },
        },
        "prompt": {
            **prompt,
            "text": with_text,
            "chat_template": processor.chat_template,
            "tokenizer": hashlib.sha256(processor.tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
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

    Raises:
        ValueError: naming the clip, when its tower outputs are not finite or its files change meanwhile.
        OSError: when nothing can be written.
    """
    missing = [clip for clip in clips if not cache.has(clip)]
    logger.info("feature cache %s: %d of %d clips found", cache.store.folder, len(clips) - len(missing), len(clips))
    own = [clip for clip in missing if _process_of(cache.keys(clip)[0], args.world_size) == args.process_index]
    if own:
        with cache.store.writing():
            _compute(cache, load_towers(model_args, args.device), own, processor, args)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        cache.store.refresh()


def _process_of(key: str, processes: int) -> int:
    """Which process computes an entry; the same for all questions about a clip, and whatever other runs have written meanwhile."""
    return int(key[-8:], 16) % processes


def _compute(
    cache: FeatureCache,
    thinker: Thinker,
    clips: Sequence[Mapping[str, Any]],
    processor: OmniSentProcessor,
    args: OmniSentTrainingArguments,
) -> None:
    keys = [cache.keys(clip) for clip in clips]
    loader = DataLoader(_Encoded(clips, processor), batch_size=None, num_workers=args.dataloader_num_workers)
    progress = tqdm(loader, total=len(clips), desc="tower features", unit="clip", disable=args.disable_tqdm)
    device = next(thinker.parameters()).device
    for clip, (of_towers, of_layout), encoded in zip(clips, keys, progress, strict=True):
        if cache.keys(clip) != (of_towers, of_layout):
            raise ValueError(f"clip {encoded['clip_id']}: its files changed while they were read; start the run again")
        if of_towers not in cache.store:
            with torch.no_grad():
                features = tower_features(thinker, **{k: v.to(device) for k, v in _batch(processor, encoded).items()})
            for name, values in features.items():
                if not bool(values.isfinite().all()):
                    raise ValueError(
                        f"clip {encoded['clip_id']}: {name} of the towers have NaN or infinite values; it is not cached"
                    )
            warn_if_partial(encoded)
            cache.store.add(of_towers, features)
        if of_layout not in cache.store:
            cache.store.add(of_layout, {name: encoded[name] for name in LAYOUT if name in encoded})


def _batch(processor: OmniSentProcessor, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The towers' inputs of one encoded clip."""
    batch = processor.pad([encoded])
    return {name: batch[name] for name in TOWER_INPUTS if name in batch}


def _changes_towers(arguments: ModelArguments) -> bool:
    base, revision = base_of(arguments)
    with torch.device("meta"):
        config = thinker_config(base, revision=revision)
        thinker = family_of(config).thinker_class(config)
        inject_lora(thinker, lora_config(arguments, family_of(config)), low_cpu_mem_usage=True)
    return any("lora_" in name and name.startswith(TOWERS) for name, _ in thinker.named_parameters())


def _base(arguments: ModelArguments) -> str:
    """Identifies the base model: a Hub id with its commit, or the names, sizes and times of a folder's weights."""
    base, revision = base_of(arguments)
    if not os.path.isdir(base):
        return f"{base}@{pinned_revision(base, revision)}"
    weights = sorted(Path(base).glob("*.safetensors"))
    return json.dumps([str(Path(base).resolve()), *[(path.name, *_stamp(path)) for path in weights]])


def _texts(clip: Mapping[str, Any]) -> dict[str, Any]:
    content = {name: clip.get(name) for name in ("text", "context")}
    return content | {name: clip[name] for name in ("instruction",) if name in clip}


def _media(clip: Mapping[str, Any], digests: Digests) -> dict[str, str | None]:
    return {name: clip.get(name) and _file_digest(clip[name], digests) for name in ("video", "audio")}


def _stamp(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _file_digest(path: str, digests: Digests) -> str:
    """Digest of a file; it is read again when its size or time changes."""
    file_as_it_is = (path, *_stamp(path))
    if file_as_it_is not in digests:
        with open(path, "rb") as file:
            digests[file_as_it_is] = hashlib.file_digest(file, "blake2b").hexdigest()
    return digests[file_as_it_is]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


class _Encoded(Dataset):
    def __init__(self, clips: Sequence[Mapping[str, Any]], processor: OmniSentProcessor):
        self.clips, self.processor = clips, processor

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.processor.encode(self.clips[index])
