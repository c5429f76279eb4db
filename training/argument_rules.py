"""Rules about settings that contradict each other; each names the fields and what to do.

Values of single fields are checked in argument_checks.py; whether data set, base model and bundle fit is checked where they are
first read.
"""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate.utils import DynamoBackend
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.training_args import DebugOption

from ..data.catalog import dataset_facts
from ..evaluation.metrics import METRICS
from ..heads_omnisent import LAYERS
from ..processing_omnisent import MODALITIES
from ..readouts.base import Predictions
from ..readouts.catalog import READOUTS
from .choices import is_made_here
from .rule import Rule
from .target_rules import TARGET_RULES
from .targets import targets_of


def lower_is_better(metric_name: str) -> bool:
    """Whether lower values of an evaluation metric are better; the name may have the prefix `eval_`."""
    name = metric_name.removeprefix("eval_")
    metric = METRICS.get(name.removesuffix("_parsable").removesuffix("_unclipped"))
    return metric.better == "lower" if metric else name == "loss" or name.endswith("_rate")


def metric_names(readout: str, decoding: str, convention: str) -> list[str]:
    """The metrics of a readout's evaluation, any of which can select the best checkpoint."""
    built = READOUTS[readout].build((-1.0, 1.0), None, {"decoding": decoding})
    metrics = built.metrics(Predictions(np.array([-0.25, 0.25])), [-0.25, 0.25], convention)
    return [name for name, value in metrics.items() if isinstance(value, float)] + ["loss"] * built.gives_loss


def _names_of(v: SimpleNamespace) -> list[str]:
    of_each = [metric_names(v.readout, v.decoding, target.convention) for target in targets_of(v)]
    return [name for name in of_each[0] if all(name in names for names in of_each)]


def _follows_metric(v: SimpleNamespace) -> bool:
    return v.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")


def _wants_best(v: SimpleNamespace) -> bool:
    return v.load_best_model_at_end or v.early_stopping_patience is not None or v.save_strategy == "best"


def _resumes(v: SimpleNamespace) -> bool:
    return v.resume_from_checkpoint is not None and v.resume_from_checkpoint.lower() != "false"


def _no_multiple(v: SimpleNamespace) -> bool:
    save, evaluate = v.save_steps, v.eval_steps or v.logging_steps
    if (save < 1) != (evaluate < 1):
        return True
    return round(save * 1_000_000) % max(1, round(evaluate * 1_000_000)) != 0


def _never_evaluated(v: SimpleNamespace) -> bool:
    end = {
        "epoch": v.num_train_epochs if v.max_steps < 0 else math.inf,
        "steps": v.max_steps if v.max_steps > 0 else math.inf,
    }
    return v.eval_delay > end.get(v.eval_strategy, math.inf)


def _not_a_choice(names: Sequence[str], choices: Collection[str]) -> bool:
    return not names or not set(names) <= set(choices) or len(set(names)) < len(names)


def _expected_genres(genres: Sequence[str]) -> str:
    return (
        f"name at least one of {', '.join(genres)}, each once" if genres else "this data set has none; leave genres out"
    )


def _lacks_text(template: str | None) -> bool:
    return template is not None and "{text}" not in template


def _keeps_other_decodings(v: SimpleNamespace) -> bool:
    return v.load_best_model_at_end and not v.evaluate_only


def _on_cpu(v: SimpleNamespace) -> bool:
    return v.use_cpu or not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"


def _trackers(v: SimpleNamespace) -> list[str]:
    named = v.report_to if isinstance(v.report_to, list) else [v.report_to]
    return [name for name in named if name not in ("none", "all", *get_available_reporting_integrations())]


_TEMPLATE = "it must contain {text}, where the transcript goes"
_LAUNCHED = "(`accelerate launch --mixed_precision` counts as the first)"
_NO_WORKERS = "it applies to DataLoader workers; set dataloader_num_workers to at least 1, or leave it out"
_NO_EVALUATION = "set eval_strategy to steps or epoch"
RULES = (
    *TARGET_RULES,
    Rule(
        ("modalities",),
        lambda v: _not_a_choice(v.modalities, MODALITIES),
        f"name at least one of {', '.join(MODALITIES)}, each once",
    ),
    Rule(
        ("genres", "dataset"),
        lambda v: v.genres is not None and _not_a_choice(v.genres, dataset_facts(v.dataset).genres),
        lambda v: _expected_genres(dataset_facts(v.dataset).genres),
    ),
    Rule(
        ("layers",),
        lambda v: v.layers not in LAYERS and not v.layers.isdecimal(),
        f"expected {', '.join(LAYERS)}, or the index of a layer, from 0 for the token embeddings",
    ),
    Rule(("min_frames", "max_frames"), lambda v: v.min_frames > v.max_frames, "the first must not be above the second"),
    Rule(("min_pixels", "max_pixels"), lambda v: v.min_pixels > v.max_pixels, "the first must not be above the second"),
    Rule(("transcript_template",), lambda v: _lacks_text(v.transcript_template), _TEMPLATE),
    Rule(("context_template",), lambda v: _lacks_text(v.context_template), _TEMPLATE),
    Rule(
        ("context_clips", "modalities"),
        lambda v: v.context_clips > 0 and "text" not in v.modalities,
        "preceding transcripts are text; add text to modalities, or set context_clips to 0",
    ),
    Rule(
        ("swapped", "modalities"),
        lambda v: bool(v.swapped) and _not_a_choice(v.swapped, v.modalities),
        "name some of the modalities that are used, each once",
    ),
    Rule(
        ("swapped", "evaluate_only"),
        lambda v: bool(v.swapped) and not v.evaluate_only,
        "only the clips that are evaluated are swapped; set evaluate_only, with the adapter to test",
    ),
    Rule(
        ("shots", "modalities"),
        lambda v: v.shots > 0 and "text" not in v.modalities,
        "the examples are transcripts; add text to modalities, or set shots to 0",
    ),
    Rule(
        ("shots", "evaluate_only"),
        lambda v: v.shots > 0 and not v.evaluate_only,
        "examples are for runs without training: their clips would be trained with their own answers in the prompt",
    ),
    Rule(
        ("base_revision", "base_model"),
        lambda v: v.base_revision is not None and (is_made_here(v.base_model) or os.path.isdir(v.base_model)),
        "only a Hub id has revisions; leave base_revision out",
    ),
    Rule(
        ("attn_implementation", "dtype"),
        lambda v: v.attn_implementation == "flash_attention_2" and v.dtype == "float32",
        "flash_attention_2 computes only in bfloat16 or float16",
    ),
    Rule(
        ("attn_implementation", "decoding", "generative_loss"),
        lambda v: (
            v.readout == "generative"
            and v.attn_implementation == "flash_attention_2"
            and (v.decoding != "greedy" or v.generative_loss == "raft" or _keeps_other_decodings(v))
        ),
        "the probabilities of all answers need a mask of their own, which flash_attention_2 has not; use sdpa, or decode greedily"
        " with load_best_model_at_end false",
    ),
    Rule(
        ("attn_implementation", "use_cpu"),
        lambda v: v.attn_implementation == "flash_attention_2" and _on_cpu(v),
        "flash_attention_2 needs a GPU; sdpa also works on the CPU",
        of_machine=True,
    ),
    Rule(
        ("evaluate_only", "adapter"),
        lambda v: v.evaluate_only and not READOUTS[v.readout].uses_lm_head and v.adapter is None,
        "the head would be untrained; name a trained bundle with adapter",
    ),
    Rule(
        ("evaluate_only", "resume_from_checkpoint"),
        lambda v: v.evaluate_only and _resumes(v),
        "there is no training to resume; to score with a checkpoint, name it with adapter",
    ),
    Rule(
        ("resume_from_checkpoint",),
        lambda v: (
            _resumes(v)
            and v.resume_from_checkpoint.lower() != "true"
            and not (Path(v.resume_from_checkpoint) / "trainer_state.json").is_file()
        ),
        "this folder has no complete checkpoint; `true` takes the last one of output_dir",
        of_machine=True,
    ),
    Rule(
        ("resume_from_checkpoint", "save_only_model"),
        lambda v: _resumes(v) and v.save_only_model,
        "its checkpoints hold no optimizer state to resume from",
    ),
    Rule(("bf16", "fp16"), lambda v: v.bf16 and v.fp16, "set at most one of the two"),
    Rule(
        ("bf16", "dtype"),
        lambda v: v.bf16 and v.dtype == "float16",
        f"they contradict each other {_LAUNCHED}; use bfloat16 or float32 with bf16",
    ),
    Rule(
        ("fp16", "dtype"),
        lambda v: v.fp16 and v.dtype == "bfloat16",
        f"they contradict each other {_LAUNCHED}; use float16 or float32 with fp16",
    ),
    Rule(
        ("fp16", "use_cpu"),
        lambda v: v.fp16 and _on_cpu(v),
        f"fp16 needs a GPU {_LAUNCHED}; bf16 also works on the CPU",
        of_machine=True,
    ),
    Rule(
        ("bf16", "use_cpu"),
        lambda v: v.bf16 and not v.use_cpu and not (torch.cuda.is_available() and torch.cuda.is_bf16_supported()),
        "there is no GPU here that computes in bfloat16; set use_cpu to train on the CPU",
        of_machine=True,
    ),
    Rule(
        ("early_stopping_patience", "eval_strategy"),
        lambda v: v.early_stopping_patience is not None and v.eval_strategy == "no",
        f"there is nothing to monitor; {_NO_EVALUATION}, or leave early_stopping_patience out",
    ),
    Rule(
        ("early_stopping_patience", "load_best_model_at_end"),
        lambda v: v.early_stopping_patience is not None and not v.load_best_model_at_end,
        "the run would end with weights worse than its best; set load_best_model_at_end",
    ),
    Rule(
        ("load_best_model_at_end", "eval_strategy"),
        lambda v: v.load_best_model_at_end and v.eval_strategy == "no",
        f"no checkpoint could be the best; {_NO_EVALUATION}, or load_best_model_at_end to false",
    ),
    Rule(
        ("load_best_model_at_end", "save_strategy", "eval_strategy"),
        lambda v: v.load_best_model_at_end and v.save_strategy not in ("best", v.eval_strategy),
        "each evaluated checkpoint must be saved; give both strategies the same value",
    ),
    Rule(
        ("load_best_model_at_end", "save_steps", "eval_steps"),
        lambda v: v.load_best_model_at_end and v.save_strategy == v.eval_strategy == "steps" and _no_multiple(v),
        "save_steps must be a multiple of eval_steps (or of logging_steps if that is unset), both integers or both fractions",
    ),
    Rule(
        ("save_strategy", "eval_strategy"),
        lambda v: v.save_strategy == "best" and v.eval_strategy == "no",
        f"no checkpoint could be the best; {_NO_EVALUATION}",
    ),
    Rule(
        ("eval_delay", "eval_strategy"),
        lambda v: _wants_best(v) and _never_evaluated(v),
        "training ends before the first evaluation, so no checkpoint could be the best; lower eval_delay",
    ),
    Rule(
        ("metric_for_best_model",),
        lambda v: v.metric_for_best_model is None and (_wants_best(v) or _follows_metric(v)),
        "a metric is needed; leave the field out for mae",
    ),
    Rule(
        ("metric_for_best_model", "readout"),
        lambda v: (
            v.metric_for_best_model is not None and v.metric_for_best_model.removeprefix("eval_") not in _names_of(v)
        ),
        lambda v: f"on {v.dataset} it must be one of {', '.join(_names_of(v))}",
    ),
    Rule(
        ("greater_is_better", "metric_for_best_model"),
        lambda v: (
            None not in (v.metric_for_best_model, v.greater_is_better)
            and v.greater_is_better == lower_is_better(v.metric_for_best_model)
        ),
        "the worst checkpoint would be kept; leave greater_is_better out, it is derived from the metric",
    ),
    Rule(
        ("lr_scheduler_type", "eval_strategy"),
        lambda v: _follows_metric(v) and v.eval_strategy == "no",
        f"this schedule needs evaluations; {_NO_EVALUATION}",
    ),
    Rule(
        ("lr_scheduler_type", "lr_scheduler_kwargs", "metric_for_best_model"),
        lambda v: (
            _follows_metric(v)
            and ((v.lr_scheduler_kwargs or {}).get("mode", "min") == "min") != lower_is_better(v.metric_for_best_model)
        ),
        'the schedule would react the wrong way; lr_scheduler_kwargs {"mode": "max"} is for metrics where higher is better',
    ),
    Rule(
        ("dataloader_persistent_workers", "dataloader_num_workers"),
        lambda v: v.dataloader_persistent_workers and v.dataloader_num_workers == 0,
        _NO_WORKERS,
    ),
    Rule(
        ("dataloader_prefetch_factor", "dataloader_num_workers"),
        lambda v: v.dataloader_prefetch_factor is not None and v.dataloader_num_workers == 0,
        _NO_WORKERS,
    ),
    Rule(
        ("dataloader_multiprocessing_context", "dataloader_num_workers"),
        lambda v: v.dataloader_multiprocessing_context is not None and v.dataloader_num_workers == 0,
        _NO_WORKERS,
    ),
    Rule(
        ("gradient_checkpointing", "activation_checkpointing"),
        lambda v: v.gradient_checkpointing not in (None, v.activation_checkpointing),
        "the first is a deprecated name of the second and would be ignored; leave it out",
    ),
    Rule(
        ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
        lambda v: v.gradient_checkpointing_kwargs not in (None, v.activation_checkpointing_kwargs),
        "the first is a deprecated name of the second and would be ignored; leave it out",
    ),
    Rule(
        ("torch_compile_backend",),
        lambda v: (
            v.torch_compile_backend is not None
            and v.torch_compile_backend.upper() not in {backend.value for backend in DynamoBackend}
        ),
        f"it must be one of {', '.join(backend.value.lower() for backend in DynamoBackend)}",
    ),
    Rule(
        ("debug",),
        lambda v: (
            not set((v.debug or "").split() if isinstance(v.debug, str | None) else v.debug)
            <= {DebugOption.UNDERFLOW_OVERFLOW}
        ),
        "only underflow_overflow is supported",
    ),
    Rule(
        ("report_to",),
        _trackers,
        f"name installed trackers, or none; supported are {', '.join(INTEGRATION_TO_CALLBACK)}",
        of_machine=True,
    ),
)


def check_together(values: Mapping[str, Any], *, on_this_machine: bool) -> None:
    """Check that the values of all fields fit together.

    Args:
        values: by field, each valid by itself.
        on_this_machine: `False` for settings of a run on another machine.

    Raises:
        SettingError: with the values of fields that contradict each other, and what to do.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    precision = {name: values[name] or launched == name for name in ("fp16", "bf16")}
    if values["fp16"] or values["bf16"]:
        precision = {name: values[name] for name in precision}
    together = SimpleNamespace(**{**values, **precision})
    for rule in RULES:
        if on_this_machine or not rule.of_machine:
            rule.check(together)
