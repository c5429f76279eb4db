"""Speech recognition models of the real classes with random weights, which write something for any audio."""

import json
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

OTHERS = ["<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
START = ["<|endoftext|>", "<|startoftranscript|>", *OTHERS, "<|nospeech|>", "<|notimestamps|>"]
TIMES = [f"<|{number / 50:.2f}|>" for number in range(1501)]


def tiny_whisper(folder: Path, *, always: str | None = None, no_speech: bool = False, timestamps: bool = True) -> Path:
    """A Whisper with a letter for a token.

    Args:
        always: the letter that it writes, without end.
        no_speech: it finds any audio most likely without speech, and no letter likelier than the others.
        timestamps: its settings say which tokens are timestamps.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = WhisperTokenizer(vocab={letter: index for index, letter in enumerate(letters)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": [*START, *TIMES]})
    end, start, *_, nothing, no_times = (tokenizer.convert_tokens_to_ids(token) for token in START)
    torch.manual_seed(0)
    sizes = {f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "vocab_size": len(tokenizer)}
    ids = {"decoder_start_token_id": start, "pad_token_id": end, "bos_token_id": end, "eos_token_id": end}
    model = WhisperForConditionalGeneration(
        WhisperConfig(**sizes, **ids, begin_suppress_tokens=None, suppress_tokens=None)
    )
    words, last = model.model.decoder.embed_tokens.weight, model.model.decoder.layer_norm
    with torch.no_grad():
        last.weight[0], last.bias[0] = 0.0, 1.0
        words[:256] *= 5
        words[:, 0] = torch.where(torch.arange(len(words)) < 256, 0.0, -8.0)  # a letter is likelier than all timestamps
        if always is not None or no_speech:
            likely = nothing if always is None else letters.index(always)
            words.zero_()[likely] = 5.0
            words[-len(TIMES) :] = -1.0
            last.weight.zero_()
            last.bias.fill_(1.0)
    settings = model.generation_config
    settings._from_model_config = False  # or they would be made anew
    settings.suppress_tokens = [
        i for i in range(no_times + 1) if i >= 256 or not (letters[i].isascii() and letters[i].isalpha())
    ]
    if timestamps:
        settings.no_timestamps_token_id = no_times
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def tiny_wav2vec2(folder: Path) -> Path:
    """A CTC model with a letter for a token."""
    folder.mkdir()
    (folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(["<pad>", "<unk>", "|", *"abcdefgh"])})
    )
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=11, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    tokenizer = Wav2Vec2CTCTokenizer(
        folder / "vocab.json", pad_token="<pad>", unk_token="<unk>", bos_token=None, eos_token=None
    )
    tokenizer.save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder
