"""The interface of a readout: from a model and a batch to outputs, to predictions, to scores and their metrics.

Backbone, prompt, data, adapter, trainer and metrics are shared, so two runs that differ only in the readout compare just that.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..adapter_omnisent import AdaptedThinker
from ..evaluation.metrics import Numbers, msa_metrics
from ..losses_omnisent import LabelScale

SIGN_METRICS = (
    "acc_2_has0",
    "acc_2_non0",
    "acc_2",
)  # which change if a written "-0.0" is negative, and "+0.0" positive
UNCLIPPED_METRICS = (
    "mae",
    "corr",
)  # which are also computed of the values before clipping, as the field's toolkit does
TINY = 1e-9


@dataclass(frozen=True)
class ModelSource:
    """What the model of a run is built from.

    Attributes:
        base_model: Hub id or folder.
        revision: branch, tag or commit of a Hub id.
        bundle: Hub id or folder of a bundle whose adapter, and head, are used, or of another tool's LoRA checkpoint, whose adapter
            is; without it they are new.
        targets: the names of what is rated.
        scales: of the labels of each target.
        target_weights: of the targets in the loss; `None` if they count the same.
        settings: the values of the readout's `model_fields`.
        loading: how the Thinker is loaded; see `load_thinker`.
    """

    base_model: str
    revision: str | None
    bundle: str | None
    targets: Sequence[str]
    scales: Sequence[LabelScale]
    target_weights: Sequence[float] | None
    settings: Mapping[str, Any]
    loading: Mapping[str, Any]


@dataclass(frozen=True)
class Predictions:
    """The predictions for n clips.

    Attributes:
        raw: (n,) label units, before clipping; nan where a generated answer contains no number.
        answers: the n generated texts; `None` if the readout generates none, and then every value is finite.
        last_numbers: (n,) the last number of each text, where `raw` is the first; `None` without texts.
        legal_mass: (n,) the probability of all answers that count; `None` if it is not computed.
        quantiles: (n, levels, 2) of the readout's distribution, from which to which each of `LEVELS` reaches, label units; `None`
            without a distribution.
    """

    raw: np.ndarray
    answers: list[str] | None = None
    last_numbers: np.ndarray | None = None
    legal_mass: np.ndarray | None = None
    quantiles: np.ndarray | None = None

    def of(self, which: np.ndarray) -> "Predictions":
        """Those of some clips, given as places or as whether a clip is one of them (n,)."""
        answers = None if self.answers is None else list(np.array(self.answers, dtype=object)[which])
        rest = {
            name: values[which]
            for name in ("raw", "last_numbers", "legal_mass", "quantiles")
            if (values := getattr(self, name)) is not None
        }
        return Predictions(answers=answers, **rest)


@dataclass(frozen=True)
class Readout(ABC):
    """A way to take a score from the Thinker. Of several targets, each has a readout, of the same model.

    Attributes:
        score_range: lowest and highest score, label units.
        name: in settings, metrics and tables.
        summary: a few words for the help.
        decoding: how a generated answer becomes a score; `None` if none is generated.
        model_fields: settings that its model is built with, besides those of backbone and adapter.
        decoding_fields: settings that its outputs are decoded with.
        training_fields: settings that say what it is trained for, besides those of its model.
        learning_rate_field: the setting with the adapter's learning rate; if that is unset, `learning_rate` is used.
        saves_bundle: whether a saved model is a complete bundle, with base model, scale and calibration.
        uses_lm_head: whether it uses the base model's lm_head instead of a head, so it also works zero-shot.
        gives_loss: whether evaluation reports a loss.
        asks_each: whether each of several targets is asked for in a prompt of its own; else one pass gives all of them.
        reads: what `predict` returns; readouts of one model with the same name can decode the same outputs.
    """

    score_range: tuple[float, float]
    name: ClassVar[str]
    summary: ClassVar[str]
    decoding: ClassVar[str | None] = None
    model_fields: ClassVar[tuple[str, ...]] = ()
    decoding_fields: ClassVar[tuple[str, ...]] = ()
    training_fields: ClassVar[tuple[str, ...]] = ()
    learning_rate_field: ClassVar[str] = "learning_rate"
    saves_bundle: ClassVar[bool] = False
    uses_lm_head: ClassVar[bool] = False
    gives_loss: ClassVar[bool] = False
    asks_each: ClassVar[bool] = False
    reads: ClassVar[str] = "scores"

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
            settings: the values of `decoding_fields` and `training_fields`.
        """
        return cls(score_range)

    @classmethod
    @abstractmethod
    def build_model(cls, source: ModelSource) -> AdaptedThinker:
        """The model that a run trains or evaluates; a new adapter is added by the caller."""

    @classmethod
    def settings_of_bundle(cls, folder: Path) -> dict[str, Any]:
        """The settings that a bundle in a folder fixes, by field, and its `targets` and `score_ranges`; empty if it has only an
        adapter.
        """
        return {}

    def objective(self) -> Any | None:
        """What the model's attribute `objective` is in training; `None` if the model's configuration has its loss."""
        return None

    def other_decodings(self) -> "list[Readout]":
        """Readouts that decode the same model in another way; in training, each keeps its own best checkpoint."""
        return []

    def training_inputs(self, label: float) -> dict[str, torch.Tensor]:
        """Training inputs of a clip besides its label; empty unless the readout generates an answer."""
        return {}

    def collate_training_inputs(self, items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """`training_inputs` of B clips, padded."""
        return {}

    @abstractmethod
    def predict(self, model: Any, batch: Mapping[str, Any]) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Loss, if it comes at no extra cost, and outputs (B, ...) for a batch of B clips; of a model for K targets (B, K, ...)."""

    @abstractmethod
    def decode(self, outputs: np.ndarray) -> Predictions:
        """The predictions for n clips, from their outputs (n, ...), of several targets from its own."""

    def scores(self, predictions: Predictions) -> np.ndarray:
        """Scores (n,) in the range; an unparsable answer is 0, or the middle of a range without 0.

        Raises:
            ValueError: for a value that is not finite, if there are no answers.
        """
        unparsable = ~np.isfinite(predictions.raw)
        if predictions.answers is None and unparsable.any():
            raise ValueError(
                f"{unparsable.sum()} of {len(unparsable)} predictions are not finite; expected finite numbers"
            )
        return np.where(unparsable, self.neutral, predictions.raw).clip(*self.score_range)

    @property
    def neutral(self) -> float:
        """The score of an answer without a number, label units."""
        low, high = self.score_range
        return 0.0 if low <= 0 <= high else (low + high) / 2

    def rows(self, predictions: Predictions) -> np.ndarray:
        """Scores, and the quantiles of a distribution (n, 1 or 1 + 2 levels), label units: what intervals are made of."""
        scores = self.scores(predictions)
        bounds = np.empty((len(scores), 0)) if predictions.quantiles is None else predictions.quantiles
        return np.column_stack([scores, bounds.reshape(len(scores), -1)])

    def metrics(self, predictions: Predictions, labels: Numbers, convention: str) -> dict[str, float | str | None]:
        """The field's metrics of the scores, and MAE and correlation before clipping, with an unparsable answer as `scores` has it.

        Of answers also: the rates of those that are unparsable, out of range or exactly 0, the MAE by the last number instead of
        the first, Acc-2 by the written sign of 0, and the probability of all answers.

        Args:
            predictions: for n clips.
            labels: (n,) label units.
            convention: of `msa_metrics`.
        """
        scores, labels = self.scores(predictions), np.asarray(labels)
        low, high = self.score_range
        clipped = msa_metrics(scores, labels, convention=convention)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # constant scores, of which msa_metrics has just warned
            unclipped = msa_metrics(
                np.where(np.isfinite(predictions.raw), predictions.raw, self.neutral), labels, convention=convention
            )
        metrics = {
            **clipped,
            **{f"{key}_unclipped": unclipped[key] for key in UNCLIPPED_METRICS},
            "decoding": self.decoding,
            "out_of_range_rate": float(np.mean((predictions.raw < low) | (predictions.raw > high))),
        }
        if self.decoding is not None:
            parsable = ~np.isnan(predictions.raw)
            errors = np.abs(scores - labels)[parsable]
            metrics["unparsable_rate"] = float(np.mean(~parsable))
            metrics["mae_parsable"] = float(errors.mean()) if parsable.any() else None
        if predictions.last_numbers is not None or predictions.legal_mass is not None:
            metrics["zero_rate"] = float(np.mean(predictions.raw == 0))
        if predictions.last_numbers is not None:
            last = self.scores(replace(predictions, raw=predictions.last_numbers))
            metrics["mae_last_number"] = float(np.abs(last - labels).mean())
            signed = np.where(predictions.raw == 0, np.copysign(TINY, predictions.raw), scores)
            with_sign = msa_metrics(signed, labels, convention=convention)
            metrics |= {f"{key}_written_sign": with_sign[key] for key in SIGN_METRICS if key in with_sign}
        if predictions.legal_mass is not None:
            metrics["legal_mass"] = float(predictions.legal_mass.mean())
        return metrics
