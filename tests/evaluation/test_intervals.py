"""Split-conformal intervals: the rank by hand, and the promise over many draws."""

import math

import numpy as np
import pytest

from omnisent.evaluation.intervals import calibration, coverage, half_width


def test_the_half_width_is_the_residual_of_the_right_rank():
    labels = np.zeros(9)
    scores = np.array([0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9])
    assert half_width(scores, labels, 0.5) == 0.5  # rank ceil(10 * 0.5) = 5
    assert half_width(scores, labels, 0.8) == 0.8
    assert half_width(scores, labels, 0.9) == 0.9
    assert half_width(scores, labels, 0.95) is None  # rank 10 of 9
    assert calibration(scores, labels) == {"clips": 9, "half_widths": {"0.5": 0.5, "0.8": 0.8, "0.9": 0.9}}


def test_coverage_counts_labels_within():
    assert coverage([0.0, 1.0, 2.0, 3.0], [0.5, 1.0, 0.0, 3.5], 0.5) == 0.75


@pytest.mark.parametrize(("clips", "level"), [(8, 0.8), (18, 0.9), (30, 0.5)])
def test_new_clips_are_covered_at_the_stated_level(clips, level):
    generator = np.random.default_rng(0)
    draws = [np.abs(generator.standard_t(3, clips + 1)) for _ in range(20_000)]
    covered = np.mean([new <= half_width(known, np.zeros(clips), level) for *known, new in draws])
    exact = np.ceil((clips + 1) * level) / (clips + 1)
    assert covered == pytest.approx(exact, abs=0.01)  # without the + 1, lower by 1 / (clips + 1)
    assert exact >= level


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 90.0, math.nan, math.inf])
def test_a_level_outside_0_to_1_is_refused(level):
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        half_width([0.1, 0.2], [0.0, 0.0], level)


def test_a_level_close_to_zero_or_one_keeps_its_rank():
    scores, labels = [0.3, 0.1, 0.2], [0.0, 0.0, 0.0]
    assert half_width(scores, labels, 1e-12) == 0.1  # rank 1: rounded to 0, it would be the widest
    assert half_width(scores, labels, 0.75) == 0.3  # 4 * 0.75 = 3
    assert half_width(scores, labels, 0.7500000001) is None
    assert half_width(scores, labels, 1 - 1e-12) is None


@pytest.mark.parametrize(
    "measure",
    [
        lambda scores, labels: half_width(scores, labels, 0.5),
        calibration,
        lambda scores, labels: coverage(scores, labels, 0.5),
    ],
)
def test_invalid_scores_and_labels_give_no_interval(measure):
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=r"scores: 1 values are not finite.* first at index 1"):
            measure([0.0, bad], [0.0, 0.0])
        with pytest.raises(ValueError, match=r"labels: 1 values are not finite.* first at index 0"):
            measure([0.0, 0.0], [bad, 0.0])
    with pytest.raises(ValueError, match="2 scores for 1 labels"):
        measure([0.1, 0.2], [0.0])
    with pytest.raises(ValueError, match=r"scores must be \(n,\) numbers, found shape \(1, 2\)"):
        measure([[0.1, 0.2]], [0.0, 0.0])
    with pytest.raises(ValueError, match=r"labels must be \(n,\) numbers, found shape \(2, 1\)"):
        measure([0.1, 0.2], [[0.0], [0.0]])
    with pytest.raises(ValueError, match="at least one clip"):
        measure([], [])


@pytest.mark.parametrize("width", [-0.1, math.nan, math.inf])
def test_coverage_needs_a_finite_width_that_is_not_negative(width):
    with pytest.raises(ValueError, match="width must be a finite number of at least 0"):
        coverage([0.0], [0.0], width)


def test_the_edge_of_an_interval_belongs_to_it():
    assert coverage([0.0, 1.0, -1.0], [0.0, 1.0, -1.0], 0.0) == 1.0
    assert coverage([0.0, 0.0], [0.5, -0.5], 0.5) == 1.0
