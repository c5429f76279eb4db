"""How far a score may be off: split-conformal half-widths from the residuals of clips that were not trained on.

For a clip that is exchangeable with those, the interval score +- half-width holds its label with at least the stated probability,
on average over clips and calibrations (Vovk et al., 2005; Lei et al., 2018). It says nothing of a single clip, nor of other data.
"""

import math
from collections.abc import Sequence

import numpy as np

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
LEVEL = 0.9  # the one whose coverage metrics.json has


def half_width(scores: Sequence[float], labels: Sequence[float], level: float) -> float | None:
    """The ceil((n + 1) * level)-th smallest absolute residual of n clips; `None` where so few cannot carry the level.

    Args:
        scores: (n,) label units.
        labels: (n,) label units.
        level: in (0, 1).
    """
    residuals = np.sort(np.abs(np.asarray(scores, float) - np.asarray(labels, float)))
    rank = math.ceil(round((len(residuals) + 1) * level, 9))
    return float(residuals[rank - 1]) if rank <= len(residuals) else None


def calibration(scores: Sequence[float], labels: Sequence[float]) -> dict:
    """What a bundle keeps: `clips`, and `half_widths` in label units by level, for each level that so many clips can carry."""
    found = {str(level): half_width(scores, labels, level) for level in LEVELS}
    return {"clips": len(labels), "half_widths": {level: width for level, width in found.items() if width is not None}}


def coverage(scores: Sequence[float], labels: Sequence[float], width: float) -> float:
    """Share of clips whose label lies within `width` of the score."""
    return float(np.mean(np.abs(np.asarray(scores, float) - np.asarray(labels, float)) <= width))
