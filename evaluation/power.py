"""How many seeds and videos a difference needs to be found: the power of `paired_test`. Knows neither model nor data set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from .statistics import PairedTest
from .variances import ALPHA, standard_error

TARGET = 0.8  # the usual power
MOST_VIDEOS = 1_000_000
STEP = 1.05  # between the numbers of videos that are tried


@dataclass(frozen=True)
class Noise:
    """What hides a difference between two systems, label units.

    Attributes:
        video_sd: standard deviation of a video's mean difference.
        seed_sd: standard deviation of a seed's mean difference.
        clip_sd: of what is left in the mean difference of one video under one seed.
        effective_share: effective number of videos as a share of their number; below 1 if some are longer than others.
    """

    video_sd: float
    seed_sd: float
    clip_sd: float = 0.0
    effective_share: float = 1.0

    @classmethod
    def of(cls, test: PairedTest) -> "Noise":
        """The noise that a finished test met; one seed does not show how seeds differ, so `seed_sd` is 0 then."""
        alone = min(test.clip_variance, test.group_variance, test.seed_variance)
        return cls(
            math.sqrt((test.group_variance - alone) * test.groups),
            math.sqrt((test.seed_variance - alone) * test.seeds),
            math.sqrt(alone * test.groups * test.seeds),
            test.effective_groups / test.groups,
        )

    @property
    def is_none(self) -> bool:
        """Whether there is no noise at all."""
        return self.video_sd == self.seed_sd == self.clip_sd == 0


def power(difference: float, noise: Noise, *, videos: int, seeds: int, alpha: float = ALPHA) -> float:
    """The probability that `paired_test` has a p below `alpha` for a true difference, label units; in [0, 1].

    More videos do not always help: where seeds differ more than videos, the test has as few degrees of freedom as there are seeds.

    Raises:
        ValueError: for fewer than two videos or seeds, or without noise.
    """
    if videos < 2 or seeds < 2:
        raise ValueError(f"videos, seeds: a verdict needs at least two of each, not {videos} and {seeds}")
    if noise.is_none:
        raise ValueError("video_sd, seed_sd: at least one must be above 0")
    by_video, by_seed = noise.video_sd**2 / videos, noise.seed_sd**2 / seeds
    alone = noise.clip_sd**2 / (videos * seeds)
    true = math.sqrt(by_video + by_seed + alone)
    estimated, df = standard_error(by_video + alone, max(videos * noise.effective_share, 2.0), by_seed + alone, seeds)
    edge, shift = stats.t.ppf(1 - alpha / 2, df) * estimated / true, difference / true
    return float(stats.nct.sf(edge, df, shift) + stats.nct.cdf(-edge, df, shift))


def videos_needed(
    difference: float, noise: Noise, *, seeds: int, target: float = TARGET, alpha: float = ALPHA
) -> int | None:
    """The fewest videos with which a true difference is found with probability `target`; `None` if no number suffices."""

    def enough(videos: int) -> bool:
        return power(difference, noise, videos=videos, seeds=seeds, alpha=alpha) >= target

    before, videos = 1, 2
    while not enough(videos):
        before, videos = videos, max(videos + 1, int(videos * STEP))
        if videos > MOST_VIDEOS:
            return None
    return next(count for count in range(before + 1, videos + 1) if enough(count))


def power_table(
    difference: float,
    noise: Noise,
    *,
    videos: int | None,
    seeds: Sequence[int],
    target: float = TARGET,
    alpha: float = ALPHA,
) -> list[dict[str, float | int | None]]:
    """For each number of seeds: the power with the videos at hand, and how many are needed for the target."""
    return [
        {
            "seeds": count,
            "power": None if videos is None else power(difference, noise, videos=videos, seeds=count, alpha=alpha),
            "videos needed": videos_needed(difference, noise, seeds=count, target=target, alpha=alpha),
        }
        for count in seeds
    ]
