"""The plan's arithmetic, on the true 7B and 3B dimensions, without any weight."""

import json
import sys

import pytest
import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from kept_memory import kept_bytes
from omnisent.cli import main
from omnisent.configuration_omnisent import OmniSentConfig
from omnisent.family_omnisent import LORA_NAMES
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.thinker_omnisent import published_config
from omnisent.training.arguments import DataArguments, ModelArguments, OmniSentTrainingArguments
from omnisent.training.backbone import lora_config
from omnisent.training.plan import plan


def _plan(**fields):
    return plan(ModelArguments(**fields), DataArguments(), OmniSentTrainingArguments(use_cpu=True))


@pytest.mark.parametrize(
    ("preset", "trainable", "percent"), [("paper", 103_043_072, 1.1405), ("llm", 80_740_352, 0.896)]
)
def test_trainable_parameters_of_the_7b_are_the_papers(preset, trainable, percent):
    found = _plan(lora_preset=preset)
    assert found.lora_parameters == trainable
    assert found.trainable_percent == pytest.approx(percent, abs=0.0005 if preset == "llm" else 0.00005)
    assert found.thinker_parameters == 8_931_813_888
    assert found.lm_head_parameters == 544_997_376
    assert found.head_parameters == 3584 * 256 + 256 + 2 * 256 + 256 + 1


def test_every_lora_name_matches_layers_of_the_full_size_model():
    config = published_config("Qwen/Qwen2.5-Omni-7B")
    with torch.device("meta"):
        model = OmniForSentimentRegression(OmniSentConfig(thinker_config=config))
        model.add_lora(lora_config(ModelArguments(lora_preset="paper")))
    adapted = [name for name, _ in model.named_parameters() if "lora_A" in name]
    for name in LORA_NAMES:
        in_language_model = [a for a in adapted if f".{name}." in a and "language_model" in a]
        assert len(in_language_model) == 28, name
    assert sum("audio_tower" in a for a in adapted) == 32 * 3
    assert sum("visual" in a for a in adapted) == 32 * 3
    assert not any("score" in a for a in adapted)


def test_quantised_weights_take_half_a_byte_and_their_scales():
    nf4, bf16 = _plan(quantization="nf4"), _plan(quantization="none")
    headless = nf4.thinker_parameters - nf4.lm_head_parameters
    assert bf16.weight_bytes == 2 * headless
    assert 0.51 * headless < nf4.weight_bytes < 0.75 * headless  # the token embedding stays in bfloat16
    assert _plan(quantization="nf4", quantize_towers=False).weight_bytes > nf4.weight_bytes + 1e9
    gradients = 4 * (nf4.lora_parameters + nf4.head_parameters)  # which come while what was kept goes
    assert nf4.expected_peak_bytes == nf4.weight_bytes + nf4.optimizer_bytes - gradients + nf4.activation_bytes


def test_an_8_bit_optimizer_keeps_its_two_moments_in_a_byte_each():
    plans = [
        plan(ModelArguments(), DataArguments(), OmniSentTrainingArguments(use_cpu=True, optim=optim))
        for optim in ("adamw_torch_fused", "paged_adamw_8bit")
    ]
    assert plans[0].optimizer_bytes - plans[1].optimizer_bytes == 6 * (
        plans[0].lora_parameters + plans[0].head_parameters
    )


def test_with_cached_features_the_towers_take_no_memory():
    model, training = ModelArguments(lora_preset="llm"), OmniSentTrainingArguments(use_cpu=True)
    whole, cached = (plan(model, DataArguments(feature_cache=folder), training) for folder in (None, "cache"))
    assert 0.6e9 < whole.weight_bytes - cached.weight_bytes < 0.8e9  # 1.3 billion parameters in NF4 and their scales
    assert cached.thinker_parameters == whole.thinker_parameters


def test_the_3b_is_planned_without_a_download():
    found = _plan(base_model="Qwen/Qwen2.5-Omni-3B", lora_preset="llm")
    per_layer = 32 * (2 * 4 * 2048 + 2 * (256 - 2048) + 3 * (2048 + 11008))
    assert found.lora_parameters == 36 * per_layer
    assert found.lm_head_parameters == 151_936 * 2048


def test_the_plan_counts_the_parameters_that_training_trains(tiny_backbone):
    arguments = ModelArguments(base_model=str(tiny_backbone), lora_preset="paper")
    model = OmniForSentimentRegression.from_thinker(tiny_backbone)
    model.add_lora(lora_config(arguments))
    found = plan(arguments, DataArguments(), OmniSentTrainingArguments(use_cpu=True))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == found.lora_parameters + found.head_parameters
    generative = Qwen2_5OmniThinkerForConditionalGeneration(model.config.thinker_config)
    assert found.thinker_parameters == sum(p.numel() for p in generative.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_keeps_what_the_plan_says(tiny_backbone, checkpointing, dtype):
    arguments = ModelArguments(base_model=str(tiny_backbone), lora_preset="llm", quantization="none", dtype=dtype)
    training = OmniSentTrainingArguments(
        use_cpu=True, per_device_train_batch_size=8, activation_checkpointing=checkpointing
    )
    found = plan(arguments, DataArguments(modalities=["text"]), training)
    model = OmniForSentimentRegression.from_thinker(tiny_backbone, dtype=getattr(torch, dtype)).train()
    model.add_lora(lora_config(arguments))
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    tokens = found.tokens_per_clip
    mask = torch.ones(8, tokens, dtype=torch.long)
    mask[0, :4] = 0
    inputs = {"input_ids": torch.full((8, tokens), 7), "position_ids": torch.arange(tokens).expand(3, 8, tokens)}
    kept = kept_bytes(model, {**inputs, "attention_mask": mask, "labels": torch.zeros(8)})
    of_the_rest = 8 * tokens * (3 * 4 * 128)  # the final norm, and rotary positions of all layers
    assert found.kept_bytes < kept + 0.1 * kept
    assert kept < 1.1 * found.kept_bytes + of_the_rest


def test_the_generative_readout_keeps_the_lm_head_and_has_no_other():
    sizes = {}
    for readout in ("discriminative", "generative"):
        arguments = ModelArguments(base_model="Qwen/Qwen2.5-Omni-7B", readout=readout)
        sizes[readout] = plan(arguments, DataArguments(), OmniSentTrainingArguments(use_cpu=True))
    assert sizes["generative"].head_parameters == 0
    assert sizes["generative"].lora_parameters == sizes["discriminative"].lora_parameters
    more = sizes["generative"].weight_bytes - sizes["discriminative"].weight_bytes
    assert more == 2 * 544_997_376


def test_the_command_plans_the_shipped_config_on_any_machine(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["omnisent", "plan", "mosi", "--json", "--lora_preset", "llm"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["lora_parameters"] == 80_740_352


def test_a_wrong_field_in_the_file_is_one_clear_line(tmp_path, monkeypatch):
    config = tmp_path / "wrong.yaml"
    config.write_text("lora_rank: 8\n")
    monkeypatch.setattr(sys, "argv", ["omnisent", "plan", str(config)])
    with pytest.raises(SystemExit, match=r"^omnisent: .*wrong\.yaml: there is no field 'lora_rank'"):
        main()
