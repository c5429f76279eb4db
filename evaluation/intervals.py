"""Conformal prediction intervals, from clips that were not trained on and did not choose the checkpoint.

For a clip that is exchangeable with those, the interval contains its label with at least the stated probability, on average over
clips and calibrations (Vovk et al., 2005; Lei et al., 2018). It is the score plus and minus a half-width; or, for a readout with a
distribution, from one quantile of it to another, each moved outwards by the same margin (conformalised quantile regression: Romano
et al., 2019), and so narrower where the clip is clear. This does not hold for a single clip, or for other data.

Clips of one video are alike, so that n of them say less than n independent ones; the rank that gives the half-width is raised by
their design effect (Kish, 1965). `benchmarks/interval_coverage.py` has the coverage that this gives.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import stats

from .metrics import METRICS, Numbers, finite, paired
from .variances import effective_groups, effective_units, places_of, unbiased

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
LEVEL = 0.9  # level of `interval_coverage` in metrics.json
FOLDS = 10  # most parts of the videos in `cross_fitted`


def conformal_quantile(values: Numbers, level: float, groups: Sequence[str] | None = None) -> float | None:
    """The ceil((n + d) * level)-th smallest of n values, where d is their design effect; `None` if there are too few.

    D is 1 for independent clips. For clips of videos it is the variance of the share of values above the ceil((n + 1) * level)-th
    (if none are above it, of those equal to it) over what it were if the clips were independent, and at least 1.

    Args:
        values: (n,) such as absolute residuals.
        level: in (0, 1), as an exact decimal: 0.9 is nine tenths.
        groups: the video of each clip; `None` if every clip is independent of the others.

    Raises:
        ValueError: for no clips, values that are not finite, another number of groups, or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    values, exact = finite("values", values), Fraction(str(level))
    ordered, places = np.sort(values), places_of(groups, len(values))
    rank = math.ceil((len(values) + 1) * exact)
    if rank <= len(values) and groups is not None:
        at, highest = ordered[rank - 1], ordered[-1]
        effect = _design_effect(values > at if at < highest else values == highest, places)
        rank = math.ceil((len(values) + Fraction(effect)) * exact)
    return float(ordered[rank - 1]) if rank <= len(values) else None


def _design_effect(which: np.ndarray, places: np.ndarray) -> float:
    share = which.mean()
    if share in (0, 1) or places.max() == 0:
        return 1.0
    of_videos = np.bincount(places, which - share)
    return max(1.0, float(np.sum(of_videos**2)) * unbiased(places) / (len(places) * share * (1 - share)))


def share_with_interval(which: np.ndarray, groups: Sequence[str] | None = None) -> tuple[float, float, float]:
    """The share of n clips, and its 95 % interval for new videos: Wilson's (1927), of n over the design effect.

    Of few videos the design effect is uncertain: the normal quantile is then that of Student's t. Where all clips count or none,
    and of one video, it cannot be seen: the clips of a video then count as one.

    Args:
        which: (n,) whether a clip counts.
        groups: the video of each clip, if known.
    """
    share, z = float(np.mean(which)), float(stats.norm.ppf(0.975))
    clips = float(len(which))
    if groups is not None:
        places = places_of(groups, len(which))
        if share in (0, 1) or places.max() == 0:
            clips = effective_units(places)
        else:
            clips /= _design_effect(which, places)
            z = float(stats.t.ppf(0.975, max(1.0, effective_groups(places) - 1)))
    middle, reach = share + z**2 / (2 * clips), z * math.sqrt(share * (1 - share) / clips + (z / (2 * clips)) ** 2)
    low, high = ((middle + side * reach) / (1 + z**2 / clips) for side in (-1, 1))
    return share, min(max(low, 0.0), share), max(min(high, 1.0), share)


def half_width(scores: Numbers, labels: Numbers, level: float, groups: Sequence[str] | None = None) -> float | None:
    """The `conformal_quantile` of the absolute residuals of n clips.

    Args:
        scores: (n,) label units.
        labels: (n,) label units.
        level, groups: of `conformal_quantile`.

    Raises:
        ValueError: as `conformal_quantile` does, and for unequal lengths.
    """
    return conformal_quantile(residuals(scores, labels), level, groups)


def calibration(
    scores: Numbers,
    labels: Numbers,
    groups: Sequence[str] | None = None,
    quantiles: np.ndarray | None = None,
) -> dict[str, Any]:
    """The calibration stored in a bundle: `clips`, `videos`, and by level `half_widths` and `margins`, in label units.

    Args:
        scores: (n,) label units.
        labels: (n,) label units.
        groups: the video of each clip, if known.
        quantiles: (n, len(LEVELS), 2) of the readout's distribution, those of each level; without them there are no margins.
    """
    found: dict[str, Any] = {"clips": len(labels), "videos": len(set(groups)) if groups is not None else None}
    widths: list[float] = []
    for level in LEVELS:  # a higher level is no narrower, although its design effect may be smaller
        width = half_width(scores, labels, level, groups)
        if width is None:
            break
        widths.append(max([width, *widths]))
    found["half_widths"] = {str(level): width for level, width in zip(LEVELS, widths, strict=False)}
    if quantiles is not None:
        margins = {
            str(level): conformal_quantile(outside(quantiles[:, at], labels), level, groups)
            for at, level in enumerate(LEVELS[: len(widths)])
        }
        found["margins"] = {level: margin for level, margin in margins.items() if margin is not None}
    return found


def residuals(scores: Numbers, labels: Numbers) -> np.ndarray:
    """Absolute residuals (n,), label units."""
    predicted, true = paired("scores", scores, "labels", labels)
    return np.abs(predicted - true)


def outside(bounds: np.ndarray, labels: Numbers) -> np.ndarray:
    """How far labels (n,) lie outside bounds (n, 2); below 0 for a label inside."""
    lows, highs = bounds.T
    return np.maximum(lows - labels, labels - highs)


def cross_fitted(
    evaluations: Sequence[np.ndarray],
    labels: Numbers,
    groups: Sequence[str] | None,
    *,
    metric: str,
    conventions: Sequence[str],
) -> np.ndarray:
    """What each clip was given by the evaluation that the clips of the other videos would choose.

    The best of several checkpoints fits the clips that chose it better than new ones, so that their residuals are too small. So the
    videos are dealt into at most `FOLDS` parts, and each takes no part in its own choice (cross-conformal: Vovk, 2015).

    Args:
        evaluations: each (n, C), the scores first, or of K targets (n, K, C); label units.
        labels: (n,) or (n, K) label units; nan where one is missing.
        groups: the video of each clip; `None` if every clip is independent of the others.
        metric: by which an evaluation is chosen, of several targets by its mean; MAE instead of one that is not in `METRICS`, such
            as the loss.
        conventions: of `msa_metrics`, of each target.

    Returns:
        As one evaluation. With one evaluation or one video, the last evaluation.
    """
    result = np.array(evaluations[-1])
    truth = np.asarray(labels, dtype=np.float64).reshape(len(result), -1)
    parts = places_of(groups, len(truth)) % FOLDS
    if len(evaluations) == 1 or parts.max() == 0:
        return result
    metric = metric if all(metric in METRICS and one in METRICS[metric].formulas for one in conventions) else "mae"
    sign, formulas = 1 if METRICS[metric].better == "lower" else -1, METRICS[metric].formulas

    def figure(evaluation: np.ndarray, which: np.ndarray) -> float | None:
        """The metric of some clips, of several targets its mean; `None` where it is undefined."""
        scores, found = evaluation[..., 0].reshape(truth.shape), []
        for place, convention in enumerate(conventions):
            known = which & ~np.isnan(truth[:, place])
            value = formulas[convention](scores[known, place], truth[known, place]) if known.any() else None
            if value is None:
                return None
            found.append(value)
        return float(np.mean(found))

    for part in np.unique(parts):
        others = parts != part
        figures = [figure(one, others) for one in evaluations]
        known = [(sign * value, at) for at, value in enumerate(figures) if value is not None]
        result[~others] = evaluations[min(known)[1] if known else -1][~others]
    return result
