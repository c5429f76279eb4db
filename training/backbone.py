"""Builds the model that a run trains: base Thinker, quantisation, LoRA, head; or goes on from a published bundle."""

import os
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..configuration_omnisent import OmniSentConfig
from ..modeling_omnisent import ADAPTER_DIR, TOWERS, OmniForSentimentRegression, load_thinker
from ..readouts.base import Readout
from ..readouts.discriminative import DiscriminativeReadout
from ..readouts.generative import ExpectedReadout, GreedyReadout, OmniForSentimentGeneration
from .arguments import ModelArguments
from .tiny_backbone import make_tiny_backbone

LORA_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_TARGETS = {
    "paper": list(LORA_NAMES),
    "llm": rf".*language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(LORA_NAMES)})",
}
TINY = "tiny"
TINY_FOLDER = Path("runs/tiny-backbone")


def base_model_path(name: str) -> str:
    """A Hub id or folder as it is; `tiny` becomes the folder of the random backbone, made when missing."""
    return str(make_tiny_backbone(TINY_FOLDER)) if name == TINY else name


def base_of(arguments: ModelArguments) -> tuple[str, str | None]:
    """Base model and revision; those of the bundle that a regression head goes on from, where there is one."""
    if arguments.adapter and arguments.readout == "discriminative":
        config = OmniSentConfig.from_pretrained(arguments.adapter)
        return config.base_model or arguments.adapter, config.base_revision
    return base_model_path(arguments.base_model), arguments.base_revision


def lora_config(arguments: ModelArguments) -> LoraConfig:
    """The adapter to go on from, or a new one: by suffix over the whole Thinker (`paper`), or in the language model (`llm`)."""
    if arguments.adapter:
        return LoraConfig.from_pretrained(arguments.adapter, subfolder=ADAPTER_DIR)
    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=LORA_TARGETS[arguments.lora_preset],
    )


def quantization_config(arguments: ModelArguments) -> BitsAndBytesConfig | None:
    """4-bit NF4 with double quantisation, or none."""
    if arguments.quantization == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, arguments.dtype),
        llm_int8_skip_modules=None if arguments.quantize_towers else ["visual", "audio_tower", "lm_head"],
    )


def build_readout(
    arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase, score_range: tuple[float, float]
) -> Readout:
    """How this run takes a score from the Thinker; `score_range` is in label units."""
    if arguments.readout == "discriminative":
        return DiscriminativeReadout(score_range)
    readout = {"greedy": GreedyReadout, "expected": ExpectedReadout}[arguments.decoding]
    return readout(score_range, tokenizer, arguments.max_new_tokens)


def build_model(
    arguments: ModelArguments,
    *,
    label_mean: float,
    label_std: float,
    score_range: tuple[float, float],
    towers: bool = True,
) -> OmniForSentimentRegression | OmniForSentimentGeneration:
    """The model to train, with its adapter and head trainable and all else frozen.

    Args:
        arguments: base model, readout, quantisation, adapter and head.
        label_mean: of the training labels, label units; used by the head alone.
        label_std: of the training labels, label units; used by the head alone.
        score_range: lowest and highest score, label units; used by the head alone.
        towers: `False` to load neither tower, where their outputs are known.

    Raises:
        ValueError: when `adapter` names a bundle without an adapter.
    """
    options = _loading(arguments) | {"without": () if towers else TOWERS}
    if arguments.readout == "generative":
        model = OmniForSentimentGeneration.from_base(
            base_model_path(arguments.base_model), revision=arguments.base_revision, **options
        )
        if arguments.adapter:
            model.load_trained(arguments.adapter)
    elif arguments.adapter:
        model = OmniForSentimentRegression.from_pretrained(arguments.adapter, **options)
        if not model.has_adapter:
            raise ValueError(f"adapter: {arguments.adapter} is a merged model without an adapter to go on training")
    else:
        model = OmniForSentimentRegression.from_thinker(
            base_model_path(arguments.base_model),
            revision=arguments.base_revision,
            label_mean=label_mean,
            label_std=label_std,
            score_min=score_range[0],
            score_max=score_range[1],
            head=arguments.head,
            head_hidden_size=arguments.head_hidden_size,
            head_dropout=arguments.head_dropout,
            loss=arguments.loss,
            **options,
        )
    if not model.has_adapter:  # a new adapter adds exactly nothing until it is trained
        model.add_lora(lora_config(arguments))
    model.freeze_all_but_trained()
    return model


def load_towers(arguments: ModelArguments) -> PreTrainedModel:
    """The Thinker without its language model: what computes tower outputs, loaded as `build_model` would load it."""
    base, revision = base_of(arguments)
    return load_thinker(base, revision=revision, without=("language_model",), **_loading(arguments)).eval()


def _loading(arguments: ModelArguments) -> dict[str, Any]:
    options = {"dtype": getattr(torch, arguments.dtype), "quantization_config": quantization_config(arguments)}
    if arguments.attn_implementation:
        options["attn_implementation"] = arguments.attn_implementation
    if torch.cuda.is_available():
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    return options
