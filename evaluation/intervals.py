"""Split-conformal prediction intervals: half-widths from the residuals of clips that were not trained on.

For a clip that is exchangeable with those, the interval score ± half-width contains its label with at least the stated
probability, on average over clips and calibrations (Vovk et al., 2005; Lei et al., 2018). This does not hold for a single clip, or
for other data.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np

from .metrics import Numbers, paired

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
LEVEL = 0.9  # level of `interval_coverage` in metrics.json


def half_width(scores: Numbers, labels: Numbers, level: float) -> float | None:
    """The ceil((n + 1) * level)-th smallest absolute residual of n clips; `None` if there are too few clips.

    Args:
        scores: (n,) label units.
        labels: (n,) label units.
        level: in (0, 1), as an exact decimal: 0.9 is nine tenths.

    Raises:
        ValueError: for no clips, unequal lengths, values that are not finite, or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    residuals = np.sort(_residuals(scores, labels))
    rank = math.ceil((len(residuals) + 1) * Fraction(str(level)))
    return float(residuals[rank - 1]) if rank <= len(residuals) else None


def calibration(scores: Numbers, labels: Numbers) -> dict[str, Any]:
    """The calibration stored in a bundle: `clips`, and `half_widths` in label units for each level with enough clips."""
    widths = {str(level): half_width(scores, labels, level) for level in LEVELS}
    return {"clips": len(labels), "half_widths": {level: width for level, width in widths.items() if width is not None}}


def coverage(scores: Numbers, labels: Numbers, width: float) -> float:
    """Fraction of clips whose label lies within `width` of the score; all three in label units.

    Raises:
        ValueError: as `half_width` does, and for a width that is negative or not finite.
    """
    if not 0 <= width < math.inf:
        raise ValueError(f"width must be a finite number of at least 0, not {width}")
    return float(np.mean(_residuals(scores, labels) <= width))


def _residuals(scores: Numbers, labels: Numbers) -> np.ndarray:
    predicted, true = paired("scores", scores, "labels", labels)
    return np.abs(predicted - true)
