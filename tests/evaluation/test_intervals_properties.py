"""What holds of the intervals for any clips: the guarantee itself, by leaving out each clip in turn."""

import math
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from omnisent.evaluation.intervals import LEVELS, calibration, half_width
from properties import examples

RESIDUALS = st.lists(st.one_of(st.integers(0, 30).map(float), st.floats(0, 1e6)), min_size=1, max_size=40)
A_LEVEL = st.one_of(st.sampled_from(LEVELS), st.integers(1, 999).map(lambda n: n / 1000))


def width(residuals, level):
    """Half of the residuals with either sign."""
    signs = np.where(np.arange(len(residuals)) % 2, 1.0, -1.0)
    return half_width(signs * residuals, np.zeros(len(residuals)), level)


@examples(60)
@given(RESIDUALS, A_LEVEL)
def test_the_half_width_is_the_smallest_that_covers_enough_clips(residuals, level):
    enough = (len(residuals) + 1) * Fraction(str(level))
    holding = [one for one in residuals if sum(other <= one for other in residuals) >= enough]
    assert width(residuals, level) == (min(holding) if holding else None)


@examples(60)
@given(RESIDUALS.filter(lambda found: len(found) > 1), A_LEVEL)
def test_enough_exchangeable_clips_are_covered_by_the_others(residuals, level):
    covered = 0
    for left_out in range(len(residuals)):
        found = width(residuals[:left_out] + residuals[left_out + 1 :], level)
        covered += residuals[left_out] <= (math.inf if found is None else found)
    assert covered >= len(residuals) * Fraction(str(level))
    if len(set(residuals)) == len(residuals):
        assert covered < len(residuals) * Fraction(str(level)) + 1


@examples(40)
@given(RESIDUALS, A_LEVEL, A_LEVEL)
def test_a_higher_level_is_no_narrower(residuals, one, other):
    low, high = (width(residuals, level) for level in sorted((one, other)))
    assert high is None or low <= high


@examples(40)
@given(RESIDUALS)
def test_a_calibration_has_the_levels_with_enough_clips_and_covers_its_own_clips(values):
    found = calibration(values, np.zeros(len(values)))
    assert found["clips"] == len(values)
    assert found["half_widths"] == {
        str(level): width(values, level) for level in LEVELS if width(values, level) is not None
    }
    for level, half in found["half_widths"].items():
        assert np.mean(np.array(values) <= half) >= float(level)


@examples(60)
@given(st.lists(st.tuples(st.floats(0, 6), st.integers(0, 5)), min_size=2, max_size=60))
def test_a_calibration_with_videos_is_no_narrower_and_grows_with_the_level(clips):
    values, videos = [value for value, _ in clips], [f"v{video}" for _, video in clips]
    labels = np.zeros(len(clips))
    alone, together = (calibration(values, labels, groups)["half_widths"] for groups in (None, videos))
    assert list(together.values()) == sorted(together.values())
    assert all(width >= alone[level] for level, width in together.items())
    assert list(together) == list(alone)[: len(together)]
