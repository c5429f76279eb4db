"""Intervals and paired tests: against closed forms, and on systems whose answer is known."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from omnisent.evaluation.metrics import msa_metrics
from omnisent.evaluation.statistics import Estimate, PairedTest, bootstrap_estimates, holm, paired_test, paired_tests


@pytest.fixture
def labels():
    return np.random.default_rng(1).uniform(-3, 3, 200)


def test_the_interval_of_the_mae_is_that_of_a_mean(labels):
    scores = labels + np.random.default_rng(2).normal(0, 0.8, 200)
    found = bootstrap_estimates(scores, labels, "mosi", resamples=2000)["mae"]
    errors = np.abs(scores - labels)
    reach = 1.96 * errors.std(ddof=1) / np.sqrt(200)
    assert found.mean == pytest.approx(errors.mean())
    assert found.high - found.mean == pytest.approx(reach, rel=0.1)
    assert found.mean - found.low == pytest.approx(reach, rel=0.1)
    assert found.sd is None


def test_every_metric_is_the_mean_over_seeds_with_its_spread(labels):
    scores = labels + np.random.default_rng(3).normal(0, 0.8, (3, 200))
    found = bootstrap_estimates(scores, labels, "mosi", resamples=50)
    per_seed = [msa_metrics(row, labels) for row in scores]
    assert found.keys() == per_seed[0].keys()
    for key, estimate in found.items():
        values = [metrics[key] for metrics in per_seed]
        assert estimate.per_seed == values
        assert estimate.mean == pytest.approx(np.mean(values))
        assert estimate.sd == pytest.approx(np.std(values, ddof=1))
        assert estimate.low <= estimate.mean <= estimate.high


def test_seeds_that_differ_widen_the_interval(labels):
    noise = np.random.default_rng(4).normal(0, 0.5, 200)
    alike = np.stack([labels + noise] * 3)
    apart = np.stack([labels + scale * noise for scale in (0.2, 1.0, 1.8)])
    widths = [
        (found := bootstrap_estimates(scores, labels, "mosi", resamples=300)["mae"]).high - found.low
        for scores in (alike, apart)
    ]
    assert widths[1] > 2 * widths[0]


def test_the_interval_of_a_generic_correlation_is_that_of_fishers_z():
    generator = np.random.default_rng(8)
    labels = 50 + 10 * generator.normal(size=400)
    scores = labels + 10 * generator.normal(size=400)
    found = bootstrap_estimates(scores, labels, "generic", resamples=400)
    for key in ("corr", "spearman"):
        around = np.tanh(np.arctanh(found[key].mean) + np.array([-1.96, 1.96]) / np.sqrt(397))
        assert [found[key].low, found[key].high] == pytest.approx(around, abs=0.015)
    assert found["ccc"].low < found["ccc"].mean < found["ccc"].high < found["corr"].high
    assert found["rmse"].low < 10 < found["rmse"].high


def test_a_constant_has_no_correlation_and_no_interval_of_one(labels):
    found = bootstrap_estimates(np.zeros(200), labels, "mosi", resamples=20)
    assert found["corr"] == Estimate(None, None, None, None, [None])
    assert found["mae"].low < found["mae"].mean < found["mae"].high


def test_the_same_seed_gives_the_same_interval(labels):
    scores = labels + np.random.default_rng(8).normal(size=200)
    first, again, named, other = (
        bootstrap_estimates(scores, labels, "mosi", resamples=20, **seed)["mae"]
        for seed in ({}, {}, {"seed": 0}, {"seed": 1})
    )
    assert first == again == named
    assert first.low != other.low
    errors = np.abs(np.random.default_rng(9).normal(size=(2, 3, 30)))
    first, again, named, other = (paired_test(*errors, flips=99, **seed) for seed in ({}, {}, {"seed": 0}, {"seed": 1}))
    assert first == again == named
    assert first.p_flips != other.p_flips


def test_the_interval_of_a_difference_is_that_of_a_mean():
    errors = np.abs(np.random.default_rng(10).normal(size=(2, 1, 200)))
    found, differences = paired_test(*errors, flips=9), errors[0, 0] - errors[1, 0]
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_without_differences_between_clips_the_test_is_a_t_test_over_seeds():
    by_seed = np.array([0.1, 0.3, 0.2])
    found = paired_test(np.repeat(1 + by_seed[:, None], 4, axis=1), np.ones((3, 4)), flips=9)
    expected = stats.ttest_1samp(by_seed, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_without_differences_between_seeds_it_is_a_t_test_over_videos():
    """Videos of equal length: their mean differences are independent."""
    by_video = np.array([0.4, 0.1, 0.3, 0.0, 0.2])
    errors = np.repeat([1 + np.repeat(by_video, 3)], 2, axis=0)
    found = paired_test(errors, np.ones((2, 15)), groups=np.repeat(list("abcde"), 3), flips=9)
    expected = stats.ttest_1samp(by_video, 0)
    assert (found.groups, found.seeds) == (5, 2)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    one_seed = paired_test(errors[:1], np.ones((1, 15)), groups=np.repeat(list("abcde"), 3), flips=9)
    assert (one_seed.low, one_seed.high) == pytest.approx((found.low, found.high))
    assert (one_seed.p, one_seed.verdict) == (None, "undecided")


def test_clips_of_one_video_count_as_one_observation_if_they_are_alike():
    generator = np.random.default_rng(11)
    by_video, noise = generator.normal(0.2, 0.3, 8), generator.normal(0, 0.01, (3, 1))
    few = np.abs(2 + by_video + noise)
    many, groups = np.repeat(few, 50, axis=1), np.repeat(list("abcdefgh"), 50)
    short, long = paired_test(few, np.full((1, 8), 2.0)), paired_test(many, np.full((1, 400), 2.0), groups=groups)
    assert (long.p, long.low, long.high) == pytest.approx((short.p, short.low, short.high))
    assert long.p_flips == pytest.approx(short.p_flips)
    assert paired_test(many, np.full((1, 400), 2.0)).p < long.p / 10  # as if the clips were independent
    estimates = [
        bootstrap_estimates(many, np.zeros(400), "generic", groups=g, resamples=200)["mae"] for g in (groups, None)
    ]
    assert estimates[0].high - estimates[0].low > 3 * (estimates[1].high - estimates[1].low)


def test_few_long_videos_leave_fewer_degrees_of_freedom():
    by_video = np.array([0.4, 0.1, 0.3, 0.0, 0.2])
    equal, unequal = np.repeat(np.arange(5), 6), np.repeat(np.arange(5), [22, 2, 2, 2, 2])
    widths = []
    for places in (equal, unequal):
        found = paired_test(1 + by_video[places], np.ones(30), groups=[str(place) for place in places], flips=9)
        parts = np.bincount(places, by_video[places] - found.difference) / 30
        widths.append((found.high - found.low) / np.sqrt(np.sum(parts**2)))
    assert widths[1] > 1.5 * widths[0]


def test_a_verdict_needs_several_seeds_and_a_small_p():
    def of(difference, p, low=-1.0, high=1.0):
        return PairedTest(difference, low, high, p, 0.5, 9, 3, 9.0, 0.1, 0.1, 0.0)

    assert [of(-0.1, 0.04).verdict, of(0.1, 0.04).verdict] == ["first", "second"]
    assert [of(-0.1, 0.05).verdict, of(-0.1, None).verdict] == ["undecided", "undecided"]
    assert of(0.01, 0.5, -0.02, 0.05).within(0.06)
    assert not of(0.01, 0.5, -0.02, 0.07).within(0.06)
    assert not of(0.01, 0.5, -0.07, 0.05).within(0.06)


def test_several_tests_are_adjusted_together_and_one_seed_has_no_p():
    generator = np.random.default_rng(12)
    first = np.abs(generator.normal(0, 0.5, (3, 60)))
    others = [np.abs(generator.normal(0, sd, (3, 60))) for sd in (0.6, 0.9)]
    found = paired_tests(first, others)
    assert [p for _, p in found] == pytest.approx(holm([test.p for test, _ in found]))
    single = paired_tests(first[:1], [others[0][:1], others[1][:1]])
    assert [p for _, p in single] == [None, None]


@pytest.mark.parametrize("groups", [["a", "b"], ["a", "b", "c", "d"], ["a", "", "b"], ["a", "a", "a"]])
def test_groups_are_the_video_of_each_clip(groups):
    with pytest.raises(ValueError, match=r"groups: .*clip|all 3 clips are of one video"):
        paired_test(np.ones((2, 3)), np.zeros((2, 3)), groups=groups)
    if groups == ["a", "a", "a"]:
        estimate = bootstrap_estimates(np.ones((2, 3)), [0.0, 1.0, 2.0], "mosi", groups=groups)["mae"]
        assert (estimate.low, estimate.high) == (None, None)
    else:
        with pytest.raises(ValueError, match=r"groups: .*clip"):
            bootstrap_estimates(np.ones((2, 3)), [0.0, 1.0, 2.0], "mosi", groups=groups)


def test_an_interval_stays_within_the_limits_of_its_metric():
    labels = np.linspace(-3, 3, 12)
    found = bootstrap_estimates(np.stack([labels + 0.01, labels - 0.6]), labels, "mosi", resamples=50)
    assert found["acc_2_has0"].high == 1.0
    assert found["corr"].high <= 1.0
    assert found["mae"].low == 0.0


def test_two_seeds_have_a_spread():
    scores, labels = np.array([[0.1, 0.5, -0.2], [0.3, 0.9, -0.6]]), np.zeros(3)
    found = bootstrap_estimates(scores, labels, "sims", resamples=5)
    assert found.keys() == msa_metrics([0.0, 1.0], [0.0, 1.0], "sims").keys()
    assert found["mae"].sd == pytest.approx(np.std([0.8 / 3, 0.6], ddof=1))


def test_a_metric_that_no_resample_has_keeps_its_mean_without_an_interval():
    # Of two clips the neutral one is drawn twice a quarter of the time, and leaves none to tell apart.
    found = [
        bootstrap_estimates([0.1, 0.9], [0.0, 1.0], "mosi", resamples=1, seed=seed)["f1_non0"] for seed in range(12)
    ]
    assert [estimate.mean for estimate in found] == pytest.approx([1.0] * 12)
    ends = [(estimate.low, estimate.high) for estimate in found]
    assert all(low is high is None or low == pytest.approx(high) for low, high in ends)
    lows = [estimate.low for estimate in found if estimate.low is not None]
    assert lows == pytest.approx([1.0] * len(lows))
    assert 0 < len(lows) < 12


@pytest.mark.parametrize("groups", [None, list("aabbccdde")])
def test_the_correlation_of_few_videos_has_no_interval(groups):
    generator = np.random.default_rng(0)
    labels = generator.normal(size=4 if groups is None else 9)
    scores, fewer = labels + generator.normal(size=len(labels)), groups and ["d" if g == "e" else g for g in groups]
    found = bootstrap_estimates(scores, labels, "generic", groups=fewer, resamples=50)
    assert all(found[key].low is found[key].high is None for key in ("corr", "spearman", "ccc"))
    assert found["corr"].mean == pytest.approx(np.corrcoef(scores, labels)[0, 1])
    assert found["mae"].low < found["mae"].mean < found["mae"].high
    if groups is not None:
        found = bootstrap_estimates(scores, labels, "generic", groups=groups, resamples=50)
        assert found["corr"].low < found["corr"].mean < found["corr"].high


def test_figures_are_plain_values_for_json():
    estimate = bootstrap_estimates(np.zeros((2, 3)), [0.0, 1.0, 2.0], "mosi", resamples=3)["mae"]
    assert json.loads(json.dumps(estimate.to_dict())) == vars(estimate)
    paired = paired_test(np.ones((2, 3)), [[0.0, 0.1, 0.2], [0.3, 0.2, 0.3]], flips=9)
    assert json.loads(json.dumps(paired.to_dict())) == vars(paired)
    assert {type(value) for value in vars(paired).values()} == {float, int}


def test_an_estimate_is_formatted_with_its_standard_deviation_if_it_has_one():
    def estimate(mean, sd=None, low=None, high=None):
        return Estimate(mean, sd, low, high, [mean])

    assert estimate(0.98765).text == "0.988"
    assert estimate(0.98765, 0.01234).text == "0.988 ± 0.012"
    assert estimate(0.0, 0.0).text == "0.000 ± 0.000"
    assert estimate(None).text == estimate(None).interval == ""
    assert estimate(1.0, None, 0.5, 1.5).interval == "0.500 to 1.500"


def test_one_resample_is_enough_to_run():
    scores = [[0.0, 0.4], [0.1, 0.2]]
    one = bootstrap_estimates(scores, [0.0, 1.0], "mosi", resamples=1)["mae"]
    assert one.low <= one.mean <= one.high
    assert paired_test(scores, [[1.0, 1.0]], flips=1).low < 0


def test_a_better_system_differs_significantly_from_a_worse_one_and_not_from_itself(labels):
    generator = np.random.default_rng(5)
    better, worse = np.abs(generator.normal(0, 0.5, (3, 200))), np.abs(generator.normal(0, 0.8, (3, 200)))
    found = paired_test(better, worse)
    assert found.difference == pytest.approx((better - worse).mean())
    assert found.high < 0
    assert found.p < 0.01
    assert found.p_flips < 0.001
    assert found.verdict == "first"
    same = paired_test(better, better[::1])
    assert (same.difference, same.p, same.p_flips, same.verdict) == (0.0, 1.0, 1.0, "undecided")
    assert paired_test(np.ones((2, 3)), np.zeros((2, 3)), flips=9).p == 0.0  # nothing varies


def test_equal_systems_rarely_differ_significantly():
    generator = np.random.default_rng(6)
    p_values = [paired_test(*np.abs(generator.normal(size=(2, 3, 40))), flips=9).p for _ in range(200)]
    assert 0 < np.mean(np.array(p_values) < 0.05) < 0.1


def test_luck_in_a_video_or_a_seed_is_rarely_taken_for_a_difference():
    """No true difference; clips of one video share a fifth of their variance, and the seeds differ."""
    generator, places = np.random.default_rng(13), np.repeat(np.arange(31), 22)
    groups = [str(place) for place in places]
    wrong = {"by video": 0, "as if independent": 0}
    for _ in range(100):
        luck = generator.normal(0, 0.27, 31)[places] + generator.normal(0, 0.03, (3, 1))
        first = 2 + luck + generator.normal(0, 0.54, (3, len(places)))
        for name, given in (("by video", groups), ("as if independent", None)):
            wrong[name] += paired_test(np.abs(first), np.full((1, len(places)), 2.0), groups=given, flips=1).p < 0.05
    assert wrong["by video"] <= 11  # of 100: 5 are expected, 12 or more have a probability of .01
    assert wrong["as if independent"] >= 18


def test_a_system_without_seeds_is_paired_with_each_seed_of_another():
    errors = np.abs(np.random.default_rng(7).normal(size=(3, 50)))
    found, repeated = paired_test(errors, np.full((1, 50), 2.0)), paired_test(errors, np.full((3, 50), 2.0))
    assert found == repeated
    with pytest.raises(ValueError, match=r"same seeds and clips, not \(3, 50\) and \(2, 50\)"):
        paired_test(errors, errors[:2])


def test_p_values_are_adjusted_for_multiple_tests():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    assert holm([0.0, 1.0]) == [0.0, 1.0]


@pytest.mark.parametrize("bad", [-0.01, 1.01, math.nan, math.inf, 30.0])
def test_a_p_value_is_a_probability(bad):
    with pytest.raises(ValueError, match=r"p_values: .*index 1"):
        holm([0.2, bad, 0.1])


def test_p_values_are_a_flat_list():
    with pytest.raises(ValueError, match=r"p_values must be \(n,\) numbers, found shape \(1, 2\)"):
        holm([[0.1, 0.2]])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_estimate_comes_from_finite_scores_and_labels(bad):
    scores, labels = np.zeros((2, 3)), np.array([0.0, 1.0, 2.0])
    broken = scores.copy()
    broken[1, 2] = bad
    with pytest.raises(ValueError, match=r"scores: 1 values are not finite.* first at index \(1, 2\)"):
        bootstrap_estimates(broken, labels, "mosi", resamples=2)
    with pytest.raises(ValueError, match=r"labels: 1 values are not finite.* first at index 1"):
        bootstrap_estimates(scores, [0.0, bad, 2.0], "mosi", resamples=2)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros(2), "3 scores for 2 labels"),
        (np.zeros(3), np.zeros(2), "3 scores for 2 labels"),
        (np.zeros((2, 3)), np.zeros((2, 3)), r"labels must be \(n,\) numbers, found shape \(2, 3\)"),
        (np.zeros((2, 3, 1)), np.zeros(3), r"scores must be \(S, n\) numbers, found shape \(2, 3, 1\)"),
        (np.zeros((0, 3)), np.zeros(3), "at least one seed and one clip"),
        (np.zeros((2, 0)), np.zeros(0), "at least one seed and one clip"),
        ([["0.1", "0.2"]], np.zeros(2), "scores must be numbers"),
        ([[0.1, 0.2], [0.1]], np.zeros(2), "scores must be numbers"),
    ],
)
def test_an_estimate_is_of_seeds_by_clips(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_estimates(scores, labels, "mosi", resamples=2)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([0.1, math.nan], [0.1, 0.2], r"first: 1 values are not finite.* first at index \(0, 1\)"),
        ([0.1, 0.2], [math.inf, 0.2], r"second: 1 values are not finite.* first at index \(0, 0\)"),
        ([0.1, -0.2], [0.1, 0.2], "first has errors below 0"),
        ([[0.1], [0.2]], [[0.2], [0.1]], "at least two clips"),
        ([0.1, 0.2], [-0.1, 0.2], "second has errors below 0"),
        (np.zeros((0, 2)), [0.1, 0.2], "at least one seed and one clip"),
        ([[]], [[]], "at least one seed and one clip"),
        (np.zeros((1, 1, 2)), np.zeros((1, 2)), r"first must be \(S, n\) numbers"),
        (np.zeros((1, 2)), np.zeros((1, 3)), r"same seeds and clips, not \(1, 2\) and \(1, 3\)"),
    ],
)
def test_a_paired_test_is_of_absolute_errors_by_seed_and_clip(first, second, message):
    with pytest.raises(ValueError, match=message):
        paired_test(first, second, flips=9)


@pytest.mark.parametrize("resamples", [0, -1])
def test_an_interval_needs_resamples(resamples):
    with pytest.raises(ValueError, match=f"resamples must be at least 1, not {resamples}"):
        bootstrap_estimates(np.zeros(3), np.zeros(3), "mosi", resamples=resamples)
    with pytest.raises(ValueError, match=f"flips must be at least 1, not {resamples}"):
        paired_test(np.ones(3), np.zeros(3), flips=resamples)


def test_the_smallest_p_value_follows_from_the_number_of_flips():
    worse, better = np.ones(40), np.zeros(40)
    assert paired_test(worse, better, flips=9).p_flips == pytest.approx(2 / 10)
    assert paired_test(worse, better, flips=99).p_flips == pytest.approx(2 / 100)
