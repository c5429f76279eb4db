"""OmniSentConfig: all that rebuilds a model from its files: Thinker, base and revision, head, label scale, score range.

Holds no weights and no training settings; those are in the bundle's training_config.yaml.
"""

from typing import ClassVar

from transformers import PreTrainedConfig
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig

AUTO_MAP = {
    "AutoConfig": "configuration_omnisent.OmniSentConfig",
    "AutoModel": "modeling_omnisent.OmniForSentimentRegression",
    "AutoProcessor": "processing_omnisent.OmniSentProcessor",
}
CUSTOM_PIPELINES = {
    "multimodal-sentiment": {
        "impl": "pipeline_omnisent.MultimodalSentimentPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}
HEADS = ("mlp", "linear")
LOSSES = ("l1", "mse", "huber")


class OmniSentConfig(PreTrainedConfig):
    """Configuration of [`OmniForSentimentRegression`].

    Args:
        thinker_config: the Qwen2.5-Omni Thinker's own configuration.
        base_model: Hub id or folder whose Thinker carries the adapter; `None` when the weights are all in this repository.
        base_revision: revision of `base_model` that the adapter was trained on.
        head: `"mlp"` (Linear, LayerNorm, ReLU, dropout, Linear) or `"linear"`.
        head_hidden_size: width of the mlp head.
        head_dropout: dropout probability of the head, in [0, 1).
        loss: `"l1"`, `"mse"` or `"huber"`, on z-scored labels.
        label_mean: mean of the training labels, in label units; a logit of 0 means this score.
        label_std: standard deviation of the training labels, in label units.
        score_min: lowest score that inference returns, in label units.
        score_max: highest score that inference returns, in label units.
        calibration: `clips`, how many validation clips intervals are from, and `half_widths` in label units by level, e.g.
            `{"0.9": 1.1}`; `None` when it was not calibrated.

    Raises:
        ValueError: when a field is outside its range, naming the field.
    """

    model_type = "omnisent"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["pooled"]
    sub_configs_defaults: ClassVar[dict] = {"thinker_config": Qwen2_5OmniThinkerConfig}

    thinker_config: dict | Qwen2_5OmniThinkerConfig | None = None
    base_model: str | None = None
    base_revision: str | None = None
    head: str = "mlp"
    head_hidden_size: int = 256
    head_dropout: float = 0.2
    loss: str = "l1"
    label_mean: float = 0.0
    label_std: float = 1.0
    score_min: float = -3.0
    score_max: float = 3.0
    calibration: dict | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, not {self.head!r}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")
        if self.head_hidden_size < 1:
            raise ValueError(f"head_hidden_size must be at least 1, not {self.head_hidden_size}")
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout must be in [0, 1), not {self.head_dropout}")
        if not self.label_std > 0:
            raise ValueError(f"label_std must be above 0, not {self.label_std}")
        if not self.score_min < self.score_max:
            raise ValueError(f"score_min must be below score_max, not {self.score_min} and {self.score_max}")


OmniSentConfig.register_for_auto_class()
