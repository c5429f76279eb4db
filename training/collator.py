"""Clips -> batches: the data set that encodes a clip in a DataLoader worker, and the collator that pads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset
from transformers import BatchFeature

from ..data.clip import Clip, labels_of
from ..data.neighbours import preceding_texts
from ..media_omnisent import longest_seconds, read_header
from ..processing_omnisent import OmniSentProcessor
from ..readouts.base import Readout
from .bad_clips import warn_if_partial
from .feature_cache import FeatureCache


class ClipDataset(Dataset):
    """Encoded clips with their labels; a clip is read when its item is requested. With a cache, tower outputs come from it."""

    def __init__(
        self,
        clips: Sequence[Clip],
        processor: OmniSentProcessor,
        readout: Readout,
        cache: FeatureCache | None = None,
    ):
        self.clips = list(clips)
        self.processor = processor
        self.readout = readout
        self.cache = cache
        context = preceding_texts(self.clips, processor.context_clips)
        self.labels = labels_of(self.clips)
        self._warned: set[int] = set()
        self.inputs = [{**clip.to_dict(), "context": context[clip.id]} for clip in self.clips]

    def __len__(self) -> int:
        return len(self.clips)

    def lengths(self) -> list[int]:
        """Approximate lengths, for grouping similar clips: duration in ms by the files' headers, plus characters of the text."""
        return [round(1000 * _seconds(clip)) + len(clip.text or "") for clip in self.clips]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        read = self.processor.encode if self.cache is None else self.cache.load
        label = float(self.labels[index])
        own = {"labels": torch.tensor(label, dtype=torch.float32), "clip_index": torch.tensor(index)}
        encoded = read(self.inputs[index])
        if index not in self._warned:
            warn_if_partial(encoded)
            self._warned.add(index)
        return {**encoded, **self.readout.training_inputs(label), **own}


def _seconds(clip: Clip) -> float:
    return longest_seconds(read_header(path) for path in (clip.video, clip.audio) if path) or 0.0


@dataclass(frozen=True)
class ClipCollator:
    """Pads encoded clips; `labels` becomes (B,) float32, and `clip_index` (B,) the clips' indices in their data set."""

    processor: OmniSentProcessor
    readout: Readout
    padding_side: str = "left"

    def __call__(self, items: Sequence[dict[str, torch.Tensor]]) -> BatchFeature:
        batch = self.processor.pad(items, padding_side=self.padding_side)
        batch.update(self.readout.collate_training_inputs(items))
        batch.update({name: torch.stack([item[name] for item in items]) for name in ("labels", "clip_index")})
        return batch
