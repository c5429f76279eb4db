"""An untrained pipeline, and a bundle as `omnisent score --model` takes it."""

import copy
from pathlib import Path

import pytest
import torch

from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline


@pytest.fixture(scope="module")
def pipe(tiny_backbone, processor) -> MultimodalSentimentPipeline:
    torch.manual_seed(0)
    model = OmniForSentimentRegression.from_thinker(tiny_backbone).eval()
    return MultimodalSentimentPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture
def broken_pipe(pipe) -> MultimodalSentimentPipeline:
    """A pipeline whose model computes no number."""
    model = copy.deepcopy(pipe.model)
    with torch.no_grad():
        model.score.layers[-1].bias.fill_(torch.nan)
    return MultimodalSentimentPipeline(model=model, processor=pipe.processor, device="cpu")


@pytest.fixture(scope="session")
def bundle(tiny_backbone, processor, tmp_path_factory) -> Path:
    """Untrained, so that its scores say nothing, but differ from clip to clip."""
    folder = tmp_path_factory.mktemp("bundle") / "model"
    torch.manual_seed(0)
    OmniForSentimentRegression.from_thinker(tiny_backbone).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
