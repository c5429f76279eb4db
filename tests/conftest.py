"""Fixtures that make their own media and models: the tiny backbone, a few planted clips, and the processor for both."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch

from omnisent.data.clip import Clip
from omnisent.data.planted import make_planted_clips, read_latents
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.training.tiny_backbone import make_tiny_backbone

SMALL_FRAMES = {"min_pixels": 56 * 56, "max_pixels": 112 * 112}


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory) -> Path:
    return make_tiny_backbone(tmp_path_factory.mktemp("backbone") / "tiny")


@pytest.fixture(scope="session")
def planted_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("planted") / "clips"
    make_planted_clips(root, n_train=32, n_valid=16, n_test=16, seed=3)
    return root


@pytest.fixture(scope="session")
def planted_clips(planted_root) -> list[Clip]:
    return make_planted_clips(planted_root, n_train=32, n_valid=16, n_test=16, seed=3)


@pytest.fixture(scope="session")
def whole_clips(planted_root, planted_clips) -> list[Clip]:
    """The planted clips that have text, sound and picture."""
    latents = read_latents(planted_root)
    return [clip for clip in planted_clips if None not in vars(latents[clip.id]).values()]


@pytest.fixture(scope="session")
def processor(tiny_backbone) -> OmniSentProcessor:
    return OmniSentProcessor.from_base(tiny_backbone, **SMALL_FRAMES)


@pytest.fixture
def model(tiny_backbone) -> OmniForSentimentRegression:
    torch.manual_seed(0)
    return OmniForSentimentRegression.from_thinker(tiny_backbone).eval()
