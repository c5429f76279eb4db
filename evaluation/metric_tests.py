"""Paired tests of every metric, correlations and accuracies too, where `paired_test` takes the errors of single clips.

Both systems are resampled by the same videos, so that what a video does to both of them cancels.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .metrics import METRICS
from .statistics import Resampled, Verdict, defined, holm, verdict
from .variances import effective_groups, t_test, unbiased, variance_of_mean


@dataclass(frozen=True)
class MetricTest:
    """Two systems by one metric.

    Attributes:
        key: of the metric.
        difference: that of the first system minus that of the second.
        low, high: 95 % interval of the difference, for new videos and new seeds; with one seed, for new videos alone.
        p: two-sided, for new videos and new seeds together; `None` for one seed.
        p_holm: `p` adjusted for the tests of the first system against several others by this metric.
    """

    key: str
    difference: float
    low: float
    high: float
    p: float | None
    p_holm: float | None

    @property
    def verdict(self) -> Verdict:
        """Which system is better by this metric, by the adjusted p."""
        sign = 1 if METRICS[self.key].better == "lower" else -1
        return verdict(sign * self.difference, self.p_holm)

    @property
    def text(self) -> str:
        """For tables: the difference, with its sign."""
        return f"{self.difference:+.3f}"

    @property
    def interval(self) -> str:
        """For tables: the 95 % interval of the difference."""
        return f"{self.low:+.3f} to {self.high:+.3f}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "verdict": self.verdict}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MetricTest":
        """The inverse of `to_dict`."""
        return cls(**{name: value for name, value in values.items() if name != "verdict"})


def metric_tests(first: Resampled, others: Mapping[str, Resampled]) -> dict[str, dict[str, MetricTest]]:
    """The first system against each other one, by name and then by metric; a metric that is undefined for either is left out.

    The variance of a difference is that over the resamples plus that between seeds; interval and p are those of a t distribution
    with Satterthwaite's degrees of freedom, as in `paired_test`. P is adjusted for the other systems, metric by metric (Holm).

    Args:
        first: a system that does not depend on the seed may have one row.
        others: as the first, of the same clips and drawn with the same seed.

    Raises:
        ValueError: for systems of other clips or draws, or other numbers of seeds, unless one of them is 1.
    """
    found = {
        name: {key: _difference(key, first, other) for key in first.per_seed if _has(key, first) and _has(key, other)}
        for name, other in others.items()
    }
    for key in first.per_seed:
        known = {name: tests[key] for name, tests in found.items() if key in tests and tests[key].p is not None}
        adjusted = holm([test.p for test in known.values() if test.p is not None])
        for (name, test), p in zip(known.items(), adjusted, strict=True):
            found[name][key] = MetricTest(**{**asdict(test), "p_holm": p})
    return found


def _has(key: str, system: Resampled) -> bool:
    return bool(defined(system.per_seed[key])) and not np.isnan(system.drawn[key]).all()


def _difference(key: str, first: Resampled, second: Resampled) -> MetricTest:
    if not np.array_equal(first.places, second.places) or len(first.drawn[key]) != len(second.drawn[key]):
        raise ValueError("both systems must be resampled on the same clips, videos and draws")
    ours, theirs = (np.array(defined(system.per_seed[key])) for system in (first, second))
    if len(ours) != len(theirs) and 1 not in (len(ours), len(theirs)):
        raise ValueError(f"both systems must have the same seeds, not {len(ours)} and {len(theirs)}")
    by_seed = ours - theirs  # (S,)
    drawn = first.drawn[key] - second.drawn[key]
    between_videos = float(np.nanvar(drawn)) * unbiased(first.places)
    difference, groups = float(by_seed.mean()), effective_groups(first.places)
    reach, p = t_test(difference, between_videos, groups, variance_of_mean(by_seed), len(by_seed))
    return MetricTest(key, difference, difference - reach, difference + reach, p, None)
