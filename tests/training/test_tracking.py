"""`report_to`: what Trainer's own integrations are given, read back from the files that TensorBoard reads."""

import json
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tensorboardX.proto.event_pb2 import Event
from transformers import TrainerCallback

from omnisent.experiments.runs import PlannedRun, run_in_fresh_process
from omnisent.train import run
from omnisent.training.arguments import parse_arguments
from runs import trainer_callback


class OneMoreSecond(TrainerCallback):
    """Makes a run last over a second: TensorBoard names its files by the second, and a shorter run would have one of them."""

    def on_train_end(self, args, state, control, **kwargs):
        time.sleep(1.1)


def _scalars(folder: Path) -> dict[str, float]:
    """The last value of each name in the event files below a folder: records of a length, a checksum, an event and a checksum."""
    found = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = struct.unpack("<Q", data[at : at + 8])[0]
            event = Event.FromString(data[at + 12 : at + 12 + size])
            found |= {value.tag: value.simple_value for value in event.summary.value}
            at += 16 + size
    return found


def test_losses_and_final_metrics_go_to_the_tracker_when_asked_for(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with trainer_callback(OneMoreSecond()):
        run(*parse_arguments([settings(modalities=["text"], on_bad_clip="skip", report_to="tensorboard")]))
    found, metrics = _scalars(tmp_path / "run"), json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"train/loss", "eval/mae", "test/mae"} <= found.keys()
    assert found["test/mae"] == pytest.approx(metrics["mae"])
    assert found["eval/mae"] == pytest.approx(metrics["valid_mae"])
    again = {"evaluate_only": True, "adapter": str(tmp_path / "run" / "model"), "output_dir": str(tmp_path / "again")}
    run(*parse_arguments([settings(modalities=["text"], on_bad_clip="skip", report_to="tensorboard", **again)]))
    assert _scalars(tmp_path / "again")["test/mae"] == pytest.approx(metrics["mae"])
    assert not list(tmp_path.glob("runs"))  # where a tracker without a folder writes


def test_nothing_is_tracked_by_default(settings, tmp_path):
    run(*parse_arguments([settings(modalities=["text"], on_bad_clip="skip", max_steps=1, eval_steps=1, save_steps=1)]))
    assert not list(tmp_path.rglob("events.out.tfevents.*"))


def test_a_run_of_a_study_has_the_name_of_its_folder_after_that_given(settings, tmp_path, monkeypatch):
    planned = PlannedRun(
        "x", tmp_path / "study" / "head" / "seed-3", (settings(modalities=["text"], on_bad_clip="skip"),)
    )
    name = f"{tmp_path.name}/study/head/seed-3"
    assert planned.tracked_as == name
    assert run_in_fresh_process(planned)
    assert yaml.safe_load((planned.folder / "config.yaml").read_text())["run_name"] == name
    named = replace(planned, argv=(*planned.argv, "--run_name", "mine"))
    assert named.tracked_as == f"mine/{name}"
    monkeypatch.chdir(tmp_path.parent)
    assert planned.tracked_as == name
