"""Several GPUs: each has a process of its own, or one is used; what splits a model among them is refused at the start."""

import pytest
import torch
from transformers.training_args import ParallelMode

from omnisent import train
from omnisent.training import argument_checks
from omnisent.training.argument_checks import SettingError
from omnisent.training.arguments import OmniSentTrainingArguments, parse_arguments


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_one_process_uses_one_of_several_gpus_and_says_once_how_all_are_used(monkeypatch, caplog):
    argument_checks._say_idle.cache_clear()
    for name, found in (("is_available", True), ("device_count", 2), ("is_bf16_supported", True), ("set_device", None)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, found=found: found)
    for _ in range(2):
        training = parse_arguments(["--per_device_train_batch_size", "3", "--optim", "adamw_torch"])[2]
        assert (training.device, training.n_gpu) == (torch.device("cuda:0"), 1)
        assert (training.train_batch_size, training.eval_batch_size) == (3, training.per_device_eval_batch_size)
        assert training.parallel_mode == ParallelMode.NOT_PARALLEL  # not DataParallel
    said = [record.message for record in caplog.records if "GPUs" in record.message]
    assert len(said) == 1
    assert "1 of 2 GPUs is used" in said[0]
    assert "`accelerate launch --multi_gpu --num_processes 2 -m omnisent.train CONFIG`" in said[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fsdp", True),
        ("fsdp", "full_shard"),
        ("fsdp_config", {"version": 2}),
        ("deepspeed", {"zero_optimization": {"stage": 3}}),
        ("parallelism_config", {"tp_size": 2}),
    ],
)
def test_what_splits_a_model_is_refused_in_settings_made_in_python_too(name, value):
    with pytest.raises(SettingError, match=f"^{name} must be left out, .*adapter and head would be saved empty"):
        OmniSentTrainingArguments(use_cpu=True, **{name: value})


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "Y"])
@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_no_run_starts_under_what_splits_a_model(monkeypatch, tmp_path, name, word):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", word)
    with pytest.raises(SystemExit) as stopped:  # before the data set is looked for
        train.main(["--use_cpu", "--dataset", "nowhere", "--output_dir", str(tmp_path / "run")])
    assert str(stopped.value.code).startswith(f"train.py: {name.lower()} must be left out of `accelerate launch`")
    with pytest.raises(SettingError, match=f"^{name.lower()} must be left out of"):
        OmniSentTrainingArguments(use_cpu=True)
