"""OmniSentConfig: all that rebuilds a model from its files: Thinker, base and revision, head, label scale, score range.

Holds no weights and no training settings; those are in the bundle's training_config.yaml. It is the first file of a bundle that is
run, so it also says, before anything else is imported, which versions of its packages the bundle needs.
"""

import importlib.metadata
import math
import re
from typing import Any, ClassVar

# From the first version on, and below the second.
REQUIRES = {
    "transformers": ("5.23", "6"),
    "peft": ("0.20", "1"),
    "av": ("18", "19"),
    "qwen-omni-utils": ("0.0.8", "0.1"),
}


def check_versions(requires: dict[str, tuple[str, str]]) -> None:
    """Every package is installed in a version from the first of its two on, and below the second.

    Raises:
        ImportError: in one line, with the versions that are wrong and the command that installs what is needed.
    """
    wrong = {}
    for package, (low, high) in requires.items():
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            wrong[package] = "none"
            continue
        if not _release(low) <= _release(installed) < _release(high):
            wrong[package] = installed
    if wrong:
        here = ", ".join(f"{package} {version}" for package, version in wrong.items())
        needed = " ".join(f'"{package}>={requires[package][0]},<{requires[package][1]}"' for package in wrong)
        raise ImportError(f"omnisent does not run with the versions installed here ({here}): pip install {needed}")


def _release(version: str) -> tuple[int, ...]:
    numbers = [int(number) for number in re.split(r"[^0-9.]", version)[0].split(".") if number]
    return (*numbers, 0, 0, 0)[:3]


check_versions(REQUIRES)

from transformers import PreTrainedConfig  # noqa: E402

from .heads_omnisent import HEADS, LOSSES, POOLINGS, LabelScale  # noqa: E402
from .thinker_omnisent import ThinkerConfig  # noqa: E402

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


class OmniSentConfig(PreTrainedConfig):
    """Configuration of [`OmniForSentimentRegression`].

    Args:
        thinker_config: the Qwen2.5-Omni Thinker's own configuration.
        base_model: Hub id or folder whose Thinker carries the adapter; `None` when the weights are all in this repository.
        base_revision: revision of `base_model` that the adapter was trained on.
        pooling: which hidden states the head reads, a name in `POOLINGS`; `"last"` is the last non-padding token's.
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
        has_adapter: whether the bundle has an `adapter/`; `None` where that is not known, as in bundles of version 0.1.
        requires: the versions of packages that it was tested with, as in `REQUIRES`; for people to read.

    Raises:
        ValueError: when a field is of another type, not finite or outside its range, naming the field.
    """

    model_type = "omnisent"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["pooled"]
    sub_configs_defaults: ClassVar[dict] = {"thinker_config": ThinkerConfig}

    thinker_config: dict | ThinkerConfig | None = None
    base_model: str | None = None
    base_revision: str | None = None
    pooling: str = "last"
    head: str = "mlp"
    head_hidden_size: int = 256
    head_dropout: float = 0.2
    loss: str = "l1"
    label_mean: float = 0.0
    label_std: float = 1.0
    score_min: float = -3.0
    score_max: float = 3.0
    calibration: dict | None = None
    has_adapter: bool | None = None
    requires: dict | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if not __name__.startswith("transformers_modules"):
            self.custom_pipelines = {}  # names a bundle's code; the installed package has its own (omnisent.register)
        self.check()

    @property
    def label_scale(self) -> LabelScale:
        """How logits and label units relate."""
        return LabelScale(self.label_mean, self.label_std, self.score_min, self.score_max)

    def check(self) -> None:
        """Every field can be what it is.

        Raises:
            ValueError: naming the first field that cannot.
        """
        for name in ("head_dropout", "label_mean", "label_std", "score_min", "score_max"):
            _check_number(name, getattr(self, name))
        for name, known in (("pooling", POOLINGS), ("head", HEADS), ("loss", LOSSES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if not _is_count(self.head_hidden_size):
            raise ValueError(f"head_hidden_size must be a whole number from 1 on, not {self.head_hidden_size!r}")
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout must be in [0, 1), not {self.head_dropout}")
        if not self.score_min < self.score_max:
            raise ValueError(f"score_min must be below score_max, not {self.score_min} and {self.score_max}")
        if not self.score_min <= self.label_mean <= self.score_max:
            raise ValueError(
                f"label_mean must be from score_min to score_max, {self.score_min} to {self.score_max}, not {self.label_mean}"
            )
        widest = (self.score_max - self.score_min) / 2  # of values within the range (Popoviciu's inequality)
        if not 0 < self.label_std <= widest * (1 + 1e-6):
            raise ValueError(
                f"label_std must be above 0 and at most half the score range, {widest:g}, not {self.label_std}"
            )
        if self.calibration is not None:
            self._check_calibration()

    def _check_calibration(self) -> None:
        known = self.calibration
        if not isinstance(known, dict) or not isinstance(known.get("half_widths"), dict):
            raise ValueError(f"calibration must have clips and half_widths, not {known!r}")
        if not _is_count(known.get("clips")):
            raise ValueError(f"calibration.clips must be a whole number from 1 on, not {known.get('clips')!r}")
        before = 0.0
        for level, width in sorted(known["half_widths"].items()):
            _check_number(f"calibration.half_widths[{level!r}]", width)
            if not re.fullmatch(r"0\.\d+", str(level)) or not before <= width <= self.score_max - self.score_min:
                raise ValueError(
                    f"calibration.half_widths[{level!r}] must belong to a level such as '0.9', be at least that of a lower level,"
                    f" and lie within the score range, not {width}"
                )
            before = width


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


OmniSentConfig.register_for_auto_class()
