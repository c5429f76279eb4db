"""Conformal intervals: the rank by hand, and the promise over many draws, for clips of videos and chosen checkpoints too."""

import math

import numpy as np
import pytest
from scipy import stats

from omnisent.evaluation.intervals import (
    LEVELS,
    calibration,
    conformal_quantile,
    cross_fitted,
    half_width,
    outside,
    residuals,
    share_with_interval,
)

MOSI_VALID = (9, 11, 15, 21, 22, 25, 28, 30, 34, 34)


def test_the_half_width_is_the_residual_of_the_right_rank():
    labels = np.zeros(9)
    scores = np.array([0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9])
    assert half_width(scores, labels, 0.5) == 0.5  # rank ceil(10 * 0.5) = 5
    assert half_width(scores, labels, 0.8) == 0.8
    assert half_width(scores, labels, 0.9) == 0.9
    assert half_width(scores, labels, 0.95) is None  # rank 10 of 9
    widths = {"0.5": 0.5, "0.8": 0.8, "0.9": 0.9}
    assert calibration(scores, labels) == {"clips": 9, "videos": None, "half_widths": widths}


def test_clips_of_one_video_raise_the_rank_by_their_design_effect():
    """Videos of four equal values: of 10 independent ones, and each four times."""
    alone = np.arange(1.0, 11)
    values, videos = np.repeat(alone, 4), [f"v{video}" for video in range(10) for _ in range(4)]
    assert conformal_quantile(values, 0.7) == 8  # rank ceil(41 * 0.7) = 29
    # The share above 8 is .2, of whole videos: (2 * (4 * .8)^2 + 8 * (4 * .2)^2) * 10 / 9 / (40 * .2 * .8) = 4.44
    assert conformal_quantile(values, 0.7, videos) == 8  # rank ceil(44.44 * 0.7) = 32
    assert conformal_quantile(values, 0.8) == 9  # rank ceil(41 * 0.8) = 33
    assert conformal_quantile(values, 0.8, videos) == 9  # 44.44 * 0.8 = 35.6
    assert conformal_quantile(values, 0.88) == 10  # rank ceil(36.08) = 37, above which there is nothing
    assert conformal_quantile(values, 0.86) == 9  # rank ceil(35.26) = 36
    assert conformal_quantile(values, 0.86, videos) == 10  # ceil(44.44 * 0.86) = 39
    assert conformal_quantile(values, 0.86, [str(clip) for clip in range(40)]) == 9


def _coverages(sizes, icc, draw, calibrations=500, level=0.9):
    """The true coverage of the half-width of each simulated calibration, for errors of variance 1."""
    generator, places = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    videos = [str(place) for place in places]

    def luck():
        return generator.normal(0, icc**0.5, len(sizes))[places] + generator.normal(0, (1 - icc) ** 0.5, len(places))

    widths = [conformal_quantile(np.abs(draw(luck, videos)), level, videos) for _ in range(calibrations)]
    return np.array([2 * stats.norm.cdf(width) - 1 for width in widths if width is not None])


@pytest.mark.parametrize("icc", [0.05, 0.1, 0.2])
def test_intervals_hold_for_new_videos_at_the_size_of_mosi(icc):
    """229 validation clips of 10 videos, whose best of seven checkpoints is kept."""

    def of_the_chosen(luck, videos):
        common = 0.8**0.5 * luck()
        errors = [(common + 0.2**0.5 * luck())[:, None] for _ in range(7)]
        return cross_fitted(errors, np.zeros(len(videos)), videos, metric="mae", conventions=["generic"])[:, 0]

    found = _coverages(MOSI_VALID, icc, of_the_chosen)
    assert found.mean() >= 0.899  # Monte-Carlo error .001
    assert np.quantile(found, 0.05) >= 0.85


def test_intervals_hold_for_clips_that_are_very_alike():
    """Where independent clips would be taken for granted, .893."""
    assert _coverages(MOSI_VALID, 0.5, lambda luck, videos: luck()).mean() >= 0.9


def test_a_video_takes_no_part_in_the_choice_of_its_checkpoint():
    labels, videos = np.zeros(4), ["a", "a", "b", "b"]
    good_on_a, good_on_b = np.array([[0.1], [0.1], [0.9], [0.9]]), np.array([[0.8], [0.8], [0.2], [0.2]])
    found = cross_fitted([good_on_a, good_on_b], labels, videos, metric="mae", conventions=["mosi"])
    assert found.tolist() == [[0.8], [0.8], [0.9], [0.9]]
    kept = cross_fitted([good_on_a, good_on_b], labels, ["a"] * 4, metric="mae", conventions=["mosi"])
    assert kept.tolist() == good_on_b.tolist()  # one video: nothing else could choose


def test_clips_of_one_video_are_not_many_at_the_highest_level_either():
    """Ten videos of twenty equal values are ten values, of which no 95 % can be known."""
    values, videos = np.repeat(np.arange(1.0, 11), 20), [f"v{clip // 20}" for clip in range(200)]
    assert conformal_quantile(values, 0.9, videos) == 10
    assert conformal_quantile(values, 0.95, videos) is None
    assert conformal_quantile(values, 0.95) == 10


@pytest.mark.parametrize("metric", ["loss", "mae_unclipped", "rmse"])
def test_a_figure_that_some_clips_do_not_have_is_replaced_by_mae(metric):
    labels, videos = np.zeros(4), ["a", "a", "b", "b"]
    evaluations = [np.array([[0.1], [0.1], [0.9], [0.9]]), np.array([[0.8], [0.8], [0.2], [0.2]])]
    found = cross_fitted(evaluations, labels, videos, metric=metric, conventions=["mosi"])
    assert found.tolist() == [[0.8], [0.8], [0.9], [0.9]]


def test_a_share_has_the_interval_of_wilson():
    assert share_with_interval(np.arange(10) < 8) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert share_with_interval(np.ones(20, bool)) == pytest.approx((1.0, 0.8389, 1.0), abs=1e-4)
    assert share_with_interval(np.zeros(1, bool)) == pytest.approx((0.0, 0.0, 0.7935), abs=1e-4)


def test_the_interval_of_a_share_is_wider_for_clips_of_few_videos():
    which, videos = np.repeat(np.arange(10) < 8, 20), [f"v{clip // 20}" for clip in range(200)]
    alone, together = share_with_interval(which), share_with_interval(which, videos)
    assert together[1] < alone[1]
    assert together[2] > alone[2]
    # 400 / 180 of 20 clips each: 200 clips count as 9; with 2.262, the quantile of t for 10 videos
    assert together == pytest.approx((0.8, 0.427, 0.9553), abs=1e-3)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_where_all_clips_count_those_of_a_video_count_as_one(share):
    which = np.full(40, share == 1)
    _, low, high = share_with_interval(which, ["a"] * 20 + ["b"] * 20)
    assert high - low == pytest.approx(1 - 2 / (2 + 1.96**2), abs=1e-4)  # Wilson's of 2 clips
    assert share_with_interval(which, ["a"] * 40) == pytest.approx(share_with_interval(which[:1]))
    assert share_with_interval(which, list(map(str, range(40)))) == pytest.approx(share_with_interval(which))


def test_the_interval_of_a_share_covers_that_of_new_videos_although_there_are_few():
    """Of 5 videos with 20 clips whose shares differ (beta distributed, mean .9)."""
    draws, covered = np.random.default_rng(0), []
    for _ in range(400):
        which = draws.random((5, 20)) < draws.beta(2.1, 0.233, (5, 1))
        _, low, high = share_with_interval(which.ravel(), np.repeat(list("abcde"), 20))
        covered.append(low <= 0.9 <= high)
    assert np.mean(covered) > 0.9


def test_a_higher_figure_is_better_where_the_metric_says_so():
    labels, videos = np.array([0.0, 1.0, 2.0, 0.0, 1.0, 2.0]), list("aaabbb")
    rising, falling = labels[:, None], -labels[:, None]
    found = cross_fitted([rising, falling], labels, videos, metric="corr", conventions=["mosi"])
    assert found.tolist() == rising.tolist()


def test_the_margin_moves_the_quantiles_of_a_distribution_outwards():
    labels = np.linspace(-1, 1, 99)
    bounds = np.repeat(np.array([[[-0.5, 0.5]]]), 99, axis=0).repeat(len(LEVELS), axis=1)
    found = calibration(np.zeros(99), labels, quantiles=bounds)
    at = found["half_widths"]["0.9"]
    assert found["margins"]["0.9"] == pytest.approx(at - 0.5)  # the same interval as that of the half-width
    assert outside(bounds[:, 0], labels)[[0, 49, 98]].tolist() == pytest.approx([0.5, -0.5, 0.5])


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
        residuals,
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
