"""Split-conformal intervals: the rank by hand, and the promise over many draws."""

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
def test_new_clips_are_covered_as_often_as_promised(clips, level):
    generator = np.random.default_rng(0)
    draws = [np.abs(generator.standard_t(3, clips + 1)) for _ in range(20_000)]
    covered = np.mean([new <= half_width(known, np.zeros(clips), level) for *known, new in draws])
    exact = np.ceil((clips + 1) * level) / (clips + 1)
    assert covered == pytest.approx(exact, abs=0.01)  # without the + 1, lower by 1 / (clips + 1)
    assert exact >= level
