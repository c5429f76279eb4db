"""Loads a bundle for scoring."""

import os
from dataclasses import dataclass
from typing import Any

import torch

from ..configuration_omnisent import OmniSentConfig
from ..modeling_omnisent import OmniForSentimentRegression, bundle_folder
from ..pipeline_omnisent import MultimodalSentimentPipeline
from ..processing_omnisent import OmniSentProcessor
from ..thinker_omnisent import nf4_config
from .options import check_choices

ON_GPU, ON_CPU = "bfloat16", "float32"


@dataclass(frozen=True)
class Loading:
    """How a bundle is loaded.

    Attributes:
        model: Hub id or folder.
        device: such as `"cuda:1"` or `"cpu"`; by default the process's own GPU, else the CPU.
        dtype: bfloat16, float16 or float32; by default bfloat16 on a GPU, else float32.
        quantize: `"nf4"` for 4-bit weights.
        attn_implementation: `"sdpa"`, `"eager"` or `"flash_attention_2"`; by default transformers' choice.
    """

    model: str
    device: str | None = None
    dtype: str | None = None
    quantize: str | None = None
    attn_implementation: str | None = None

    def resolved(self) -> "ResolvedLoading":
        """The same, with a value for every field but the attention.

        Raises:
            ValueError: for a dtype, quantisation or attention that is not one of those above.
        """
        check_choices(self.dtype, self.quantize, self.attn_implementation)
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        device = self.device or (gpu if torch.cuda.is_available() else "cpu")
        dtype = self.dtype or (ON_CPU if device == "cpu" else ON_GPU)
        return ResolvedLoading(self.model, device, dtype, self.quantize or "none", self.attn_implementation)


@dataclass(frozen=True)
class ResolvedLoading:
    """As `Loading`, with a value for every other field; `quantize` is `"none"` for weights that are not quantised."""

    model: str
    device: str
    dtype: str
    quantize: str
    attn_implementation: str | None


def read_config(model: str) -> OmniSentConfig:
    """The configuration of a bundle, a folder or an id on the Hub.

    Raises:
        FileNotFoundError: for a folder that does not exist or holds no bundle.
    """
    folder = bundle_folder(model)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"--model {model}: no config.json in this folder; is it a run folder? Its bundle is model/"
        )
    return OmniSentConfig.from_pretrained(folder)


def load_pipeline(loading: Loading) -> MultimodalSentimentPipeline:
    """Load a bundle for scoring, with the code of this package; none of the bundle's code runs.

    Raises:
        FileNotFoundError: for a folder that does not exist or holds no bundle.
        ValueError: for weights that do not fit.
    """
    resolved = loading.resolved()
    config, dtype = read_config(resolved.model), getattr(torch, resolved.dtype)
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": resolved.device}}
    if resolved.quantize != "none":
        options["quantization_config"] = nf4_config(dtype)
    if resolved.attn_implementation is not None:
        options["attn_implementation"] = resolved.attn_implementation
    model = OmniForSentimentRegression.from_pretrained(resolved.model, config=config, **options).eval()
    processor = OmniSentProcessor.from_pretrained(resolved.model)
    return MultimodalSentimentPipeline(model=model, processor=processor)
