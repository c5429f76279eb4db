"""OmniSentConfig: what rebuilds a model from its files: Thinker, base model and revision, head, label scale, score range.

It has no weights and no training settings; those are in the bundle's training_config.yaml. This is the first file of a bundle that
runs, so it also checks the versions of the packages that the bundle needs, before anything else is imported.
"""

import copy
import importlib.metadata
import math
import re
from typing import Any, ClassVar, cast

# At least the first version, below the second.
REQUIRES = {
    "transformers": ("5.23", "6"),
    "peft": ("0.20", "1"),
    "av": ("18", "19"),
    "qwen-omni-utils": ("0.0.8", "0.1"),
}


def check_versions(requires: dict[str, tuple[str, str]]) -> None:
    """Check that each package is installed, in at least its first version and below its second.

    Raises:
        ImportError: with the unsuitable versions, and the command that installs suitable ones.
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
        unsuitable = ", ".join(f"{package} {version}" for package, version in wrong.items())
        needed = " ".join(f'"{line}"' for line in requirements({package: requires[package] for package in wrong}))
        raise ImportError(
            f"omnisent does not run with the versions installed here ({unsuitable}): pip install {needed}"
        )


def requirements(requires: dict[str, tuple[str, str]]) -> list[str]:
    """Each package with its versions, as pip takes them."""
    return [f"{package}>={low},<{high}" for package, (low, high) in requires.items()]


def _release(version: str) -> tuple[int, ...]:
    numbers = [int(number) for number in re.split(r"[^0-9.]", version)[0].split(".") if number]
    return (*numbers, 0, 0, 0)[:3]


check_versions(REQUIRES)

from transformers import PreTrainedConfig  # noqa: E402

from .families_omnisent import DEFAULT_FAMILY, read_thinker_config  # noqa: E402
from .family_omnisent import ThinkerConfig  # noqa: E402
from .heads_omnisent import HEADS, LAYERS, POOL_OVER, POOLINGS  # noqa: E402
from .losses_omnisent import FEWEST_BINS, LOSSES, LabelScale, Objective  # noqa: E402

SCALE_FIELDS = ("label_mean", "label_std", "score_min", "score_max")
SAYS_NOTHING = "its scores say nothing about sentiment"  # how `about` ends, of a model that learnt nothing about it
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
        thinker_config: the Thinker's own configuration; its `model_type` says of which family, by default Qwen2.5-Omni.
        base_model: Hub id or folder of the model that the adapter belongs to; `None` if the repository has all weights.
        base_revision: revision of `base_model` that the adapter was trained on.
        derived_from: of a merged repository, `base_model` and `base_revision` that its weights come from; else `None`.
        layers: which layer's hidden states the head reads: `"last"`, `"mix"` (all, with learnt weights) or an index, from 0 for
            the token embeddings to the number of layers, which is the last.
        pooling: of these states, a name in `POOLINGS`; `"last"` is the last non-padding token's, `"mean"` the mean over tokens,
            `"attention"` a mean with weights from one learnt query.
        pool_over: the tokens that pooling reads: `"all"` of the prompt, or those of the `"clip"`: transcript, audio and video.
        head: `"mlp"` (Linear, LayerNorm, ReLU, dropout, Linear) or `"linear"`.
        head_hidden_size: width of the mlp head.
        head_dropout: dropout probability of the head, in [0, 1).
        loss: `"l1"`, `"mse"` or `"huber"` on z-scored labels; `"hl_gauss"` or `"ordinal"` predict the probabilities of bins.
        bins: number of bins, for a loss that has them.
        id2label: the names of the targets by their places, `{0: "label"}` if there is one without a name; their number is
            `num_labels`, and `problem_type` is `"regression"`.
        label_mean: mean of the training labels, in label units; a logit of 0 is this score. This and the next three are lists with
            a number for each target, if there are several.
        label_std: standard deviation of the training labels, in label units.
        score_min: lowest score that inference returns, in label units.
        score_max: highest score that inference returns, in label units.
        target_weights: of several targets in the training loss; `None` if they count the same.
        calibration: of prediction intervals, for several targets one by the name of each: `clips` and `videos`, the numbers of
            those of the validation split, and `half_widths` in label units by level, e.g. `{"0.9": 1.1}`; for a loss with bins also
            `margins`, by which the quantiles of its distribution are moved outwards. `None` if it was not calibrated.
        about: one line that says what the bundle reads, what it was trained on and its base model; `None` in older bundles.
        has_adapter: whether the bundle has an `adapter/`; `None` if unknown, as in bundles of version 0.1.
        requires: the package versions of `REQUIRES`, for information.

    Raises:
        ValueError: naming a field that has the wrong type, is not finite or is out of range.
    """

    model_type = "omnisent"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["distribution", "spread", "pooled"]
    sub_configs_defaults: ClassVar[dict] = {"thinker_config": DEFAULT_FAMILY.config_class}

    thinker_config: dict | PreTrainedConfig | None = None
    base_model: str | None = None
    base_revision: str | None = None
    derived_from: dict | None = None
    layers: str | int = "last"
    pooling: str = "last"
    pool_over: str = "all"
    head: str = "mlp"
    head_hidden_size: int = 256
    head_dropout: float = 0.2
    loss: str = "l1"
    bins: int = 31
    id2label: dict[int, str] | dict[str, str] | None = None
    label_mean: float | list[float] = 0.0
    label_std: float | list[float] = 1.0
    score_min: float | list[float] = -3.0
    score_max: float | list[float] = 3.0
    target_weights: list[float] | None = None
    calibration: dict | None = None
    about: str | None = None
    has_adapter: bool | None = None
    requires: dict | None = None

    @property
    def disclaimer(self) -> str | None:
        """What must stand beside its scores wherever they are shown: `about`, if it was not trained on sentiment; else `None`."""
        return self.about if self.about is not None and self.about.endswith(SAYS_NOTHING) else None

    def __post_init__(self, **kwargs):
        if isinstance(self.thinker_config, PreTrainedConfig):
            # Setting the attention here sets it there too, and would leave a model that is loaded with it without its mask.
            self.thinker_config = copy.deepcopy(self.thinker_config)
        else:
            self.thinker_config = read_thinker_config(self.thinker_config or {})
        if self.id2label is None:  # transformers would assume two classes
            self.id2label = {0: "label"}
        self.problem_type = "regression"
        super().__post_init__(**kwargs)
        self.label2id = {name: place for place, name in enumerate(self.targets)}
        if not __name__.startswith("transformers_modules"):
            self.custom_pipelines = {}  # refers to a bundle's code; the installed package has its own (omnisent.register)
        self.check()

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets, in the order of the head's outputs."""
        return tuple(name for _, name in sorted(cast(dict, self.id2label).items()))

    @property
    def label_scales(self) -> tuple[LabelScale, ...]:
        """For each target, what converts between logits and label units."""
        columns = [_listed(getattr(self, name)) for name in SCALE_FIELDS]
        return tuple(LabelScale(*values) for values in zip(*columns, strict=True))

    @property
    def objective(self) -> Objective:
        """What the head is trained for, and how its outputs become scores."""
        weights = self.target_weights or [1.0] * len(self.targets)
        share = len(weights) / sum(weights)
        return Objective(LOSSES[self.loss], self.bins, self.label_scales, tuple(share * weight for weight in weights))

    def calibration_of(self, target: str) -> dict | None:
        """The calibration of a target's intervals; `None` if they are not calibrated."""
        return self.calibration if len(self.targets) == 1 or self.calibration is None else self.calibration.get(target)

    def check(self) -> None:
        """Check the value of every field.

        Raises:
            ValueError: naming the first invalid field.
        """
        _check_number("head_dropout", self.head_dropout)
        tables = {"pooling": POOLINGS, "pool_over": POOL_OVER, "head": HEADS, "loss": LOSSES}
        for name, table in tables.items():
            if getattr(self, name) not in table:
                raise ValueError(f"{name} must be one of {', '.join(table)}, not {getattr(self, name)!r}")
        count = cast(ThinkerConfig, self.thinker_config).text_config.num_hidden_layers if self.thinker_config else None
        if self.layers not in LAYERS and not (str(self.layers).isdecimal() and int(self.layers) <= (count or math.inf)):
            raise ValueError(
                f"layers must be one of {', '.join(LAYERS)} or an index from 0 to {count or 'the number of layers'}, not"
                f" {self.layers!r}"
            )
        if not _is_count(self.bins) or self.bins < FEWEST_BINS:
            raise ValueError(f"bins must be an integer of at least {FEWEST_BINS}, not {self.bins!r}")
        if not _is_count(self.head_hidden_size):
            raise ValueError(f"head_hidden_size must be a positive integer, not {self.head_hidden_size!r}")
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout must be in [0, 1), not {self.head_dropout}")
        self._check_targets()
        if self.about is not None and not (isinstance(self.about, str) and self.about and self.about.isprintable()):
            raise ValueError(f"about must be one line of text, or None, not {self.about!r}")
        for target, scale in zip(self.targets, self.label_scales, strict=True):
            if (calibration := self.calibration_of(target)) is not None:
                _check_calibration(calibration, scale.high - scale.low)

    def _check_targets(self) -> None:
        names = self.targets
        if not all(isinstance(name, str) and name and name.isprintable() for name in names) or len(set(names)) < len(
            names
        ):
            raise ValueError(f"id2label must give each target a name of its own, not {self.id2label!r}")
        for name in (*SCALE_FIELDS, "target_weights"):
            value = getattr(self, name)
            if value is None and name == "target_weights":
                continue
            for number in _listed(value):
                _check_number(name, number)
            if len(_listed(value)) != len(names):
                raise ValueError(f"{name} must have a number for each target of {', '.join(names)}, not {value!r}")
        if self.target_weights is not None and (min(self.target_weights) < 0 or not sum(self.target_weights)):
            raise ValueError(f"target_weights must be at least 0, and one above 0, not {self.target_weights!r}")
        for name, scale in zip(names, self.label_scales, strict=True):
            of = "" if len(names) == 1 else f" of {name}"
            if not scale.low < scale.high:
                raise ValueError(f"score_min{of} must be below score_max, not {scale.low} and {scale.high}")
            if not scale.low <= scale.mean <= scale.high:
                raise ValueError(
                    f"label_mean{of} must be between score_min {scale.low} and score_max {scale.high}, not {scale.mean}"
                )
            widest = (
                scale.high - scale.low
            ) / 2  # the largest standard deviation in the range (Popoviciu's inequality)
            if not 0 < scale.std <= widest * (1 + 1e-6):
                raise ValueError(
                    f"label_std{of} must be above 0 and at most half the score range, {widest:g}, not {scale.std}"
                )


def _check_calibration(calibration: Any, widest: float) -> None:
    """Check the calibration of one target, whose score range is so wide."""
    if not isinstance(calibration, dict) or not isinstance(calibration.get("half_widths"), dict):
        raise ValueError(f"calibration must have clips and half_widths, not {calibration!r}")
    if not _is_count(calibration.get("clips")):
        raise ValueError(f"calibration.clips must be a positive integer, not {calibration.get('clips')!r}")
    before = 0.0
    for level, width in sorted(calibration["half_widths"].items()):
        _check_number(f"calibration.half_widths[{level!r}]", width)
        if not re.fullmatch(r"0\.\d+", str(level)) or not before <= width <= widest:
            raise ValueError(
                f"calibration.half_widths[{level!r}] must belong to a level such as '0.9', be at least that of a lower level,"
                f" and lie within the score range, not {width}"
            )
        before = width
    for level, margin in (calibration.get("margins") or {}).items():
        _check_number(f"calibration.margins[{level!r}]", margin)
        if level not in calibration["half_widths"]:
            raise ValueError(f"calibration.margins[{level!r}] must belong to a level of half_widths")


def _listed(value: Any) -> list:
    """The numbers of each target: those of a list, or the only one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


OmniSentConfig.register_for_auto_class()
