"""The Qwen2.5-Omni Thinker: its classes, checkpoint layout and loading, and the layers that LoRA adapts.

Only this file, towers_omnisent.py and thinker_inputs_omnisent.py know the model family. Knows no head and no score.
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniConfig, Qwen2_5OmniThinkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniMLP,
    Qwen2_5OmniRMSNorm,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2_5OmniThinkerModel,
    Qwen2MLP,
)

from .thinker_inputs_omnisent import quiet_loading
from .towers_omnisent import tower_features

ThinkerConfig: TypeAlias = Qwen2_5OmniThinkerConfig
Thinker: TypeAlias = Qwen2_5OmniThinkerModel  # headless: towers and language model
ThinkerWithLMHead: TypeAlias = Qwen2_5OmniThinkerForConditionalGeneration

TOWERS = ("audio_tower", "visual")
LANGUAGE_MODEL = "language_model"
OFFICIAL_ARCHITECTURE = "Qwen2_5OmniForConditionalGeneration"  # by which servers know a full checkpoint
OFFICIAL_SCORE = f"thinker.{LANGUAGE_MODEL}.score"  # where servers look for a linear head in a full checkpoint
# Of the language model and the vision tower.
GATED_MLPS, RMS_NORMS = (Qwen2MLP, Qwen2_5OmniMLP), (Qwen2_5OmniRMSNorm,)
LORA_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# By preset: suffixes of module names in the whole Thinker, or a pattern for its language model.
LORA_TARGETS: dict[str, list[str] | str] = {
    "paper": list(LORA_NAMES),
    "llm": rf".*{LANGUAGE_MODEL}\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(LORA_NAMES)})",
}
# Entries in config.json of a base model that is made from a text model: that its towers are random, and the text model's name.
UNTRAINED_TOWERS, TEXT_MODEL = "untrained_towers", "text_model"
HUB_KEYWORDS = ("token", "cache_dir", "local_files_only")  # also passed on to the base model
_VISION_TOWER = {"hidden_size": 1280, "intermediate_size": 3420}
PUBLISHED_THINKERS: dict[str, dict[str, Any]] = {  # where they differ from the defaults of ThinkerConfig
    "Qwen/Qwen2.5-Omni-7B": {"vision_config": {**_VISION_TOWER, "out_hidden_size": 3584}},
    "Qwen/Qwen2.5-Omni-3B": {
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
        },
        "vision_config": {**_VISION_TOWER, "out_hidden_size": 2048},
        "audio_config": {"output_dim": 2048},
    },
}


def embed_clips(
    thinker: Thinker,
    input_ids: torch.Tensor,
    *,
    audio_embeds: torch.Tensor | None = None,
    video_embeds: torch.Tensor | None = None,
    **media: torch.Tensor | None,
) -> torch.Tensor:
    """Token embeddings (B, T, H) with the towers' outputs in place of the placeholder tokens.

    Args:
        thinker: the headless Thinker.
        input_ids: (B, T), with placeholders.
        audio_embeds: (audio tokens, H), precomputed output of the audio tower.
        video_embeds: (video tokens, H), likewise, of the vision tower.
        **media: otherwise the towers' inputs, as `tower_features` takes them.
    """
    embeds = thinker.get_input_embeddings()(input_ids)  # (B, T, H)
    given = {"audio_embeds": audio_embeds, "video_embeds": video_embeds}
    features = {name: value for name, value in given.items() if value is not None} | tower_features(thinker, **media)
    for name, token in (
        ("audio_embeds", thinker.config.audio_token_id),
        ("video_embeds", thinker.config.video_token_id),
    ):
        if name in features:
            embeds = _fill(embeds, input_ids == token, features[name])
    return embeds


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
    language_model = thinker.language_model
    if language_model.training:
        states = language_model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
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
        last = language_model(**inputs, use_cache=False).last_hidden_state
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
    thinker_class: type[PreTrainedModel] = Thinker,
    without: Sequence[str] = (),
    **kwargs,
) -> PreTrainedModel:
    """Load the Thinker of an official full checkpoint, headless by default; weights that its class lacks are not read.

    Args:
        base_model: Hub id or folder in the layout of Qwen/Qwen2.5-Omni-7B.
        revision: branch, tag or commit of a Hub id.
        config: the Thinker's configuration; read from the checkpoint when not given.
        thinker_class: another class of the Thinker, e.g. the one with its lm_head.
        without: parts that are not loaded and become `None`: any of audio_tower, visual and language_model.
        **kwargs: for its `from_pretrained`: dtype, quantization_config, device_map, attn_implementation, ...

    Raises:
        FileNotFoundError: when the folder of the checkpoint is not there.
        ValueError: when the checkpoint lacks weights of the Thinker.
    """
    _check_folder(base_model)
    hub = {key: kwargs[key] for key in HUB_KEYWORDS if key in kwargs}
    config = copy.deepcopy(config) if config is not None else thinker_config(base_model, revision=revision, **hub)
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
            f"{base_model} is not a Qwen2.5-Omni checkpoint that fits its configuration: {len(wrong)} Thinker weights are"
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
            f"{base_model}: its config.json has no thinker_config; expected a checkpoint in the layout of Qwen/Qwen2.5-Omni-7B"
        )
    return ThinkerConfig(**config["thinker_config"])


def has_untrained_towers(base_model: str | os.PathLike, *, revision: str | None = None) -> bool:
    """Whether a checkpoint says of itself that its towers are random; reads no weights."""
    return bool(_full_config(base_model, revision=revision).get(UNTRAINED_TOWERS))


def text_model_of(base_model: str | os.PathLike, *, revision: str | None = None) -> str | None:
    """The text model that a checkpoint says its language model is, e.g. SmolLM2-135M-Instruct; reads no weights."""
    return _full_config(base_model, revision=revision).get(TEXT_MODEL)


def _full_config(base_model: str | os.PathLike, **hub: Any) -> dict[str, Any]:
    """The entries of a checkpoint's config.json."""
    _check_folder(base_model)
    config, _ = Qwen2_5OmniConfig.get_config_dict(base_model, **hub)
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


def execution_device(module: nn.Module) -> torch.device:
    """Where a module with weights computes; weights that accelerate offloads are elsewhere until then."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)


def official_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a `ThinkerWithLMHead` under the names that they have in a published full checkpoint."""
    official = {}
    for name, value in weights.items():
        name = name.replace(f"model.{LANGUAGE_MODEL}.", "model.", 1)
        for tower in TOWERS:
            name = name.replace(f"model.{tower}.", f"{tower}.", 1)
        official[f"thinker.{name}"] = value.contiguous()
    return official


def lm_head_weight(base_model: str | os.PathLike, **kwargs: Any) -> torch.Tensor:
    """The lm_head (vocabulary, H) of a full checkpoint, alone; `kwargs` are those of `load_thinker`."""
    without = (*TOWERS, LANGUAGE_MODEL)
    return cast(
        Any, load_thinker(base_model, thinker_class=ThinkerWithLMHead, without=without, **kwargs)
    ).lm_head.weight


def official_config(config: ThinkerConfig) -> dict[str, Any]:
    """The config.json of a full checkpoint with this Thinker, as a published one has it."""
    return {"model_type": "qwen2_5_omni", "enable_audio_output": False, "thinker_config": config.to_dict()}
