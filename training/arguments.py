"""The settings of a training run: three dataclasses, read from a YAML file and overridden on the command line."""

import re
import sys
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from ..data.catalog import DATASETS, LABEL
from ..data.saved_sets import HUB
from ..data.tables import readable_endings
from ..evaluation.metrics import CONVENTIONS
from ..family_omnisent import LORA_PRESETS
from ..heads_omnisent import HEADS, POOL_OVER, POOLINGS
from ..losses_omnisent import LOSSES
from ..processing_omnisent import MODALITIES, SETTINGS
from ..readouts.catalog import READOUTS
from ..readouts.generative import DECODINGS
from ..readouts.generative_losses import GENERATIVE_LOSSES
from ..text_omnisent import TEXT_CASES
from .argument_checks import (
    SettingError,
    as_setting_error,
    check_environment,
    check_supported,
    check_value,
    converted,
    try_out,
    use_one_gpu,
)
from .argument_rules import check_together, lower_is_better
from .choices import ATTENTION, DTYPES, QUANTIZATIONS
from .error_line import error_line
from .field_names import config_path, field_names, shipped_configs, unknown_name


def _one_of(choices: Collection[str], default: str | None, text: str):
    """A field with fixed choices; those of a table are looked up when a value is parsed, so that the table may grow."""
    return field(default=default, metadata={"help": text, "choices": choices})


def _field(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """The backbone, its adapter and its head."""

    _argument_group_name = "model"  # title of the group in the help, read by HfArgumentParser

    base_model: str = _field(
        "Qwen/Qwen2.5-Omni-7B",
        "Hub id or folder of a full checkpoint of Qwen2.5-Omni or Qwen3-Omni; `tiny` and `tiny-qwen3-omni` build small random"
        " ones, `small` one with SmolLM2-135M-Instruct as its language model, for text",
    )
    allow_untrained_towers: bool = _field(False, "use audio and video although the base model's towers are random")
    base_revision: str | None = _field(None, "branch, tag or commit of the base model")
    readout: str = _one_of(
        READOUTS,
        "discriminative",
        "; ".join(f"{name}: {readout.summary}" for name, readout in READOUTS.items()),
    )
    decoding: str = _one_of(
        DECODINGS,
        "greedy",
        "generative readout; greedy: parse the generated text; expected, median: of the distribution over all answers",
    )
    max_new_tokens: int = _field(8, "generative readout: token limit of a greedy answer")
    answer_step: float = _field(0.1, "generative readout: distance between two answers, in label units")
    generative_loss: str = _one_of(
        GENERATIVE_LOSSES,
        "ce",
        "generative readout; ce: cross-entropy of the answer; ntl: that and the distance of its digits; raft: absolute error of"
        " the mean over all answers",
    )
    adapter: str | None = _field(
        None,
        "Hub id or folder of a bundle, whose adapter (and head) are evaluated or trained further; or of a LoRA checkpoint of"
        " ms-swift or LLaMA-Factory, which gets a new head",
    )
    layers: str = _field(
        "last",
        "layer that the head reads: last, mix (all, with learnt weights), or an index, 0 for the token embeddings",
    )
    pooling: str = _one_of(
        POOLINGS,
        "last",
        "states that the head reads: of the last non-padding token, their mean, or a mean with learnt weights",
    )
    pool_over: str = _one_of(POOL_OVER, "all", "tokens that pooling reads: all of the prompt, or the clip's own")
    head: str = _one_of(HEADS, "mlp", "regression head")
    head_hidden_size: int = _field(256, "width of the mlp head")
    head_dropout: float = _field(0.2, "dropout of the head")
    loss: str = _one_of(
        LOSSES, "l1", "l1, mse, huber: on z-scored labels; hl_gauss, ordinal: on the probabilities of bins"
    )
    bins: int = _field(31, "number of bins, for a loss that has them")
    quantization: str = _one_of(QUANTIZATIONS, "nf4", "nf4 is 4-bit with double quantisation")
    quantize_towers: bool = _field(True, "quantise the audio and vision towers as well")
    dtype: str = _one_of(DTYPES, "bfloat16", "number format of unquantised weights and of the computation")
    attn_implementation: str | None = _one_of(ATTENTION, None, "attention kernel; chosen by transformers if unset")
    lora_preset: str = _one_of(
        LORA_PRESETS,
        "paper",
        "paper: the seven projections wherever the Thinker has them; llm: in its language model only; attention: of these, those of"
        " attention",
    )
    lora_r: int = _field(32, "rank of the adapter")
    lora_alpha: int = _field(32, "LoRA alpha; the adapter is scaled by alpha / r")
    lora_dropout: float = _field(0.1, "dropout on the input of the adapter")


_GENRES = "; ".join(f"{facts.name} has {', '.join(facts.genres)}" for facts in DATASETS.values() if facts.genres)


@dataclass
class DataArguments:
    """The clips, and how they are presented to the model."""

    _argument_group_name = "data"

    dataset: str = _field(
        "planted",
        f"one of {', '.join(DATASETS)}; a table of clips ({', '.join(readable_endings())}); the folder of a built data set, or of"
        f" one that `datasets` saved; or {HUB}datasets/OWNER/NAME",
    )
    root: str | None = _field(
        None, "folder of a named data set; human_ratings downloads its archive to it, or to the cache"
    )
    genres: list[str] | None = field(
        default=None,
        metadata={"help": f"use only clips of these genres; {_GENRES}"},
    )
    targets: list[str] = field(
        default_factory=lambda: [LABEL],
        metadata={"help": "the columns of labels, each of which is predicted"},
    )
    score_range: list[float] | None = field(
        default=None,
        metadata={
            "help": "lowest and highest label, of all targets or one after the other; a data set's own, else -3 3"
        },
    )
    convention: str | None = _one_of(
        CONVENTIONS, None, "of the metrics; generic: mae, rmse, corr, spearman, ccc; by default as the scale needs it"
    )
    columns: dict | str | None = field(
        default=None,
        metadata={"help": "headers of the table by the names here, as JSON or as text=Transkript,valence=Valenz"},
    )
    raters: list[str] = field(
        default_factory=list,
        metadata={"help": "columns of single ratings, whose mean is the label, such as rater_* or {target}_*"},
    )
    encoding: str | None = _field(None, "of a CSV that is neither UTF-8 nor UTF-16, such as latin-1")
    decimal: str = _one_of((".", ","), ".", "what stands before the decimals of a number in the table")
    auto_split: str | None = _field(
        None, "split a table without splits, such as 80/10/10: by speaker or video where known, stratified by label"
    )
    modalities: list[str] = field(
        default_factory=lambda: list(MODALITIES),
        metadata={"help": "modalities that are used: any of text, audio, video"},
    )
    swapped: list[str] = field(
        default_factory=list,
        metadata={"help": "test with these modalities taken from a clip of another video; needs evaluate_only"},
    )
    group_split: bool = _field(
        False,
        "split the clips anew, by video, so that no video is in two splits; results are not those of the official split",
    )
    complete_clips: bool = _field(False, "use only clips that have text, audio and video")
    on_bad_clip: str = _one_of(
        ("error", "skip"),
        "error",
        "a clip that cannot be read stops the run (error), or is left out and listed (skip), but for test clips of a published set",
    )
    feature_cache: str | None = _field(
        None, "folder that stores tower outputs for later epochs and runs; needs lora_preset llm"
    )
    system_prompt: str | None = _field(None, "replaces the default system prompt; empty for none")
    instruction: str | None = _field(
        None,
        "replaces the default instruction; may contain {target}, {low} and {high}, and is then repeated for each target",
    )
    transcript_template: str | None = _field(None, "replaces the default; must contain {text}")
    context_template: str | None = _field(None, "replaces the default; must contain {text}")
    context_clips: int = _field(
        SETTINGS["context_clips"], "number of preceding transcripts (same video, same split) in the prompt"
    )
    shots: int = _field(0, "zero-shot: transcripts of training clips that come first with their answers")
    text_case: str = _one_of(
        TEXT_CASES,
        SETTINGS["text_case"],
        "sentence: transcripts entirely in capitals are written as English sentences",
    )
    fps: float = _field(SETTINGS["fps"], "frames per second sampled from a video")
    min_frames: int = _field(SETTINGS["min_frames"], "fewest frames of a video")
    max_frames: int = _field(SETTINGS["max_frames"], "most frames of a video")
    min_pixels: int = _field(SETTINGS["min_pixels"], "fewest pixels of a frame")
    max_pixels: int = _field(SETTINGS["max_pixels"], "most pixels of a frame")
    exact_resize: bool = _field(
        SETTINGS["exact_resize"], "resize frames bit-equal to qwen-omni-utils; false: faster 8-bit resize"
    )


@dataclass
class OmniSentTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with this project's defaults and the head's learning rate."""

    _argument_group_name = "training (transformers' TrainingArguments, with the defaults of omnisent)"

    output_dir: str | None = _field("runs/train", "the run folder")
    evaluate_only: bool = _field(False, "score without training: with `adapter`, or zero-shot with the base model")
    evaluate: str = _one_of(
        ("test", "valid"), "test", "split whose metrics are the run's result; valid: the test split is not touched"
    )
    learning_rate: float = _field(2e-4, "learning rate of the adapter")
    generative_learning_rate: float | None = _field(
        None, "learning rate of the adapter under the generative readout; `learning_rate` if unset"
    )
    head_learning_rate: float = _field(1e-3, "learning rate of the regression head")
    early_stopping_patience: int | None = _field(
        None, "stop after this many evaluations without a better validation metric"
    )
    per_device_train_batch_size: int = _field(1, "clips per step and device")
    per_device_eval_batch_size: int = _field(4, "clips per step and device in evaluation")
    num_train_epochs: float = _field(5, "passes over the training split")
    lr_scheduler_type: str = _one_of(tuple(kind.value for kind in SchedulerType), "cosine", "learning rate schedule")
    eval_strategy: str = _one_of(tuple(kind.value for kind in IntervalStrategy), "epoch", "when to evaluate")
    save_strategy: str = _one_of(tuple(kind.value for kind in SaveStrategy), "epoch", "when to save")
    save_total_limit: int | None = _field(2, "checkpoints kept")
    load_best_model_at_end: bool = _field(True, "restore the checkpoint with the best validation metric at the end")
    metric_for_best_model: str | None = _field("mae", "validation metric that selects the best checkpoint")
    greater_is_better: bool | None = _field(None, "whether a higher metric is better; derived from the metric if unset")
    logging_steps: float = _field(10, "steps between log lines")
    activation_checkpointing: bool = _field(True, "recompute activations in the backward pass to save memory")
    balance: str = _one_of(
        ("none", "inverse_density"), "none", "inverse_density: clips with rare labels count more in training"
    )
    target_weights: list[float] | None = field(
        default=None, metadata={"help": "of the targets in the loss, in their order; all count the same if unset"}
    )
    remove_unused_columns: bool = _field(False, "must stay false: clips become model inputs in the DataLoader workers")

    def __post_init__(self):
        for name in ("fsdp", "fsdp_config", "deepspeed", "parallelism_config"):
            check_supported(name, getattr(self, name))
        check_environment()
        self.label_names = ["labels"]
        self.activation_checkpointing_kwargs = {"use_reentrant": False, **(self.activation_checkpointing_kwargs or {})}
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = True  # a batch without audio does not use an adapter in the audio tower
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = not lower_is_better(self.metric_for_best_model)
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False  # only for GPUs; it warns without one
        super().__post_init__()
        use_one_gpu(self)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(str(self.output_dir))

    @property
    def selecting_metric(self) -> str:
        """The validation metric that selects checkpoints, without the prefix `eval_`."""
        return (self.metric_for_best_model or "mae").removeprefix("eval_")

    def adapter_learning_rate(self, readout: str) -> float:
        """The adapter's learning rate under a readout."""
        own = getattr(self, READOUTS[readout].learning_rate_field)
        return self.learning_rate if own is None else own


Settings = TypeVar("Settings", "ModelArguments", "DataArguments", "OmniSentTrainingArguments")
ARGUMENTS = (ModelArguments, DataArguments, OmniSentTrainingArguments)


def parse_arguments(
    argv: list[str] | None = None, *, on_this_machine: bool = True
) -> tuple[ModelArguments, DataArguments, OmniSentTrainingArguments]:
    """`CONFIG [--field value ...]`, with a YAML file or the name of a shipped one; the command line wins over the file.

    Args:
        argv: instead of the program's own.
        on_this_machine: `False` for a run on another machine; devices and packages of this one are not checked.

    Raises:
        FileNotFoundError: when the file is missing.
        ValueError: in one line, for a field that does not exist, has an invalid value, or contradicts others; it names the field,
            and the file if it comes from one.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _Parser(ARGUMENTS, description="Train a sentiment readout.", allow_abbrev=False, formatter_class=_Help)
    path, config = None, {}
    if argv and (argv[0].endswith((".yaml", ".yml")) or argv[0] in shipped_configs()):
        path = config_path(argv[0])
        config = read_config(path)
        parser.set_defaults(**config)
        argv = argv[1:]
    namespace, rest = parser.parse_known_args(argv)
    if rest:
        raise ValueError(_not_understood(rest))
    values = vars(namespace)
    try:
        values = {name: check_value(name, value) for name, value in values.items()}
        check_together(values, on_this_machine=on_this_machine)
        with as_setting_error((), "these settings cannot be used"):
            model, data, training = (
                _filled(ModelArguments, values),
                _filled(DataArguments, values),
                _filled(OmniSentTrainingArguments, values),
            )
        if on_this_machine:
            try_out(training)
    except SettingError as error:
        used = vars(namespace)
        if any(name in config and (config[name] is used[name] or config[name] == used[name]) for name in error.fields):
            raise SettingError(error.fields, f"{path}: {error}") from error
        raise
    return model, data, training


def _filled(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    return kind(**{f.name: values[f.name] for f in fields(kind) if f.init})  # type: ignore[arg-type]


def print_fields() -> None:
    """Print every field of a run with its default, in the groups model, data and training."""
    _Parser(ARGUMENTS, description="All fields of a run.", formatter_class=_Help).print_help()


class _Parser(HfArgumentParser):
    """Raises an exception with a one-line message, instead of printing 200 lines of usage and exiting."""

    def __init__(self, *args: Any, **kwargs: Any):
        names = " | ".join(shipped_configs())
        super().__init__(*args, usage=f"train.py [CONFIG.yaml | {names}] [--field value ...]", **kwargs)
        for action in self._actions:
            if action.option_strings[0].startswith("--no_"):
                action.help = SUPPRESS  # `--x false` does the same

    def error(self, message: str) -> None:
        raise ValueError(re.sub(r"^argument --(\w+)(/\S+)?: ", r"\1: ", message))


def _not_understood(rest: list[str]) -> str:
    first = rest[0]
    if first.startswith("--"):
        return unknown_name(first[2:].split("=")[0].replace("-", "_"), field_names())
    return (
        f"{first!r} is neither a field nor a config; write CONFIG [--field value ...], with a YAML file or one of"
        f" {', '.join(shipped_configs())} first"
    )


class _Help(ArgumentDefaultsHelpFormatter):
    """Shows one spelling of every option, and its default once."""

    def _format_action_invocation(self, action: Action) -> str:
        if action.nargs == 0:
            return ", ".join(action.option_strings)
        return f"{action.option_strings[0]} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _get_help_string(self, action: Action) -> str:
        text = (action.help or "").replace(" (default)", "")
        return text if action.default in (None, SUPPRESS) else f"{text} (default: %(default)s)"


def read_config(path: str | Path) -> dict[str, Any]:
    """The fields of a YAML file, converted to their types.

    Raises:
        FileNotFoundError: when it is missing.
        ValueError: when it is not a mapping, or has a repeated field, an unknown field, or a value of the wrong type.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give a YAML file, or one of {', '.join(shipped_configs())}")
    try:
        return read_fields(read_mapping(path))
    except SettingError as error:
        raise SettingError(error.fields, f"{path}: {error}") from error


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        ValueError: naming the file, when it is not a mapping, or has a key twice.
    """
    try:
        found = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        raise ValueError(
            f"{path} is not YAML: line {error.problem_mark.line + 1 if error.problem_mark else '?'}: {error.problem}"
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error_line(error)}") from error
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{path}: expected `field: value` lines, found a {type(found).__name__}")
    return found or {}


def read_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run, as parsed from YAML, converted to their types.

    Raises:
        SettingError: for an unknown field, or a value of the wrong type.
    """
    hints = {name: hint for kind in ARGUMENTS for name, hint in get_type_hints(kind).items()}
    choices = {f.name: f.metadata.get("choices") for kind in ARGUMENTS for f in fields(kind)}
    read = {}
    for name, value in values.items():
        if name not in choices:
            raise SettingError([str(name)], unknown_name(str(name), list(choices)))
        if name == "resume_from_checkpoint" and isinstance(value, bool):  # the field takes a folder, or this word
            value = str(value).lower()
        if name == "layers" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        check_supported(name, value)
        read[name] = converted(name, value, hints[name], choices[name])
    return read


class _Loader(yaml.SafeLoader):
    """Refuses a mapping with a repeated key; YAML itself would keep the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
