"""Writes a tiny checkpoint of a family: the real classes, processor and file layout, random weights, a few megabytes.

It replaces a published checkpoint where no weights are available, and runs through the real loading and training code. Its
scores say nothing about sentiment.

    python -m omnisent.training.tiny_backbone runs/tiny-backbone [TEXT_FILE]

The tokenizer learns its words from the planted clips, or from the lines of TEXT_FILE.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, set_seed

from ..data.planted import planted_sentences
from ..families_omnisent import DEFAULT_FAMILY
from ..family_omnisent import ThinkerConfig, ThinkerFamily
from ..text_omnisent import INSTRUCTION, SYSTEM_PROMPT, TRANSCRIPT
from .backbone_files import write_backbone

VOCABULARY = 2048
# The digits' rows of lm_head share a direction of this size. With independent rows, at most a third of the probability could fall
# on digits, which a trained language model's rows do not limit, and the generative readout would be handicapped.
DIGIT_SIZE = 3.0


def make_tiny_backbone(
    folder: str | Path,
    *,
    family: ThinkerFamily = DEFAULT_FAMILY,
    texts: Sequence[str] | None = None,
    seed: int = 0,
) -> Path:
    """Write the checkpoint, unless the folder already holds one.

    Args:
        folder: where config.json, model.safetensors, tokenizer and processor files go.
        family: of models.
        texts: training texts of the tokenizer; by default sentences of the planted clips.
        seed: of the random weights; the same seed gives the same bytes.

    Returns:
        The folder.
    """
    folder = Path(folder)
    if (folder / "config.json").is_file():
        return folder
    tokenizer = _tokenizer(planted_sentences() if texts is None else texts, family)
    config = _config(tokenizer, family)
    with torch.random.fork_rng():
        set_seed(seed)
        thinker = family.with_lm_head_class(config)
        digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
        shared = DIGIT_SIZE * config.text_config.initializer_range * torch.randn(config.text_config.hidden_size)
        with torch.no_grad():
            thinker.lm_head.weight[digits] += shared
    write_backbone(folder, tokenizer, config, thinker.state_dict())
    return folder


def _tokenizer(texts: Sequence[str], family: ThinkerFamily) -> Qwen2Tokenizer:
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
        extra_special_tokens=family.media_tokens,
        additional_special_tokens=["<|im_start|>"],
        model_max_length=32768,
    )


def _vocabulary(bpe: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _config(tokenizer: Qwen2Tokenizer, family: ThinkerFamily) -> ThinkerConfig:
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [4, 6, 6]}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "rope_parameters": rope,
        "initializer_range": 0.1,
        "num_key_value_heads": 2,
        **family.tiny_parts["text"],
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return family.config_around(text, tokenizer, dtype="float32")


if __name__ == "__main__":
    lines = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines() if len(sys.argv) > 2 else None
    print(make_tiny_backbone(sys.argv[1], texts=lines))
