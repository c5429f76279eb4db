"""What omnisent must know of a family of omni-modal models: the interface that thinker_qwen2_5_omni.py and its siblings implement.

A family is the code of one architecture in transformers; checkpoints of several sizes belong to it. `FAMILIES` in
families_omnisent.py lists them. Knows no head and no score.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from .thinker_inputs_omnisent import InputLayout, quiet_loading

# Configurations and models of any family; what is read of them has the same names in all.
ThinkerConfig: TypeAlias = Any
Thinker: TypeAlias = Any  # headless: towers and language model
ThinkerWithLMHead: TypeAlias = Any

TOWERS = ("audio_tower", "visual")
LANGUAGE_MODEL = "language_model"
OFFICIAL_SCORE = f"thinker.{LANGUAGE_MODEL}.score"  # where servers look for a linear head in a full checkpoint
LORA_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = "attention"
# By preset: suffixes of module names in the whole Thinker, or a pattern for its language model.
LORA_PRESETS: dict[str, list[str] | str] = {
    "paper": list(LORA_NAMES),
    "llm": rf".*{LANGUAGE_MODEL}\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(LORA_NAMES)})",
    ATTENTION: rf".*{LANGUAGE_MODEL}\.layers\.\d+\.self_attn\.({'|'.join(LORA_NAMES[:4])})",
}
# Towers of the random base models.
TINY_VISION = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "initializer_range": 0.1}
TINY_AUDIO = {
    "encoder_layers": 2,
    "d_model": 64,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
    "initializer_range": 0.1,
}


class ThinkerFamily(ABC):
    """A family of omni-modal models. Its Thinker has two towers, `audio_tower` and `visual`, and a `language_model`.

    Attributes:
        title: in texts.
        model_type: in config.json of a full checkpoint, which has the Thinker's configuration as `thinker_config`.
        architecture: the class of a full checkpoint, by which servers know it.
        tiny: the name of its random base model, which training makes.
        config_class: of the Thinker.
        thinker_class: of the headless Thinker.
        with_lm_head_class: of the Thinker with its lm_head.
        processor_class: of a checkpoint's processor.
        layout_class: how video and audio become tokens and positions.
        patch_embed_class: of the vision tower's patch embedding, if its forward pass is only a convolution `proj` over patches.
        gated_mlps: classes that compute `down(act(gate(x)) * up(x))`.
        rms_norms: classes of norms that compute in float32.
        experts: names of the weights of fused experts, which LoRA adapts with the MLPs; empty if the MLPs are dense.
        published: by Hub id, where a configuration differs from the defaults of `config_class`.
        media_tokens: names of the special tokens around and in place of media, by their role in the tokenizer.
        unread_weights: of a full checkpoint, a weight of each part that loading the Thinker must not read.
        tiny_parts: of the random base model, what its `text`, `vision` and `audio` need besides what all families have.
    """

    title: ClassVar[str]
    model_type: ClassVar[str]
    architecture: ClassVar[str]
    tiny: ClassVar[str]
    config_class: ClassVar[type[PreTrainedConfig]]
    thinker_class: ClassVar[type[PreTrainedModel]]
    with_lm_head_class: ClassVar[type[PreTrainedModel]]
    processor_class: ClassVar[type[ProcessorMixin]]
    layout_class: ClassVar[type[InputLayout]]
    patch_embed_class: ClassVar[type[nn.Module] | None] = None
    gated_mlps: ClassVar[tuple[type[nn.Module], ...]] = ()
    rms_norms: ClassVar[tuple[type[nn.Module], ...]] = ()
    experts: ClassVar[tuple[str, ...]] = ()
    published: ClassVar[dict[str, dict[str, Any]]]
    media_tokens: ClassVar[Mapping[str, str]]
    unread_weights: ClassVar[tuple[str, ...]] = ()
    tiny_parts: ClassVar[Mapping[str, Mapping[str, Any]]]

    def video_features(self, thinker: Thinker, pixel_values: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Outputs (video tokens, H) of the vision tower; (video tokens, (1 + D) * H) if it also gives features to the first D
        layers of the language model, which are added to their outputs.

        Args:
            thinker: the headless Thinker.
            pixel_values: (P, patch values), normalised.
            grid: (V, 3), patches in time, height and width of each video.
        """
        return torch.cat(thinker.get_video_features(pixel_values, grid).pooler_output)

    def audio_features(self, thinker: Thinker, input_features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Outputs (audio tokens, H) of the audio tower, which do not depend on the other clips of the batch.

        Args:
            thinker: the headless Thinker.
            input_features: (A, mel bins, M) log-mel.
            mask: (A, M), 0 for padding.
        """
        return thinker.get_audio_features(input_features, mask).last_hidden_state

    def official_weights(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights of a Thinker with its lm_head under the names that they have in a published full checkpoint."""
        official = {}
        for name, value in weights.items():
            name = name.replace(f"model.{LANGUAGE_MODEL}.", "model.", 1)
            for tower in TOWERS:
                name = name.replace(f"model.{tower}.", f"{tower}.", 1)
            official[f"thinker.{name}"] = value.contiguous()
        return official

    def official_config(self, config: ThinkerConfig) -> dict[str, Any]:
        """The config.json of a full checkpoint with this Thinker, as a published one has it."""
        names = {"model_type": self.model_type, "architectures": [self.architecture]}
        return {**names, "enable_audio_output": False, "thinker_config": config.to_dict()}

    def lora_targets(self, preset: str) -> dict[str, Any]:
        """What a preset of `LORA_PRESETS` adapts, as arguments of `LoraConfig`."""
        names = [f"mlp.experts.{name}" for name in self.experts if preset != ATTENTION]
        return {"target_modules": LORA_PRESETS[preset], **({"target_parameters": names} if names else {})}

    def mlp_width(self, text_config: Any) -> int:
        """Hidden features of an MLP of the language model that a token passes through."""
        return text_config.intermediate_size

    def expert_weights(self, text_config: Any) -> int:
        """Number of weights of all fused experts in a layer; 0 if the MLPs are dense."""
        return 0

    def official_settings(
        self, base_model: str | os.PathLike, config: ThinkerConfig, *, revision: str | None = None
    ) -> dict[str, Any]:
        """Parts and settings of a checkpoint's processor and its Thinker's configuration, as arguments of `OmniSentProcessor`.

        Raises:
            ValueError: naming a field of the configuration with a value that is not supported.
        """
        with quiet_loading():  # it warns about the talker, which is not used
            base: Any = self.processor_class.from_pretrained(base_model, revision=revision)
        vision = base.video_processor
        return {
            "family": self.model_type,
            "feature_extractor": base.feature_extractor,
            "tokenizer": base.tokenizer,
            "chat_template": base.chat_template,
            "patch_size": vision.patch_size,
            "merge_size": vision.merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "image_mean": vision.image_mean,
            "image_std": vision.image_std,
            "position_id_per_seconds": config.position_id_per_seconds,
            "seconds_per_chunk": getattr(config, "seconds_per_chunk", self.layout_class.seconds_per_chunk),
        }

    def config_around(
        self, text: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, **settings: Any
    ) -> ThinkerConfig:
        """The configuration of a Thinker with a language model's configuration, tiny towers, and a tokenizer's media tokens."""
        width = text["hidden_size"]
        return self.config_class(
            text_config=dict(text),
            vision_config={**TINY_VISION, **self.tiny_parts["vision"], "out_hidden_size": width},
            audio_config={**TINY_AUDIO, **self.tiny_parts["audio"], "output_dim": width},
            **self.config_fields(tokenizer),
            audio_start_token_id=tokenizer.audio_bos_token_id,
            audio_end_token_id=tokenizer.audio_eos_token_id,
            vision_start_token_id=tokenizer.vision_bos_token_id,
            vision_end_token_id=tokenizer.vision_eos_token_id,
            user_token_id=tokenizer.convert_tokens_to_ids("user"),
            initializer_range=0.1,
            **settings,
        )

    @abstractmethod
    def config_fields(self, tokenizer: Any) -> dict[str, int]:
        """Further fields of a configuration that is made here, as published ones have them: ids of the placeholder tokens, ..."""

    @abstractmethod
    def new_processor(self, tokenizer: PreTrainedTokenizerBase, chat_template: str) -> ProcessorMixin:
        """The processor of a checkpoint that is made here, with the settings of a published one."""
