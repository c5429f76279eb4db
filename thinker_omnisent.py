"""The Thinker: its checkpoint layout and loading, its inputs from clips, and its layers' states. For every family of models.

Knows no head and no score.
"""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from .families_omnisent import FAMILIES, family_of, read_thinker_config
from .family_omnisent import LANGUAGE_MODEL, TOWERS, Thinker, ThinkerConfig
from .thinker_inputs_omnisent import quiet_loading
from .towers_omnisent import tower_features

# Entries in config.json of a base model that is made from a text model: that its towers are random, and the text model's name.
UNTRAINED_TOWERS, TEXT_MODEL = "untrained_towers", "text_model"
HUB_KEYWORDS = ("token", "cache_dir", "local_files_only")  # also passed on to the base model


def language_inputs(
    thinker: Thinker,
    input_ids: torch.Tensor,
    *,
    audio_embeds: torch.Tensor | None = None,
    video_embeds: torch.Tensor | None = None,
    **media: torch.Tensor | None,
) -> dict[str, Any]:
    """What the language model reads: token embeddings with the towers' outputs in place of the placeholder tokens.

    Args:
        thinker: the headless Thinker.
        input_ids: (B, T), with placeholders.
        audio_embeds: (audio tokens, H), precomputed output of the audio tower.
        video_embeds: (video tokens, H), likewise, of the vision tower; (video tokens, (1 + D) * H) of a family whose vision tower
            also adds to the outputs of the first D layers.
        **media: otherwise the towers' inputs, as `tower_features` takes them.

    Returns:
        `inputs_embeds` (B, T, H); with D layers as above also `visual_pos_masks` (B, T) and `deepstack_visual_embeds`, for each of
        them (video tokens, H).
    """
    embeds = thinker.get_input_embeddings()(input_ids)  # (B, T, H)
    given = {"audio_embeds": audio_embeds, "video_embeds": video_embeds}
    features = {name: value for name, value in given.items() if value is not None} | tower_features(thinker, **media)
    inputs: dict[str, Any] = {}
    if "audio_embeds" in features:
        embeds = _fill(embeds, input_ids == thinker.config.audio_token_id, features["audio_embeds"])
    if "video_embeds" in features:
        places = input_ids == thinker.config.video_token_id
        own, *added = features["video_embeds"].split(embeds.shape[-1], dim=-1)
        embeds = _fill(embeds, places, own)
        if added:
            inputs = {"visual_pos_masks": places.to(embeds.device), "deepstack_visual_embeds": added}
    return {"inputs_embeds": embeds, **inputs}


def followed_by(inputs: dict[str, Any], embeds: torch.Tensor) -> dict[str, Any]:
    """What `language_inputs` returned, with the embeddings (B, A, H) of further text after each clip."""
    longer = inputs | {"inputs_embeds": torch.cat([inputs["inputs_embeds"], embeds], dim=1)}
    if "visual_pos_masks" in inputs:
        longer["visual_pos_masks"] = nn.functional.pad(inputs["visual_pos_masks"], (0, embeds.shape[1]))
    return longer


def read_layers(
    thinker: Thinker,
    read: Callable[[torch.Tensor | None, int, torch.Tensor], torch.Tensor | None],
    **inputs: Any,
) -> torch.Tensor:
    """Run the language model once and read the states (B, T, H) of its layers as they come, without keeping them all.

    In training mode they are kept, as autograd keeps them in any case.

    Args:
        thinker: the headless Thinker.
        read: of what was read so far, a layer's index (0 for the embeddings) and its states, the last one after the final norm;
            returns what is read now.
        **inputs: of the language model.
    """
    language_model, inputs = thinker.language_model, {"use_cache": False, **inputs}
    if language_model.training:
        states = language_model(**inputs, output_hidden_states=True).hidden_states
        found = None
        for layer, one in enumerate(states):
            found = read(found, layer, one)
        return cast(torch.Tensor, found)
    found = read(None, 0, inputs["inputs_embeds"])

    def read_next(layer: int, module: nn.Module, given: Any, states: torch.Tensor) -> None:
        nonlocal found
        found = read(found, layer, states)

    before_last = enumerate(language_model.layers[:-1], start=1)
    hooks = [module.register_forward_hook(partial(read_next, layer)) for layer, module in before_last]
    try:
        last = language_model(**inputs).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    return cast(torch.Tensor, read(found, len(language_model.layers), last))


def _fill(embeds: torch.Tensor, placeholders: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Embeddings (B, T, H) with features (N, H) in the N positions that a mask (B, T) marks.

    Raises:
        ValueError: when the numbers of positions and features differ: clips would get each other's features.
    """
    places = int(placeholders.sum())
    if places != len(features):
        raise ValueError(
            f"{len(features)} audio or video features for {places} placeholders in input_ids; prepare all clips with the"
            " OmniSentProcessor of this model"
        )
    features = features.to(embeds.device, embeds.dtype)
    return embeds.masked_scatter(placeholders.to(embeds.device).unsqueeze(-1).expand_as(embeds), features)


def load_thinker(
    base_model: str | os.PathLike,
    *,
    revision: str | None = None,
    config: ThinkerConfig | None = None,
    lm_head: bool = False,
    without: Sequence[str] = (),
    **kwargs,
) -> PreTrainedModel:
    """Load the Thinker of an official full checkpoint, headless by default; weights that its class lacks are not read.

    Args:
        base_model: Hub id or folder in the layout of a published checkpoint of one of `FAMILIES`.
        revision: branch, tag or commit of a Hub id.
        config: the Thinker's configuration; read from the checkpoint when not given.
        lm_head: load the Thinker with its lm_head.
        without: parts that are not loaded and become `None`: any of audio_tower, visual and language_model.
        **kwargs: for its `from_pretrained`: dtype, quantization_config, device_map, attn_implementation, ...

    Raises:
        FileNotFoundError: when the folder of the checkpoint is not there.
        ValueError: when the checkpoint lacks weights of the Thinker.
    """
    _check_folder(base_model)
    hub = {key: kwargs[key] for key in HUB_KEYWORDS if key in kwargs}
    config = copy.deepcopy(config) if config is not None else thinker_config(base_model, revision=revision, **hub)
    family = family_of(config)
    thinker_class = family.with_lm_head_class if lm_head else family.thinker_class
    with quiet_loading():  # its report lists the skipped lm_head
        thinker, info = _leaving_out(without, thinker_class).from_pretrained(
            base_model,
            revision=revision,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below, by name
            **kwargs,
        )
    if info["missing_keys"] or info["mismatched_keys"]:
        wrong = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise ValueError(
            f"{base_model} is not a {family.title} checkpoint that fits its configuration: {len(wrong)} Thinker weights are"
            f" missing or of another shape, first {wrong[0]}; download it again or correct base_model"
        )
    fix_nf4_on_cpu(thinker)
    for module in thinker.modules():
        module._is_hf_initialized = True
    return thinker


def _leaving_out(parts: Sequence[str], thinker_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class with some parts of its Thinker removed before any weight is read."""
    if not parts:
        return thinker_class

    def build(self: PreTrainedModel, config: ThinkerConfig) -> None:
        thinker_class.__init__(self, config)
        for part in parts:
            setattr(getattr(self, "model", self), part, None)

    unread = [*(thinker_class._keys_to_ignore_on_load_unexpected or ()), *(rf"(^|\.){part}\." for part in parts)]
    fields = {"__init__": build, "_keys_to_ignore_on_load_unexpected": unread, "__module__": thinker_class.__module__}
    return type(thinker_class.__name__, (thinker_class,), fields)


def thinker_config(base_model: str | os.PathLike, *, revision: str | None = None, **hub) -> ThinkerConfig:
    """The Thinker's part of an official full configuration; reads no weights."""
    config = _full_config(base_model, revision=revision, **hub)
    if "thinker_config" not in config:
        raise ValueError(
            f"{base_model}: its config.json has no thinker_config; expected a checkpoint in the layout of"
            f" {' or '.join(name for family in FAMILIES.values() for name in list(family.published)[:1])}"
        )
    return read_thinker_config(config["thinker_config"])


def published_config(base_model: str) -> ThinkerConfig | None:
    """The configuration of the Thinker of a published checkpoint, without a download; `None` for any other."""
    for family in FAMILIES.values():
        if base_model in family.published:
            return family.config_class(**family.published[base_model])
    return None


def has_untrained_towers(base_model: str | os.PathLike, *, revision: str | None = None) -> bool:
    """Whether a checkpoint says of itself that its towers are random; reads no weights."""
    return bool(_full_config(base_model, revision=revision).get(UNTRAINED_TOWERS))


def text_model_of(base_model: str | os.PathLike, *, revision: str | None = None) -> str | None:
    """The text model that a checkpoint says its language model is, e.g. SmolLM2-135M-Instruct; reads no weights."""
    return _full_config(base_model, revision=revision).get(TEXT_MODEL)


def _full_config(base_model: str | os.PathLike, **hub: Any) -> dict[str, Any]:
    """The entries of a checkpoint's config.json."""
    _check_folder(base_model)
    config, _ = PreTrainedConfig.get_config_dict(base_model, **hub)
    return config


def _check_folder(base_model: str | os.PathLike) -> None:
    if os.path.isabs(base_model) and not os.path.isdir(base_model):
        raise FileNotFoundError(
            f"{base_model}: no such folder; expected the base model of a run or a bundle there. Put it there, or correct the"
            " path: for a bundle, in its config.json and its adapter/adapter_config.json"
        )


def pinned_revision(base_model: str | os.PathLike, revision: str | None) -> str | None:
    """Commit of the cached config.json of a Hub id, so that a bundle names what it was trained on, or `revision` unchanged."""
    if os.path.isdir(base_model):
        return revision
    cached = try_to_load_from_cache(str(base_model), "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else revision


def fix_nf4_on_cpu(thinker: nn.Module) -> None:
    """Keep bitsandbytes from repacking NF4 weights on the CPU: after that, training steps lose their gradients."""
    modules: Iterator[Any] = thinker.modules()
    for module in modules:
        if getattr(module, "support_avx512bf16_for_cpu", False) and module.weight.device.type == "cpu":
            module.support_avx512bf16_for_cpu = False


def nf4_config(dtype: torch.dtype, *, towers: bool = True) -> BitsAndBytesConfig:
    """Weights in 4-bit NF4 with double quantisation, computation in `dtype`; `towers` says whether the towers are quantised too."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=None if towers else [*TOWERS, "lm_head"],
    )


def copy_loading_info(model: PreTrainedModel, thinker: PreTrainedModel) -> None:
    """Copy the Thinker's quantiser and device map to the outermost model, where Trainer and accelerate look for them."""
    for name in ("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit", "hf_device_map"):
        if hasattr(thinker, name):
            setattr(model, name, getattr(thinker, name))


def set_dtype(config: ThinkerConfig, dtype: torch.dtype) -> None:
    """Set the number format of a Thinker's configuration, and of the parts in it, each of which a model is built from."""
    for part in (config, config.text_config, config.vision_config, config.audio_config):
        part.dtype = dtype


def execution_device(module: nn.Module) -> torch.device:
    """Where a module with weights computes; weights that accelerate offloads are elsewhere until then."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)


def own_module(name: str) -> str | None:
    """The path in the headless Thinker of a module, from its name in a class of transformers.

    That is the whole model, its Thinker with lm_head, or the headless one, also with the names of versions before 5.21. `None` for
    what is not part of the language model's layers or of a tower.
    """
    name = name.removeprefix("thinker.").removeprefix("model.")
    name = f"{LANGUAGE_MODEL}.{name}" if name.startswith("layers.") else name
    return name if name.startswith((f"{LANGUAGE_MODEL}.layers.", *(f"{tower}." for tower in TOWERS))) else None


def lm_head_weight(base_model: str | os.PathLike, **kwargs: Any) -> torch.Tensor:
    """The lm_head (vocabulary, H) of a full checkpoint, alone; `kwargs` are those of `load_thinker`."""
    thinker: Any = load_thinker(base_model, lm_head=True, without=(*TOWERS, LANGUAGE_MODEL), **kwargs)
    return thinker.lm_head.weight
