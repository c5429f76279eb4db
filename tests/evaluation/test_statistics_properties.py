"""What holds of adjusted p values, paired tests and bootstrap intervals for any figures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisent.evaluation.metrics import CONVENTIONS, METRICS
from omnisent.evaluation.statistics import bootstrap_estimates, holm, paired_test
from properties import examples

TENTHS = st.integers(0, 40).map(lambda tenths: tenths / 10)


def by_seed(numbers=TENTHS, systems=1, fewest=1):
    """Numbers of one to three seeds and up to eight clips, for as many systems."""
    shape = st.tuples(st.integers(1, 3), st.integers(fewest, 8))
    return shape.flatmap(
        lambda size: st.tuples(
            *[
                st.lists(numbers, min_size=size[0] * size[1], max_size=size[0] * size[1]).map(
                    lambda flat: np.array(flat).reshape(size)
                )
            ]
            * systems
        )
    )


@examples(80)
@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.05, 1.0])), max_size=8), st.randoms())
def test_adjusted_p_values_follow_holms_definition(p_values, random):
    adjusted, m = holm(p_values), len(p_values)
    ordered = sorted(p_values)
    expected = [max(min(1.0, (m - k) * ordered[k]) for k in range(ordered.index(p) + 1)) for p in p_values]
    # Equal p values share the largest of their adjusted ones only where a later factor would exceed it, which it never does.
    assert adjusted == pytest.approx(expected)
    assert all(p <= found <= 1 for p, found in zip(p_values, adjusted, strict=True))
    order = random.sample(range(m), m)
    assert holm([p_values[i] for i in order]) == pytest.approx([adjusted[i] for i in order])


@examples(15)
@given(by_seed(systems=2, fewest=2))
def test_swapping_two_systems_negates_the_difference(systems):
    found, turned = (paired_test(*both, flips=99) for both in (systems, systems[::-1]))
    assert found.difference == pytest.approx(systems[0].mean() - systems[1].mean())
    assert turned.difference == pytest.approx(-found.difference)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    assert found.low <= found.high
    assert 0 < found.p_flips <= 1
    assert turned.p_flips == pytest.approx(found.p_flips)
    assert (found.p is None) == (len(systems[0]) == 1)
    assert found.p is None or 0 <= found.p <= 1
    assert found.p is None or (found.p < 0.05) == (found.low > 0 or found.high < 0)
    swapped = {"first": "second", "second": "first", "undecided": "undecided"}
    assert turned.verdict == swapped[found.verdict]


@examples(10)
@given(by_seed(st.integers(-30, 30).map(lambda tenths: tenths / 10)), st.sampled_from(CONVENTIONS))
def test_an_interval_is_around_its_mean_and_within_the_limits_of_its_metric(systems, convention):
    (scores,) = systems
    labels = np.linspace(-1, 1, scores.shape[1])
    found = bootstrap_estimates(scores, labels, convention, resamples=20)
    for key, estimate in found.items():
        assert len(estimate.per_seed) == len(scores)
        if estimate.mean is None:
            assert (estimate.sd, estimate.low, estimate.high) == (None, None, None)
        else:
            assert estimate.mean == pytest.approx(np.mean(estimate.per_seed))
            assert (estimate.sd is None) == (len(scores) == 1)
            if estimate.low is not None:
                lowest, highest = METRICS[key].limits
                rounding = 1e-12 * (1 + abs(estimate.mean))
                assert lowest <= estimate.low <= estimate.mean + rounding
                assert estimate.mean - rounding <= estimate.high <= highest
