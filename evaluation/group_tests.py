"""Is a group of clips scored differently from the others? Means with intervals and a test of two sets of clips, by videos.

`paired_test` compares two systems on the same clips; here one system is compared on different clips. A video may have both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .metrics import Numbers, finite
from .variances import (
    effective_groups,
    parts_of_mean,
    places_of,
    reach_and_p,
    satterthwaite,
    t_test,
)

MIN_VIDEOS = 10  # on either side of a test; with fewer its p is not to be relied on


@dataclass(frozen=True)
class GroupTest:
    """A group's mean minus that of the other clips, for new videos.

    Attributes:
        difference: of the means.
        low, high: 95 % interval of the difference.
        p: two-sided.
    """

    difference: float
    low: float
    high: float
    p: float


def mean_with_interval(
    values: Numbers, videos: Sequence[str] | None = None
) -> tuple[float, float | None, float | None]:
    """The mean of n values, and its 95 % interval for new videos, which is `None` twice with one video.

    Raises:
        ValueError: for no values, values that are not finite, or another number of videos.
    """
    values = finite("values", values)
    mean, places = float(values.mean()), places_of(videos, len(values))
    if places.max() == 0:
        return mean, None, None
    variance = float(np.sum(parts_of_mean(values, places) ** 2))
    reach, _ = t_test(mean, variance, effective_groups(places), 0.0, 1)
    return mean, mean - reach, mean + reach


def group_test(
    values: Numbers, members: Sequence[bool] | np.ndarray, videos: Sequence[str] | None = None
) -> GroupTest | None:
    """Compare the mean of some clips with that of the others; `None` with fewer than `MIN_VIDEOS` videos on a side.

    The variance of the difference is that of both means less what videos with clips on both sides add to both. The t distribution
    has Satterthwaite's degrees of freedom, and no more than all videos have. For values that are 0 or 1, each mean's variance is
    at least that of independent clips which share one mean: a small group whose values are all 1 would have none otherwise.

    Args:
        values: (n,).
        members: (n,) whether a clip is in the group.
        videos: the video of each clip; `None` if every clip is independent of the others.

    Raises:
        ValueError: for values that are not finite, or unequal lengths.
    """
    values, members = finite("values", values), np.asarray(members, dtype=bool)
    if len(members) != len(values):
        raise ValueError(f"members: {len(members)} for {len(values)} values; expected one for each")
    places = places_of(videos, len(values))
    sides = [members, ~members]
    if min(len(np.unique(places[side])) for side in sides) < MIN_VIDEOS:
        return None
    difference = float(values[members].mean() - values[~members].mean())
    parts, known = np.zeros((2, places.max() + 1)), []
    for at, side in enumerate(sides):
        found, own = np.unique(places[side], return_inverse=True)
        parts[at, found] = parts_of_mean(values[side], own)
        known.append((max(float(np.sum(parts[at] ** 2)), _least(values, side)), max(effective_groups(own) - 1, 1.0)))
    variance = sum(one for one, _ in known) - 2 * float(np.sum(parts[0] * parts[1]))
    if variance <= 0:
        return GroupTest(difference, difference, difference, float(difference == 0))
    df = min(satterthwaite(known), max(effective_groups(places) - 1, 1.0))
    reach, p = reach_and_p(difference, float(np.sqrt(variance)), df)
    return GroupTest(difference, difference - reach, difference + reach, p)


def _least(values: np.ndarray, side: np.ndarray) -> float:
    """The least variance of the mean of the values of a side: of 0 and 1 that of as many independent ones, else none."""
    return float(values.var()) / int(side.sum()) if np.isin(values, (0, 1)).all() else 0.0
