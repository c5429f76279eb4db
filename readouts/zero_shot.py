"""A base model as a scorer, without training: its scores are the mean over the answers of its own lm_head.

It has what the pipeline needs of a model, so that a base model is scored as a bundle is. These are the scores of the generative
readout with decoding `expected`, before training.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..configuration_omnisent import OmniSentConfig
from ..heads_omnisent import NotFiniteError
from ..thinker_omnisent import copy_loading_info

if TYPE_CHECKING:  # what scores clips starts without them, and without SciPy, which they need
    from .generation_model import OmniForSentimentGeneration
    from .generative import ExpectedReadout


class ZeroShotConfig(OmniSentConfig):
    """The configuration of a base model that is scored without training; the score range is that of its answers.

    Attributes:
        readout: the mark of its scores in files.
    """

    readout: ClassVar[str] = "zero-shot expected"

    @property
    def disclaimer(self) -> str | None:
        """`about`: there was no training on sentiment."""
        return self.about


class ZeroShotModel(PreTrainedModel):
    """Scores of a base model.

    Args:
        config: with the score range.
        generator: the Thinker with its lm_head.
        readout: of the same range.
    """

    config_class = ZeroShotConfig
    main_input_name = "input_ids"
    input_modalities = ("text", "audio", "video")
    _supports_sdpa = True

    def __init__(self, config: ZeroShotConfig, generator: "OmniForSentimentGeneration", readout: "ExpectedReadout"):
        super().__init__(config)
        self.generator, self.readout = generator, readout
        copy_loading_info(self, generator)

    def forward(self, **inputs: torch.Tensor) -> ModelOutput:
        """Of B clips, padded on the left, `scores` (B,) in label units, and `legal_mass` (B,), the probability of all answers.

        Both are nan for a clip of which the model computes NaN or infinity; the pipeline gives it an error.
        """
        try:
            _, found = self.readout.predict(self.generator, inputs)  # (B, V)
        except NotFiniteError as error:
            found = self.readout.answers.of_values(error.values)
        predictions = self.readout.decode(found.cpu().numpy())
        return ModelOutput(
            scores=torch.from_numpy(predictions.raw), legal_mass=torch.from_numpy(predictions.legal_mass)
        )
