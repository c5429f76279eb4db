"""Hidden states of clips from a model that is not trained further, pooled and kept on disk, for fitting many readouts on them.

The model is the base Thinker, one with a trained adapter, or a text encoder.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from ..data.clip import SPLITS, Clip, labels_of
from ..data.neighbours import preceding_texts
from ..heads_omnisent import pool_last_token, pool_mean, unit_size
from ..text_omnisent import plain_text
from ..training.arguments import OmniSentTrainingArguments
from ..training.feature_cache import clip_content
from .states import Batch

PLACES = ("last", "mean, all", "mean, clip")  # pooling, and over which tokens
MOST_TOKEN_BYTES = 4 * 10**9
VERSION = 1  # raise when the same inputs would give other states
StatesOf = Callable[[Sequence[Clip]], Iterator[Batch]]


@dataclass(frozen=True)
class FrozenStates:
    """States of the n clips of a split. Of L layers, a state has L + 2 rows: 0 (the token embeddings) to L of unit size, then the
    last layer's as it is.

    Attributes:
        pooled: by place, (n, L + 2, H) float32.
        tokens: (N, L + 2, H) float16 of all tokens of all clips, on disk; `None` if that would take more than `MOST_TOKEN_BYTES`.
        starts: (n + 1,) where the tokens of each clip start.
        own: (N,) whether a token is of the transcript, audio or video.
        labels: (n,) label units.
        ids: of the clips.
        videos: the video of each clip; `None` if that of any clip is not known, or all are of one.
        key: differs for other clips, labels, models, prompts and versions.
    """

    pooled: dict[str, np.ndarray]
    tokens: np.ndarray | None
    starts: np.ndarray
    own: np.ndarray
    labels: np.ndarray
    ids: list[str]
    videos: list[str] | None
    key: str

    @property
    def layer_count(self) -> int:
        """L."""
        return self.pooled[PLACES[0]].shape[1] - 2


def frozen_states(
    folder: Path, source: dict[str, Any], splits: dict[str, list[Clip]], states_of: StatesOf, *, context_clips: int = 0
) -> dict[str, FrozenStates]:
    """The states of each split, read from a folder if it has those of the same source and clips, else computed and written there.

    Args:
        folder: for the files of each split.
        source: what the states depend on besides the clips: model, adapter, prompt.
        splits: clips by split.
        states_of: gives the states of clips, batch by batch.
        context_clips: how many preceding transcripts are in the prompt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for split in SPLITS:
        clips = splits[split]
        before = preceding_texts(clips, context_clips)
        content = [clip_content({**clip.to_dict(), "context": before[clip.id]}) for clip in clips]
        key = hashlib.sha256(json.dumps([VERSION, source, content], sort_keys=True, default=str).encode()).hexdigest()
        labels = hashlib.sha256(labels_of(clips).tobytes()).hexdigest()
        found[split] = _split_states(folder, split, key, labels, clips, states_of)
    return found


def _split_states(
    folder: Path, split: str, key: str, label_key: str, clips: list[Clip], states_of: StatesOf
) -> FrozenStates:
    file, tokens_file = folder / f"{split}.npz", folder / f"{split}-tokens.npy"
    if not file.is_file() or _key(file) != key:
        file.unlink(missing_ok=True)
        _write_states(file, tokens_file, key, clips, states_of)
    with np.load(file) as kept:
        tokens = np.load(tokens_file, mmap_mode="r") if tokens_file.is_file() else None
        pooled = {place: kept[place] for place in PLACES}
        ids, videos = [clip.id for clip in clips], [clip.video_id for clip in clips if clip.video_id]
        known = videos if len(videos) == len(clips) and len(set(videos)) > 1 else None
        labels = labels_of(clips)
        return FrozenStates(pooled, tokens, kept["starts"], kept["own"], labels, ids, known, f"{key} {label_key}")


def _key(file: Path) -> str:
    with np.load(file) as kept:
        return str(kept["key"])


def _write_states(file: Path, tokens_file: Path, key: str, clips: Sequence[Clip], states_of: StatesOf) -> None:
    pooled: dict[str, list[np.ndarray]] = {place: [] for place in PLACES}
    tokens: list[np.ndarray] | None = []
    lengths, own, size = [], [], 0
    for layers, mask, clip_mask in states_of(clips):
        states = torch.stack([*map(unit_size, layers), layers[-1].float()], 2)  # (B, T, L + 2, H)
        masks = dict(zip(PLACES, (mask, mask, clip_mask), strict=True))
        for place in PLACES:
            pool = pool_last_token if place == "last" else pool_mean
            pooled[place].append(pool(states.flatten(2), masks[place]).unflatten(1, states.shape[2:]).cpu().numpy())
        kept = states[mask.bool()].half().cpu().numpy()
        size += kept.nbytes
        tokens = [*tokens, kept] if tokens is not None and size <= MOST_TOKEN_BYTES else None
        lengths += mask.sum(1).tolist()
        own.append(clip_mask[mask.bool()].bool().cpu().numpy())
    tokens_file.unlink(missing_ok=True)
    if tokens is not None:
        np.save(tokens_file, np.concatenate(tokens))
    arrays = {place: np.concatenate(parts) for place, parts in pooled.items()}
    draft = file.with_suffix(".part.npz")
    np.savez(
        draft,
        key=np.array(key),
        starts=np.cumsum([0, *lengths]),
        own=np.concatenate(own),
        **arrays,  # type: ignore[arg-type]
    )
    draft.replace(file)


def encoder_states(
    name: str, text_case: str, args: OmniSentTrainingArguments, clips: Sequence[Clip]
) -> Iterator[Batch]:
    """States of a text encoder of transformers on the transcripts, as `layer_states`; its special tokens are not the clip's."""
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    size = args.per_device_eval_batch_size
    texts = [plain_text(clip.text, text_case) or "" for clip in clips]
    starts = range(0, len(texts), size)
    for start in tqdm(starts, desc="encoder states", unit="batch", disable=args.disable_tqdm):
        batch = tokenizer(
            texts[start : start + size],
            padding=True,
            truncation=True,
            return_tensors="pt",
            return_special_tokens_mask=True,
        )
        special = batch.pop("special_tokens_mask")
        with torch.no_grad():
            layers = model(**batch, output_hidden_states=True).hidden_states
        mask = batch["attention_mask"]
        own = mask * (1 - special)
        # An empty transcript has no token of its own.
        yield layers, mask, torch.where(own.any(1, keepdim=True), own, mask)


def file_digests(folder: Path | None) -> dict[str, str]:
    """The digests of the weights in a folder by their names; empty for no folder, or one that is not on this machine."""
    files = sorted(folder.glob("*.safetensors")) if folder is not None and folder.is_dir() else []
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
