"""What tests of training runs share: settings, starting them, stopping them, and reading what they leave."""

import csv
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from omnisent import train
from omnisent.configuration_omnisent import OmniSentConfig
from omnisent.training.trainer import SentimentTrainer

ROOT = Path(train.__file__).parent


def weights_of(folder) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "head.safetensors"), **load_file(folder / "adapter" / "adapter_model.safetensors")}


def calibration_of(folder) -> dict | None:
    return OmniSentConfig.from_pretrained(folder).calibration


def losses_of(folder) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def kill_at(checkpoint: Path, command: list[str]) -> None:
    """Start a command, and kill its process as soon as a checkpoint is there."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, f"it ended before {checkpoint} was there"
    process.kill()
    process.wait()


@contextmanager
def trainer_callback(callback: TrainerCallback):
    """Runs in here call it at every event of theirs."""
    start = SentimentTrainer.__init__

    def with_callback(self, *positional, **keywords):
        start(self, *positional, **keywords)
        self.add_callback(callback)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SentimentTrainer, "__init__", with_callback)
        yield


def scores_of(folder) -> list[float]:
    with (folder / "predictions.csv").open(newline="") as file:
        return [float(row["score"]) for row in csv.DictReader(file)]


def cached_settings(tmp_path) -> dict:
    """Settings with the towers' outputs on disk, in a folder of their own for every run."""
    out = tmp_path / "run"
    return {
        "lora_preset": "llm",
        "feature_cache": str(tmp_path / "cache"),
        "output_dir": str(out),
        "learning_rate": 0.02,
    }


def launch(config: str, processes: int, folder) -> None:
    done = launched(config, processes, folder)
    assert done.returncode == 0, done.stderr[-3000:]


def launched(config: str, processes: int, folder) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--dynamo_backend", "no"]
    command += ["--num_processes", str(processes), "--mixed_precision", "no", "--main_process_port", "0"]
    command += ["--multi_gpu"] if processes > 1 else []
    command += ["train.py", config, "--output_dir", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
