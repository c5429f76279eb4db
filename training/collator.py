"""Clips -> batches: the data set that encodes a clip in a DataLoader worker, and the collator that pads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset
from transformers import BatchFeature

from ..data.clip import Clip
from ..data.neighbours import preceding_texts
from ..processing_omnisent import OmniSentProcessor
from ..readouts.base import Readout


class ClipDataset(Dataset):
    """Encoded clips with their labels; nothing is read before an item is asked for."""

    def __init__(self, clips: Sequence[Clip], processor: OmniSentProcessor, readout: Readout):
        self.clips = list(clips)
        self.processor = processor
        self.readout = readout
        self.context = preceding_texts(self.clips, processor.context_clips)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        clip = self.clips[index]
        encoded = self.processor.encode({**clip.to_dict(), "context": self.context[clip.id]})
        label = torch.tensor(clip.label, dtype=torch.float32)
        return {**encoded, **self.readout.training_inputs(clip.label), "labels": label}


@dataclass(frozen=True)
class ClipCollator:
    """Pads encoded clips; `labels` becomes (B,) float32."""

    processor: OmniSentProcessor
    readout: Readout
    padding_side: str = "left"

    def __call__(self, items: Sequence[dict[str, torch.Tensor]]) -> BatchFeature:
        batch = self.processor.pad(items, padding_side=self.padding_side)
        batch.update(self.readout.collate_training_inputs(items))
        batch["labels"] = torch.stack([item["labels"] for item in items])
        return batch
