"""A bundle, as `omnisent score --model` takes it."""

from pathlib import Path

import pytest
import torch

from omnisent.modeling_omnisent import OmniForSentimentRegression


@pytest.fixture(scope="session")
def bundle(tiny_backbone, processor, tmp_path_factory) -> Path:
    """Untrained, so that its scores say nothing, but differ from clip to clip."""
    folder = tmp_path_factory.mktemp("bundle") / "model"
    torch.manual_seed(0)
    OmniForSentimentRegression.from_thinker(tiny_backbone).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
