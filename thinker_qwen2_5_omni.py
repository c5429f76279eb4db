"""The family Qwen2.5-Omni: its classes, published sizes, and how a clip becomes tokens and positions."""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, Qwen2VLImageProcessor, Qwen2VLVideoProcessor, WhisperFeatureExtractor
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5_VisionPatchEmbed,
    Qwen2_5OmniMLP,
    Qwen2_5OmniRMSNorm,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2_5OmniThinkerModel,
    Qwen2MLP,
)
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor

from .family_omnisent import ThinkerFamily
from .thinker_inputs_omnisent import InputLayout

_VISION_TOWER = {"hidden_size": 1280, "intermediate_size": 3420}


class Qwen2_5OmniLayout(InputLayout):
    """How video and audio become tokens and positions in Qwen2.5-Omni."""

    def mel_frames(self, samples: int, hop: int) -> int:
        return math.ceil(samples / hop)

    def log_mel(self, extractor: Any, samples: np.ndarray, sample_rate: int) -> torch.Tensor:
        """As in `InputLayout`. The official path pads to 300 s. Padding with three hops would give the same values; sixteen avoid
        the kernel that some CPUs use for matrix products with few columns, which rounds differently.
        """
        hop = extractor.hop_length
        frames = self.mel_frames(len(samples), hop)
        features = extractor(
            samples,
            sampling_rate=sample_rate,
            padding="max_length",
            max_length=(frames + 16) * hop,
            truncation=False,
            return_tensors="pt",
        )["input_features"]
        return features[0, :, :frames]

    def audio_tokens(self, mel_frames: int) -> int:
        """About one per 40 ms."""
        return max(0, ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1)

    def order(self, pairs: int, tokens_per_pair: int, audio: int, pair_seconds: float) -> np.ndarray:
        per_chunk = self.position_id_per_seconds * self.seconds_per_chunk
        steps = torch.arange(pairs) * torch.tensor(pair_seconds).float() * self.position_id_per_seconds
        times = np.repeat(steps.long().numpy(), tokens_per_pair).tolist()
        chunks: Any = Qwen2_5OmniProcessor.get_chunked_index
        runs = [[end - start for start, end in chunks(None, i, per_chunk)] for i in (times, range(audio))]
        parts = []
        for chunk in range(max(map(len, runs))):
            for is_video, lengths in zip((True, False), runs, strict=True):
                parts.append(np.full(lengths[chunk] if chunk < len(lengths) else 0, is_video))
        return np.concatenate(parts)

    def media_position_ids(
        self, input_ids: torch.Tensor, tokenizer: Any, mel_frames: int, grid: torch.Tensor, pair_seconds: float
    ) -> torch.Tensor:
        thinker: Any = Qwen2_5OmniThinkerModel
        rules = self.position_rules(thinker, tokenizer)
        rules.get_chunked_index = lambda indices, per_chunk, start: thinker.get_chunked_index(
            rules,
            indices.tolist(),
            per_chunk,
            int(start),  # it iterates over the tokens, which is slow in a tensor
        )
        positions, _ = thinker.get_rope_index(rules, **self.position_inputs(input_ids, mel_frames, grid, pair_seconds))
        return positions[:, 0].long()


class Qwen2_5Omni(ThinkerFamily):
    """Qwen2.5-Omni, 7B and 3B: the family of the paper."""

    title = "Qwen2.5-Omni"
    model_type = "qwen2_5_omni"
    architecture = "Qwen2_5OmniForConditionalGeneration"
    tiny = "tiny"
    config_class = Qwen2_5OmniThinkerConfig
    thinker_class = Qwen2_5OmniThinkerModel
    with_lm_head_class = Qwen2_5OmniThinkerForConditionalGeneration
    processor_class = Qwen2_5OmniProcessor
    layout_class = Qwen2_5OmniLayout
    patch_embed_class = Qwen2_5_VisionPatchEmbed
    gated_mlps = (Qwen2MLP, Qwen2_5OmniMLP)  # of the language model and the vision tower
    rms_norms = (Qwen2_5OmniRMSNorm,)
    published: ClassVar[dict[str, dict[str, Any]]] = {
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
    media_tokens: ClassVar[dict[str, str]] = {
        "audio_token": "<|AUDIO|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
        "image_token": "<|IMAGE|>",
        "video_token": "<|VIDEO|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
    }
    unread_weights = ("talker.thinker_to_talker_proj.weight", "token2wav.code2wav_dit_model.input_embed.proj.weight")
    tiny_parts: ClassVar[dict[str, dict[str, Any]]] = {
        "text": {},
        "vision": {"fullatt_block_indexes": [1]},
        "audio": {},
    }

    def config_fields(self, tokenizer: Any) -> dict[str, int]:
        return {
            "audio_token_index": tokenizer.audio_token_id,
            "image_token_index": tokenizer.image_token_id,
            "video_token_index": tokenizer.video_token_id,
        }

    def new_processor(self, tokenizer: PreTrainedTokenizerBase, chat_template: str) -> Qwen2_5OmniProcessor:
        return Qwen2_5OmniProcessor(
            Qwen2VLImageProcessor(),
            Qwen2VLVideoProcessor(),
            WhisperFeatureExtractor(feature_size=128, chunk_length=300, return_attention_mask=True),
            tokenizer,
            chat_template=chat_template,
        )
