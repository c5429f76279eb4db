"""What every readout does: from a model and a batch to predictions, from predictions to scores and their metrics.

Backbone, prompt, data, adapter, trainer and metrics are the same for all readouts, so two runs that differ in it compare it alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..adapter_omnisent import AdaptedThinker
from ..evaluation.metrics import Numbers, msa_metrics
from ..heads_omnisent import LabelScale


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
    """A way to take a score from the Thinker.

    Attributes:
        score_range: lowest and highest score, label units.
        name: that settings, metrics and tables have.
        summary: a few words for the help.
        decoding: how a written answer becomes a score; `None` when nothing is written.
        model_fields: settings of a run that its model is built with, beside backbone and adapter.
        reading_fields: settings of a run that say how its scores are read.
        learning_rate_field: the setting with the adapter's learning rate; `learning_rate` where that one is unset.
        saves_bundle: whether a saved model is a whole bundle, with base, scale and calibration, that anyone can load.
        uses_lm_head: whether it reads the base model's lm_head, which has something to say before any training, and has no head.
        gives_loss: whether evaluation has a loss too.
    """

    score_range: tuple[float, float]
    name: ClassVar[str]
    summary: ClassVar[str]
    decoding: ClassVar[str | None] = None
    model_fields: ClassVar[tuple[str, ...]] = ()
    reading_fields: ClassVar[tuple[str, ...]] = ()
    learning_rate_field: ClassVar[str] = "learning_rate"
    saves_bundle: ClassVar[bool] = False
    uses_lm_head: ClassVar[bool] = False
    gives_loss: ClassVar[bool] = False

    @classmethod
    def build(
        cls,
        score_range: tuple[float, float],
        tokenizer: PreTrainedTokenizerBase | None,
        settings: Mapping[str, Any],
    ) -> "Readout":
        """The readout of a run.

        Args:
            score_range: label units.
            tokenizer: the base model's.
            settings: the values of `reading_fields`.
        """
        return cls(score_range)

    @classmethod
    @abstractmethod
    def build_model(
        cls,
        base_model: str,
        *,
        revision: str | None,
        bundle: str | None,
        scale: LabelScale,
        settings: Mapping[str, Any],
        loading: Mapping[str, Any],
    ) -> AdaptedThinker:
        """The model that a run trains or evaluates.

        Args:
            base_model: Hub id or folder.
            revision: branch, tag or commit of a Hub id.
            bundle: Hub id or folder of a bundle whose adapter, and head, are used; else they are new, or not there yet.
            scale: of the run's labels.
            settings: the values of `model_fields`.
            loading: how the Thinker is loaded; see `load_thinker`.
        """

    @classmethod
    def settings_of_bundle(cls, folder: Path) -> dict[str, Any]:
        """Settings that a bundle in a folder fixes, by field, and its `score_range`; nothing when it has an adapter alone."""
        return {}

    def training_inputs(self, label: float) -> dict[str, torch.Tensor]:
        """What a clip is trained on beside its label; nothing unless the readout writes an answer."""
        return {}

    def collate_training_inputs(self, items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """`training_inputs` of B clips, padded."""
        return {}

    @abstractmethod
    def predict(self, model: Any, batch: Mapping[str, Any]) -> tuple[torch.Tensor | None, torch.Tensor]:
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
        metrics = {
            **msa_metrics(scores, labels, convention=convention),
            "decoding": self.decoding,
            "out_of_range_rate": float(np.mean((readings.raw < low) | (readings.raw > high))),
        }
        if self.decoding is not None:
            parsable = ~np.isnan(readings.raw)
            errors = np.abs(scores - labels)[parsable]
            metrics["unparsable_rate"] = float(np.mean(~parsable))
            metrics["mae_parsable"] = float(errors.mean()) if parsable.any() else None
        return metrics
