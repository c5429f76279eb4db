"""How much a mean varies between videos and between seeds: its variance, degrees of freedom and t test.

Clips of one video are alike, so that videos are the units; see `statistics`, whose tests and intervals are made of this.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

ALPHA = 0.05  # p below this gives a verdict
SMALLEST_P = 1e-4  # smaller ones are not told apart


def places_of(groups: Sequence[str] | None, clips: int) -> np.ndarray:
    """The number of each clip's video, (n,), from 0 on.

    Raises:
        ValueError: for another number of groups than clips, or a clip without one.
    """
    if groups is None:
        return np.arange(clips)
    names = [str(group) for group in groups]
    if len(names) != clips:
        raise ValueError(f"groups: {len(names)} videos for {clips} clips; expected one for each clip")
    if "" in names:
        raise ValueError(f"groups: clip {names.index('')} has no video; give None if the videos are not known")
    return np.asarray(np.unique(names, return_inverse=True)[1])


def effective_groups(places: np.ndarray) -> float:
    """The effective number of videos, if clips of one video are alike: smaller if a few long ones make up most clips."""
    shares = np.bincount(places) / len(places)
    return float(np.sum(shares**2) ** 2 / np.sum(shares**4))


def effective_units(places: np.ndarray) -> float:
    """How many independent clips say as much as the clips of these videos, if those of one video are all the same."""
    shares = np.bincount(places) / len(places)
    return float(1 / np.sum(shares**2))


def unbiased(places: np.ndarray) -> float:
    """What the sum of squared deviations of videos, each weighted by its share of the clips, has to be multiplied with.

    For n videos of equal length, n / (n - 1).
    """
    shares = np.bincount(places) / len(places)
    squares = np.sum(shares**2)
    return float(squares / (squares - 2 * np.sum(shares**3) + squares**2))


def parts_of_mean(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What each video adds to the error of the mean of n values, (videos,): the sum of its squares is the mean's variance.

    Args:
        values: (n,).
        places: (n,) the number of each clip's video, of at least two.
    """
    return np.bincount(places, values - values.mean()) / len(places) * np.sqrt(unbiased(places))


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variances, above 0 in all, each with its own."""
    return sum(variance for variance, _ in parts) ** 2 / sum(variance**2 / df for variance, df in parts)


def standard_error(group_variance: float, groups: float, seed_variance: float, seeds: int) -> tuple[float, float]:
    """Standard error of a mean whose variance has a part between videos and one between seeds, and its degrees of freedom.

    Args:
        group_variance: the part between videos, of the mean.
        groups: their effective number.
        seed_variance: the part between seeds, of the mean; 0 for one seed.
        seeds: their number.
    """
    parts = [(group_variance, max(groups - 1, 1.0)), (seed_variance, max(seeds - 1, 1))]
    total = group_variance + seed_variance
    if total == 0 or (seeds == 2 and seed_variance > 0):
        return float(np.sqrt(total)), 1.0
    return float(np.sqrt(total)), satterthwaite(parts)


def reach_and_p(difference: float, error: float, df: float) -> tuple[float, float]:
    """Half the width of the 95 % interval of a difference with a standard error, and its two-sided p."""
    reach = float(stats.t.ppf(1 - ALPHA / 2, df)) * error
    return reach, float(2 * stats.t.sf(abs(difference) / error, df)) if error > 0 else float(difference == 0)


def t_test(
    difference: float, group_variance: float, groups: float, seed_variance: float, seeds: int
) -> tuple[float, float | None]:
    """Half the width of the 95 % interval of a difference, and its two-sided p, which is `None` for one seed.

    The arguments after the difference are those of `standard_error`.
    """
    error, df = standard_error(group_variance, groups, seed_variance, seeds)
    reach, p = reach_and_p(difference, error, df)
    return reach, None if seeds < 2 else p


def variance_of_mean(values: np.ndarray) -> float:
    """Of independent values (S,); 0 for one."""
    return float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0


def p_text(p: float) -> str:
    """A p value for text: two digits, and no more than four places."""
    return f"{p:.2g}" if p >= SMALLEST_P else f"below {SMALLEST_P:g}"
