"""What holds of the metrics for any scores and labels."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score

from omnisent.evaluation.metrics import CONVENTIONS, msa_metrics
from properties import examples

NUMBERS = st.one_of(
    st.integers(-40, 40).map(lambda tenths: tenths / 10),
    st.floats(-4, 4),
    st.floats(-1e100, 1e100),
)


def pairs(numbers=NUMBERS, fewest=1):
    """Scores and labels of as many clips."""
    return st.lists(st.tuples(numbers, numbers), min_size=fewest, max_size=12).map(
        lambda both: tuple(np.array(side) for side in zip(*both, strict=True))
    )


def measured(scores, labels, convention="mosi"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return msa_metrics(scores, labels, convention)


def equal(first, second):
    return first.keys() == second.keys() and all(
        (first[key] is None and second[key] is None) or first[key] == pytest.approx(second[key], rel=1e-6, abs=1e-6)
        for key in first
    )


@examples(60)
@given(pairs(), st.sampled_from(CONVENTIONS))
def test_every_value_is_in_its_range(both, convention):
    found = measured(*both, convention)
    mae = found.pop("mae")
    assert 0 <= mae < math.inf
    assert mae * (1 - 1e-12) <= found.pop("rmse", mae) < math.inf
    for correlation in (found.pop(key, None) for key in ("corr", "spearman", "ccc")):
        assert correlation is None or -1 <= correlation <= 1
    r2 = found.pop("r2", None)
    assert r2 is None or r2 <= 1
    assert all(value is None or 0 <= value <= 1 for value in found.values())


@examples(40)
@given(pairs(st.integers(-40, 40).map(lambda tenths: tenths / 10)), st.sampled_from(CONVENTIONS), st.randoms())
def test_the_order_of_the_clips_does_not_matter(both, convention, random):
    order = list(range(len(both[0])))
    random.shuffle(order)
    assert equal(measured(both[0][order], both[1][order], convention), measured(*both, convention))


@examples(40)
@given(st.lists(NUMBERS, min_size=1, max_size=12), st.sampled_from(CONVENTIONS))
def test_scores_that_are_the_labels_are_perfect(labels, convention):
    found = measured(labels, labels, convention)
    assert found.pop("mae") == found.pop("rmse", 0) == 0
    for key in ("corr", "spearman", "ccc"):
        assert found.pop(key, None) in (None, pytest.approx(1))
    assert {value for value in found.values() if value is not None} <= {1.0}


@examples(40)
@given(pairs(st.integers(-40, 40).map(lambda tenths: tenths / 10), fewest=2))
def test_metrics_agree_with_scipy_and_scikit_learn(both):
    scores, labels = both
    found = measured(scores, labels)
    if np.ptp(scores) and np.ptp(labels):
        assert found["corr"] == pytest.approx(pearsonr(scores, labels).statistic, abs=1e-9)
    else:
        assert found["corr"] is None
    for key, truth, guess in (
        ("has0", labels >= 0, scores >= 0),
        ("non0", labels[labels != 0] > 0, scores[labels != 0] > 0),
    ):
        if len(truth):
            assert found[f"acc_2_{key}"] == pytest.approx(accuracy_score(truth, guess))
            assert found[f"f1_{key}"] == pytest.approx(f1_score(truth, guess, average="weighted", zero_division=0))
    for limit in (1, 2, 3):
        truth, guess = np.round(labels.clip(-limit, limit)), np.round(scores.clip(-limit, limit))
        assert found[f"acc_{2 * limit + 1}"] == pytest.approx(accuracy_score(truth, guess))
    sims = measured(scores, labels, "sims")
    assert sims["f1"] == pytest.approx(f1_score(labels > 0, scores > 0, average="weighted", zero_division=0))


@examples(40)
@given(pairs(st.integers(-30, 30).map(lambda tenths: tenths / 10)), st.integers(-3, 3).map(lambda by: 2.0**by))
def test_the_correlation_does_not_depend_on_scale_and_the_mae_does(both, scale):
    scores, labels = both
    found, scaled = measured(scores, labels), measured(scores * scale, labels * scale)
    assert scaled["mae"] == pytest.approx(found["mae"] * scale)
    assert scaled["corr"] == (None if found["corr"] is None else pytest.approx(found["corr"]))
    assert measured(labels, scores)["mae"] == found["mae"]


@examples(40)
@given(pairs(), st.sampled_from(CONVENTIONS), st.data())
def test_one_bad_value_is_found_at_any_index(both, convention, data):
    side = data.draw(st.integers(0, 1))
    at = data.draw(st.integers(0, len(both[0]) - 1))
    bad = data.draw(st.sampled_from([math.nan, math.inf, -math.inf, 1.1e100]))
    assume(np.isfinite(both[side]).all())
    both[side][at] = bad
    with pytest.raises(ValueError, match=rf"{('predictions', 'references')[side]}: 1 values .* first at index {at} "):
        msa_metrics(*both, convention)
