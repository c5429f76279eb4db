"""Writes a Qwen2.5-Omni checkpoint in the file layout of a published one, around any language model; its towers are random."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from ..thinker_inputs_omnisent import OfficialProcessor
from ..thinker_omnisent import ThinkerConfig, official_config, official_weights

# Weights of a full checkpoint that loading the Thinker must not read, one of each part.
UNREAD_WEIGHTS = ("talker.thinker_to_talker_proj.weight", "token2wav.code2wav_dit_model.input_embed.proj.weight")
MEDIA_TOKENS = {
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% for part in message['content'] -%}
{%- if part['type'] == 'audio' -%}<|audio_bos|><|AUDIO|><|audio_eos|>
{%- elif part['type'] == 'video' -%}<|vision_bos|><|VIDEO|><|vision_eos|>
{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


def thinker_config_around(
    text: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, **settings: Any
) -> ThinkerConfig:
    """The configuration of a Thinker with a language model's configuration, tiny towers, and a tokenizer's media tokens."""
    width = text["hidden_size"]
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "out_hidden_size": width,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.1,
    }
    audio = {
        "encoder_layers": 2,
        "d_model": 64,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 128,
        "output_dim": width,
        "initializer_range": 0.1,
    }
    return ThinkerConfig(
        text_config=dict(text),
        vision_config=vision,
        audio_config=audio,
        audio_token_index=tokenizer.audio_token_id,
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        audio_start_token_id=tokenizer.audio_bos_token_id,
        audio_end_token_id=tokenizer.audio_eos_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
        vision_end_token_id=tokenizer.vision_eos_token_id,
        user_token_id=tokenizer.convert_tokens_to_ids("user"),
        initializer_range=0.1,
        **settings,
    )


def write_backbone(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    config: ThinkerConfig,
    weights: Mapping[str, torch.Tensor],
    **facts: Any,
) -> None:
    """Write config.json, model.safetensors, tokenizer and processor files; the folder appears when all of them are there.

    Args:
        folder: is created.
        tokenizer: with the tokens of `MEDIA_TOKENS`.
        config: of the Thinker.
        weights: the state dict of a `ThinkerWithLMHead`.
        **facts: more entries of config.json.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.part-", dir=folder.parent) as parent:
        draft = Path(parent) / folder.name
        draft.mkdir()
        OfficialProcessor(
            Qwen2VLImageProcessor(),
            Qwen2VLVideoProcessor(),
            WhisperFeatureExtractor(feature_size=128, chunk_length=300, return_attention_mask=True),
            tokenizer,
            chat_template=CHAT_TEMPLATE,
        ).save_pretrained(draft)
        every = official_weights(weights) | {name: torch.zeros(8, 8) for name in UNREAD_WEIGHTS}
        save_file(every, draft / "model.safetensors", metadata={"format": "pt"})
        config_json = json.dumps({**official_config(config), **facts}, indent=2, default=str)
        (draft / "config.json").write_text(f"{config_json}\n", encoding="utf-8")
        try:
            draft.replace(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # else another process has written it in the meantime
                raise
