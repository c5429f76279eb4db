"""A config for short real runs, and one small comparison that several tests look at."""

from pathlib import Path

import pytest
import yaml

from omnisent.experiments.comparison import compare


@pytest.fixture(scope="session")
def short_config(tiny_backbone, planted_root, tmp_path_factory) -> Path:
    """A few steps on the planted clips, on the CPU."""
    fields = {
        "base_model": str(tiny_backbone),
        "quantization": "none",
        "dtype": "float32",
        "dataset": str(planted_root),
        "min_pixels": 56 * 56,
        "max_pixels": 56 * 56,
        "lora_r": 4,
        "learning_rate": 4e-3,
        "head_learning_rate": 5e-3,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 8,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 1,
        "activation_checkpointing": False,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    path = tmp_path_factory.mktemp("config") / "short.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.fixture(scope="session")
def comparison(short_config, tmp_path_factory) -> Path:
    """The folder of a finished comparison over two seeds."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    compare([str(short_config)], [0, 1], out)
    return out
