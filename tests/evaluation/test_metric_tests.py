"""Paired tests of every metric: against the test of the errors, by hand, and on systems whose answer is known."""

import numpy as np
import pytest

from omnisent.evaluation.metric_tests import MetricTest, metric_tests
from omnisent.evaluation.metrics import msa_metrics
from omnisent.evaluation.statistics import holm, paired_test, resampled

PLACES = np.repeat(np.arange(40), 12)
VIDEOS = [str(place) for place in PLACES]


def _labels():
    return np.random.default_rng(1).uniform(-3, 3, len(PLACES))


def _system(noise, seeds=3, seed=2):
    return _labels() + noise * np.random.default_rng(seed).normal(size=(seeds, len(PLACES)))


def _resampled(scores, **given):
    return resampled(scores, _labels(), "mosi", **{"groups": VIDEOS, "resamples": 300, **given})


def test_the_test_of_the_mae_is_that_of_the_errors():
    ours, theirs = _system(0.8), _system(0.9, seed=3)
    found = metric_tests(_resampled(ours, resamples=2000), {"b": _resampled(theirs, resamples=2000)})["b"]["mae"]
    expected = paired_test(np.abs(ours - _labels()), np.abs(theirs - _labels()), groups=VIDEOS)
    assert found.difference == pytest.approx(expected.difference)
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.1)
    assert found.p == pytest.approx(expected.p, abs=0.02)


def test_a_difference_is_that_of_the_means_over_seeds_in_every_metric():
    ours, theirs = _system(0.8), _system(1.2, seed=3)
    found = metric_tests(_resampled(ours), {"b": _resampled(theirs)})["b"]
    first, second = ([msa_metrics(row, _labels()) for row in scores] for scores in (ours, theirs))
    assert found.keys() == first[0].keys()
    for key, test in found.items():
        assert test.difference == pytest.approx(
            np.mean([row[key] for row in first]) - np.mean([row[key] for row in second])
        )
        assert test.low < test.difference < test.high


def test_the_better_system_is_found_by_metrics_of_either_direction():
    good, bad = _resampled(_system(0.5)), _resampled(_system(1.5, seed=3))
    for key in ("mae", "corr", "acc_7", "acc_2_non0"):
        assert metric_tests(good, {"b": bad})["b"][key].verdict == "first"
        assert metric_tests(bad, {"b": good})["b"][key].verdict == "second"
        assert metric_tests(good, {"b": good})["b"][key].verdict == "undecided"


def test_what_a_video_does_to_both_systems_cancels():
    luck = np.random.default_rng(5).normal(0, 1.0, 40)[PLACES]
    ours, theirs = _system(0.3) + luck, _system(0.3, seed=3) + luck
    alike = metric_tests(_resampled(ours), {"b": _resampled(theirs)})["b"]["corr"]
    apart = metric_tests(_resampled(ours), {"b": _resampled(_system(0.3, seed=3) - luck)})["b"]["corr"]
    assert alike.high - alike.low < (apart.high - apart.low) / 1.5


def test_clips_of_one_video_are_not_taken_as_independent():
    luck = np.random.default_rng(5).normal(0, 1.0, 40)[PLACES]
    ours, theirs = _system(0.3) + luck, _system(0.3, seed=3)
    by_video, by_clip = (
        metric_tests(_resampled(ours, groups=groups), {"b": _resampled(theirs, groups=groups)})["b"]["corr"]
        for groups in (VIDEOS, None)
    )
    assert by_video.high - by_video.low > 1.5 * (by_clip.high - by_clip.low)


def test_p_is_adjusted_for_the_rivals_metric_by_metric():
    ours = _resampled(_system(0.8))
    rivals = {name: _resampled(_system(0.85, seed=seed)) for name, seed in (("a", 3), ("b", 4), ("c", 5))}
    found = metric_tests(ours, rivals)
    for key in ("corr", "acc_2_non0"):
        adjusted = holm([found[name][key].p for name in rivals])
        assert [found[name][key].p_holm for name in rivals] == adjusted
    assert found["a"]["corr"].p_holm > found["a"]["corr"].p


def test_one_seed_has_an_interval_and_no_verdict():
    found = metric_tests(_resampled(_system(0.2, seeds=1)), {"b": _resampled(_system(2.0, seeds=1, seed=3))})["b"][
        "corr"
    ]
    assert (found.p, found.p_holm, found.verdict) == (None, None, "undecided")
    assert 0 < found.low < found.high


def test_a_system_without_seeds_is_paired_with_each_seed_and_other_numbers_are_refused():
    ours, one = _resampled(_system(0.8)), _resampled(_system(1.0, seeds=1, seed=3))
    assert metric_tests(ours, {"b": one})["b"]["corr"].p is not None
    with pytest.raises(ValueError, match="the same seeds, not 3 and 2"):
        metric_tests(ours, {"b": _resampled(_system(1.0, seeds=2))})
    for other in ({"groups": None}, {"resamples": 7}):
        with pytest.raises(ValueError, match="the same clips, videos and draws"):
            metric_tests(ours, {"b": _resampled(_system(1.0), **other)})


def test_a_metric_that_is_undefined_for_one_system_is_left_out():
    constant = _resampled(np.zeros((1, len(PLACES))))
    found = metric_tests(_resampled(_system(0.8)), {"constant": constant})["constant"]
    assert "corr" not in found
    assert found["acc_2_non0"].verdict == "first"


def test_tests_are_stored_with_their_verdict_and_come_back():
    found = metric_tests(_resampled(_system(0.5)), {"b": _resampled(_system(1.5, seed=3))})["b"]["corr"]
    assert found.to_dict()["verdict"] == "first"
    assert MetricTest.from_dict(found.to_dict()) == found
    assert (found.text, found.interval) == (f"{found.difference:+.3f}", f"{found.low:+.3f} to {found.high:+.3f}")


@pytest.mark.slow
def test_systems_that_do_not_differ_are_rarely_told_apart_though_videos_and_seeds_have_luck():
    generator, wrong = np.random.default_rng(13), 0
    for _ in range(60):
        labels = generator.uniform(-3, 3, len(PLACES))
        systems = [
            labels
            + generator.normal(0, 0.5, 40)[PLACES]
            + generator.normal(0, 0.8, (3, len(PLACES))) * (1 + generator.normal(0, 0.15, (3, 1)))
            for _ in range(2)
        ]
        drawn = [resampled(scores, labels, "mosi", groups=VIDEOS, resamples=100) for scores in systems]
        wrong += metric_tests(drawn[0], {"b": drawn[1]})["b"]["corr"].p < 0.05
    assert wrong <= 8  # of 60: 3 are expected, 9 or more have a probability of .003
