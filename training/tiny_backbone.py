"""Writes a tiny Qwen2.5-Omni checkpoint: the real classes, processor and file layout, random weights, a few megabytes.

It replaces the 7B checkpoint where no weights are available, and runs through the real loading and training code. Its scores say
nothing about sentiment.

    python -m omnisent.training.tiny_backbone runs/tiny-backbone [TEXT_FILE]

The tokenizer learns its words from the planted clips, or from the lines of TEXT_FILE.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
    set_seed,
)

from ..data.planted import planted_sentences
from ..processing_omnisent import INSTRUCTION, SYSTEM_PROMPT, TRANSCRIPT
from ..thinker_inputs_omnisent import OfficialProcessor
from ..thinker_omnisent import ThinkerConfig, ThinkerWithLMHead, official_config, official_weights

VOCABULARY = 2048
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


def make_tiny_backbone(folder: str | Path, *, texts: Sequence[str] | None = None, seed: int = 0) -> Path:
    """Write the checkpoint, unless the folder already holds one.

    Args:
        folder: where config.json, model.safetensors, tokenizer and processor files go.
        texts: training texts of the tokenizer; by default sentences of the planted clips.
        seed: of the random weights; the same seed gives the same bytes.

    Returns:
        The folder.
    """
    folder = Path(folder)
    if (folder / "config.json").is_file():
        return folder
    draft = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    tokenizer = _tokenizer(planted_sentences() if texts is None else texts)
    config = _config(tokenizer)
    OfficialProcessor(
        Qwen2VLImageProcessor(),
        Qwen2VLVideoProcessor(),
        WhisperFeatureExtractor(feature_size=128, chunk_length=300, return_attention_mask=True),
        tokenizer,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(draft)
    with torch.random.fork_rng():
        set_seed(seed)
        thinker = ThinkerWithLMHead(config)
    weights = official_weights(thinker.state_dict()) | {name: torch.zeros(8, 8) for name in UNREAD_WEIGHTS}
    save_file(weights, draft / "model.safetensors", metadata={"format": "pt"})
    config_json = json.dumps(official_config(config), indent=2, default=str)
    (draft / "config.json").write_text(f"{config_json}\n", encoding="utf-8")
    draft.replace(folder)
    return folder


def _tokenizer(texts: Sequence[str]) -> Qwen2Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    prompts = [SYSTEM_PROMPT, INSTRUCTION, TRANSCRIPT, "system user assistant", "+-0123456789."]
    bpe.train_from_iterator([*texts, *prompts * 50], trainer)
    vocabulary, merges = _vocabulary(bpe)
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        eos_token="<|im_end|>",
        extra_special_tokens=MEDIA_TOKENS,
        additional_special_tokens=["<|im_start|>"],
        model_max_length=32768,
    )


def _vocabulary(bpe: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _config(tokenizer: Qwen2Tokenizer) -> ThinkerConfig:
    width = 128
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [4, 6, 6]}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": rope,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
    }
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
    thinker = {
        "text_config": text,
        "vision_config": vision,
        "audio_config": audio,
        "audio_token_index": tokenizer.audio_token_id,
        "image_token_index": tokenizer.image_token_id,
        "video_token_index": tokenizer.video_token_id,
        "audio_start_token_id": tokenizer.audio_bos_token_id,
        "audio_end_token_id": tokenizer.audio_eos_token_id,
        "vision_start_token_id": tokenizer.vision_bos_token_id,
        "vision_end_token_id": tokenizer.vision_eos_token_id,
        "user_token_id": tokenizer.convert_tokens_to_ids("user"),
        "initializer_range": 0.1,
        "dtype": "float32",
    }
    return ThinkerConfig(**thinker)


if __name__ == "__main__":
    lines = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines() if len(sys.argv) > 2 else None
    print(make_tiny_backbone(sys.argv[1], texts=lines))
