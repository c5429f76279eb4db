"""LoRA layers and gated MLPs that keep less: losses and gradients are PEFT's, with the same dropout masks."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import BitsAndBytesConfig

from kept_memory import kept_bytes
from omnisent.families_omnisent import DEFAULT_FAMILY
from omnisent.family_omnisent import LORA_PRESETS
from omnisent.lora_omnisent import dropped, keep_less, kept_mask, new_seed
from omnisent.modeling_omnisent import OmniForSentimentRegression


class SeededDropout(nn.Module):
    """Dropout for PEFT's own layers, whose masks follow from seeds drawn in the same order."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return dropped(x, self.probability, kept_mask(x, self.probability, new_seed()))


def _with_pefts_layers(base, *, dropout=0.0, nf4=False, dtype=torch.float32) -> OmniForSentimentRegression:
    """A training model with PEFT's layers and transformers' MLPs, whose B matrices are not zero, so that all gradients count."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
    )
    torch.manual_seed(0)
    model = OmniForSentimentRegression.from_thinker(
        base, dtype=dtype, **({"quantization_config": quantization} if nf4 else {})
    )
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=LORA_PRESETS["paper"]), model)
    model._hf_peft_config_loaded = True
    model.freeze_all_but_trained()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1)
    _set_dropout(model, SeededDropout(dropout) if dropout else nn.Identity())
    return model.train()


def _set_dropout(model: nn.Module, dropout: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout["default"] = dropout


def _keeping_less(model: OmniForSentimentRegression, dropout: float = 0.0) -> OmniForSentimentRegression:
    """A copy with the same weights."""
    other = copy.deepcopy(model)
    keep_less(other, DEFAULT_FAMILY)
    other.set_lora_dropout(dropout)
    return other


def _step(model, batch, autocast: torch.dtype | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients by parameter."""
    model.zero_grad()
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def batch(processor, whole_clips):
    inputs = processor([clip.to_dict() for clip in whole_clips[:2]], return_tensors="pt")
    return {**inputs, "labels": torch.tensor([2.0, 3.0])}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    ("options", "autocast", "tolerance"),
    [
        ({}, None, 1e-5),
        ({"nf4": True}, None, 1e-5),
        ({"dtype": torch.bfloat16}, None, 0.02),
        ({"nf4": True, "dtype": torch.bfloat16}, None, 0.02),
        ({}, torch.bfloat16, 0.02),
        ({"nf4": True}, torch.bfloat16, 0.02),
    ],
    ids=["float32", "nf4", "bfloat16", "nf4 in bfloat16", "autocast", "nf4 with autocast"],
)
def test_losses_are_bit_equal_and_gradients_equal(tiny_backbone, batch, dropout, options, autocast, tolerance):
    plain = _with_pefts_layers(tiny_backbone, dropout=dropout, **options)
    expected, gradients = _step(plain, batch, autocast)
    loss, found = _step(_keeping_less(plain, dropout), batch, autocast)
    assert loss == expected
    assert found.keys() == gradients.keys()
    assert len(found) > 50
    for name, gradient in found.items():
        assert gradient.norm() > 0, name
        assert (gradient - gradients[name]).norm() <= tolerance * gradients[name].norm(), name


def test_a_step_keeps_less_than_half_of_what_pefts_layers_keep(tiny_backbone, batch):
    plain = _with_pefts_layers(tiny_backbone)
    less = _keeping_less(plain, 0.1)
    _set_dropout(plain, nn.Dropout(0.1))
    text = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids", "labels")}
    text["input_ids"] = text["input_ids"].clamp(max=1000)  # no placeholders
    assert kept_bytes(less, text) < 0.5 * kept_bytes(plain, text)


def test_checkpointing_draws_the_same_masks_again(tiny_backbone, batch):
    model = _keeping_less(_with_pefts_layers(tiny_backbone), 0.5)
    loss, gradients = _step(model, batch)
    model.activation_checkpointing_enable({"use_reentrant": False})
    again, recomputed = _step(model, batch)
    assert loss == again
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, recomputed[name], rtol=1e-4, atol=1e-6), name


def test_masks_drop_the_given_fraction_and_differ_between_modules_and_steps():
    torch.manual_seed(0)
    ones = torch.ones(400, 100)
    one, other = (dropped(ones, 0.25, kept_mask(ones, 0.25, new_seed())) for _ in range(2))
    assert one.unique().tolist() == pytest.approx([0, 4 / 3])
    for mask in (one, other):
        assert float((mask == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(((one == 0) & (other == 0)).float().mean()) == pytest.approx(0.25**2, abs=0.01)


def test_without_training_nothing_is_dropped(tiny_backbone, batch):
    plain = _with_pefts_layers(tiny_backbone).eval()
    less = _keeping_less(plain, 0.5).eval()
    scores = less(**batch).scores
    with torch.no_grad():
        assert torch.equal(scores, less(**batch).scores)
        assert torch.equal(scores, plain(**batch).scores)
