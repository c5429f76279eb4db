"""How many videos and seeds a difference needs: against simulated tests and closed forms."""

import numpy as np
import pytest
from scipy import stats

from omnisent.evaluation.power import MOST_VIDEOS, Noise, power, power_table, videos_needed
from omnisent.evaluation.statistics import paired_test


def test_the_power_is_that_of_simulated_tests():
    generator, videos, length, seeds = np.random.default_rng(0), 31, 20, 3
    places = np.repeat(np.arange(videos), length)
    groups, found, trials = [str(place) for place in places], 0, 400
    for _ in range(trials):
        luck = generator.normal(0, 0.15, videos)[places] + generator.normal(0, 0.02, (seeds, 1))
        found += paired_test(5.08 + luck, np.full((1, len(places)), 5.0), groups=groups, flips=1).verdict == "second"
    assert found / trials == pytest.approx(power(0.08, Noise(0.15, 0.02), videos=videos, seeds=seeds), abs=0.05)


def test_the_noise_of_a_finished_test_is_what_was_put_in():
    generator = np.random.default_rng(1)
    places = np.repeat(np.arange(2000), 2)
    luck = generator.normal(0, 0.2, 2000)[places] + np.array([[-0.05], [0.0], [0.05]])
    test = paired_test(5 + luck, np.full((1, 4000), 5.0), groups=[str(place) for place in places], flips=1)
    noise = Noise.of(test)
    assert noise.video_sd == pytest.approx(0.2, rel=0.05)
    assert noise.seed_sd == pytest.approx(0.05, rel=0.01)
    assert noise.effective_share == pytest.approx(1.0)
    assert Noise.of(paired_test(5 + luck[:1], np.full((1, 4000), 5.0), flips=1)).seed_sd == 0


def test_noise_of_single_clips_is_not_taken_for_that_of_seeds():
    generator, places = np.random.default_rng(2), np.repeat(np.arange(400), 10)
    groups, seed_sds, video_sds = [str(place) for place in places], [], []
    for _ in range(20):
        luck = generator.normal(0, 0.1, 400)[places] + generator.normal(0, 0.4, (3, len(places)))
        noise = Noise.of(paired_test(9 + luck, np.full((1, len(places)), 9.0), groups=groups, flips=1))
        seed_sds.append(noise.seed_sd)
        video_sds.append(noise.video_sd)
        assert noise.clip_sd == pytest.approx(0.4 / 10**0.5, rel=0.15) or noise.seed_sd == 0
    assert np.median(seed_sds) < 0.002  # three seeds alone would show 0.4 / 4000 ** 0.5 = 0.0063
    assert np.median(video_sds) == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize(
    ("videos", "seeds", "seed_sd", "clip_sd"), [(31, 5, 0.05, 0.1), (200, 3, 0.05, 0.0), (31, 3, 0.01, 0.3)]
)
def test_the_power_is_that_of_simulated_tests_whatever_differs_most(videos, seeds, seed_sd, clip_sd):
    generator, found, trials, difference = np.random.default_rng(3), 0, 300, 0.09
    for _ in range(trials):
        luck = generator.normal(0, 0.1, videos) + generator.normal(0, seed_sd, (seeds, 1))
        first = 9 + difference + luck + generator.normal(0, clip_sd, (seeds, videos))
        found += paired_test(first, np.full((1, videos), 9.0), flips=1).verdict == "second"
    expected = power(difference, Noise(0.1, seed_sd, clip_sd), videos=videos, seeds=seeds)
    assert found / trials == pytest.approx(expected, abs=0.09)  # three standard errors of 300 trials


def test_without_noise_between_seeds_it_is_the_power_of_a_t_test_over_videos():
    shift = 0.5 * np.sqrt(20)
    expected = stats.nct.sf(stats.t.ppf(0.975, 19), 19, shift) + stats.nct.cdf(-stats.t.ppf(0.975, 19), 19, shift)
    assert power(0.5, Noise(1.0, 0.0), videos=20, seeds=3) == pytest.approx(expected)
    assert power(0.0, Noise(1.0, 0.1), videos=20, seeds=3) == pytest.approx(0.05)


@pytest.mark.parametrize("difference", [0.03, 0.05, 0.3])
def test_the_needed_videos_are_the_fewest_that_reach_the_target(difference):
    noise = Noise(0.15, 0.01, 0.1, 0.8)
    needed = videos_needed(difference, noise, seeds=4)
    assert power(difference, noise, videos=needed, seeds=4) >= 0.8
    assert needed == 2 or power(difference, noise, videos=needed - 1, seeds=4) < 0.8


def test_no_number_of_videos_makes_up_for_seeds_that_differ_too_much():
    noise = Noise(0.1, 0.5)
    assert videos_needed(0.05, noise, seeds=3) is None
    assert power(0.05, noise, videos=MOST_VIDEOS, seeds=3) < 0.8
    narrow = videos_needed(0.064, Noise(0.15, 0.025), seeds=3)  # enough here, and not for every larger number
    assert power(0.064, Noise(0.15, 0.025), videos=narrow, seeds=3) >= 0.8
    rows = power_table(0.05, noise, videos=31, seeds=[3, 5])
    assert [row["videos needed"] for row in rows] == [None, None]
    assert rows[0]["power"] < rows[1]["power"]


def test_a_verdict_needs_several_videos_and_seeds_and_some_noise():
    with pytest.raises(ValueError, match="at least two of each, not 31 and 1"):
        power(0.1, Noise(1.0, 1.0), videos=31, seeds=1)
    with pytest.raises(ValueError, match="at least one must be above 0"):
        power(0.1, Noise(0.0, 0.0), videos=31, seeds=3)
