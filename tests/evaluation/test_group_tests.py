"""The test of a group of clips against the others: it finds what is there, rarely what is not, and videos are its units."""

import numpy as np
import pytest

from omnisent.evaluation.group_tests import MIN_VIDEOS, group_test, mean_with_interval
from omnisent.evaluation.statistics import paired_test

VIDEOS = 30


def errors_of_videos(generator: np.random.Generator, videos: int = VIDEOS) -> tuple[np.ndarray, np.ndarray]:
    """Errors of clips that are alike within a video, and the number of each clip's video."""
    places = np.repeat(np.arange(videos), generator.integers(1, 9, videos))
    return generator.normal(0, 0.5, videos)[places] + generator.normal(0, 0.4, len(places)), places


def names(places: np.ndarray) -> list[str]:
    return [f"video {place}" for place in places]


@pytest.mark.parametrize("apart", ["videos", "clips"])
def test_without_a_difference_a_verdict_is_rare(apart):
    generator, found, as_clips = np.random.default_rng(0), 0, 0
    for _ in range(200):
        errors, places = errors_of_videos(generator)
        members = places < MIN_VIDEOS if apart == "videos" else generator.random(len(places)) < 0.5
        found += group_test(errors, members, names(places)).p < 0.05
        as_clips += group_test(errors, members).p < 0.05
    assert found <= 20
    if apart == "videos":
        assert as_clips >= 30  # what it would be if the clips of a video counted as independent


def test_a_difference_is_found_with_its_interval():
    errors, places = errors_of_videos(np.random.default_rng(1))
    members = places < 15
    before = group_test(errors, members, names(places))
    after = group_test(errors + 1.5 * members, members, names(places))
    assert after.difference == pytest.approx(before.difference + 1.5)
    assert after.p < 0.001 < before.p
    assert after.low < after.difference < after.high
    assert after.high - after.low == pytest.approx(before.high - before.low)


def test_what_both_sides_of_a_video_share_cancels():
    errors, places = errors_of_videos(np.random.default_rng(2))
    errors, places = np.repeat(errors, 2), np.repeat(places, 2)
    members = np.arange(len(errors)) % 2 == 0
    test = group_test(errors + 0.1 * members, members, names(places))
    assert test.difference == pytest.approx(0.1)
    assert test.high - test.low < 1e-6


def test_too_few_videos_on_either_side_have_no_test():
    errors, places = errors_of_videos(np.random.default_rng(3))
    few = places < MIN_VIDEOS - 1
    assert group_test(errors, few, names(places)) is None
    assert group_test(errors, ~few, names(places)) is None
    assert group_test(errors, places < MIN_VIDEOS, names(places)) is not None


def test_a_small_group_that_is_always_covered_is_no_finding():
    inside = np.array([1.0] * 12 + [1.0] * 90 + [0.0] * 10)
    members = np.arange(len(inside)) < 12
    assert group_test(inside, members).p > 0.2


def test_a_mean_has_the_interval_that_a_paired_test_gives():
    errors, places = errors_of_videos(np.random.default_rng(4))
    expected = paired_test(np.abs(errors), np.zeros((1, len(errors))), groups=names(places))
    assert mean_with_interval(np.abs(errors), names(places)) == pytest.approx(
        (expected.difference, expected.low, expected.high)
    )
    assert mean_with_interval([1.0, 2.0], ["a", "a"]) == (1.5, None, None)


def test_lengths_must_fit():
    with pytest.raises(ValueError, match="members: 1 for 2 values"):
        group_test([0.1, 0.2], [True])
