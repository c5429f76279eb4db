"""What every readout does: from a model and a batch to predictions, from predictions to scores and their metrics.

Backbone, prompt, data, adapter, trainer and metrics are the same for all readouts, so two runs that differ in it compare it alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from ..evaluation.metrics import Numbers, msa_metrics


@dataclass(frozen=True)
class Readings:
    """What was read of n clips.

    Attributes:
        raw: (n,) label units, before clipping; nan where no number could be read from an answer.
        answers: the n texts that the model wrote; `None` when it wrote none, and every value is finite then.
    """

    raw: np.ndarray
    answers: list[str] | None = None


@dataclass(frozen=True)
class Readout(ABC):
    """A way to take a score from the Thinker; `score_range` is in label units."""

    score_range: tuple[float, float]
    decoding: ClassVar[str | None] = None
    name: ClassVar[str]

    def training_inputs(self, label: float) -> dict[str, torch.Tensor]:
        """What a clip is trained on beside its label; nothing unless the readout writes an answer."""
        return {}

    def collate_training_inputs(self, items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """`training_inputs` of B clips, padded."""
        return {}

    @abstractmethod
    def predict(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Loss, where it costs nothing more, and predictions (B, ...) of a batch of B clips."""

    @abstractmethod
    def read(self, predictions: np.ndarray) -> Readings:
        """The readings of the predictions (n, ...) of n clips."""

    def scores(self, readings: Readings) -> np.ndarray:
        """Scores (n,) in the range; a written answer that cannot be read is neutral.

        Raises:
            ValueError: for a value that is not finite where nothing was written.
        """
        unreadable = ~np.isfinite(readings.raw)
        if readings.answers is None and unreadable.any():
            raise ValueError(
                f"{unreadable.sum()} of {len(unreadable)} predictions are not finite; expected numbers alone"
            )
        return np.where(unreadable, 0.0, readings.raw).clip(*self.score_range)

    def metrics(self, readings: Readings, labels: Numbers, convention: str) -> dict[str, float | str | None]:
        """The field's metrics of the scores, and how many answers could not be read or lay outside the range.

        Args:
            readings: of n clips.
            labels: (n,) label units.
            convention: `"mosi"` or `"sims"`.
        """
        scores, labels = self.scores(readings), np.asarray(labels)
        low, high = self.score_range
        found = {
            **msa_metrics(scores, labels, convention=convention),
            "decoding": self.decoding,
            "out_of_range_rate": float(np.mean((readings.raw < low) | (readings.raw > high))),
        }
        if self.decoding is not None:
            parsable = ~np.isnan(readings.raw)
            errors = np.abs(scores - labels)[parsable]
            found["unparsable_rate"] = float(np.mean(~parsable))
            found["mae_parsable"] = float(errors.mean()) if parsable.any() else None
        return found
