"""Speech recognition models of the real classes with random weights, which write something for any audio."""

import json
from pathlib import Path
from string import ascii_lowercase

import torch
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedTokenizerFast,
    Speech2TextConfig,
    Speech2TextFeatureExtractor,
    Speech2TextForConditionalGeneration,
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


def tiny_whisper(
    folder: Path, *, always: str | None = None, no_speech: bool = False, timestamps: bool = True, words: bool = False
) -> Path:
    """A Whisper with a letter for a token.

    Args:
        always: the letter that it writes, without end.
        no_speech: it finds any audio most likely without speech, and no letter likelier than the others.
        timestamps: its settings say which tokens are timestamps.
        words: it writes words, with spaces, and its settings say which of its heads align them with the audio.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ġ", letter) for letter in ascii_lowercase] if words else []
    letters += map("".join, pairs)
    tokenizer = WhisperTokenizer(vocab={letter: index for index, letter in enumerate(letters)}, merges=pairs)
    tokenizer.add_special_tokens({"additional_special_tokens": [*START, *TIMES]})
    end, start, *_, nothing, no_times = (tokenizer.convert_tokens_to_ids(token) for token in START)
    torch.manual_seed(0)
    sizes = {f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "vocab_size": len(tokenizer)}
    ids = {"decoder_start_token_id": start, "pad_token_id": end, "bos_token_id": end, "eos_token_id": end}
    model = WhisperForConditionalGeneration(
        WhisperConfig(**sizes, **ids, begin_suppress_tokens=None, suppress_tokens=None)
    )
    tokens, last = model.model.decoder.embed_tokens.weight, model.model.decoder.layer_norm
    written = [
        index for index, letter in enumerate(letters) if letter.lstrip("Ġ").isascii() and letter.lstrip("Ġ").isalpha()
    ]
    with torch.no_grad():
        last.weight[0], last.bias[0] = 0.0, 1.0
        tokens[: len(letters)] *= 5
        if words:  # so that a letter depends on its place
            model.model.decoder.embed_positions.weight *= 50
        is_written = torch.zeros(len(tokens), dtype=torch.bool)
        is_written[written] = True
        tokens[:, 0] = torch.where(is_written, 0.0, -8.0)  # a letter is likelier than all timestamps
        if always is not None or no_speech:
            likely = nothing if always is None else letters.index(always)
            tokens.zero_()[likely] = 5.0
            tokens[-len(TIMES) :] = -1.0
            last.weight.zero_()
            last.bias.fill_(1.0)
    settings = model.generation_config
    settings._from_model_config = False  # or they would be made anew
    settings.suppress_tokens = [i for i in range(no_times + 1) if i not in written]
    if timestamps:
        settings.no_timestamps_token_id = no_times
    if words:
        settings.alignment_heads = [[0, 0]]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def faster_whisper(folder: Path, whisper: Path) -> Path:
    """A Whisper in the layout of faster-whisper."""
    TransformersConverter(str(whisper), copy_files=["tokenizer.json"]).convert(str(folder))
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


def _words_tokenizer() -> PreTrainedTokenizerFast:
    """A short word for a token; the first four are special."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [f"\u2581{first}{second}" for first in "bdgklmnprstv" for second in "aeiou"]
    vocabulary = {token: index for index, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def tiny_moonshine(folder: Path) -> Path:
    """A sequence-to-sequence model without times, which reads samples."""
    torch.manual_seed(0)
    tokenizer = _words_tokenizer()
    sizes = {
        f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("num_attention_heads", "num_hidden_layers")
    }
    ids = {"bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0, "pad_token_id": 1}
    config = MoonshineConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, max_position_embeddings=512, **sizes, **ids
    )
    MoonshineForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return folder


def tiny_speech2text(folder: Path) -> Path:
    """A sequence-to-sequence model without times, which reads a spectrogram."""
    torch.manual_seed(0)
    tokenizer = _words_tokenizer()
    sizes = {f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "conv_channels": 16, "init_std": 0.5}
    config = Speech2TextConfig(vocab_size=len(tokenizer), max_target_positions=256, **sizes)
    Speech2TextForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Speech2TextFeatureExtractor().save_pretrained(folder)
    return folder
