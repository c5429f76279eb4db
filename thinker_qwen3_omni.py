"""The family Qwen3-Omni: its classes, published sizes, and how a clip becomes tokens and positions.

Its MLPs are mixtures of experts whose weights are fused: LoRA adapts them as parameters, and NF4 leaves them as they are. Its
vision tower also gives features to the first layers of the language model (DeepStack).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, Qwen2VLImageProcessor, Qwen2VLVideoProcessor, WhisperFeatureExtractor
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeThinkerConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoeTextRMSNorm,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerModel,
    Qwen3OmniMoeThinkerTextMLP,
    Qwen3OmniMoeThinkerTextRMSNorm,
    Qwen3OmniMoeVisionPatchEmbed,
)
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import Qwen3OmniMoeProcessor

from .family_omnisent import Thinker, ThinkerConfig, ThinkerFamily
from .thinker_inputs_omnisent import InputLayout

N_WINDOW = 50  # of the audio tower: it reads chunks of twice as many mel frames
CHUNK, TOKENS_PER_CHUNK = 2 * N_WINDOW, 13
POSITIONS_PER_SECOND = 13
TOO_FEW_SAMPLES = 200  # half a window of the spectrum, by which sound is extended at its ends
_HALF = (0.5, 0.5, 0.5)
_VISION_SETTINGS = {"patch_size": 16, "image_mean": list(_HALF), "image_std": list(_HALF)}


@dataclass(frozen=True)
class Qwen3OmniLayout(InputLayout):
    """How video and audio become tokens and positions in Qwen3-Omni; positions in time are not whole numbers."""

    patch_size: int = 16
    image_mean: tuple[float, ...] = _HALF
    image_std: tuple[float, ...] = _HALF
    position_id_per_seconds: float = float(POSITIONS_PER_SECOND)
    position_dtype: ClassVar[torch.dtype] = torch.float32

    def mel_frames(self, samples: int, hop: int) -> int:
        return samples // hop if samples > TOO_FEW_SAMPLES else 0

    def log_mel(self, extractor: Any, samples: np.ndarray, sample_rate: int) -> torch.Tensor:
        """As in `InputLayout`; without frames for sound that is too short for the official path."""
        frames = self.mel_frames(len(samples), extractor.hop_length)
        if not frames:
            return torch.zeros(extractor.feature_size, 0)
        features = extractor(samples, sampling_rate=sample_rate, padding=True, truncation=False, return_tensors="pt")
        return features["input_features"][0, :, :frames]

    def audio_tokens(self, mel_frames: int) -> int:
        """Thirteen a second."""
        rest = (mel_frames % CHUNK - 1) // 2 + 1
        return ((rest - 1) // 2 + 1 - 1) // 2 + 1 + mel_frames // CHUNK * TOKENS_PER_CHUNK

    def order(self, pairs: int, tokens_per_pair: int, audio: int, pair_seconds: float) -> np.ndarray:
        """By time; a pair of frames comes before the audio that begins with it."""
        times = np.repeat(np.arange(pairs), tokens_per_pair) * pair_seconds * self.position_id_per_seconds
        in_time = np.argsort(np.concatenate([times, np.arange(audio)]), kind="stable")
        return in_time < len(times)

    def media_position_ids(
        self, input_ids: torch.Tensor, tokenizer: Any, mel_frames: int, grid: torch.Tensor, pair_seconds: float
    ) -> torch.Tensor:
        thinker: Any = Qwen3OmniMoeThinkerModel
        rules = self.position_rules(thinker, tokenizer, audio_config=SimpleNamespace(n_window=N_WINDOW))
        positions, _ = thinker.get_rope_index(rules, **self.position_inputs(input_ids, mel_frames, grid, pair_seconds))
        return positions[:, 0]


class Qwen3Omni(ThinkerFamily):
    """Qwen3-Omni, 30B with 3B active."""

    title = "Qwen3-Omni"
    model_type = "qwen3_omni_moe"
    architecture = "Qwen3OmniMoeForConditionalGeneration"
    tiny = "tiny-qwen3-omni"
    config_class = Qwen3OmniMoeThinkerConfig
    thinker_class = Qwen3OmniMoeThinkerModel
    with_lm_head_class = Qwen3OmniMoeThinkerForConditionalGeneration
    processor_class = Qwen3OmniMoeProcessor
    layout_class = Qwen3OmniLayout
    patch_embed_class = Qwen3OmniMoeVisionPatchEmbed
    gated_mlps = (Qwen3OmniMoeThinkerTextMLP,)
    rms_norms = (Qwen3OmniMoeThinkerTextRMSNorm, Qwen3OmniMoeTextRMSNorm)
    experts = ("gate_up_proj", "down_proj")
    published: ClassVar[dict[str, dict[str, Any]]] = {
        "Qwen/Qwen3-Omni-30B-A3B-Instruct": {
            "position_id_per_seconds": POSITIONS_PER_SECOND,
            "text_config": {
                "vocab_size": 152064,
                "hidden_size": 2048,
                "intermediate_size": 768,
                "num_hidden_layers": 48,
                "num_attention_heads": 32,
                "num_key_value_heads": 4,
                "head_dim": 128,
            },
            "vision_config": {"out_hidden_size": 2048},
            "audio_config": {"output_dim": 2048},
        },
    }
    media_tokens: ClassVar[dict[str, str]] = {
        "audio_token": "<|audio_pad|>",
        "audio_bos_token": "<|audio_start|>",
        "audio_eos_token": "<|audio_end|>",
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
    }
    unread_weights = ("talker.text_projection.linear_fc1.weight", "code2wav.code_embedding.weight")
    tiny_parts: ClassVar[dict[str, dict[str, Any]]] = {
        "text": {"head_dim": 32, "moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2},
        "vision": {"deepstack_visual_indexes": [0], "num_position_embeddings": 64},
        "audio": {"downsample_hidden_size": 16},
    }

    def video_features(self, thinker: Thinker, pixel_values: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        output = thinker.get_video_features(pixel_values, grid)
        return torch.cat([torch.cat(rows) for rows in (output.pooler_output, *output.deepstack_features)], dim=-1)

    def audio_features(self, thinker: Thinker, input_features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """As in `ThinkerFamily`. The tower pads the chunks of a batch to the longest, which changes those of a clip that is shorter
        than a whole chunk, so such a clip is read alone.
        """
        mask = torch.ones_like(input_features[:, 0]) if mask is None else mask
        outputs: list[torch.Tensor] = []
        for rows in _read_together(mask.sum(-1).tolist()):
            outputs.append(super().audio_features(thinker, input_features[rows], mask[rows]))
        return torch.cat(outputs)

    def official_weights(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As in `ThinkerFamily`; there, each expert has weights of its own."""
        split = {}
        for name, value in weights.items():
            stem, _, kind = name.rpartition(".experts.")
            if kind not in self.experts:
                split[name] = value
                continue
            for place, expert in enumerate(value):
                parts = {"down_proj": expert}
                if kind == "gate_up_proj":
                    parts = dict(zip(("gate_proj", "up_proj"), expert.chunk(2), strict=True))
                split |= {f"{stem}.experts.{place}.{part}.weight": weight for part, weight in parts.items()}
        return super().official_weights(split)

    def mlp_width(self, text_config: Any) -> int:
        return text_config.moe_intermediate_size * text_config.num_experts_per_tok

    def expert_weights(self, text_config: Any) -> int:
        return 3 * text_config.num_experts * text_config.hidden_size * text_config.moe_intermediate_size

    def official_settings(
        self, base_model: str | os.PathLike, config: ThinkerConfig, *, revision: str | None = None
    ) -> dict[str, Any]:
        if config.audio_config.n_window != N_WINDOW:
            raise ValueError(
                f"n_window of the audio tower is {config.audio_config.n_window}; only {N_WINDOW} is supported, as published models"
                " have it"
            )
        return super().official_settings(base_model, config, revision=revision)

    def config_fields(self, tokenizer: Any) -> dict[str, int]:
        return {
            "position_id_per_seconds": POSITIONS_PER_SECOND,
            "audio_token_id": tokenizer.audio_token_id,
            "image_token_id": tokenizer.image_token_id,
            "video_token_id": tokenizer.video_token_id,
        }

    def new_processor(self, tokenizer: PreTrainedTokenizerBase, chat_template: str) -> Qwen3OmniMoeProcessor:
        return Qwen3OmniMoeProcessor(
            Qwen2VLImageProcessor(**_VISION_SETTINGS),
            Qwen2VLVideoProcessor(**_VISION_SETTINGS),
            WhisperFeatureExtractor(feature_size=128, chunk_length=30, return_attention_mask=True),
            tokenizer,
            chat_template=chat_template,
        )


def _read_together(mel_frames: list[int]) -> list[list[int]]:
    """The places of clips that the audio tower may read in one batch, in their order: a clip shorter than a chunk is alone."""
    groups: list[list[int]] = []
    for place, frames in enumerate(mel_frames):
        if not groups or frames < CHUNK or mel_frames[groups[-1][-1]] < CHUNK:
            groups.append([])
        groups[-1].append(place)
    return groups
