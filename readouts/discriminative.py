"""The discriminative readout: the regression head's output, from one forward pass. The model is the readout itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..modeling_omnisent import OmniForSentimentRegression
from .base import Readings, Readout


@dataclass(frozen=True)
class DiscriminativeReadout(Readout):
    """Scores of [`OmniForSentimentRegression`]."""

    name: ClassVar[str] = "discriminative"

    def predict(self, model: OmniForSentimentRegression, batch: Mapping[str, Any]):
        """Loss and de-normalised logits (B,), label units."""
        output = model(**batch)
        return output.loss, model.config.label_scale.to_label_units(output.logits)

    def read(self, predictions: np.ndarray) -> Readings:
        return Readings(predictions)
