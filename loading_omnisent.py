"""Loads a bundle for scoring: which device and number format, and the pipeline of its model and processor."""

import os
from typing import Any

import torch

from .modeling_omnisent import OmniForSentimentRegression
from .pipeline_omnisent import MultimodalSentimentPipeline
from .processing_omnisent import OmniSentProcessor

ON_GPU, ON_CPU = "bfloat16", "float32"


def default_device() -> str:
    """The process's own GPU, or the CPU if there is none."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """Name of the number format that a model scores in on a device: bfloat16 on a GPU, float32 on a CPU."""
    return ON_CPU if device == "cpu" else ON_GPU


def load_pipeline(
    model: str | os.PathLike, *, device: str | None = None, dtype: str | None = None, **options: Any
) -> MultimodalSentimentPipeline:
    """Load a bundle for scoring.

    Args:
        model: Hub id or folder.
        device: such as `"cuda:1"` or `"cpu"`; by default `default_device`.
        dtype: bfloat16, float16 or float32; by default `default_dtype`.
        **options: of `OmniForSentimentRegression.from_pretrained`.

    Raises:
        FileNotFoundError: for a folder that does not exist or holds no bundle.
        ValueError: for weights that do not fit.
    """
    device = device or default_device()
    options |= {"dtype": getattr(torch, dtype or default_dtype(device)), "device_map": {"": device}}
    loaded = OmniForSentimentRegression.from_pretrained(model, **options).eval()
    return MultimodalSentimentPipeline(model=loaded, processor=OmniSentProcessor.from_pretrained(model))
