"""The discriminative readout: the regression head's output, from one forward pass."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ..configuration_omnisent import OmniSentConfig
from ..evaluation.intervals import LEVELS
from ..losses_omnisent import LOSSES, level_bounds
from ..modeling_omnisent import OmniForSentimentRegression
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
        """A new head on the base model; or a bundle's model, with the loss and head dropout of the settings.

        If the bundle has another score range, its z-scores are kept and mapped to the new scale.
        """
        scale, settings, loading = source.scale, source.settings, source.loading
        label_fields: dict[str, Any] = {
            "label_mean": scale.mean,
            "label_std": scale.std,
            "score_min": scale.low,
            "score_max": scale.high,
        }
        if source.bundle is None:
            return OmniForSentimentRegression.from_thinker(
                source.base_model, revision=source.revision, **label_fields, **settings, **loading
            )
        model = OmniForSentimentRegression.from_pretrained(source.bundle, **loading)
        config = model.config
        if LOSSES[settings["loss"]].outputs(config.bins) != LOSSES[config.loss].outputs(config.bins):
            raise ValueError(
                f"loss {settings['loss']} does not fit the head of {source.bundle}, which was trained with {config.loss}"
            )
        config.loss, config.head_dropout = settings["loss"], settings["head_dropout"]
        model.score.set_dropout(config.head_dropout)
        if (config.score_min, config.score_max) != (scale.low, scale.high):
            logger.info("the scores of %s are mapped to another range, %s to %s", source.bundle, scale.low, scale.high)
            for name, value in label_fields.items():
                setattr(config, name, value)
            config.calibration = None
        return model

    @classmethod
    def settings_of_bundle(cls, folder: Path) -> dict[str, Any]:
        config = OmniSentConfig.from_pretrained(folder)
        fixed: dict[str, Any] = {
            "score_range": (config.score_min, config.score_max),
            **{name: getattr(config, name) for name in ("layers", "pooling", "pool_over", "head")},
        }
        if LOSSES[config.loss].centres(config.label_scale, config.bins) is not None:
            fixed |= {"loss": config.loss, "bins": config.bins}
        if config.head != "linear":  # which has no hidden layer
            fixed["head_hidden_size"] = config.head_hidden_size
        return fixed

    def predict(
        self, model: OmniForSentimentRegression, batch: Mapping[str, Any]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Loss and scores (B,) before clipping, label units; with a distribution also its quantiles, together (B, 1 + 2 levels)."""
        output = model(**batch)
        raw = model.unclipped_scores(output.logits)
        centres = model.bin_centres
        if centres is None:
            return output.loss, raw
        bounds = level_bounds(output.distribution.float(), centres.to(raw.device), LEVELS)
        return output.loss, torch.cat([raw[:, None].float(), bounds.flatten(1)], dim=1)

    def decode(self, outputs: np.ndarray) -> Predictions:
        if outputs.ndim == 1:
            return Predictions(outputs)
        return Predictions(outputs[:, 0], quantiles=outputs[:, 1:].reshape(len(outputs), -1, 2))
