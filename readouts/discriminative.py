"""The discriminative readout: the regression head's output, from one forward pass."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ..adapter_omnisent import peft_adapter
from ..configuration_omnisent import SCALE_FIELDS, OmniSentConfig
from ..evaluation.intervals import LEVELS
from ..losses_omnisent import LOSSES, LabelScale, level_bounds
from ..modeling_omnisent import OmniForSentimentRegression, bundle_folder
from .base import ModelSource, Predictions, Readout

logger = logging.getLogger("omnisent.readouts")


@dataclass(frozen=True)
class DiscriminativeReadout(Readout):
    """Scores of [`OmniForSentimentRegression`]."""

    name: ClassVar[str] = "discriminative"
    summary: ClassVar[str] = "regression head on the hidden state"
    model_fields: ClassVar[tuple[str, ...]] = (
        *("layers", "pooling", "pool_over"),
        *("head", "head_hidden_size", "head_dropout", "loss", "bins"),
    )
    saves_bundle: ClassVar[bool] = True
    gives_loss: ClassVar[bool] = True

    @classmethod
    def build_model(cls, source: ModelSource) -> OmniForSentimentRegression:
        """A new head on the base model, with another tool's adapter if there is one; or a bundle's model, with the loss and head
        dropout of the settings.

        If the bundle has another score range, its z-scores are kept and mapped to the new scales.
        """
        settings, loading, weights = source.settings, source.loading, source.target_weights
        label_fields: dict[str, Any] = {"id2label": dict(enumerate(source.targets))}
        for field, name in zip(SCALE_FIELDS, ("mean", "std", "low", "high"), strict=True):
            values = [getattr(scale, name) for scale in source.scales]
            label_fields[field] = values[0] if len(values) == 1 else values
        label_fields["target_weights"] = None if weights is None else list(weights)
        folder = None if source.bundle is None else bundle_folder(source.bundle)
        if source.bundle is None or (folder and peft_adapter(folder)):
            model = OmniForSentimentRegression.from_thinker(
                source.base_model, revision=source.revision, **label_fields, **settings, **loading
            )
            if folder:
                model.load_lora(folder)
            return model
        model = OmniForSentimentRegression.from_pretrained(source.bundle, **loading)
        config = model.config
        if LOSSES[settings["loss"]].outputs(config.bins) != LOSSES[config.loss].outputs(config.bins):
            raise ValueError(
                f"loss {settings['loss']} does not fit the head of {source.bundle}, which was trained with {config.loss}"
            )
        config.loss, config.head_dropout = settings["loss"], settings["head_dropout"]
        model.score.set_dropout(config.head_dropout)
        config.target_weights, config.id2label = label_fields["target_weights"], label_fields["id2label"]
        config.label2id = {name: place for place, name in enumerate(source.targets)}
        if _ranges(config.label_scales) != _ranges(source.scales):
            shown = ", ".join(f"{low:g} to {high:g}" for low, high in _ranges(source.scales))
            logger.info("the scores of %s are mapped to another range, %s", source.bundle, shown)
            for name in SCALE_FIELDS:
                setattr(config, name, label_fields[name])
            config.calibration = None
        return model

    @classmethod
    def settings_of_bundle(cls, folder: Path) -> dict[str, Any]:
        if peft_adapter(folder):
            return {}
        config = OmniSentConfig.from_pretrained(folder)
        fixed: dict[str, Any] = {
            "targets": config.targets,
            "score_ranges": _ranges(config.label_scales),
            **{name: getattr(config, name) for name in ("layers", "pooling", "pool_over", "head")},
        }
        if config.objective.centres() is not None:
            fixed |= {"loss": config.loss, "bins": config.bins}
        if config.head != "linear":  # which has no hidden layer
            fixed["head_hidden_size"] = config.head_hidden_size
        return fixed

    def predict(
        self, model: OmniForSentimentRegression, batch: Mapping[str, Any]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Loss and scores (B,) or (B, K) before clipping, label units; with a distribution also its quantiles, together
        (B, 1 + 2 levels) or (B, K, 1 + 2 levels).
        """
        output = model(**batch)
        raw = model.unclipped_scores(output.logits)
        centres = model.bin_centres
        if centres is None:
            return output.loss, raw
        bins = centres.shape[-1]
        rows = output.distribution.float().reshape(len(raw), -1, bins)  # (B, K, bins)
        each = zip(rows.unbind(1), centres.to(raw.device).reshape(-1, bins), strict=True)
        bounds = torch.stack([level_bounds(row, own, LEVELS).flatten(1) for row, own in each], dim=1)
        found = torch.cat([raw.reshape(len(raw), -1, 1).float(), bounds], dim=2)  # (B, K, 1 + 2 levels)
        return output.loss, found.reshape(*raw.shape, -1)

    def decode(self, outputs: np.ndarray) -> Predictions:
        if outputs.ndim == 1:
            return Predictions(outputs)
        return Predictions(outputs[:, 0], quantiles=outputs[:, 1:].reshape(len(outputs), -1, 2))


def _ranges(scales: Sequence[LabelScale]) -> list[tuple[float, float]]:
    return [(scale.low, scale.high) for scale in scales]
