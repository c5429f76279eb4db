"""Window lengths as people write them, and where the windows of a file lie. Knows no media and no model."""

import math
import re

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def parse_seconds(text: str) -> float:
    """Seconds of `"8s"`, `"1.5"`, `"1m30s"`, `"2h"` or `"500ms"`.

    Raises:
        ValueError: for anything else.
    """
    said = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", said):
        return float(said)
    found = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?(?:([\d.]+)ms)?", said)
    try:
        if found is None or not said:
            raise ValueError
        return sum(float(n) * unit for n, unit in zip(found.groups(), _UNITS.values(), strict=True) if n is not None)
    except ValueError:
        raise ValueError(f"{text!r} is not a length of time; expected e.g. 8s, 1.5, 1m30s or 500ms") from None


def windows_of(duration: float, window: float, stride: float) -> list[tuple[float, float]]:
    """Start and end of each window, in seconds, the last one ending with the file.

    Windows start at 0, stride, 2 * stride, ... What is left at the end is a window of its own when it is half a window or more,
    and else the end of one that is shifted back. A file shorter than a window is one window.

    Raises:
        ValueError: when `window` or `stride` is not above 0.
    """
    if not (0 < window < math.inf and 0 < stride < math.inf):
        raise ValueError(f"window and stride must be above 0 s, got {window:g} and {stride:g}")
    if duration <= window:
        return [(0.0, duration)]
    full = math.floor((duration - window) / stride + 1e-6)
    found = [(k * stride, k * stride + window) for k in range(full + 1)]
    left, end = (full + 1) * stride, found[-1][1]
    if duration - end < 1e-3 or left >= duration:  # a stride longer than the window leaves gaps, also at the end
        return [*found[:-1], (found[-1][0], min(end, duration))]
    return [*found, (left if duration - left >= window / 2 else duration - window, duration)]
