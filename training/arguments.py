"""What a training run is made of: three dataclasses, read from a YAML file and overridden on the command line."""

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from ..configuration_omnisent import HEADS, LOSSES
from ..processing_omnisent import MODALITIES
from ..readouts.generative import DECODINGS

READOUTS = ("discriminative", "generative")
LORA_PRESETS = ("paper", "llm")
QUANTIZATIONS = ("nf4", "none")
DTYPES = ("bfloat16", "float16", "float32")


def _one_of(choices: tuple[str, ...], default: str, text: str):
    return field(default=default, metadata={"help": text, "choices": list(choices)})


def _field(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """The backbone, its adapter and its head."""

    base_model: str = _field(
        "Qwen/Qwen2.5-Omni-7B", "Hub id or folder of a full checkpoint; `tiny` for the random one made on the spot"
    )
    base_revision: str | None = _field(None, "branch, tag or commit of the base model")
    readout: str = _one_of(
        READOUTS, "discriminative", "a regression head on the hidden state, or a score written as text"
    )
    decoding: str = _one_of(
        DECODINGS, "greedy", "generative readout: parse greedy text, or take the mean of all numeric answers"
    )
    max_new_tokens: int = _field(8, "generative readout: most tokens of a greedy answer")
    adapter: str | None = _field(
        None, "Hub id or folder of a bundle whose adapter (and head) are scored with or go on training"
    )
    head: str = _one_of(HEADS, "mlp", "regression head")
    head_hidden_size: int = _field(256, "width of the mlp head")
    head_dropout: float = _field(0.2, "dropout of the head")
    loss: str = _one_of(LOSSES, "l1", "loss on z-scored labels")
    quantization: str = _one_of(QUANTIZATIONS, "nf4", "nf4 is 4-bit with double quantisation")
    quantize_towers: bool = _field(True, "quantise the audio and vision towers too")
    dtype: str = _one_of(DTYPES, "bfloat16", "of unquantised weights and of the computation")
    attn_implementation: str | None = _field(None, "sdpa, eager or flash_attention_2")
    lora_preset: str = _one_of(
        LORA_PRESETS, "paper", "paper: the seven names over the whole Thinker; llm: its language model only"
    )
    lora_r: int = _field(32, "rank of the adapter")
    lora_alpha: int = _field(32, "scale of the adapter")
    lora_dropout: float = _field(0.1, "dropout before the adapter")


@dataclass
class DataArguments:
    """The clips and how they are put to the model."""

    dataset: str = _field("planted", "name in the catalog, table of clips (.csv, .jsonl, .parquet) or built data set")
    root: str | None = _field(None, "folder that a named data set lies in")
    modalities: list[str] = field(
        default_factory=lambda: list(MODALITIES), metadata={"help": "which of text, audio and video are used"}
    )
    complete_clips: bool = _field(False, "use only the clips that have text, sound and picture")
    on_bad_clip: str = _one_of(("error", "skip"), "error", "stop at a clip that cannot be used, or list it and go on")
    feature_cache: str | None = _field(
        None, "folder that keeps tower outputs, for later epochs and runs; for lora_preset llm"
    )
    system_prompt: str | None = _field(None, "in place of the default")
    instruction: str | None = _field(None, "in place of the default")
    transcript_template: str | None = _field(None, "in place of the default; has {text} in it")
    context_template: str | None = _field(None, "in place of the default; has {text} in it")
    context_clips: int = _field(0, "preceding transcripts of the same video and split that are put before a clip's own")
    fps: float = _field(2.0, "frames per second sampled from a video")
    min_frames: int = _field(4, "fewest frames of a video")
    max_frames: int = _field(16, "most frames of a video")
    min_pixels: int = _field(128 * 28 * 28, "fewest pixels of a frame")
    max_pixels: int = _field(768 * 28 * 28, "most pixels of a frame")
    exact_resize: bool = _field(True, "frames bit-equal to the official path; false for the faster 8-bit resize")


@dataclass
class OmniSentTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with this project's defaults and the head's learning rate."""

    output_dir: str | None = _field("runs/train", "the run folder")
    evaluate_only: bool = _field(
        False, "score the test split with the adapter, or with the base model, without training"
    )
    learning_rate: float = _field(2e-4, "of the adapter")
    generative_learning_rate: float | None = _field(
        None, "of the adapter under the generative readout, where it is to differ"
    )
    head_learning_rate: float = _field(1e-3, "of the regression head")
    early_stopping_patience: int | None = _field(None, "evaluations without a better validation MAE before it stops")
    per_device_train_batch_size: int = _field(1, "clips a step and device")
    per_device_eval_batch_size: int = _field(4, "clips a step and device when evaluating")
    num_train_epochs: float = _field(5, "passes over the training split")
    lr_scheduler_type: str = _field("cosine", "learning rate schedule")
    eval_strategy: str = _field("epoch", "when to evaluate")
    save_strategy: str = _field("epoch", "when to save")
    save_total_limit: int | None = _field(2, "checkpoints kept")
    load_best_model_at_end: bool = _field(True, "go back to the checkpoint with the lowest validation MAE")
    metric_for_best_model: str | None = _field("mae", "what best means")
    greater_is_better: bool | None = _field(False, "an error is better when lower")
    logging_steps: float = _field(10, "steps between log lines")
    activation_checkpointing: bool = _field(True, "recompute activations to save memory")
    remove_unused_columns: bool = _field(False, "must stay off: clips are turned into inputs in the workers")
    report_to: str | None = _field("none", "experiment tracker, as in transformers, e.g. tensorboard")

    def __post_init__(self):
        self.label_names = ["labels"]
        self.activation_checkpointing_kwargs = {"use_reentrant": False, **(self.activation_checkpointing_kwargs or {})}
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = True  # a batch without sound leaves an adapter in the audio tower unused
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False  # it serves a GPU alone, and warns without one
        super().__post_init__()

    def adapter_learning_rate(self, readout: str) -> float:
        """The adapter's learning rate under a readout."""
        if readout == "generative" and self.generative_learning_rate is not None:
            return self.generative_learning_rate
        return self.learning_rate


ARGUMENTS = (ModelArguments, DataArguments, OmniSentTrainingArguments)


def parse_arguments(argv: list[str] | None = None) -> tuple[ModelArguments, DataArguments, OmniSentTrainingArguments]:
    """`CONFIG.yaml [--field value ...]`; the command line wins over the file.

    Raises:
        ValueError: for a field in the file that does not exist, naming the file and the field.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = HfArgumentParser(
        ARGUMENTS, description="Train a sentiment readout: train.py CONFIG.yaml [--field value ...]"
    )
    if argv and argv[0].endswith((".yaml", ".yml")):
        parser.set_defaults(**read_config(argv[0]))
        argv = argv[1:]
    return parser.parse_args_into_dataclasses(argv)


def read_config(path: str | Path) -> dict:
    """The fields of a YAML file.

    Raises:
        FileNotFoundError: when it is missing.
        ValueError: when it is not a mapping, or has a field that no argument class has.
    """
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected `field: value` lines, found a {type(config).__name__}")
    known = {f.name: f.metadata.get("choices") for arguments in ARGUMENTS for f in fields(arguments)}
    for key, value in config.items():
        if key not in known:
            raise ValueError(f"{path}: there is no field {key!r}; `python train.py --help` lists them all")
        if known[key] and value not in known[key]:
            raise ValueError(f"{path}: {key} must be one of {', '.join(known[key])}, not {value!r}")
    return config
