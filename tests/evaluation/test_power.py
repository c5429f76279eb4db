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
    with pytest.raises(ValueError, match="has one seed"):
        Noise.of(paired_test(5 + luck[:1], np.full((1, 4000), 5.0), flips=1))


def test_without_noise_between_seeds_it_is_the_power_of_a_t_test_over_videos():
    shift = 0.5 * np.sqrt(20)
    expected = stats.nct.sf(stats.t.ppf(0.975, 19), 19, shift) + stats.nct.cdf(-stats.t.ppf(0.975, 19), 19, shift)
    assert power(0.5, Noise(1.0, 0.0), videos=20, seeds=3) == pytest.approx(expected)
    assert power(0.0, Noise(1.0, 0.1), videos=20, seeds=3) == pytest.approx(0.05)


@pytest.mark.parametrize("difference", [0.02, 0.05, 0.3])
def test_the_needed_videos_are_the_fewest_that_reach_the_target(difference):
    noise = Noise(0.15, 0.01, 0.8)
    needed = videos_needed(difference, noise, seeds=4)
    assert power(difference, noise, videos=needed, seeds=4) >= 0.8
    assert needed == 2 or power(difference, noise, videos=needed - 1, seeds=4) < 0.8


def test_no_number_of_videos_makes_up_for_seeds_that_differ_too_much():
    noise = Noise(0.1, 0.5)
    assert videos_needed(0.05, noise, seeds=3) is None
    assert power(0.05, noise, videos=MOST_VIDEOS, seeds=3) < 0.8
    rows = power_table(0.05, noise, videos=31, seeds=[3, 5])
    assert [row["videos needed"] for row in rows] == [None, None]
    assert rows[0]["power"] < rows[1]["power"]


def test_a_verdict_needs_several_videos_and_seeds_and_some_noise():
    with pytest.raises(ValueError, match="at least two of each, not 31 and 1"):
        power(0.1, Noise(1.0, 1.0), videos=31, seeds=1)
    with pytest.raises(ValueError, match="at least one must be above 0"):
        power(0.1, Noise(0.0, 0.0), videos=31, seeds=3)
