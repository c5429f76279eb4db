"""Poolings, heads and losses by their values, and that a table is all there is to touch to add one."""

import pytest
import torch
from torch import nn

from omnisent.configuration_omnisent import OmniSentConfig
from omnisent.heads_omnisent import (
    HEADS,
    LOSSES,
    LabelScale,
    RegressionHead,
    last_token_index,
    pool_last_token,
)
from omnisent.training.arguments import parse_arguments


@pytest.mark.parametrize("mask", [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
def test_pooling_takes_the_last_token_that_is_not_padding(mask):
    last = max(index for index, value in enumerate(mask) if value)
    assert last_token_index(torch.tensor([mask])).tolist() == [last]
    hidden = torch.arange(5.0)[None, :, None].expand(1, 5, 3)
    assert pool_last_token(hidden, torch.tensor([mask])).tolist() == [[last] * 3]


@pytest.mark.parametrize(
    ("name", "expected"), [("l1", (0.5 + 3.0) / 2), ("mse", (0.25 + 9.0) / 2), ("huber", (0.125 + 2.5) / 2)]
)
def test_losses_have_the_values_of_their_formulas(name, expected):
    assert LOSSES[name](torch.tensor([0.5, -3.0]), torch.zeros(2)).item() == pytest.approx(expected)


def test_label_units_and_logits_are_inverse_and_clipping_turns_non_finite_scores_into_nan():
    scale = LabelScale(mean=0.5, std=2.0, low=-3.0, high=3.0)
    labels = torch.tensor([-3.0, 0.5, 2.5])
    assert scale.to_logits(labels).tolist() == [-1.75, 0.0, 1.0]
    assert scale.to_label_units(scale.to_logits(labels)).tolist() == labels.tolist()
    clipped = scale.clip(torch.tensor([-9.0, 1.0, 9.0, torch.inf, torch.nan]))
    assert clipped[:3].tolist() == [-3.0, 1.0, 3.0]
    assert clipped[3:].isnan().all()


@pytest.mark.parametrize(
    ("head", "kinds"), [("mlp", "Linear LayerNorm ReLU Dropout Linear"), ("linear", "Dropout Linear")]
)
def test_a_heads_weights_keep_the_names_that_bundles_have(head, kinds):
    module = RegressionHead(6, head=head, hidden_size=4, dropout=0.1)
    assert [type(layer).__name__ for layer in module.layers] == kinds.split()
    assert all(name.startswith("layers.") for name in module.state_dict())
    assert module(torch.zeros(3, 6, dtype=torch.bfloat16)).dtype == torch.float32


def test_an_entry_in_the_table_is_enough_for_a_new_head_and_a_new_loss(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="loss must be one of l1, mse, huber, not 'cubic'"):
        OmniSentConfig(loss="cubic")
    monkeypatch.setitem(LOSSES, "cubic", lambda logits, targets: (logits - targets).abs().pow(3).mean())
    monkeypatch.setitem(HEADS, "sum", lambda width, hidden_size, dropout: nn.Linear(width, 1, bias=False))
    assert OmniSentConfig(loss="cubic", head="sum").loss == "cubic"
    config = tmp_path / "run.yaml"
    config.write_text("loss: cubic\nuse_cpu: true\n")
    model, _, _ = parse_arguments([str(config), "--head", "sum"])
    assert (model.loss, model.head) == ("cubic", "sum")
