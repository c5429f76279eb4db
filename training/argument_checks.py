"""The valid values of each field of a run, as tables, and whether transformers accepts them together.

A setting that would end in a traceback, or be silently ignored, is refused by name before a model or a clip is opened. For fields
that contradict each other see argument_rules.py.
"""

import json
import logging
import os
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from enum import Enum
from functools import cache
from inspect import signature
from math import inf
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from accelerate.utils import parse_flag_from_env
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.hf_argparser import string_to_bool
from transformers.trainer_pt_utils import AcceleratorConfig

from ..data.table_options import parse_columns
from ..losses_omnisent import FEWEST_BINS
from .error_line import error_line
from .field_names import unknown_name

logger = logging.getLogger("omnisent.arguments")


class SettingError(ValueError):
    """An invalid setting; `fields` are the fields concerned."""

    def __init__(self, fields: Sequence[str], message: str):
        super().__init__(message)
        self.fields = tuple(fields)


Range = tuple[str, Callable[[float], bool]]
_AT_LEAST_0: Range = ("at least 0", lambda value: value >= 0)
_AT_LEAST_1: Range = ("at least 1", lambda value: value >= 1)
_AT_LEAST_2: Range = ("at least 2", lambda value: value >= 2)
_ABOVE_0: Range = ("above 0", lambda value: value > 0)
_BELOW_1: Range = ("at least 0 and below 1", lambda value: 0 <= value < 1)
_SEED: Range = ("from 0 to 4294967295", lambda value: 0 <= value < 2**32)
_STEPS: Range = ("a whole number, or a fraction of all steps below 1", lambda v: 0 < v < 1 or (v >= 1 and v == int(v)))
RANGES: dict[str, Range] = {
    "max_new_tokens": _AT_LEAST_1,
    "answer_step": _ABOVE_0,
    "head_hidden_size": _AT_LEAST_1,
    "head_dropout": _BELOW_1,
    "shots": _AT_LEAST_0,
    "bins": (f"at least {FEWEST_BINS}", lambda value: value >= FEWEST_BINS),
    "lora_r": _AT_LEAST_1,
    "lora_alpha": _AT_LEAST_1,
    "lora_dropout": _BELOW_1,
    "context_clips": _AT_LEAST_0,
    "fps": _ABOVE_0,
    "min_frames": _AT_LEAST_1,
    "max_frames": _AT_LEAST_2,
    "min_pixels": _AT_LEAST_1,
    "max_pixels": _AT_LEAST_1,
    "learning_rate": _AT_LEAST_0,
    "generative_learning_rate": _AT_LEAST_0,
    "head_learning_rate": _AT_LEAST_0,
    "early_stopping_patience": _AT_LEAST_1,
    "per_device_train_batch_size": _AT_LEAST_1,
    "per_device_eval_batch_size": _AT_LEAST_1,
    "num_train_epochs": _ABOVE_0,
    "save_total_limit": _AT_LEAST_1,
    "logging_steps": _STEPS,
    # transformers' own
    "max_steps": ("-1 or at least 1", lambda value: value == -1 or value >= 1),
    "warmup_steps": (
        "a whole number, or a fraction of all steps below 1",
        lambda v: 0 <= v < 1 or (v >= 1 and v == int(v)),
    ),
    "weight_decay": _AT_LEAST_0,
    "adam_beta1": _BELOW_1,
    "adam_beta2": _BELOW_1,
    "adam_epsilon": _AT_LEAST_0,
    "gradient_accumulation_steps": _AT_LEAST_1,
    "max_grad_norm": _AT_LEAST_0,
    "neftune_noise_alpha": _ABOVE_0,
    "torch_empty_cache_steps": _AT_LEAST_1,
    "eval_steps": _STEPS,
    "eval_delay": _AT_LEAST_0,
    "eval_accumulation_steps": _AT_LEAST_1,
    "save_steps": _STEPS,
    "seed": _SEED,
    "data_seed": _SEED,
    "dataloader_num_workers": _AT_LEAST_0,
    "dataloader_prefetch_factor": _AT_LEAST_1,
    "ddp_bucket_cap_mb": _AT_LEAST_1,
    "ddp_timeout": _AT_LEAST_1,
    "local_rank": ("-1 or more", lambda value: value >= -1),
    "activation_checkpointing_kwargs.every_n_layers": _AT_LEAST_1,
}
MAY_BE_EMPTY = ("system_prompt", "debug", "fsdp", "optim_args", "run_name", "project", "length_column_name")

_AS_LISTS = "evaluation must give one prediction per clip"
_NOT_YET = "it is not supported yet; adapter and head would be saved empty"
ONLY: dict[str, tuple[tuple, str]] = {  # the only supported values, and why
    "remove_unused_columns": ((False,), "clips become model inputs in the DataLoader workers"),
    "prediction_loss_only": ((False,), "metrics need the predictions"),
    "batch_eval_metrics": ((False,), "correlation and F1 cannot be combined from batches"),
    "eval_do_concat_batches": ((True,), _AS_LISTS),
    "eval_use_gather_object": ((False,), _AS_LISTS),
    "include_for_metrics": (([],), "metrics need only scores and labels"),
    "label_smoothing_factor": ((0,), "labels are numbers, not classes"),
    "label_names": ((None, ["labels"]), "a clip has one label, and its name is fixed"),
    "bf16_full_eval": ((False,), "the saved head and adapter would be converted to bfloat16"),
    "fp16_full_eval": ((False,), "the saved head and adapter would be converted to float16"),
    "dataloader_drop_last": ((False,), "it drops test clips too"),
    "dataloader_in_order": ((True,), "which clips share a batch would differ from run to run"),
    "train_sampling_strategy": (
        ("random", "sequential", "group_by_length"),
        "the others open every clip beforehand, or weight clips by the size of their batch",
    ),
    "use_liger_kernel": ((False,), "there are no such kernels for this model"),
    "liger_kernel_config": ((None,), "there are no such kernels for this model"),
    "enable_jit_checkpoint": ((False,), "an interrupted run would look finished"),
    "push_to_hub": ((False,), "it uploads neither adapter nor head; `omnisent publish` uploads the bundle"),
    "parallelism_config": ((None,), _NOT_YET),
    "fsdp": ((None, False, "", []), _NOT_YET),
    "fsdp_config": ((None, {}), _NOT_YET),
    "deepspeed": ((None,), _NOT_YET),
    "accelerator_config.dispatch_batches": ((None, False), "position ids would be split along the wrong axis"),
    "accelerator_config.even_batches": ((True,), "clips would be left out of evaluation by several processes"),
    "accelerator_config.use_configured_state": ((False,), "there is no such state"),
    "accelerator_config.gradient_accumulation_kwargs": (
        (None, {}, {"sync_each_batch": False}, {"sync_each_batch": True}),
        "the number of steps is set by gradient_accumulation_steps",
    ),
}
ENVIRONMENT = {  # what `accelerate launch` sets
    "ACCELERATE_USE_FSDP": "fsdp",
    "ACCELERATE_USE_DEEPSPEED": "deepspeed",
    "ACCELERATE_USE_MEGATRON_LM": "megatron_lm",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config",
}
MAPPINGS = {  # fields that hold a mapping, and their keys (None: any)
    "accelerator_config": [field.name for field in fields(AcceleratorConfig)],
    "activation_checkpointing_kwargs": [*signature(checkpoint).parameters, "every_n_layers", "offload"],
    "gradient_checkpointing_kwargs": [*signature(checkpoint).parameters, "every_n_layers", "offload"],
    "lr_scheduler_kwargs": None,
    "columns": None,
}
_WORDS = {
    NoneType: "null",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}
_OPTIMIZER = ("optim", "optim_args", "optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
_SCHEDULE = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "learning_rate")
_MANY_STEPS = 1_000_000


def as_yaml(value: Any) -> str:
    """A value as it is written in YAML."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def converted(name: str, value: Any, hint: Any, choices: Collection[str] | None = None) -> Any:
    """A value from a YAML file, converted to its field's type: text becomes a number, and `no` the word if that is a choice.

    Args:
        name: of the field.
        value: as parsed from YAML.
        hint: the field's type.
        choices: the valid values, if the type does not tell them.

    Raises:
        SettingError: for a value of another type, or not among the choices.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    choices = list(choices or (member.value for kind in kinds for member in (kind if _is_enum(kind) else ())))
    if choices and not (value is None and NoneType in kinds):
        value = "no" if value is False and "no" in choices else value
        if value not in choices:
            raise SettingError([name], f"{name} must be one of {', '.join(choices)}, not {value!r}")
        return value
    for kind in kinds:
        with suppress(TypeError, ValueError, OverflowError, ArgumentTypeError):
            return _as(kind, value)
    words = " or ".join(_WORDS.get(get_origin(kind) or kind, str(kind)) for kind in kinds)
    quotes = "; put it in quotes" if str in kinds and isinstance(value, bool | int | float) else ""
    raise SettingError([name], f"{name} must be {words}, not {value!r}{quotes}")


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _as(kind: Any, value: Any) -> Any:
    """The value converted to a type; raises a TypeError or the error of the conversion."""
    plain = get_origin(kind) or kind
    if plain is Literal and value in get_args(kind):
        return value
    if plain is list and isinstance(value, list):
        return _as_list((get_args(kind) or (str,))[0], value)
    if plain in (bool, int, float) and isinstance(value, str):
        return {bool: string_to_bool, int: int, float: float}[plain](value)
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        float(value)  # an int stays an int, if a float can represent it
        return value
    if plain in (NoneType, bool, int, float, str, dict) and type(value) is plain:
        return value
    raise TypeError


def _as_list(kind: type, value: list) -> list:
    """A list of text; or of numbers, which may be nested, as `[[1, 9], [0, 100]]`."""
    if kind is not float and all(isinstance(item, str) for item in value):
        return value
    if kind is float:
        flat = [number for item in value for number in (item if isinstance(item, list) else [item])]
        return [float(_as(float, number)) for number in flat]
    raise TypeError


def check_supported(name: str, value: Any) -> None:
    """Check that the training loop supports a value.

    Raises:
        SettingError: with the supported values, and the reason.
    """
    if name in ONLY and value not in ONLY[name][0]:
        allowed, reason = ONLY[name]
        expected = "left out" if None in allowed else " or ".join(as_yaml(choice) for choice in allowed)
        raise SettingError([name], f"{name} must be {expected}, not {as_yaml(value)}: {reason}")


def check_value(name: str, value: Any) -> Any:
    """Check the value of one field and return it; a mapping given as text is parsed.

    Raises:
        SettingError: naming the field and its valid values.
    """
    check_supported(name, value)
    if name in MAPPINGS and value is not None:
        value = _mapping(name, value)
    if isinstance(value, list) and any(isinstance(item, float) and not -inf < item < inf for item in value):
        raise SettingError([name], f"{name} must be finite numbers, not {value}")
    if value == "" and name not in MAY_BE_EMPTY:
        raise SettingError([name], f"{name} is empty; give it a value, or leave it out")
    if name in RANGES and value is not None:
        expected, is_valid = RANGES[name]
        if not (isinstance(value, int | float) and -inf < value < inf and is_valid(value)):
            raise SettingError([name], f"{name} must be {expected}, not {as_yaml(value)}")
    return value


def _mapping(name: str, value: Any) -> dict:
    if isinstance(value, str) and name == "columns":
        try:
            value = parse_columns(value)
        except ValueError as error:
            raise SettingError([name], str(error)) from error
    if isinstance(value, str):
        try:
            value = json.loads(value if value.lstrip().startswith("{") else Path(value).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingError(
                [name], f"{name} must be a mapping as JSON, or a file with one: {error_line(error)}"
            ) from error
    if not isinstance(value, dict):
        raise SettingError([name], f"{name} must be a mapping, not {value!r}")
    keys, hints = MAPPINGS[name], get_type_hints(AcceleratorConfig) if name == "accelerator_config" else {}
    for key, item in value.items():
        if keys is not None and key not in keys:
            raise SettingError([name], f"{name}: {unknown_name(str(key), keys)}")
        if name == "columns" and not isinstance(item, str):
            raise SettingError([name], f"columns: {key} must be the header of a column, not {item!r}")
        if isinstance(item, float) and not -inf < item < inf:
            raise SettingError([name], f"{name}.{key} must be a finite number, not {item}")
        check_value(f"{name}.{key}", converted(f"{name}.{key}", item, hints[key]) if key in hints else item)
    return value


def check_environment() -> None:
    """Check that the settings of `accelerate launch` are supported.

    Raises:
        SettingError: naming an unsupported one.
    """
    for variable, name in ENVIRONMENT.items():
        if parse_flag_from_env(variable):
            raise SettingError([name], f"{name} must be left out of `accelerate launch` and its config: {_NOT_YET}")
    if os.environ.get("ACCELERATE_MIXED_PRECISION") == "fp8":
        raise SettingError(["mixed_precision"], "mixed_precision fp8 is not supported: use bf16 or fp16")


@contextmanager
def as_setting_error(names: Sequence[str], label: str) -> Iterator[None]:
    """Turn any exception of a library into a SettingError about these fields that starts with the label."""
    try:
        yield
    except SettingError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError | ImportError) else f"{type(error).__name__}: "
        raise SettingError(names, f"{label}: {kind}{error_line(error)}") from error


def try_out(args: TrainingArguments) -> None:
    """Build optimizer and schedule for a dummy parameter, to refuse invalid settings before anything is loaded.

    Raises:
        SettingError: naming the optimizer or the schedule, with what is wrong.
    """
    with as_setting_error(_OPTIMIZER, f"optim {args.optim.value} with optim_args {as_yaml(args.optim_args)}"):
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
        group = {
            "params": [torch.nn.Parameter(torch.zeros(2, 2))],
            "lr": args.learning_rate,
            "weight_decay": args.weight_decay,
        }
        optimizer = kind([group], **options)
    kwargs = as_yaml(args.lr_scheduler_kwargs)
    with as_setting_error(
        _SCHEDULE, f"lr_scheduler_type {args.lr_scheduler_type.value} with lr_scheduler_kwargs {kwargs}"
    ):
        steps = args.max_steps if args.max_steps > 0 else _MANY_STEPS
        get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )


def use_one_gpu(args: TrainingArguments) -> None:
    """Let a process that was started by itself use one of several GPUs; transformers would split each batch among them."""
    if args.n_gpu > 1:
        _say_idle(args.n_gpu)
        args._n_gpu = 1  # where transformers keeps their number


@cache
def _say_idle(gpus: int) -> None:
    logger.warning(
        "1 of %d GPUs is used, as one process uses one; `accelerate launch --multi_gpu --num_processes %d -m omnisent.train CONFIG`"
        " uses all of them, each with a batch of its own",
        *(gpus, gpus),
    )
