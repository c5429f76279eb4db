"""How many seeds and videos a difference needs to be found: the power of `paired_test`. Knows neither model nor data set."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from .statistics import SURE, PairedTest, standard_error

TARGET = 0.8  # the usual power
MOST_VIDEOS = 1_000_000


@dataclass(frozen=True)
class Noise:
    """What hides a difference between two systems.

    Attributes:
        video_sd: standard deviation of a video's mean difference, for videos of equal length, label units.
        seed_sd: standard deviation of a seed's mean difference, label units.
        effective_share: effective number of videos as a share of their number; below 1 if some are longer than others.
    """

    video_sd: float
    seed_sd: float
    effective_share: float = 1.0

    @classmethod
    def of(cls, test: PairedTest) -> "Noise":
        """The noise that a finished test met.

        Raises:
            ValueError: for a test of one seed, which does not show how seeds differ.
        """
        if test.seeds < 2:
            raise ValueError(
                "the comparison has one seed, which does not show how seeds differ; add seeds, or give --seed-sd"
            )
        return cls(
            (test.group_variance * test.effective_groups) ** 0.5,
            (test.seed_variance * test.seeds) ** 0.5,
            test.effective_groups / test.groups,
        )


def power(difference: float, noise: Noise, *, videos: int, seeds: int) -> float:
    """The probability that `paired_test` gives a verdict for a true difference, label units; in [0, 1].

    Raises:
        ValueError: for fewer than two videos or seeds, or noise that is not above 0.
    """
    if videos < 2 or seeds < 2:
        raise ValueError(f"videos, seeds: a verdict needs at least two of each, not {videos} and {seeds}")
    effective = max(videos * noise.effective_share, 2.0)
    error, freedom = standard_error(noise.video_sd**2 / effective, effective, noise.seed_sd**2 / seeds, seeds)
    if not error > 0:
        raise ValueError("video_sd, seed_sd: at least one must be above 0")
    edge, shift = stats.t.ppf(1 - SURE / 2, freedom), difference / error
    return float(stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift))


def videos_needed(difference: float, noise: Noise, *, seeds: int, target: float = TARGET) -> int | None:
    """The fewest videos with which a true difference is found with probability `target`; `None` if no number suffices."""
    low, high = 2, 2
    while power(difference, noise, videos=high, seeds=seeds) < target:
        low, high = high, 2 * high
        if high > MOST_VIDEOS:
            return None
    while low < high:
        middle = (low + high) // 2
        if power(difference, noise, videos=middle, seeds=seeds) < target:
            low = middle + 1
        else:
            high = middle
    return high


def power_table(
    difference: float, noise: Noise, *, videos: int | None, seeds: Sequence[int], target: float = TARGET
) -> list[dict[str, float | int | None]]:
    """For each number of seeds: the power with the videos at hand, and how many are needed for the target."""
    return [
        {
            "seeds": count,
            "power": None if videos is None else power(difference, noise, videos=videos, seeds=count),
            "videos needed": videos_needed(difference, noise, seeds=count, target=target),
        }
        for count in seeds
    ]
