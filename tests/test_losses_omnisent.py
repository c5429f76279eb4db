"""Losses by their formulas, the bins of those that have them, and the scale of the labels."""

import numpy as np
import pytest
import torch
from torch import nn

from omnisent.losses_omnisent import LOSSES, LabelScale, Objective, quantiles


@pytest.mark.parametrize(
    ("name", "expected"), [("l1", (0.5 + 3.0) / 2), ("mse", (0.25 + 9.0) / 2), ("huber", (0.125 + 2.5) / 2)]
)
def test_losses_have_the_values_of_their_formulas(name, expected):
    scale = LabelScale(1.0, 2.0, -3.0, 3.0)
    loss = LOSSES[name].losses(torch.tensor([[0.5], [-3.0]]), torch.ones(2), scale, 31).mean()
    assert loss.item() == pytest.approx(expected)  # labels of 1 are z-scores of 0


SCALE = LabelScale(0.2, 1.5, -3.0, 3.0)
BINNED = [(name, bins) for name in ("hl_gauss", "ordinal") for bins in (8, 31, 61)]


@pytest.mark.parametrize(("name", "bins"), BINNED)
def test_a_head_with_the_least_loss_gives_each_label_back_also_at_the_ends_of_the_range(name, bins):
    loss, labels = LOSSES[name], torch.tensor([-3.0, 3.0, 0.0, 0.13, 2.9])
    outputs = torch.zeros(len(labels), loss.outputs(bins), requires_grad=True)
    optimizer = torch.optim.LBFGS([outputs], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss.losses(outputs, labels, SCALE, bins).mean()
        value.backward()
        return value

    optimizer.step(closure)
    centres = loss.centres(SCALE, bins)
    assert torch.allclose(loss.scores(outputs, SCALE, bins), labels, atol=2e-3 * float(centres[1] - centres[0]))


@pytest.mark.parametrize(("name", "bins"), BINNED)
def test_probabilities_of_bins_are_not_negative_their_sum_is_one_and_the_score_is_their_mean(name, bins):
    loss = LOSSES[name]
    outputs = torch.randn(64, loss.outputs(bins), generator=torch.Generator().manual_seed(0)) * 30
    distribution, centres = loss.distribution(outputs), loss.centres(SCALE, bins)
    assert distribution.shape == (64, bins)
    assert (distribution >= 0).all()
    assert (distribution.sum(1) - 1).abs().max() < 1e-5
    assert torch.allclose(centres.diff(), centres.diff()[0].expand(bins - 1), atol=1e-5)
    assert torch.allclose(loss.scores(outputs, SCALE, bins), distribution @ centres)
    # All outputs at 0 say nothing: the middle of the range.
    assert loss.scores(torch.zeros(1, loss.outputs(bins)), SCALE, bins).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", ["hl_gauss", "ordinal"])
def test_the_spread_is_the_standard_deviation_of_the_distribution(name):
    loss = LOSSES[name]
    outputs = torch.randn(5, loss.outputs(31), generator=torch.Generator().manual_seed(1))
    distribution, centres = loss.distribution(outputs).double(), loss.centres(SCALE, 31).double()
    expected = [np.sqrt(np.cov(centres, aweights=row, bias=True)) for row in distribution.numpy()]
    assert loss.spread(outputs, SCALE, 31).tolist() == pytest.approx(expected, rel=1e-4)
    assert LOSSES["l1"].spread(outputs[:, :1], SCALE, 31) is None


def test_the_targets_of_hl_gauss_are_a_gaussian_of_three_quarters_of_a_bin():
    loss, bins = LOSSES["hl_gauss"], 67
    centres = loss.centres(SCALE, bins)
    assert (centres[1] - centres[0]).item() == pytest.approx(0.1)
    assert (centres[3].item(), centres[-4].item()) == pytest.approx((-3.0, 3.0))
    for label in (-3.0, 0.02, 3.0):
        target = loss.targets(torch.tensor([label]), SCALE, bins)[0]
        assert (target @ centres).item() == pytest.approx(label, abs=1e-4)
        # The variance of a Gaussian in bins is larger by that of a bin.
        assert (target @ (centres - label) ** 2).sqrt().item() == pytest.approx(
            0.1 * (0.75**2 + 1 / 12) ** 0.5, rel=1e-3
        )


def test_the_loss_of_ordinal_is_the_mean_cross_entropy_over_its_thresholds():
    loss = LOSSES["ordinal"]
    outputs = torch.tensor([[0.4, 0.0, 1.0, -2.0]])
    steps = nn.functional.softplus(outputs[0, 1:]) * 10 / (3 * torch.tensor(2.0).log())
    falling = torch.tensor([0.0, -steps[0], -steps[:2].sum(), -steps.sum()])
    above = (0.4 + falling - falling.mean()).sigmoid()  # of the thresholds -2.25, -0.75, 0.75, 2.25
    expected = -(above[:2].log().sum() + (1 - above[2:]).log().sum()) / 4
    assert loss.losses(outputs, torch.tensor([0.0]), SCALE, 5).mean().item() == pytest.approx(expected.item())
    assert loss.distribution(outputs)[0].tolist() == pytest.approx(
        [(1 - above[0]).item(), *(-above.diff()).tolist(), above[3].item()], abs=1e-6
    )


def test_label_units_and_logits_are_inverse_and_clipping_turns_non_finite_scores_into_nan():
    scale = LabelScale(mean=0.5, std=2.0, low=-3.0, high=3.0)
    labels = torch.tensor([-3.0, 0.5, 2.5])
    assert scale.to_logits(labels).tolist() == [-1.75, 0.0, 1.0]
    assert scale.to_label_units(scale.to_logits(labels)).tolist() == labels.tolist()
    clipped = scale.clip(torch.tensor([-9.0, 1.0, 9.0, torch.inf, torch.nan]))
    assert clipped[:3].tolist() == [-3.0, 1.0, 3.0]
    assert clipped[3:].isnan().all()


def test_quantiles_of_bins_that_are_each_spread_evenly():
    """Bins centred on 0, 1, 2 and 3, from -0.5 to 3.5."""
    rows = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.5]])
    found = quantiles(rows, torch.arange(4.0), torch.tensor([0.125, 0.5, 0.75, 0.9]))
    assert found[0].tolist() == pytest.approx([0.0, 1.5, 2.5, 3.1])
    assert found[1].tolist() == pytest.approx([0.625, 1.0, 1.25, 1.4])
    assert found[2].tolist() == pytest.approx([-0.25, 0.5, 3.0, 3.3], abs=1e-6)
    for one, row in zip(found, rows, strict=True):
        edges, below = np.arange(5) - 0.5, np.concatenate([[0], np.cumsum(row)])
        assert np.interp(one.numpy(), edges, below) == pytest.approx([0.125, 0.5, 0.75, 0.9], abs=1e-6)


TWO = (SCALE, LabelScale(5.0, 2.0, 1.0, 9.0))


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_two_targets_is_the_mean_of_theirs_and_missing_labels_add_nothing(name):
    kind, bins = LOSSES[name], 9
    objective = Objective(kind, bins, TWO, (1.0, 1.0))
    width = kind.outputs(bins)
    outputs = torch.randn(3, objective.outputs, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([[1.5, 8.0], [torch.nan, 2.0], [-2.0, torch.nan]])
    first, second = outputs[:, :width], outputs[:, width:]
    of_first = kind.losses(first[[0, 2]], labels[[0, 2], 0], TWO[0], bins)
    of_second = kind.losses(second[:2], labels[:2, 1], TWO[1], bins)
    per_clip = [one.reshape(len(one), -1).mean(1).sum() for one in (of_first, of_second)]
    loss = objective.loss(outputs, labels)
    assert loss.item() == pytest.approx((per_clip[0] + per_clip[1]).item() / 6, rel=1e-5)
    loss.backward()
    gradient = outputs.grad.reshape(3, 2, width)
    assert gradient.isfinite().all()
    assert gradient[1, 0].abs().sum() == gradient[2, 1].abs().sum() == 0
    weighted = Objective(kind, bins, TWO, (0.5, 1.5)).loss(outputs, labels, torch.tensor([2.0, 1.0, 0.0]))
    each = of_first.reshape(2, -1).mean(1), of_second.reshape(2, -1).mean(1)
    by_hand = 0.5 * 2 * each[0][0] + 1.5 * (2 * each[1][0] + each[1][1])
    assert weighted.item() == pytest.approx(by_hand.item() / 6, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_results_of_two_targets_are_those_of_each_on_its_own_scale(name):
    kind, bins = LOSSES[name], 9
    both, width = Objective(kind, bins, TWO, (1.0, 1.0)), kind.outputs(9)
    outputs = 3 * torch.randn(4, both.outputs, generator=torch.Generator().manual_seed(1))
    for place, scale in enumerate(TWO):
        alone, own = Objective(kind, bins, (scale,), (1.0,)), outputs[:, place * width : (place + 1) * width]
        scores = alone.scores(own)
        assert scores.shape == (4,)
        assert torch.equal(both.scores(outputs)[:, place], scores)
        assert torch.equal(both.clip(both.scores(outputs))[:, place], scores.clamp(scale.low, scale.high))
        assert torch.equal(both.logits(outputs)[:, place], alone.logits(own))
        if alone.centres() is None:
            assert both.distribution(outputs) is both.spread(outputs) is both.centres() is None
        else:
            assert torch.equal(both.distribution(outputs)[:, place], alone.distribution(own))
            assert torch.equal(both.spread(outputs)[:, place], alone.spread(own))
            assert torch.equal(both.centres()[place], alone.centres())
