"""The discriminative readout: the regression head's output, from one forward pass. The model is the readout itself."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ..configuration_omnisent import OmniSentConfig
from ..heads_omnisent import LabelScale
from ..modeling_omnisent import OmniForSentimentRegression
from .base import Readings, Readout

logger = logging.getLogger("omnisent.readouts")


@dataclass(frozen=True)
class DiscriminativeReadout(Readout):
    """Scores of [`OmniForSentimentRegression`]."""

    name: ClassVar[str] = "discriminative"
    summary: ClassVar[str] = "regression head on the hidden state"
    model_fields: ClassVar[tuple[str, ...]] = ("pooling", "head", "head_hidden_size", "head_dropout", "loss")
    saves_bundle: ClassVar[bool] = True
    gives_loss: ClassVar[bool] = True

    @classmethod
    def build_model(
        cls,
        base_model: str,
        *,
        revision: str | None,
        bundle: str | None,
        scale: LabelScale,
        settings: Mapping[str, Any],
        loading: Mapping[str, Any],
    ) -> OmniForSentimentRegression:
        """A new head on the base model; or a bundle's model, with the loss and the head's dropout of the settings.

        Where a bundle's scores have another range, its z-scores are kept and take the new scale.
        """
        of_labels: dict[str, Any] = {
            "label_mean": scale.mean,
            "label_std": scale.std,
            "score_min": scale.low,
            "score_max": scale.high,
        }
        if bundle is None:
            return OmniForSentimentRegression.from_thinker(
                base_model, revision=revision, **of_labels, **settings, **loading
            )
        model = OmniForSentimentRegression.from_pretrained(bundle, **loading)
        config = model.config
        config.loss, config.head_dropout = settings["loss"], settings["head_dropout"]
        model.score.set_dropout(config.head_dropout)
        if (config.score_min, config.score_max) != (scale.low, scale.high):
            logger.info("the scores of %s are mapped to another range, %s to %s", bundle, scale.low, scale.high)
            for name, value in of_labels.items():
                setattr(config, name, value)
            config.calibration = None
        return model

    @classmethod
    def settings_of_bundle(cls, folder: Path) -> dict[str, Any]:
        config = OmniSentConfig.from_pretrained(folder)
        fixed: dict[str, Any] = {
            "score_range": (config.score_min, config.score_max),
            "pooling": config.pooling,
            "head": config.head,
        }
        if config.head == "mlp":
            fixed["head_hidden_size"] = config.head_hidden_size
        return fixed

    def predict(
        self, model: OmniForSentimentRegression, batch: Mapping[str, Any]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Loss and de-normalised logits (B,), label units."""
        output = model(**batch)
        return output.loss, model.config.label_scale.to_label_units(output.logits)

    def read(self, predictions: np.ndarray) -> Readings:
        return Readings(predictions)
