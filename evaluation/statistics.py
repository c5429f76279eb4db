"""Uncertainty of results: bootstrap intervals of the metrics, and paired tests of two systems over clips and seeds.

Uses only scores and labels; knows neither model nor data set.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from .metrics import Numbers, finite, msa_metrics

RESAMPLES = 1000
SIGN_FLIPS = 9999


@dataclass(frozen=True)
class Estimate:
    """A metric over S seeds; every value is `None` if the metric is undefined.

    Attributes:
        mean: over the seeds.
        sd: over the seeds, with S - 1 in the denominator; `None` for one seed.
        low, high: bootstrap 95 % interval of the mean, over clips and seeds.
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
        low, high: bootstrap 95 % interval of the difference, over clips and seeds.
        p_clips: two-sided sign-flip permutation test of the clips' differences, each the mean over seeds.
        p_seeds: two-sided paired t test of the seeds' MAE; `None` for fewer than two seeds, or when all differences are equal.
    """

    difference: float
    low: float
    high: float
    p_clips: float
    p_seeds: float | None

    @property
    def text(self) -> str:
        """For tables: the difference, with its sign."""
        return f"{self.difference:+.3f}"

    @property
    def interval(self) -> str:
        """For tables: the 95 % interval of the difference."""
        return f"{self.low:+.3f} to {self.high:+.3f}"

    def to_dict(self) -> dict[str, float | None]:
        """Plain values, for JSON."""
        return asdict(self)


def bootstrap_estimates(
    scores: np.ndarray, labels: Numbers, convention: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Every metric of a system that was trained with S seeds and scored the same n clips each time.

    A resample draws n clips and S seeds, both with replacement, and takes the mean of the drawn seeds' metrics; the
    interval lies between its 2.5 % and 97.5 % quantiles (percentile bootstrap; Efron and Tibshirani, 1993).

    Args:
        scores: (S, n) label units.
        labels: (n,) label units.
        convention: of `msa_metrics`.
        resamples: how many are drawn.
        seed: of the draws.

    Raises:
        ValueError: for other shapes, no seed or clip, values that are not finite, or no resamples.
    """
    scores, truth = _by_seed("scores", scores), finite("labels", labels)
    if scores.shape[1] != len(truth):
        raise ValueError(f"{scores.shape[1]} scores for {len(truth)} labels; expected one of each per clip")
    _at_least_one("resamples", resamples)
    per_seed = [_metrics(row, truth, convention) for row in scores]
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {key: [] for key in per_seed[0]}
    for _ in range(resamples):
        clips, seeds = _draw(generator, *scores.shape)
        by_seed = {row: _metrics(scores[row, clips], truth[clips], convention) for row in set(seeds)}
        for key, means in drawn.items():
            values = _defined([by_seed[row][key] for row in seeds])
            if values:
                means.append(float(np.mean(values)))
    return {key: _estimate([metrics[key] for metrics in per_seed], drawn[key]) for key in per_seed[0]}


def paired_test(
    first: np.ndarray, second: np.ndarray, *, resamples: int = RESAMPLES, flips: int = SIGN_FLIPS, seed: int = 0
) -> PairedTest:
    """Compare the absolute errors of two systems, (S, n) each, seed by seed and clip by clip.

    A system that does not depend on the seed may be given as (1, n).

    Raises:
        ValueError: when the numbers of clips differ, or those of seeds, unless one of them is 1; for no seed or fewer
            than two clips, errors that are not finite or below 0, and no resamples or flips.
    """
    first, second = _by_seed("first", first), _by_seed("second", second)
    for name, errors in (("first", first), ("second", second)):
        if (errors < 0).any():
            raise ValueError(f"{name} has errors below 0; expected absolute errors")
    if first.shape[1] != second.shape[1] or (len(first) != len(second) and 1 not in (len(first), len(second))):
        raise ValueError(f"paired errors must be of the same seeds and clips, not {first.shape} and {second.shape}")
    if first.shape[1] < 2:
        raise ValueError("paired errors must be of at least two clips")
    _at_least_one("resamples", resamples)
    _at_least_one("flips", flips)
    differences = first - second  # (S, n)
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        clips, seeds = _draw(generator, *differences.shape)
        drawn.append(differences[np.ix_(seeds, clips)].mean())
    low, high = np.quantile(drawn, (0.025, 0.975))
    flipped = stats.permutation_test(
        (differences.mean(0),),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        n_resamples=flips,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    by_seed = differences.mean(1)
    p_seeds = float(stats.ttest_1samp(by_seed, 0).pvalue) if len(by_seed) > 1 and np.ptp(by_seed) > 0 else None
    return PairedTest(float(differences.mean()), float(low), float(high), float(flipped.pvalue), p_seeds)


def paired_tests(first: np.ndarray, others: Sequence[np.ndarray]) -> list[tuple[PairedTest, float]]:
    """`paired_test` of one system against each other one, with its `p_clips` adjusted for all of them by `holm`."""
    tests = [paired_test(first, errors) for errors in others]
    return list(zip(tests, holm([test.p_clips for test in tests]), strict=True))


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


def _by_seed(name: str, values: Numbers) -> np.ndarray:
    """Values of S seeds and n clips, (S, n); (n,) are those of one seed."""
    array = finite(name, values, dimensions=2)
    if array.size == 0:
        raise ValueError(f"{name}: found shape {array.shape}; expected at least one seed and one clip")
    return array


def _defined(values: Sequence[float | None]) -> list[float]:
    """The values if all are defined, else an empty list."""
    defined = [value for value in values if value is not None]
    return defined if len(defined) == len(values) else []


def _at_least_one(name: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"{name} must be at least 1, not {count}")


def _draw(generator: np.random.Generator, seeds: int, clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of drawn clips and of drawn seeds."""
    return generator.integers(clips, size=clips), generator.integers(seeds, size=seeds)


def _metrics(scores: np.ndarray, labels: np.ndarray, convention: str) -> dict[str, float | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # constant scores have no correlation, which is `None` already
        return msa_metrics(scores, labels, convention=convention)


def _estimate(per_seed: list[float | None], drawn: list[float]) -> Estimate:
    values = _defined(per_seed)
    if not values:
        return Estimate(None, None, None, None, per_seed)
    low, high = (float(q) for q in np.quantile(drawn, (0.025, 0.975))) if drawn else (None, None)
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), sd, low, high, per_seed)
