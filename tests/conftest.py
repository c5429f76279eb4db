"""Fixtures that make their own media and models: the tiny backbone, planted clips, the processor, and one small comparison."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from transformers import BertConfig, BertModel, BertTokenizerFast

from omnisent.data.clip import Clip
from omnisent.data.planted import make_planted_clips, read_latents, write_audio
from omnisent.experiments.comparison import compare
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.training.tiny_backbone import make_tiny_backbone

gc.freeze()  # a run collects garbage twice, and going through all imported modules takes a fifth of a short run
SMALL_FRAMES = {"min_pixels": 56 * 56, "max_pixels": 112 * 112}


@pytest.fixture(scope="session")
def short_run() -> dict:
    """The settings of a run that takes seconds, without backbone and clips."""
    return {
        "quantization": "none",
        "dtype": "float32",
        "min_pixels": 56 * 56,
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


@pytest.fixture
def settings(short_run, tiny_backbone, planted_root, tmp_path):
    """A YAML file for a short run on the planted clips, and a way to change it."""

    def write(**changes) -> str:
        fields = {
            **short_run,
            "base_model": str(tiny_backbone),
            "dataset": str(planted_root),
            "max_pixels": 56 * 112,
            "lora_dropout": 0.1,
            "learning_rate": 2e-3,
            "output_dir": str(tmp_path / "run"),
        }
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({**fields, **changes}))
        return str(path)

    return write


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Makes a folder or file once for all processes of a test run, in whichever needs it first; tests only read it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def once(name: str, make: Callable[[Path], object]) -> Path:
        with FileLock(root / f"{name}.lock"):
            if not (root / f"{name}.done").exists():
                make(root / name)
                (root / f"{name}.done").touch()
        return root / name

    return once


@pytest.fixture(scope="session")
def tiny_backbone(shared) -> Path:
    return shared("tiny-backbone", make_tiny_backbone)


@pytest.fixture(scope="session")
def planted_root(shared) -> Path:
    return shared("clips", lambda root: make_planted_clips(root, n_train=32, n_valid=16, n_test=16, seed=3))


@pytest.fixture(scope="session")
def planted_clips(planted_root) -> list[Clip]:
    return make_planted_clips(planted_root, n_train=32, n_valid=16, n_test=16, seed=3)


@pytest.fixture(scope="session")
def whole_clips(planted_root, planted_clips) -> list[Clip]:
    """The planted clips that have text, audio and video."""
    latents = read_latents(planted_root)
    return [clip for clip in planted_clips if None not in vars(latents[clip.id]).values()]


@pytest.fixture(scope="session")
def half_read(tmp_path_factory) -> str:
    """Four seconds of sound of which a part in the middle cannot be decoded."""
    path = tmp_path_factory.mktemp("half") / "half.m4a"
    time = np.arange(4 * 16_000) / 16_000
    write_audio(path, (0.3 * np.sin(700 * time * time)).astype(np.float32))
    data = bytearray(path.read_bytes())
    middle, count = len(data) // 2, len(data) // 50
    data[middle : middle + count] = bytes(count)
    path.write_bytes(data)
    return str(path)


@pytest.fixture(scope="session")
def processor(tiny_backbone) -> OmniSentProcessor:
    return OmniSentProcessor.from_base(tiny_backbone, **SMALL_FRAMES)


@pytest.fixture
def model(tiny_backbone) -> OmniForSentimentRegression:
    torch.manual_seed(0)
    return OmniForSentimentRegression.from_thinker(tiny_backbone).eval()


@pytest.fixture(scope="session")
def short_config(short_run, tiny_backbone, planted_root, shared) -> Path:
    """A few steps on the planted clips, on the CPU."""
    fields = {**short_run, "base_model": str(tiny_backbone), "dataset": str(planted_root), "max_pixels": 56 * 56}
    return shared("short.yaml", lambda path: path.write_text(yaml.safe_dump(fields)))


@pytest.fixture(scope="session")
def comparison(short_config, shared) -> Path:
    """The folder of a finished comparison over two seeds."""
    return shared("comparison", lambda out: compare([str(short_config)], [0, 1], out))


@pytest.fixture
def tiny_bert(tmp_path) -> Path:
    """A random text encoder of transformers that tells a few words apart."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "story", "the", "was", "not"]
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), initializer_range=0.5, **size)).save_pretrained(folder)
    return folder
