"""Layers, poolings and heads by their values, and that a table is all there is to touch to add one."""

import pytest
import torch
from torch import nn

from omnisent.configuration_omnisent import OmniSentConfig
from omnisent.heads_omnisent import (
    HEADS,
    POOLINGS,
    LayerReader,
    RegressionHead,
    last_token_index,
    pool_last_token,
    unit_size,
)
from omnisent.losses_omnisent import LOSSES, PointLoss
from omnisent.training.arguments import parse_arguments


@pytest.mark.parametrize("mask", [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
def test_pooling_takes_the_last_token_that_is_not_padding(mask):
    last = max(index for index, value in enumerate(mask) if value)
    assert last_token_index(torch.tensor([mask])).tolist() == [last]
    hidden = torch.arange(5.0)[None, :, None].expand(1, 5, 3)
    assert pool_last_token(hidden, torch.tensor([mask])).tolist() == [[last] * 3]


MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]])


@pytest.mark.parametrize("name", POOLINGS)
def test_no_pooling_reads_a_token_that_the_mask_leaves_out(name):
    pool = POOLINGS[name](6)
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.normal_()
    hidden = torch.randn(2, 4, 6)
    changed = hidden.masked_fill(MASK[..., None] == 0, 1e4)
    assert torch.equal(pool(hidden, MASK), pool(changed, MASK))
    assert not torch.equal(pool(hidden, MASK), pool(hidden, torch.ones(2, 4)))


def test_the_mean_is_over_the_tokens_and_attention_starts_as_the_mean():
    hidden = torch.randn(2, 4, 6)
    mean = torch.stack([hidden[0, 1:].mean(0), hidden[1, :2].mean(0)])
    assert torch.allclose(POOLINGS["mean"](6)(hidden, MASK), mean, atol=1e-6)
    attention = POOLINGS["attention"](6)
    assert torch.allclose(attention(hidden, MASK), mean, atol=1e-6)
    with torch.no_grad():
        attention.query.copy_(torch.eye(6)[2] * 100)
    largest = hidden[..., 2].masked_fill(MASK == 0, -torch.inf).argmax(1)
    assert torch.allclose(attention.weights(hidden, MASK).argmax(1), largest)
    assert torch.allclose(attention.weights(hidden, MASK).sum(1), torch.ones(2))


def test_layers_are_read_one_by_one():
    states = [torch.randn(2, 4, 6) * 10**layer for layer in range(4)]

    def read(reader):
        found = None
        for layer, one in enumerate(states):
            found = reader(found, layer, one)
        return found

    assert torch.equal(read(LayerReader("last", 3)), states[3])
    assert torch.equal(read(LayerReader("3", 3)), states[3])
    assert torch.equal(read(LayerReader(1, 3)), unit_size(states[1]))
    assert unit_size(states[1]).square().mean(-1).sub(1).abs().max() < 1e-4
    mix = LayerReader("mix", 3)
    assert torch.allclose(read(mix), torch.stack([unit_size(one) for one in states]).mean(0))
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([0.0, 50.0, 0.0, 0.0]))
        mix.scale.fill_(2.0)
    assert torch.allclose(read(mix), 2 * unit_size(states[1]), atol=1e-5)
    assert mix.shares().tolist() == pytest.approx([0, 1, 0, 0])
    assert [LayerReader(layers, 3).reads_last_alone for layers in ("last", "3", "0", "mix")] == [
        True,
        True,
        False,
        False,
    ]


def test_autograd_keeps_no_copy_of_the_layers_that_are_mixed():
    states = [torch.randn(2, 40, 64, requires_grad=True) for _ in range(12)]
    places = {one.data_ptr() for one in states}
    reader, found, copies = LayerReader("mix", 11), None, []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        copies.append(tensor.numel() * (tensor.data_ptr() not in places))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for layer, one in enumerate(states):
            found = reader(found, layer, one)
    assert sum(copies) < states[0].numel()
    found.sum().backward()
    assert reader.weights.grad.abs().min() > 0
    assert all(one.grad.abs().max() > 0 for one in states)


@pytest.mark.parametrize(
    ("head", "kinds"), [("mlp", "Linear LayerNorm ReLU Dropout Linear"), ("linear", "Dropout Linear")]
)
def test_a_heads_weights_keep_the_names_that_bundles_have(head, kinds):
    module = RegressionHead(6, head=head, hidden_size=4, dropout=0.1)
    _, outputs = module(torch.zeros(3, 2, 6, dtype=torch.bfloat16), torch.ones(3, 2))
    assert [type(layer).__name__ for layer in module.layers] == kinds.split()
    assert all(name.startswith("layers.") for name in module.state_dict())
    assert (outputs.shape, outputs.dtype) == ((3, 1), torch.float32)


def test_an_entry_in_the_table_is_enough_for_a_new_head_and_a_new_loss(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="loss must be one of l1, mse, huber, hl_gauss, ordinal, not 'cubic'"):
        OmniSentConfig(loss="cubic")
    monkeypatch.setitem(LOSSES, "cubic", PointLoss(lambda logits, targets: (logits - targets).abs().pow(3).mean()))
    monkeypatch.setitem(
        HEADS, "sum", lambda width, hidden_size, dropout, outputs: nn.Linear(width, outputs, bias=False)
    )
    assert OmniSentConfig(loss="cubic", head="sum").loss == "cubic"
    config = tmp_path / "run.yaml"
    config.write_text("loss: cubic\nuse_cpu: true\n")
    model, _, _ = parse_arguments([str(config), "--head", "sum"])
    assert (model.loss, model.head) == ("cubic", "sum")
