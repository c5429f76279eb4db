"""A setting that a run cannot have ends in one line with the field's name, and the file's, before anything is loaded."""

import json
import math
import sys
from dataclasses import fields
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import pytest
import torch
import yaml

from omnisent import cli, train
from omnisent.processing_omnisent import ClipError
from omnisent.training.argument_checks import ENVIRONMENT, ONLY, RANGES
from omnisent.training.arguments import (
    ARGUMENTS,
    DataArguments,
    ModelArguments,
    OmniSentTrainingArguments,
    parse_arguments,
)
from omnisent.training.error_line import error_line

HINTS = {name: hint for kind in ARGUMENTS for name, hint in get_type_hints(kind).items()}
CHOICES = {f.name: f.metadata.get("choices") for kind in ARGUMENTS for f in fields(kind)}
OWN = [name for kind in (ModelArguments, DataArguments, OmniSentTrainingArguments) for name in kind.__annotations__]
OUT_OF_RANGE = {
    "max_new_tokens": [0, -1],
    "answer_step": [0, -0.1],
    "shots": [-1],
    "bins": [7, 0, -31],
    "head_hidden_size": [0, -256],
    "head_dropout": [-0.1, 1, 1.0, 20],
    "lora_r": [0, -8],
    "lora_alpha": [0, -1],
    "lora_dropout": [-0.1, 1, 1.0],
    "context_clips": [-1],
    "fps": [0, 0.0, -2.0],
    "min_frames": [0, -4],
    "max_frames": [1, 0, -16],
    "min_pixels": [0, -1],
    "max_pixels": [0, -1],
    "learning_rate": [-1e-4],
    "generative_learning_rate": [-1e-4],
    "head_learning_rate": [-1],
    "early_stopping_patience": [0, -2],
    "per_device_train_batch_size": [0, -1],
    "per_device_eval_batch_size": [0, -1],
    "num_train_epochs": [0, -1, -0.5],
    "save_total_limit": [0, -1],
    "logging_steps": [0, -5, 1.5],
    "max_steps": [0, -2],
    "warmup_steps": [-1, 1.5],
    "weight_decay": [-0.1],
    "adam_beta1": [-0.1, 1],
    "adam_beta2": [-0.1, 1.0],
    "adam_epsilon": [-1e-8],
    "gradient_accumulation_steps": [0, -1],
    "max_grad_norm": [-1],
    "neftune_noise_alpha": [0, -5],
    "torch_empty_cache_steps": [0],
    "eval_steps": [0, -10, 2.5],
    "eval_delay": [-1],
    "eval_accumulation_steps": [0],
    "save_steps": [0, -10, 2.5],
    "seed": [-1, 2**32],
    "data_seed": [-1, 2**32],
    "dataloader_num_workers": [-1],
    "dataloader_prefetch_factor": [0],
    "ddp_bucket_cap_mb": [0],
    "ddp_timeout": [0],
    "local_rank": [-2],
}
BAD_LISTS = {
    "modalities": [[], ["smell"], ["text", "text"], "text", [1], [["text"]], {"text": True}, None, ""],
    "swapped": [["smell"], ["text", "text"], "text", [1], [["text"]], {"text": True}, None, ""],
    "targets": [[], "label", [1], [["label"]], {"label": True}, None, ""],
    "raters": ["r_*", [1], [["r_*"]], {"r_*": True}, None, ""],
    "genres": [[], ["tweets"], "tweets", [1], [["tweets"]], {"tweets": True}, ""],  # the default data set has none
}
BAD_NUMBERS = ["3", [], ["a"], [True], [None], [math.nan, 1.0], [-math.inf, 1.0], [[[1, 9]]], {"a": 1}, 3, ""]


def _kinds(name: str) -> tuple:
    hint = HINTS[name]
    return get_args(hint) if get_origin(hint) is UnionType else (hint,)


def _bad_values(name: str) -> list:
    """What a field cannot hold, by its type, its choices and its range."""
    kinds = _kinds(name)
    bad = [] if type(None) in kinds else [None]
    if CHOICES[name]:
        return [*bad, "nonsense", "", 3, [next(iter(CHOICES[name]))], True]
    if list[float] in kinds:
        return BAD_NUMBERS
    if dict in kinds:
        return [3, True, ["a"], "", "text", "a=", '{"text": 3}', {"text": 3}]
    if list[str] in kinds:
        return [value for value in BAD_LISTS[name] if value is not None or type(None) not in kinds]
    bad += [["a"], {"a": 1}]
    if bool in kinds:
        return [*bad, 1, 0, 0.5, "perhaps"]
    if int in kinds or float in kinds:
        bad += [True, False, "three", "", math.nan, math.inf, -math.inf, "nan", *OUT_OF_RANGE[name]]
        return [*bad, 3.5, "3.5", 4.0] if int in kinds else bad
    assert str in kinds, f"{name} is of a type for which no bad value is known here"
    bad += [] if name == "layers" else [3]  # which may be the index of a layer
    return [*bad, 1.5, True] + ([] if name == "system_prompt" else [""])


@pytest.mark.parametrize("name", OWN)
def test_every_own_field_refuses_invalid_values_in_a_file(refused, tmp_path, name):
    for value in _bad_values(name):
        listed = name in BAD_LISTS or name in ("score_range", "target_weights", "columns")
        said = "" if value == "" or listed else " must be "
        assert refused({name: value}).startswith(f"{tmp_path / 'run.yaml'}: {name}{said}"), value


def _bad_words(name: str) -> list[str]:
    """What a field cannot hold on the command line, where all is text and there is no null."""
    kinds = _kinds(name)
    if name in ("targets", "raters"):
        return [""]
    if CHOICES[name] or list[str] in kinds:
        return ["nonsense", "", "3"]
    if list[float] in kinds:
        return ["three", "", "nan", "inf"]
    if dict in kinds:
        return ["text", "", "=Text", '{"text": 3}']
    if bool in kinds:
        return ["perhaps", "0.5", "null"]
    if int in kinds or float in kinds:
        words = ["three", "", "True", "null", "nan", "inf", "-inf", *map(str, OUT_OF_RANGE[name])]
        return [*words, "3.5"] if int in kinds else words
    return [] if name == "system_prompt" else [""]


@pytest.mark.parametrize("name", OWN)
def test_every_own_field_refuses_invalid_values_on_the_command_line(refused, name):
    for word in _bad_words(name):
        assert name in refused(None, f"--{name}={word}"), word


def test_every_number_has_a_range_and_a_value_out_of_it():
    numbers = {f.name for kind in ARGUMENTS for f in fields(kind) if {int, float} & set(_kinds(f.name)) and f.init}
    assert numbers - RANGES.keys() == {"label_smoothing_factor"}  # which can be 0 alone
    assert numbers - OUT_OF_RANGE.keys() == {"label_smoothing_factor"}


@pytest.mark.parametrize("name", sorted(OUT_OF_RANGE.keys() - set(OWN)))
def test_the_numbers_of_transformers_have_ranges_too(refused, name):
    for value in [*OUT_OF_RANGE[name], math.nan, math.inf]:
        assert f"{name} must be " in refused({name: value}), value
        assert name in refused(None, f"--{name}={value}"), value


def test_numbers_that_are_text_in_a_file_are_numbers(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 2e-4\nlora_r: '8'\nbf16: 'true'\nnum_train_epochs: 3\nuse_cpu: true\n")
    model, _, training = parse_arguments([str(path)])
    assert (training.learning_rate, model.lora_r, training.bf16, training.num_train_epochs) == (2e-4, 8, True, 3)


DISHONOURED = {
    "remove_unused_columns": True,
    "prediction_loss_only": True,
    "batch_eval_metrics": True,
    "eval_do_concat_batches": False,
    "eval_use_gather_object": True,
    "include_for_metrics": ["inputs"],
    "label_smoothing_factor": 0.1,
    "label_names": ["label"],
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "dataloader_drop_last": True,
    "dataloader_in_order": False,
    "train_sampling_strategy": "batch_rebalance",
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True},
    "enable_jit_checkpoint": True,
    "push_to_hub": True,
    "parallelism_config": {"tp_size": 2},
    "fsdp": "full_shard",
    "fsdp_config": {"min_num_params": 1},
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "accelerator_config.dispatch_batches": True,
    "accelerator_config.even_batches": False,
    "accelerator_config.use_configured_state": True,
    "accelerator_config.gradient_accumulation_kwargs": {"num_steps": 4},
}


def test_every_unsupported_setting_has_a_case_here():
    assert DISHONOURED.keys() == ONLY.keys()


@pytest.mark.parametrize("name", DISHONOURED)
def test_unsupported_settings_are_refused_with_the_reason(refused, name):
    field, _, key = name.partition(".")
    value = {key: DISHONOURED[name]} if key else DISHONOURED[name]
    line = refused({field: value})
    assert f"{name} must be " in line
    assert line.endswith(ONLY[name][1])
    said = json.dumps(value) if isinstance(value, dict) else " ".join(value) if isinstance(value, list) else str(value)
    assert name in refused(None, f"--{field}={said}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accelerator_config", '{"split_batch": true}'),
        ("accelerator_config", '{"split_batches": 1}'),
        ("accelerator_config", "nowhere.json"),
        ("accelerator_config", "[1]"),
        ("lr_scheduler_kwargs", '{"num_cycles": '),
        ("lr_scheduler_kwargs", '{"num_cycels": 0.5}'),
        ("lr_scheduler_kwargs", "num_cycles"),
        ("activation_checkpointing_kwargs", '{"reentrant": true}'),
        ("activation_checkpointing_kwargs", '{"every_n_layers": 0}'),
        ("activation_checkpointing_kwargs", '{"every_n_layers": "two"}'),
        ("lr_scheduler_kwargs", '{"num_cycles": NaN}'),
        ("optim", "galore_adamw"),
        ("optim", "lomo"),
        ("optim_args", "momentum"),
        ("lr_scheduler_type", "cosine_with_min_lr"),
        ("lr_scheduler_type", "warmup_stable_decay"),
        ("optim", "adam"),
        ("ddp_backend", "mccl2"),
        ("log_level", "loud"),
        ("metric_for_best_model", "eval_runtime"),
    ],
)
def test_unusable_fields_of_transformers_are_refused_before_the_run(refused, name, value):
    assert name in refused(None, f"--{name}={value}")


def test_a_mapping_is_read_from_text_and_from_a_file(tmp_path):
    path = tmp_path / "accelerator.json"
    path.write_text('{"split_batches": true}')
    argv = [
        "--use_cpu",
        "--activation_checkpointing_kwargs",
        '{"every_n_layers": 2}',
        "--accelerator_config",
        str(path),
    ]
    _, _, training = parse_arguments([*argv, "--lr_scheduler_kwargs", '{"num_cycles": 1.5}'])
    assert training.activation_checkpointing_kwargs == {"use_reentrant": False, "every_n_layers": 2}
    assert training.accelerator_config.split_batches is True
    assert training.lr_scheduler_kwargs == {"num_cycles": 1.5}


def test_a_run_of_a_resolved_config_is_the_same_run(pytestconfig, tmp_path):
    from omnisent.training.run_folder import config_dict

    tiny = str(pytestconfig.rootpath / "configs" / "tiny.yaml")
    resolved = config_dict(*parse_arguments([tiny, "--use_cpu"]))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(resolved))
    assert config_dict(*parse_arguments([str(path)])) == resolved


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning_rat", "1"], "there is no field 'learning_rat'; did you mean learning_rate?"),
        (["--learning-rat=1"], "there is no field 'learning_rat'; did you mean learning_rate?"),
        (["--lora", "8"], "there is no field 'lora'; did you mean lora_r?"),
        (["--max_pix", "3136"], "there is no field 'max_pix'; did you mean max_pixels?"),
        (["--zzz"], "there is no field 'zzz'; `omnisent train --fields` lists them all"),
        (["configs/tiny"], "'configs/tiny' is neither a field nor a config"),
        (["--lora_r", "8", "run.yaml"], "'run.yaml' is neither a field nor a config"),
        (["--lora_r"], "lora_r: expected one argument"),
        (["--lora_r", "3.5"], "lora_r: invalid int value: '3.5'"),
        (["--readout", "spoken"], "readout: invalid choice: 'spoken'"),
    ],
)
def test_a_misspelt_field_is_reported_with_the_closest_one(refused, argv, message):
    assert refused(None, *argv).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "there is no field 'learning_rat'; did you mean learning_rate?"),
        ("1: 2", "there is no field '1'"),
        ("lora_r: 8\nhead: mlp\nlora_r: 16", "line 3: lora_r is given twice"),
        ("accelerator_config: {split_batches: true, split_batches: false}", "line 1: split_batches is given twice"),
        ("a: [1", "is not YAML: line 1: "),
        ("? [a]\n: 1", "is not YAML: line 1: found unhashable key"),
        ("a: \x01", "is not YAML: unacceptable character"),
        ("- a\n- b", "expected `field: value` lines, found a list"),
        ("just words", "expected `field: value` lines, found a str"),
        ("false", "expected `field: value` lines, found a bool"),
        ("base_revision: 1234567", "base_revision must be text or null, not 1234567; put it in quotes"),
    ],
)
def test_an_error_in_a_file_is_one_line_with_its_name(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as stopped:  # noqa: PT011
        parse_arguments([str(path), "--use_cpu"])
    assert str(stopped.value).startswith(str(path))
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run\.yaml"):
        parse_arguments([str(tmp_path / "run.yaml")])
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00lora_r: 8")
    with pytest.raises(ValueError, match=r"run\.yaml is not UTF-8 text"):
        parse_arguments([str(tmp_path / "run.yaml")])


def test_an_empty_file_gives_the_defaults_and_a_bare_no_is_a_string(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("# nothing\n")
    assert parse_arguments([str(path), "--use_cpu"])[0] == ModelArguments()
    path.write_text("eval_strategy: no\nsave_strategy: no\nload_best_model_at_end: no\n")
    training = parse_arguments([str(path), "--use_cpu"])[2]
    assert (training.eval_strategy, training.save_strategy, training.load_best_model_at_end) == ("no", "no", False)


def test_an_error_on_the_command_line_does_not_name_the_file(refused, tmp_path):
    settings = {"lora_r": 8, "max_frames": 16}
    assert refused(settings, "--lora_r", "0").startswith("lora_r must be at least 1")
    assert refused(settings, "--min_frames", "17").startswith(
        f"{tmp_path / 'run.yaml'}: min_frames 17 with max_frames 16"
    )


@pytest.mark.parametrize(("variable", "name"), ENVIRONMENT.items())
def test_unsupported_accelerate_settings_are_refused(refused, monkeypatch, variable, name):
    monkeypatch.setenv(variable, "false")
    parse_arguments(["--use_cpu"])
    monkeypatch.setenv(variable, "true")
    assert refused(None).startswith(f"{name} must be left out of `accelerate launch`")


def test_the_mixed_precision_of_accelerate_counts(refused, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert refused({"dtype": "float16"}).startswith("bf16 true with dtype float16") or "dtype" in refused(
        {"dtype": "float16"}
    )
    assert parse_arguments(["--use_cpu", "--dtype", "bfloat16"])[2].mixed_precision == "bf16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert "fp16" in refused({"dtype": "float16"})
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    assert refused(None).startswith("mixed_precision fp8 is not supported")


def test_early_stopping_without_evaluation_ends_in_one_line(tmp_path):
    argv = ["--use_cpu", "--early_stopping_patience", "2", "--eval_strategy", "no", "--save_strategy", "no"]
    with pytest.raises(SystemExit) as stopped:
        train.main([*argv, "--output_dir", str(tmp_path / "run")])
    assert stopped.value.code == (
        "train.py: early_stopping_patience 2 with eval_strategy no: there is nothing to monitor; set eval_strategy to steps or"
        " epoch, or leave early_stopping_patience out"
    )
    assert not (tmp_path / "run").exists()


def test_the_traceback_is_shown_with_log_level_debug(caplog, request):
    request.addfinalizer(lambda level=train.logger.level: train.logger.setLevel(level))
    with pytest.raises(SystemExit):
        train.main(["--lora_r", "0", "--use_cpu"])
    assert "Traceback" not in caplog.text
    with pytest.raises(SystemExit):
        train.main(["--lora_r", "0", "--use_cpu", "--log_level", "debug"])
    assert "Traceback" in caplog.text
    assert "in check_value" in caplog.text


@pytest.mark.parametrize("command", [["plan"], ["compare", "--out", "nowhere"], ["probe", "--out", "nowhere"]])
def test_other_commands_give_the_same_error_line(tmp_path, monkeypatch, command):
    path = tmp_path / "run.yaml"
    path.write_text("lora_r: 0\nuse_cpu: true\n")
    monkeypatch.setattr(sys, "argv", ["omnisent", command[0], str(path), *command[1:]])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == f"omnisent: {path}: lora_r must be at least 1, not 0"


def test_an_error_becomes_one_line():
    assert error_line(ValueError("one\n\n  two\nthree\n")) == "one two three"
    assert error_line(AssertionError()) == "AssertionError"
    worker = (
        "Caught ClipError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "a.py", line 3, in read\n    raise ClipError("x")\nValueError: inner\n\n'
        "The above exception was the direct cause of the following exception:\n\nTraceback (most recent call last):\n"
        '  File "b.py", line 5, in encode\n    raise ClipError("y")\n'
        "omnisent.processing_omnisent.ClipError: clip a: cut off\nafter two seconds\n"
    )
    assert error_line(RuntimeError(worker)) == "clip a: cut off after two seconds"


class _Unreadable(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise ClipError("cut off\nafter two seconds", "a")


def test_an_error_of_a_worker_process_becomes_its_own_line():
    with pytest.raises(ClipError) as raised:
        next(iter(torch.utils.data.DataLoader(_Unreadable(), num_workers=1)))
    assert "Original Traceback" in str(raised.value)
    assert error_line(raised.value) == "clip a: cut off after two seconds"
