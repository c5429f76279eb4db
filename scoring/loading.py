"""How a user wants a bundle to be loaded; loading_omnisent.py loads it."""

from dataclasses import dataclass
from typing import Any

import torch

from .. import loading_omnisent
from ..configuration_omnisent import OmniSentConfig
from ..loading_omnisent import default_device, default_dtype
from ..modeling_omnisent import bundle_folder
from ..pipeline_omnisent import MultimodalSentimentPipeline
from ..thinker_omnisent import nf4_config
from .options import check_choices


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
        device = self.device or default_device()
        dtype = self.dtype or default_dtype(device)
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
    options: dict[str, Any] = {"config": read_config(resolved.model)}
    if resolved.quantize != "none":
        options["quantization_config"] = nf4_config(getattr(torch, resolved.dtype))
    if resolved.attn_implementation is not None:
        options["attn_implementation"] = resolved.attn_implementation
    return loading_omnisent.load_pipeline(resolved.model, device=resolved.device, dtype=resolved.dtype, **options)
