"""Clips -> batches: the data set that encodes a clip in a DataLoader worker, and the collator that pads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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
    """Encoded clips with their labels; a clip is read when its item is requested. With a cache, tower outputs come from it.

    An item is a clip. Where a readout asks for each of several targets, an item is one question: a clip and a target.

    Args:
        clips: with labels, n of them.
        processor: with the run's prompt.
        readouts: one for each of K targets.
        cache: of tower outputs.
        instructions: what is asked for each target, if an item is a question.
        weights: (n,) of the clips in the loss, or (n, K) of the questions; 1 for `None`.
        labelled: `True` leaves out the questions whose label is missing, for training.

    Attributes:
        labels: (n,), or (n, K) with nan where one is missing, label units.
        item_labels: of each item: its label, or with several targets in one pass its labels (K,).
        inputs: of each item, as the processor takes it.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        processor: OmniSentProcessor,
        readouts: Sequence[Readout],
        cache: FeatureCache | None = None,
        *,
        instructions: Sequence[str] = (),
        weights: np.ndarray | None = None,
        labelled: bool = False,
    ):
        self.clips = list(clips)
        self.processor, self.readouts, self.cache, self.weights = processor, list(readouts), cache, weights
        context = preceding_texts(self.clips, processor.context_clips)
        self.labels = labels_of(self.clips)
        self._warned: set[int] = set()
        self.asks_each = readouts[0].asks_each and len(readouts) > 1
        targets = range(len(readouts)) if self.asks_each else [None]
        self.questions: list[tuple[int, int | None]] = [
            (clip, target)
            for clip in range(len(self.clips))
            for target in targets
            if not (labelled and target is not None and np.isnan(self.labels[clip, target]))
        ]
        self.item_labels = self.labels
        if self.asks_each:
            self.item_labels = np.array([self.labels[question] for question in self.questions])
        inputs = [{**clip.to_dict(), "context": context[clip.id]} for clip in self.clips]
        self.inputs = [
            inputs[clip] if target is None else {**inputs[clip], "instruction": instructions[target]}
            for clip, target in self.questions
        ]

    def __len__(self) -> int:
        return len(self.questions)

    def label(self, index: int) -> np.ndarray:
        """The label () of an item, or with several targets in one pass its labels (K,)."""
        return self.item_labels[index]

    def clip_of(self, index: int) -> Clip:
        """The clip of an item."""
        return self.clips[self.questions[index][0]]

    def items_of(self, clip: int) -> list[int]:
        """The items of a clip, by its place; of a data set without `labelled`."""
        count = len(self.readouts) if self.asks_each else 1
        return list(range(clip * count, (clip + 1) * count))

    def by_target(self, outputs: np.ndarray) -> list[np.ndarray]:
        """The outputs (n, ...) for each target, from those of all items of n clips in their order."""
        count = len(self.readouts)
        if count == 1:
            return [outputs]
        whole = outputs.reshape(-1, count, *outputs.shape[1:]) if self.asks_each else outputs
        return [whole[:, place] for place in range(count)]

    def lengths(self) -> list[int]:
        """Approximate lengths, for grouping similar items: duration in ms by the files' headers, plus characters of the text."""
        of_clips = [round(1000 * _seconds(clip)) + len(clip.text or "") for clip in self.clips]
        return [of_clips[clip] for clip, _ in self.questions]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        read = self.processor.encode if self.cache is None else self.cache.load
        clip, target = self.questions[index]
        label = self.label(index)
        own = {"labels": torch.tensor(label, dtype=torch.float32), "clip_index": torch.tensor(index)}
        if self.weights is not None:
            weight = self.weights[clip] if self.weights.ndim == 1 else self.weights[clip, target]
            own["sample_weight"] = torch.tensor(float(weight), dtype=torch.float32)
        encoded = read(self.inputs[index])
        if index not in self._warned:
            warn_if_partial(encoded)
            self._warned.add(index)
        readout = self.readouts[target or 0]
        answer = (
            readout.training_inputs(readout.neutral if np.isnan(label).any() else float(label))
            if label.ndim == 0
            else {}
        )
        return {**encoded, **answer, **own}


def _seconds(clip: Clip) -> float:
    return longest_seconds(read_header(path) for path in (clip.video, clip.audio) if path) or 0.0


@dataclass(frozen=True)
class ClipCollator:
    """Pads encoded clips; `labels` becomes (B,) or (B, K) float32, and `clip_index` (B,) the items' indices in their data set."""

    processor: OmniSentProcessor
    readout: Readout
    padding_side: str = "left"

    def __call__(self, items: Sequence[dict[str, torch.Tensor]]) -> BatchFeature:
        batch = self.processor.pad(items, padding_side=self.padding_side)
        batch.update(self.readout.collate_training_inputs(items))
        own = [name for name in ("labels", "clip_index", "sample_weight") if name in items[0]]
        batch.update({name: torch.stack([item[name] for item in items]) for name in own})
        return batch
