"""Settings that contradict each other end in one line that names the fields; settings that fit are accepted."""

import json

import pytest
import torch
import yaml

from omnisent.training.argument_rules import RULES, lower_is_better, metric_names
from omnisent.training.arguments import (
    OmniSentTrainingArguments,
    parse_arguments,
)

STEPS = {"eval_strategy": "steps", "save_strategy": "steps"}
APART = {"eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 10}
NEVER = {"eval_strategy": "no", "save_strategy": "no"}
UNWATCHED = {**NEVER, "load_best_model_at_end": False}
TWO = {"dataset": "t.csv", "targets": ["valence", "arousal"]}
CONTRADICTIONS = [
    ({"targets": ["a/b"]}, ["targets"]),
    ({"dataset": "t.csv", "targets": ["valence", "valence_raw"]}, ["targets"]),
    ({"dataset": "t.csv", "targets": ["valence", "score"]}, ["targets"]),
    ({"dataset": "t.csv", "targets": ["text"]}, ["targets"]),
    ({"dataset": "t.csv", "encoding": "latin-99"}, ["encoding"]),
    ({**TWO, "raters": ["r_*"]}, ["raters", "targets"]),
    ({"dataset": "t.csv", "columns": {"valence": "Valenz"}}, ["columns", "targets"]),
    ({"columns": {"text": "Transkript"}}, ["dataset", "columns", "raters", "encoding", "decimal"]),
    ({"decimal": ","}, ["dataset", "columns", "raters", "encoding", "decimal"]),
    ({"targets": ["valence"]}, ["targets", "dataset"]),
    ({"targets": ["label", "label_X"], "dataset": "ch_sims"}, ["targets", "dataset"]),
    ({"score_range": [1.0]}, ["score_range", "targets"]),
    ({"score_range": [3.0, 3.0]}, ["score_range", "targets"]),
    ({**TWO, "score_range": [1.0, 9.0, 0.0, 1.0, 2.0, 3.0]}, ["score_range", "targets"]),
    ({"score_range": [1.0, 9.0], "convention": "mosi"}, ["convention", "score_range", "targets"]),
    ({"dataset": "ch_sims", "convention": "mosi"}, ["convention", "score_range", "targets"]),
    ({**TWO, "score_range": [1.0, 9.0, 0.0, 1.0], "readout": "generative"}, ["readout", "score_range", "targets"]),
    ({"target_weights": [1.0, 2.0]}, ["target_weights", "targets"]),
    ({**TWO, "target_weights": [0.0, 0.0]}, ["target_weights", "targets"]),
    ({**TWO, "target_weights": [2.0, -1.0]}, ["target_weights", "targets"]),
    ({**TWO, "shots": 2, "evaluate_only": True, "readout": "generative"}, ["shots", "targets"]),
    ({"auto_split": "80/20"}, ["auto_split"]),
    ({"auto_split": "80/10/10", "group_split": True}, ["auto_split", "group_split"]),
    ({"modalities": ["text", "smell"]}, ["modalities"]),
    ({"genres": ["tweets"]}, ["genres", "dataset"]),
    ({"genres": ["songs"], "dataset": "human_ratings"}, ["genres", "dataset"]),
    ({"genres": ["tweets", "tweets"], "dataset": "human_ratings"}, ["genres", "dataset"]),
    ({"min_frames": 8, "max_frames": 4}, ["min_frames", "max_frames"]),
    ({"max_frames": 2}, ["min_frames", "max_frames"]),
    ({"min_pixels": 3136, "max_pixels": 3135}, ["min_pixels", "max_pixels"]),
    ({"transcript_template": "He says it."}, ["transcript_template"]),
    ({"transcript_template": "He says {txt}."}, ["transcript_template"]),
    ({"context_template": "Before that."}, ["context_template"]),
    ({"context_clips": 2, "modalities": ["audio", "video"]}, ["context_clips", "modalities"]),
    ({"swapped": ["text"], "modalities": ["audio"], "evaluate_only": True, "adapter": "x"}, ["swapped", "modalities"]),
    ({"swapped": ["audio", "audio"], "evaluate_only": True, "adapter": "x"}, ["swapped", "modalities"]),
    ({"swapped": ["audio"]}, ["swapped", "evaluate_only"]),
    ({"base_model": "tiny", "base_revision": "main"}, ["base_revision", "base_model"]),
    ({"attn_implementation": "flash_attention_2", "dtype": "float32"}, ["attn_implementation", "dtype"]),
    ({"attn_implementation": "flash_attention_2", "use_cpu": True}, ["attn_implementation", "use_cpu"]),
    ({"evaluate_only": True}, ["evaluate_only", "adapter"]),
    (
        {"evaluate_only": True, "adapter": "org/x", "resume_from_checkpoint": True},
        ["evaluate_only", "resume_from_checkpoint"],
    ),
    ({"resume_from_checkpoint": "nowhere"}, ["resume_from_checkpoint"]),
    ({"resume_from_checkpoint": True, "save_only_model": True}, ["resume_from_checkpoint", "save_only_model"]),
    ({"bf16": True, "fp16": True}, ["bf16", "fp16"]),
    ({"bf16": True, "dtype": "float16"}, ["bf16", "dtype"]),
    ({"fp16": True, "dtype": "bfloat16"}, ["fp16", "dtype"]),
    ({"fp16": True, "dtype": "float16", "use_cpu": True}, ["fp16", "use_cpu"]),
    ({"early_stopping_patience": 2, **UNWATCHED}, ["early_stopping_patience", "eval_strategy"]),
    (
        {"early_stopping_patience": 2, "load_best_model_at_end": False},
        ["early_stopping_patience", "load_best_model_at_end"],
    ),
    (NEVER, ["load_best_model_at_end", "eval_strategy"]),
    (APART, ["load_best_model_at_end", "save_strategy", "eval_strategy"]),
    (
        {"eval_strategy": "epoch", "save_strategy": "no"},
        ["load_best_model_at_end", "save_strategy", "eval_strategy"],
    ),
    ({**STEPS, "eval_steps": 4, "save_steps": 6}, ["load_best_model_at_end", "save_steps", "eval_steps"]),
    ({**STEPS, "logging_steps": 4, "save_steps": 6}, ["load_best_model_at_end", "save_steps", "eval_steps"]),
    ({**STEPS, "eval_steps": 0.1, "save_steps": 10}, ["load_best_model_at_end", "save_steps", "eval_steps"]),
    ({**STEPS, "eval_steps": 0.2, "save_steps": 0.3}, ["load_best_model_at_end", "save_steps", "eval_steps"]),
    ({**UNWATCHED, "save_strategy": "best"}, ["save_strategy", "eval_strategy"]),
    ({"eval_delay": 6, "num_train_epochs": 5}, ["eval_delay", "eval_strategy"]),
    (
        {**STEPS, "eval_steps": 2, "save_steps": 2, "eval_delay": 9, "max_steps": 8},
        ["eval_delay", "eval_strategy"],
    ),
    ({"metric_for_best_model": None}, ["metric_for_best_model"]),
    ({"metric_for_best_model": "mse"}, ["metric_for_best_model", "readout"]),
    ({"metric_for_best_model": "loss", "readout": "generative"}, ["metric_for_best_model", "readout"]),
    ({"metric_for_best_model": "mae_parsable"}, ["metric_for_best_model", "readout"]),
    ({"metric_for_best_model": "acc_7", "dataset": "ch_sims"}, ["metric_for_best_model", "readout"]),
    ({"metric_for_best_model": "f1"}, ["metric_for_best_model", "readout"]),
    ({"metric_for_best_model": "mae", "greater_is_better": True}, ["greater_is_better", "metric_for_best_model"]),
    ({"metric_for_best_model": "eval_loss", "greater_is_better": True}, ["greater_is_better", "metric_for_best_model"]),
    ({"metric_for_best_model": "corr", "greater_is_better": False}, ["greater_is_better", "metric_for_best_model"]),
    ({"metric_for_best_model": "f1_non0", "greater_is_better": False}, ["greater_is_better", "metric_for_best_model"]),
    ({**UNWATCHED, "lr_scheduler_type": "reduce_lr_on_plateau"}, ["lr_scheduler_type", "eval_strategy"]),
    ({**UNWATCHED, "lr_scheduler_type": "greedy"}, ["lr_scheduler_type", "eval_strategy"]),
    (
        {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "corr"},
        ["lr_scheduler_type", "lr_scheduler_kwargs", "metric_for_best_model"],
    ),
    (
        {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"mode": "max"}},
        ["lr_scheduler_type", "lr_scheduler_kwargs", "metric_for_best_model"],
    ),
    ({"dataloader_persistent_workers": True}, ["dataloader_persistent_workers", "dataloader_num_workers"]),
    ({"dataloader_prefetch_factor": 2}, ["dataloader_prefetch_factor", "dataloader_num_workers"]),
    ({"dataloader_multiprocessing_context": "spawn"}, ["dataloader_multiprocessing_context", "dataloader_num_workers"]),
    ({"gradient_checkpointing": False}, ["gradient_checkpointing", "activation_checkpointing"]),
    (
        {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
        ["gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"],
    ),
    ({"torch_compile_backend": "induktor"}, ["torch_compile_backend"]),
    ({"layers": "middle"}, ["layers"]),
    ({"answer_step": 0.0001, "dataset": "cmu_mosi"}, ["answer_step", "score_range", "dataset"]),
    ({"shots": 2, "modalities": ["audio"]}, ["shots", "modalities"]),
    ({"shots": 2}, ["shots", "evaluate_only"]),
    (
        {"attn_implementation": "flash_attention_2", "decoding": "median", "readout": "generative"},
        ["attn_implementation", "decoding", "generative_loss"],
    ),
    ({"debug": "tpu_metrics_debug"}, ["debug"]),
    ({"report_to": "tensorbord"}, ["report_to"]),
    ({"report_to": None}, ["report_to"]),
]


@pytest.mark.parametrize(("settings", "names"), CONTRADICTIONS, ids=lambda value: str(value)[:60])
def test_fields_that_contradict_each_other_are_named_with_their_values(refused, tmp_path, settings, names):
    line = refused(settings)
    assert line.startswith(f"{tmp_path / 'run.yaml'}: {names[0]} ")
    assert all(name in line for name in names)


@pytest.mark.parametrize(
    "settings", [s for s, _ in CONTRADICTIONS if None not in s.values()], ids=lambda value: str(value)[:60]
)
def test_fields_that_contradict_each_other_are_named_from_the_command_line_too(refused, settings):
    argv = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        argv += [f"--{name}", *map(str, values)]
    names = next(names for s, names in CONTRADICTIONS if s is settings)
    line = refused(None, *argv)
    assert line.startswith(f"{names[0]} ")
    assert all(name in line for name in names)


def test_no_rule_is_without_a_case():
    tried = {tuple(names) for _, names in CONTRADICTIONS} | {("bf16", "use_cpu")}  # the last is tried below
    assert tried == {rule.fields for rule in RULES}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_bf16_without_a_gpu_is_refused_here_and_planned_for_elsewhere(pytestconfig):
    mosi = str(pytestconfig.rootpath / "configs" / "mosi.yaml")
    with pytest.raises(ValueError, match=r"mosi\.yaml: bf16 true with use_cpu false: there is no GPU here"):
        parse_arguments([mosi])
    fp16 = ["--fp16", "--dtype", "float16", "--use_cpu"]
    assert parse_arguments(fp16, on_this_machine=False)[2].fp16


@pytest.mark.parametrize(
    "settings",
    [
        {"metric_for_best_model": "corr"},
        {"metric_for_best_model": "eval_acc_7", "greater_is_better": True},
        {"metric_for_best_model": "f1", "dataset": "ch_sims"},
        {"metric_for_best_model": "mae_parsable", "readout": "generative"},
        {"metric_for_best_model": "unparsable_rate", "readout": "generative", "decoding": "expected"},
        {"metric_for_best_model": "loss"},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"mode": "max"},
            "metric_for_best_model": "corr",
        },
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}},
        {"lr_scheduler_type": "polynomial", "max_steps": 3},
        {"optim": "adafactor"},
        {"optim": "sgd", "optim_args": "momentum=0.9"},
        {"optim": "paged_adamw_8bit"},
        {**STEPS, "eval_steps": 0.1, "save_steps": 0.3},
        {**STEPS, "logging_steps": 5, "save_steps": 10},
        {"eval_strategy": "steps", "save_strategy": "best", "eval_steps": 3, "early_stopping_patience": 1},
        {"eval_delay": 5, "num_train_epochs": 5},
        {"eval_delay": 2, "early_stopping_patience": 1},
        {**UNWATCHED, "eval_delay": 100, "metric_for_best_model": None},
        {"learning_rate": 0, "head_learning_rate": 0, "weight_decay": 0, "max_grad_norm": 0},
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 4},
        {"bf16": True, "dtype": "float32"},
        {"system_prompt": "", "transcript_template": "{text}", "context_template": "{x} {text}"},
        {"context_clips": 3, "modalities": ["video", "text"]},
        {"resume_from_checkpoint": True},
        {"resume_from_checkpoint": False, "evaluate_only": True, "adapter": "org/bundle"},
        {"evaluate_only": True, "readout": "generative"},
        {"gradient_checkpointing": True},
        {"debug": "underflow_overflow"},
        {"torch_compile_backend": "eager"},
        {"accelerator_config": {"split_batches": True, "gradient_accumulation_kwargs": {"sync_each_batch": True}}},
        {"base_revision": "main"},
        {"score_range": [[1, 9]]},
        {**TWO, "score_range": [[1, 9], [0, 100]], "target_weights": [1, 2], "metric_for_best_model": "ccc"},
        {**TWO, "score_range": [1, 9], "readout": "generative"},
        {**TWO, "columns": {"text": "Transkript", "valence": "Valenz"}, "raters": ["{target}_*"], "decimal": ","},
        {"dataset": "cmu_mosei", "targets": ["label", "happiness"]},
        {"save_total_limit": None, "early_stopping_patience": None, "dataloader_multiprocessing_context": None},
    ],
    ids=lambda value: str(value)[:60],
)
def test_valid_settings_are_accepted(tmp_path, settings):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**settings, "use_cpu": True}))
    parse_arguments([str(path)])


@pytest.mark.parametrize(
    ("settings", "greater"),
    [({}, False), ({"metric_for_best_model": "corr"}, True), ({"metric_for_best_model": "eval_loss"}, False)],
)
def test_greater_is_better_follows_from_the_metric(settings, greater):
    assert OmniSentTrainingArguments(use_cpu=True, **settings).greater_is_better is greater


def test_metrics_that_can_select_a_checkpoint_are_those_of_the_readout():
    mosi = {"mae", "corr", "acc_7", "acc_5", "acc_3", "acc_2_has0", "acc_2_non0", "f1_has0", "f1_non0"}
    sims = {"mae", "corr", "acc_5", "acc_3", "acc_2", "acc_2_weak", "f1", "r2"}
    unclipped = {"mae_unclipped", "corr_unclipped"}
    for convention, names in (("mosi", mosi), ("sims", sims)):
        assert set(metric_names("discriminative", "greedy", convention)) == {
            *names,
            *unclipped,
            *("out_of_range_rate", "loss"),
        }
        written = {*names, *unclipped, "out_of_range_rate", "unparsable_rate", "mae_parsable"}
        for decoding in ("greedy", "expected"):
            assert set(metric_names("generative", decoding, convention)) == written
    assert {name for name in mosi | sims | {*written, "loss"} if lower_is_better(name)} == {
        *("mae", "mae_unclipped", "mae_parsable", "loss", "out_of_range_rate", "unparsable_rate")
    }
