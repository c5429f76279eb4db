"""Estimates what a run needs, before any download: parameters, bytes of weights and peak memory, on the meta device.

    omnisent plan configs/mosi.yaml --json

Parameter counts are exact. Bytes of weights follow the storage formats. The peak is an estimate: of twelve measured on a CPU,
420 MB to 1.6 GB, text alone, it was 1 to 8 % too low, and of two of about 200 MB 6 and 16 % (`benchmarks/step_memory.py`). Steps
with video, and on a GPU, were not measured.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ..adapter_omnisent import inject_lora
from ..data.catalog import dataset_facts
from ..families_omnisent import family_of
from ..family_omnisent import LANGUAGE_MODEL, TOWERS, ThinkerConfig, ThinkerWithLMHead
from ..heads_omnisent import RegressionHead
from ..readouts.catalog import READOUTS
from ..thinker_inputs_omnisent import MEL_FRAMES_PER_SECOND
from ..thinker_omnisent import published_config, thinker_config
from .arguments import DataArguments, ModelArguments, OmniSentTrainingArguments
from .backbone import base_model_path, lora_config

NF4_BLOCK, NF4_SECOND_BLOCK = 64, 256
AUDIO_SECONDS, PROMPT_TOKENS = 10, 120
# Operations a second that training reaches, as a fraction of what a device can do in bfloat16: measured once on a GPU, an H200 with
# one to four clips a step (docs/PERFORMANCE.md). A CPU core does about 50 billion in float32.
REACHED = 0.026
DEVICES = {"H100": 989e12, "RTX 5090": 209e12, "RTX 4090": 165e12}
CPU_CORE = 50e9


@dataclass(frozen=True)
class Plan:
    """Counts are parameters, sizes are bytes; `trainable_percent` is in percent, over Thinker with lm_head plus LoRA.

    `kept_bytes` are kept by a step for its backward pass; as they go, the gradients come, so `activation_bytes` are the larger of
    both, and what comes and goes within a layer.

    `expected_hours` of a training with its evaluations, by device, are rough; `None` if the number of clips is not known.
    """

    base_model: str
    lora_preset: str
    quantization: str
    thinker_parameters: int
    lm_head_parameters: int
    lora_parameters: int
    lora_layers: int
    head_parameters: int
    trainable_percent: float
    weight_bytes: int
    optimizer_bytes: int
    kept_bytes: int
    activation_bytes: int
    expected_peak_bytes: int
    tokens_per_clip: int
    expected_hours: dict[str, float] | None

    def to_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)


def plan(model: ModelArguments, data: DataArguments, training: OmniSentTrainingArguments) -> Plan:
    """The parameters and memory of training with these arguments.

    Raises:
        ValueError: when an adapter name matches no layer.
    """
    config = read_thinker_config(model)
    thinker, lora, layers = _build_on_meta(config, model)
    total = sum(p.numel() for p in thinker.parameters())
    lm_head = thinker.lm_head.weight.numel()
    with torch.device("meta"):
        text = config.text_config
        sizes = (text.hidden_size, text.num_hidden_layers)
        module = RegressionHead.from_settings(model, *sizes, targets=len(data.targets))
    head = sum(p.numel() for p in module.parameters())
    weights = _weight_bytes(thinker.model, model, towers=data.feature_cache is None)
    if READOUTS[model.readout].uses_lm_head:  # which is not quantised; there is no head
        weights += lm_head * torch.empty((), dtype=getattr(torch, model.dtype)).element_size()
        head = 0
    optimizer = (lora + head) * (
        4 + 4 + (2 if "8bit" in training.optim else 8)
    )  # float32 weights, gradients, two moments
    names = [name for name, _ in thinker.named_parameters() if "lora_" in name]
    kept, transient, tokens = _activation_bytes(
        *(config, model, data, training),
        with_vision=any(f".{TOWERS[1]}." in name for name in names),
        with_experts=any(".experts." in name for name in names),
    )
    activations = max(kept, 4 * (lora + head)) + transient
    return Plan(
        base_model=model.base_model,
        lora_preset=model.lora_preset,
        quantization=model.quantization,
        thinker_parameters=total - lora,
        lm_head_parameters=lm_head,
        lora_parameters=lora,
        lora_layers=layers,
        head_parameters=head,
        trainable_percent=100 * lora / total,
        weight_bytes=weights,
        optimizer_bytes=optimizer,
        kept_bytes=kept,
        activation_bytes=activations,
        expected_peak_bytes=weights + optimizer + activations - 4 * (lora + head),
        tokens_per_clip=tokens,
        expected_hours=_expected_hours(config, data, training, tokens),
    )


def _expected_hours(
    config: ThinkerConfig, data: DataArguments, training: OmniSentTrainingArguments, tokens: int
) -> dict[str, float] | None:
    """Hours of training by device: a step costs three forward passes, one of them for what checkpointing computes again."""
    facts = dataset_facts(data.dataset)
    if facts.split_counts is None:
        return None
    train, valid, test = facts.split_counts
    steps, batch = training.max_steps, training.per_device_train_batch_size * training.gradient_accumulation_steps
    trained = steps * batch if steps > 0 else training.num_train_epochs * train
    scored = (trained / train) * valid + valid + test
    text, vision = config.text_config, config.vision_config
    heads = _head_dim(text) * text.num_attention_heads
    layer = 2 * text.hidden_size * heads * (1 + text.num_key_value_heads / text.num_attention_heads)
    of_text = text.num_hidden_layers * (layer + 3 * text.hidden_size * family_of(config).mlp_width(text))
    of_vision = vision.depth * (4 * vision.hidden_size**2 + 3 * vision.hidden_size * vision.intermediate_size)
    layout = family_of(config).layout_class()
    patches = layout.most_video_tokens(data.max_frames, data.max_pixels) * layout.merge_size**2
    forward = 2 * (of_text * tokens + (of_vision * patches if "video" in data.modalities else 0))
    operations = forward * (3 * trained + scored)
    rates = {name: REACHED * rate for name, rate in DEVICES.items()}
    rates[f"CPU, {os.cpu_count()} cores"] = CPU_CORE * (os.cpu_count() or 1)
    return {name: operations / rate / 3600 for name, rate in rates.items()}


def read_thinker_config(model: ModelArguments) -> ThinkerConfig:
    """The Thinker's configuration: built in for the published sizes, else read from config.json in the folder or on the Hub."""
    published = None if os.path.isdir(model.base_model) else published_config(model.base_model)
    return published or thinker_config(base_model_path(model.base_model), revision=model.base_revision)


def adapter_parameters(config: ThinkerConfig, model: ModelArguments) -> tuple[int, float]:
    """Number of LoRA parameters, and their percentage of the Thinker with lm_head plus LoRA."""
    thinker, lora, _ = _build_on_meta(config, model)
    return lora, 100 * lora / sum(p.numel() for p in thinker.parameters())


def _build_on_meta(config: ThinkerConfig, model: ModelArguments) -> tuple[ThinkerWithLMHead, int, int]:
    with torch.device("meta"):
        thinker = family_of(config).with_lm_head_class(config)
        inject_lora(thinker, lora_config(model, family_of(config)), low_cpu_mem_usage=True)
    adapters = [(name, p) for name, p in thinker.named_parameters() if "lora_" in name]
    return thinker, sum(p.numel() for _, p in adapters), sum("lora_A" in name for name, _ in adapters)


def _weight_bytes(thinker: nn.Module, model: ModelArguments, *, towers: bool) -> int:
    width = torch.empty((), dtype=getattr(torch, model.dtype)).element_size()
    per_nf4 = 0.5 + 1 / NF4_BLOCK + 4 / (NF4_BLOCK * NF4_SECOND_BLOCK)
    linears = {
        id(module.weight)
        for name, module in thinker.named_modules()
        if isinstance(module, nn.Linear) and (model.quantize_towers or name.startswith(f"{LANGUAGE_MODEL}."))
    }
    total = 0.0
    for name, parameter in thinker.named_parameters():
        if "lora_" not in name and (towers or not name.startswith(TOWERS)):
            nf4 = model.quantization == "nf4" and id(parameter) in linears
            total += parameter.numel() * (per_nf4 if nf4 else width)
    return round(total)


def _head_dim(text: Any) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _activation_bytes(
    config: ThinkerConfig,
    model: ModelArguments,
    data: DataArguments,
    training: OmniSentTrainingArguments,
    *,
    with_vision: bool,
    with_experts: bool,
) -> tuple[int, int, int]:
    """Bytes that a step keeps for its backward pass, bytes of what comes and goes in it, and the tokens of a clip at the frame and
    pixel caps with ten seconds of audio.

    Of a layer of the language model, by token: inputs of two norms, inputs of the projections, queries, keys, values and output of
    attention with its mask, outputs of LoRA's A in float32, gate and up. A block of the vision tower, if it is adapted, keeps the
    same but for the inputs of its attention. With activation checkpointing only the input of every layer, and the rest of one layer
    for as long as it lasts. Float copies of an MLP's product come and go. Of fused experts, PEFT computes the
    adapted weights of all in a layer, which are kept, and their gradients.
    """
    width = torch.empty((), dtype=getattr(torch, model.dtype)).element_size()
    text, vision = config.text_config, config.vision_config
    family = family_of(config)
    layout, mlp_width = family.layout_class(), family.mlp_width(text)
    of_video = layout.most_video_tokens(data.max_frames, data.max_pixels) if "video" in data.modalities else 0
    of_audio = layout.audio_tokens(AUDIO_SECONDS * MEL_FRAMES_PER_SECOND) if "audio" in data.modalities else 0
    tokens = PROMPT_TOKENS + of_video + of_audio
    batch = training.per_device_train_batch_size
    norms = inputs = 2 * text.hidden_size
    attention = 4 * text.num_attention_heads * _head_dim(text)
    of_layer = (norms + inputs + attention + tokens + 2 * mlp_width) * width + 7 * 4 * model.lora_r
    stacks = [(batch * tokens, text.num_hidden_layers, text.hidden_size, mlp_width, of_layer)]
    if with_vision and of_video:
        of_block = (7 * vision.hidden_size + 2 * vision.intermediate_size) * width + 3 * 4 * model.lora_r
        rows = batch * of_video * layout.merge_size**2
        stacks.append((rows, vision.depth, vision.hidden_size, vision.intermediate_size, of_block))
    of_experts = family.expert_weights(text) * width if with_experts else 0
    kept = 0 if training.activation_checkpointing else text.num_hidden_layers * of_experts
    transient = 0
    for rows, layers, hidden, intermediate, within in stacks:
        passing = rows * intermediate * 4 * 4
        if training.activation_checkpointing:
            kept += layers * rows * hidden * width
            passing += rows * within
        else:
            kept += layers * rows * within
        transient = max(transient, passing)
    transient += (2 if training.activation_checkpointing else 1) * of_experts
    if model.layers != "last":
        kept += 2 * 4 * batch * tokens * text.hidden_size
    if model.quantization == "nf4":  # the largest weight, dequantised
        transient += text.hidden_size * mlp_width * width
    return kept, transient, tokens
