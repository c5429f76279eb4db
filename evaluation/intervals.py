"""How far a score may be off: split-conformal half-widths from the residuals of clips that were not trained on.

For a clip that is exchangeable with those, the interval score +- half-width holds its label with at least the stated probability,
on average over clips and calibrations (Vovk et al., 2005; Lei et al., 2018). It says nothing of a single clip, nor of other data.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from .metrics import paired

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
LEVEL = 0.9  # the one whose coverage metrics.json has


def half_width(scores: Sequence[float], labels: Sequence[float], level: float) -> float | None:
    """The ceil((n + 1) * level)-th smallest absolute residual of n clips; `None` where so few cannot carry the level.

    Args:
        scores: (n,) label units.
        labels: (n,) label units.
        level: in (0, 1), exactly as it is written: 0.9 is nine tenths.

    Raises:
        ValueError: for no clips, other numbers of scores and labels, values that are not finite, or another level.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not be {level}")
    residuals = np.sort(_residuals(scores, labels))
    rank = math.ceil((len(residuals) + 1) * Fraction(str(level)))
    return float(residuals[rank - 1]) if rank <= len(residuals) else None


def calibration(scores: Sequence[float], labels: Sequence[float]) -> dict:
    """What a bundle keeps: `clips`, and `half_widths` in label units by level, for each level that so many clips can carry."""
    found = {str(level): half_width(scores, labels, level) for level in LEVELS}
    return {"clips": len(labels), "half_widths": {level: width for level, width in found.items() if width is not None}}


def coverage(scores: Sequence[float], labels: Sequence[float], width: float) -> float:
    """Share of clips whose label lies within `width` of the score; the three in label units.

    Raises:
        ValueError: as `half_width` does, and for a width below 0 or not finite.
    """
    if not 0 <= width < math.inf:
        raise ValueError(f"width must be a number from 0 on, not {width}")
    return float(np.mean(_residuals(scores, labels) <= width))


def _residuals(scores: Sequence[float], labels: Sequence[float]) -> np.ndarray:
    scores, labels = paired("scores", scores, "labels", labels)
    return np.abs(scores - labels)
