"""Uncertainty of results for new videos and new trainings: intervals of the metrics, and paired tests of two systems.

Clips of one video are not independent, and neither are the clips that one training scored: a system that is luckier in one video
or one seed is luckier in all its clips. So videos and seeds are the units here, not clips. Uses only scores, labels and the
clips' videos; knows neither model nor data set.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from .metrics import METRICS, Metric, Numbers, finite, msa_metrics, resampled_metrics
from .variances import (
    ALPHA,
    effective_groups,
    parts_of_mean,
    places_of,
    standard_error,
    t_test,
    unbiased,
    variance_of_mean,
)

RESAMPLES = 1000
SIGN_FLIPS = 9999
AT_ONCE = 1_000_000  # clips of resamples that are in memory together
Verdict = Literal["first", "second", "undecided"]


@dataclass(frozen=True)
class Estimate:
    """A metric over S seeds; every value is `None` if the metric is undefined.

    Attributes:
        mean: over the seeds.
        sd: over the seeds, with S - 1 in the denominator; `None` for one seed.
        low, high: 95 % interval of the mean, for new videos and new seeds; with one seed, for new videos alone.
        per_seed: (S,) in the order of the seeds.
    """

    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    per_seed: list[float | None]

    @property
    def text(self) -> str:
        """For tables: the mean, with the standard deviation if there are several seeds; empty if undefined."""
        if self.mean is None:
            return ""
        return f"{self.mean:.3f}" + ("" if self.sd is None else f" ± {self.sd:.3f}")

    @property
    def interval(self) -> str:
        """For tables: the 95 % interval; empty if there is none."""
        return "" if self.low is None else f"{self.low:.3f} to {self.high:.3f}"

    def mean_low_high(self) -> tuple[float, float, float]:
        """The mean and its interval, for plots; without an interval, the mean three times.

        Raises:
            ValueError: when the metric is undefined.
        """
        if self.mean is None:
            raise ValueError("the metric is undefined for some seed, so it has no mean")
        if self.low is None or self.high is None:
            return self.mean, self.mean, self.mean
        return self.mean, self.low, self.high

    def to_dict(self) -> dict[str, float | list[float | None] | None]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PairedTest:
    """Two systems on the same n clips; errors are absolute, in label units.

    Attributes:
        difference: mean error of the first minus that of the second; below 0, the first is better.
        low, high: 95 % interval of the difference, for new videos and new seeds; with one seed, for new videos alone.
        p: two-sided, for new videos and new seeds together; `None` for one seed.
        p_flips: two-sided sign-flip permutation test of the videos' differences, as a check; takes the seeds as given.
        groups: number of videos.
        seeds: number of seeds.
        effective_groups: their effective number, from which the degrees of freedom follow; smaller if a few are much longer.
        group_variance, seed_variance: the parts of the variance of `difference` that are between videos and between seeds; the
            second is 0 for one seed.
        clip_variance: what single clips in single trainings add to each of the two.
    """

    difference: float
    low: float
    high: float
    p: float | None
    p_flips: float
    groups: int
    seeds: int
    effective_groups: float
    group_variance: float
    seed_variance: float
    clip_variance: float

    @property
    def text(self) -> str:
        """For tables: the difference, with its sign."""
        return f"{self.difference:+.3f}"

    @property
    def interval(self) -> str:
        """For tables: the 95 % interval of the difference."""
        return f"{self.low:+.3f} to {self.high:+.3f}"

    @property
    def verdict(self) -> Verdict:
        """Which system has the lower error, by `p` alone."""
        return verdict(self.difference, self.p)

    def reversed(self) -> "PairedTest":
        """The second system against the first."""
        return replace(self, difference=-self.difference, low=-self.high, high=-self.low)

    def within(self, margin: float) -> bool:
        """Whether the whole interval is inside ± `margin`: no difference that matters, if smaller ones do not."""
        return -margin < self.low and self.high < margin

    def to_dict(self) -> dict[str, float | None]:
        """Plain values, for JSON."""
        return asdict(self)


def verdict(difference: float, p: float | None) -> Verdict:
    """Which of two systems has the lower error; a difference below 0 is in favour of the first. Without `p` nothing is decided."""
    if p is None or p >= ALPHA or difference == 0:
        return "undecided"
    return "first" if difference < 0 else "second"


@dataclass(frozen=True)
class Resampled:
    """The metrics of a system that was trained with S seeds, on its n clips and on resamples of their videos.

    Attributes:
        per_seed: by metric, (S,) on all clips; `None` where undefined.
        drawn: by metric, the mean over the seeds on each resample, (resamples,); nan where undefined. Empty with one video.
        places: (n,) the number of each clip's video.
    """

    per_seed: dict[str, list[float | None]]
    drawn: dict[str, np.ndarray]
    places: np.ndarray


def bootstrap_estimates(
    scores: np.ndarray,
    labels: Numbers,
    convention: str,
    *,
    groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every metric with its interval, from `resampled`, whose arguments these are.

    The quantiles below and above the mean are taken as 1.96 standard errors; to each the variance of the seeds' mean is added,
    and the interval is that of a t distribution with Satterthwaite's degrees of freedom. With one video, or too few for the
    metric, there is no interval.
    """
    return estimates(resampled(scores, labels, convention, groups=groups, resamples=resamples, seed=seed))


def estimates(found: Resampled) -> dict[str, Estimate]:
    """Every metric with its interval, as `bootstrap_estimates`."""
    return {
        key: _estimate(values, found.drawn[key][~np.isnan(found.drawn[key])], found.places, METRICS[key])
        for key, values in found.per_seed.items()
    }


def resampled(
    scores: np.ndarray,
    labels: Numbers,
    convention: str,
    *,
    groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Resampled:
    """Every metric of a system that was trained with S seeds and scored the same n clips each time, on resamples of the videos.

    A resample draws as many videos as there are, with replacement and all their clips (cluster bootstrap; Davison and Hinkley,
    1997). Two systems with the same `groups`, `resamples` and `seed` are resampled alike, so that theirs can be paired.

    Args:
        scores: (S, n) label units.
        labels: (n,) label units.
        convention: of `msa_metrics`.
        groups: the video of each clip; `None` if every clip is independent of the others.
        resamples: how many are drawn.
        seed: of the draws.

    Raises:
        ValueError: for other shapes, no seed or clip, values that are not finite, or no resamples.
    """
    scores, truth = _by_seed("scores", scores), finite("labels", labels)
    if scores.shape[1] != len(truth):
        raise ValueError(f"{scores.shape[1]} scores for {len(truth)} labels; expected one of each per clip")
    _at_least_one("resamples", resamples)
    places = places_of(groups, len(truth))
    rows, videos = [_metrics(row, truth, convention) for row in scores], int(places.max()) + 1
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[np.ndarray]] = {key: [] for key in rows[0]}
    left = resamples if videos > 1 else 0
    while left > 0:
        size = min(left, max(1, AT_ONCE // len(truth)))
        left -= size
        draws = generator.integers(videos, size=(size, videos))
        times = np.stack([np.bincount(row, minlength=videos) for row in draws]).astype(float)  # (size, videos)
        found = [resampled_metrics(row, truth, convention, times[:, places]) for row in scores]
        for key, means in drawn.items():
            means.append(np.mean([metrics[key] for metrics in found], axis=0))
    return Resampled(
        {key: [metrics[key] for metrics in rows] for key in rows[0]},
        {key: np.concatenate(means) if means else np.array([]) for key, means in drawn.items()},
        places,
    )


def paired_test(
    first: np.ndarray,
    second: np.ndarray,
    *,
    groups: Sequence[str] | None = None,
    flips: int = SIGN_FLIPS,
    seed: int = 0,
) -> PairedTest:
    """Compare the absolute errors of two systems, (S, n) each, seed by seed and clip by clip.

    The variance of the mean difference is that between videos plus that between seeds; each also holds the noise of single clips,
    so that the sum is rather too large than too small. Interval and p are those of a t distribution with Satterthwaite's degrees
    of freedom, where videos of unequal length count as fewer (the effective number of clusters for clips that are alike; Carter et
    al., 2017). Two seeds show so little of how seeds differ that they have one degree of freedom in all.

    Args:
        first, second: a system that does not depend on the seed may be given as (1, n).
        groups: the video of each clip; `None` if every clip is independent of the others.
        flips: how many sign flips are drawn.
        seed: of the draws.

    Raises:
        ValueError: when the numbers of clips differ, or those of seeds, unless one of them is 1; for no seed, fewer than two
            clips or videos, errors that are not finite or below 0, and no flips.
    """
    first, second = _by_seed("first", first), _by_seed("second", second)
    for name, errors in (("first", first), ("second", second)):
        if (errors < 0).any():
            raise ValueError(f"{name} has errors below 0; expected absolute errors")
    if first.shape[1] != second.shape[1] or (len(first) != len(second) and 1 not in (len(first), len(second))):
        raise ValueError(f"paired errors must be of the same seeds and clips, not {first.shape} and {second.shape}")
    if first.shape[1] < 2:
        raise ValueError("paired errors must be of at least two clips")
    _at_least_one("flips", flips)
    differences = first - second  # (S, n)
    places = places_of(groups, differences.shape[1])
    videos = int(places.max()) + 1
    if videos < 2:
        raise ValueError(f"all {len(places)} clips are of one video; a test needs at least two")
    difference = float(differences.mean())
    between_videos = float(np.sum(parts_of_mean(differences.mean(0), places) ** 2))
    between_seeds, effective = variance_of_mean(differences.mean(1)), effective_groups(places)
    reach, p = t_test(difference, between_videos, effective, between_seeds, len(differences))
    sums = np.bincount(places, differences.mean(0), minlength=videos)
    flipped = stats.permutation_test(
        (sums,),
        lambda values, axis: np.sum(values, axis=axis),
        permutation_type="samples",
        n_resamples=flips,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return PairedTest(
        difference,
        difference - reach,
        difference + reach,
        p,
        float(flipped.pvalue),
        groups=videos,
        seeds=len(differences),
        effective_groups=effective,
        group_variance=between_videos,
        seed_variance=between_seeds,
        clip_variance=_clip_variance(differences, places),
    )


def paired_tests(
    first: np.ndarray, others: Sequence[np.ndarray], *, groups: Sequence[str] | None = None
) -> list[tuple[PairedTest, float | None]]:
    """`paired_test` of one system against each other one, with its `p` adjusted for all of them by `holm`."""
    tests = [paired_test(first, errors, groups=groups) for errors in others]
    known = [test.p for test in tests if test.p is not None]
    adjusted = iter(holm(known))
    return [(test, None if test.p is None else next(adjusted)) for test in tests]


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for multiple tests (Holm, 1979), which controls the family-wise error rate.

    Raises:
        ValueError: for a value outside [0, 1].
    """
    values = finite("p_values", p_values)
    wrong = np.flatnonzero((values < 0) | (values > 1))
    if len(wrong):
        raise ValueError(f"p_values: expected numbers in [0, 1], found {values[wrong[0]]} at index {wrong[0]}")
    order = np.argsort(values)
    adjusted, highest = [0.0] * len(order), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * float(values[index])))
        adjusted[index] = highest
    return adjusted


def _clip_variance(differences: np.ndarray, places: np.ndarray) -> float:
    """The part of the variance of the mean of (S, n) that is neither a video's nor a seed's own; 0 for one seed."""
    seeds, clips = differences.shape
    if seeds < 2:
        return 0.0
    shares = np.bincount(places) / clips
    cells = np.stack([np.bincount(places, row) for row in differences]) / clips  # (S, videos)
    alone = cells - cells.mean(0) - shares * (differences.mean(1) - differences.mean())[:, None]
    return float(np.sum(alone**2)) / (seeds * (seeds - 1)) * unbiased(places)


def _by_seed(name: str, values: Numbers) -> np.ndarray:
    """Values of S seeds and n clips, (S, n); (n,) are those of one seed."""
    array = finite(name, values, dimensions=2)
    if array.size == 0:
        raise ValueError(f"{name}: found shape {array.shape}; expected at least one seed and one clip")
    return array


def defined(values: Sequence[float | None]) -> list[float]:
    """The values if all are defined, else an empty list."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _at_least_one(name: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"{name} must be at least 1, not {count}")


def _metrics(scores: np.ndarray, labels: np.ndarray, convention: str) -> dict[str, float | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # constant scores have no correlation, which is `None` already
        return msa_metrics(scores, labels, convention=convention)


def _estimate(per_seed: list[float | None], drawn: np.ndarray, places: np.ndarray, metric: Metric) -> Estimate:
    values = defined(per_seed)
    if not values:
        return Estimate(None, None, None, None, per_seed)
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
    if not len(drawn) or places.max() + 1 < metric.fewest_videos:
        return Estimate(mean, sd, None, None, per_seed)
    correction, between_seeds = unbiased(places), variance_of_mean(np.array(values))
    _, df = standard_error(float(np.var(drawn)) * correction, effective_groups(places), between_seeds, len(values))
    sides = np.maximum(np.array([-1.0, 1.0]) * (np.quantile(drawn, (0.025, 0.975)) - mean), 0) / 1.96
    below, above = np.sqrt(sides**2 * correction + between_seeds) * stats.t.ppf(1 - ALPHA / 2, df)
    low, high = metric.limits
    return Estimate(mean, sd, max(mean - float(below), low), min(mean + float(above), high), per_seed)
