"""Resamples by counts: each formula gives what it gives for the drawn clips themselves, also where it is undefined."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisent.evaluation.formulas import of_resamples
from omnisent.evaluation.metrics import CONVENTIONS, METRICS, resampled_metrics
from omnisent.evaluation.statistics import resampled
from properties import examples

FORMULAS = [
    pytest.param(metric.formulas[convention], id=f"{key}-{convention}")
    for key, metric in METRICS.items()
    for convention in metric.formulas
]


def _of_drawn_clips(formula, scores, labels, counts):
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for row in counts:
            clips = np.repeat(np.arange(len(labels)), row)
            values.append(formula(scores[clips], labels[clips]))
    return [np.nan if value is None else value for value in values]


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_resample_has_the_figure_of_its_clips(formula):
    generator = np.random.default_rng(0)
    labels = generator.normal(0, 0.6, 40).round(1)
    scores = (labels + generator.normal(0, 0.4, 40)).round(1)  # with equal values, and labels of 0
    counts = np.stack([np.bincount(generator.integers(40, size=40), minlength=40) for _ in range(50)])
    expected = _of_drawn_clips(formula, scores, labels, counts)
    assert of_resamples(formula, scores, labels, counts.astype(float)) == pytest.approx(expected, nan_ok=True, abs=1e-9)


SIDE = st.lists(st.sampled_from([-3.0, -1.0, -0.4, 0.0, 0.1, 2.5]), min_size=4, max_size=4)


@examples(60)
@given(SIDE, SIDE, st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any))
def test_it_is_undefined_where_that_of_its_clips_is(scores, labels, row):
    for metric in METRICS.values():
        for formula in metric.formulas.values():
            sides, counts = (np.array(scores), np.array(labels)), np.array([row])
            found = of_resamples(formula, *sides, counts.astype(float))
            assert found == pytest.approx(_of_drawn_clips(formula, *sides, counts), nan_ok=True, abs=1e-6)


def test_a_formula_of_somebody_else_is_called_for_each_resample():
    counts = np.array([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0]])
    scores, labels = np.array([0.0, 1.0, 5.0]), np.zeros(3)
    found = of_resamples(lambda scores, labels: float(np.median(np.abs(scores - labels))), scores, labels, counts)
    assert found.tolist() == [1.0, 1.0]
    nothing = of_resamples(lambda scores, labels: None, scores, labels, counts)
    assert np.isnan(nothing).all()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_resampled_videos_keep_all_their_clips(convention, monkeypatch):
    """Whatever number of resamples is in memory at once."""
    generator = np.random.default_rng(1)
    labels = generator.uniform(-1, 1, 30)
    scores, videos = labels + generator.normal(0, 0.3, (2, 30)), [f"v{clip // 5}" for clip in range(30)]
    whole = resampled(scores, labels, convention, groups=videos, resamples=20, seed=3)
    monkeypatch.setattr("omnisent.evaluation.statistics.AT_ONCE", 90)
    parts = resampled(scores, labels, convention, groups=videos, resamples=20, seed=3)
    draws = np.random.default_rng(3).integers(6, size=(20, 6))
    counts = np.stack([np.bincount(row, minlength=6) for row in draws])[:, np.repeat(np.arange(6), 5)].astype(float)
    for key, values in whole.drawn.items():
        expected = np.mean([resampled_metrics(row, labels, convention, counts)[key] for row in scores], axis=0)
        assert values == pytest.approx(expected, nan_ok=True)
        assert parts.drawn[key] == pytest.approx(expected, nan_ok=True)
