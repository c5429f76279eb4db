"""Loads what scores clips: a bundle, or a base model without training.

Which of them a folder or Hub id is, its config.json says, before any weights are loaded.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers.utils import cached_file

from .. import loading_omnisent
from ..configuration_omnisent import OmniSentConfig
from ..data.catalog import Target
from ..loading_omnisent import default_device, default_dtype
from ..modeling_omnisent import bundle_folder
from ..pipeline_omnisent import MultimodalSentimentPipeline
from ..processing_omnisent import MODALITIES, OmniSentProcessor
from ..readouts.zero_shot import ZeroShotConfig, ZeroShotModel
from ..text_omnisent import rating_instruction
from ..thinker_omnisent import has_untrained_towers, nf4_config, pinned_revision, thinker_config
from ..training.choices import is_made_here
from .options import SCORE_RANGE, check_choices


@dataclass(frozen=True)
class Loading:
    """How a model is loaded.

    Attributes:
        model: Hub id or folder of a bundle or a base model, or the name of a base model that is made here.
        device: such as `"cuda:1"` or `"cpu"`; by default the process's own GPU, else the CPU.
        dtype: bfloat16, float16 or float32; by default bfloat16 on a GPU, else float32.
        quantize: `"nf4"` for 4-bit weights.
        attn_implementation: `"sdpa"`, `"eager"` or `"flash_attention_2"`; by default transformers' choice.
        score_range: of a base model's answers, label units; `None` for a bundle, and for [-3, 3].
    """

    model: str
    device: str | None = None
    dtype: str | None = None
    quantize: str | None = None
    attn_implementation: str | None = None
    score_range: tuple[float, float] | None = None

    @property
    def place(self) -> str:
        """The Hub id or folder; a base model that is made here is made if it is missing."""
        if os.path.isdir(self.model) or not is_made_here(self.model):
            return self.model
        from ..training.backbone import base_model_path  # which takes a second, and no bundle needs it

        return base_model_path(self.model)

    def resolved(self) -> "ResolvedLoading":
        """The same, with a value for every field but the attention.

        Raises:
            ValueError: for a dtype, quantisation or attention that is not one of those above.
        """
        check_choices(self.dtype, self.quantize, self.attn_implementation)
        device = self.device or default_device()
        dtype = self.dtype or default_dtype(device)
        return ResolvedLoading(self.place, device, dtype, self.quantize or "none", self.attn_implementation)


@dataclass(frozen=True)
class ResolvedLoading:
    """As `Loading`, with a value for every other field; `quantize` is `"none"` for weights that are not quantised."""

    model: str
    device: str
    dtype: str
    quantize: str
    attn_implementation: str | None


def read_config(loading: Loading) -> OmniSentConfig:
    """The configuration of a bundle, or a [`ZeroShotConfig`] of a base model; reads no weights.

    Raises:
        FileNotFoundError: for a folder that does not exist or has no config.json.
        ValueError: for a model that is neither, or a score range of a bundle.
    """
    place = loading.place
    entries = json.loads(_config_file(place).read_text(encoding="utf-8"))
    if entries.get("model_type") == OmniSentConfig.model_type:
        if loading.score_range is not None:
            raise ValueError(
                f"--score-range: {loading.model} is a bundle, which scores on the scale that it was trained on; leave it out"
            )
        return OmniSentConfig.from_pretrained(bundle_folder(place))
    if "thinker_config" not in entries:
        raise ValueError(
            f"--model {loading.model}: its config.json is of model_type {entries.get('model_type')!r}; expected a bundle (of"
            f" {OmniSentConfig.model_type!r}), as training writes it to model/ of its run folder, or a base model in the layout of"
            " Qwen/Qwen2.5-Omni-7B or Qwen3-Omni (with a thinker_config), to score zero-shot"
        )
    if entries.get("problem_type"):
        raise ValueError(
            f"--model {loading.model} is a model in the official layout, as `omnisent export` writes it, and no base model: its"
            " README.md says how to score with it; for this command, export with --layout omnisent"
        )
    from ..training.about import about_zero_shot  # likewise

    low, high = loading.score_range or SCORE_RANGE
    return ZeroShotConfig(
        thinker_config=thinker_config(place),
        base_model=place,
        base_revision=pinned_revision(place, None),
        score_min=low,
        score_max=high,
        label_mean=(low + high) / 2,
        label_std=(high - low) / 2,
        about=about_zero_shot(loading.model, place, (low, high), _modalities(place)),
    )


def load_processor(loading: Loading) -> OmniSentProcessor:
    """The bundle's processor; of a base model, with the default prompt for the score range.

    Raises:
        FileNotFoundError, ValueError: as `read_config`.
    """
    return _processor_of(loading, read_config(loading))


def load_pipeline(loading: Loading) -> MultimodalSentimentPipeline:
    """Load a bundle or a base model for scoring, with the code of this package; none of the bundle's code runs.

    Raises:
        FileNotFoundError: for a folder that does not exist or holds no model.
        ValueError: for weights that do not fit, or for options that the model does not work with.
    """
    resolved = loading.resolved()
    config, dtype = read_config(loading), getattr(torch, resolved.dtype)
    options: dict[str, Any] = {}
    if resolved.quantize != "none":
        options["quantization_config"] = nf4_config(dtype)
    if resolved.attn_implementation is not None:
        options["attn_implementation"] = resolved.attn_implementation
    if not isinstance(config, ZeroShotConfig):
        given = {"device": resolved.device, "dtype": resolved.dtype, "config": config, **options}
        return loading_omnisent.load_pipeline(resolved.model, **given)
    processor = _processor_of(loading, config)
    model = _load_base(config, processor, {"dtype": dtype, "device_map": {"": resolved.device}, **options})
    return MultimodalSentimentPipeline(model=model.eval(), processor=processor)


def _processor_of(loading: Loading, config: OmniSentConfig) -> OmniSentProcessor:
    if not isinstance(config, ZeroShotConfig):
        return OmniSentProcessor.from_pretrained(loading.place)
    place, scale = str(config.base_model), config.label_scales[0]
    return OmniSentProcessor.from_base(
        place,
        revision=config.base_revision,
        instruction=rating_instruction([(Target().asks, scale.low, scale.high)]),
        modalities=_modalities(place),
    )


def _load_base(config: ZeroShotConfig, processor: OmniSentProcessor, options: dict[str, Any]) -> ZeroShotModel:
    if options.get("attn_implementation") == "flash_attention_2":
        raise ValueError(
            "--attn-implementation: the probabilities of a base model's answers need a mask of their own, which flash_attention_2"
            " has not; use sdpa or eager"
        )
    from ..readouts.generation_model import OmniForSentimentGeneration  # with SciPy, which no bundle needs
    from ..readouts.generative import ExpectedReadout

    generator = OmniForSentimentGeneration.from_base(str(config.base_model), revision=config.base_revision, **options)
    scale = config.label_scales[0]
    return ZeroShotModel(config, generator, ExpectedReadout((scale.low, scale.high), processor.tokenizer))


def _modalities(base_model: str) -> Sequence[str]:
    return ("text",) if has_untrained_towers(base_model) else MODALITIES


def _config_file(place: str) -> Path:
    """The config.json of a folder or Hub id; of an id, nothing else is fetched."""
    if not os.path.isdir(place):
        with suppress(OSError):  # the next line says why it is not available
            return Path(cast(str, cached_file(place, "config.json")))
    file = bundle_folder(place) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"--model {place}: no config.json in this folder; expected a bundle or a base model. Is it a run folder? Its bundle is"
            " model/"
        )
    return file
