"""The windows of a long file: parsing of durations, start and end of each window, and its score. Knows no model."""

import math
import re
from dataclasses import dataclass

ROUNDING = 1e-3  # seconds by which a last window may miss the end of the file
SENTENCES = "sentences"  # as windows, instead of a duration
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True)
class Window:
    """From `start` to `end`, in seconds, with the words spoken in it, or `None`."""

    start: float
    end: float
    text: str | None


@dataclass(frozen=True)
class WindowScore:
    """One window of a timeline with its scores.

    Attributes:
        start: seconds.
        end: seconds.
        scores: of each target, label units; empty if the window could not be scored.
        label: of a single target, as the pipeline gives it, or `None`.
        text: the words of the transcript in the window, or `None`.
        error: why there is no score, or `None`.
        warning: which part of the window could not be read, or `None`.
    """

    start: float
    end: float
    scores: tuple[float, ...]
    label: str | None
    text: str | None
    error: str | None
    warning: str | None = None


def parse_seconds(text: str) -> float:
    """Seconds of `"8s"`, `"1.5"`, `"1m30s"`, `"2h"` or `"500ms"`.

    Raises:
        ValueError: for anything else.
    """
    cleaned = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", cleaned):
        return float(cleaned)
    match = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?(?:([\d.]+)ms)?", cleaned)
    try:
        if match is None or not cleaned:
            raise ValueError
        return sum(float(n) * unit for n, unit in zip(match.groups(), _UNITS.values(), strict=True) if n is not None)
    except ValueError:
        raise ValueError(f"{text!r} is not a duration; expected e.g. 8s, 1.5, 1m30s or 500ms") from None


def windows_of(duration: float, window: float, stride: float) -> list[tuple[float, float]]:
    """Start and end of each window, in seconds, the last one ending with the file.

    Windows start at 0, stride, 2 * stride, ... A remainder of half a window or more is a window of its own; a shorter one is
    covered by a last window that is shifted back. A file shorter than a window is one window.

    Raises:
        ValueError: when `window` or `stride` is not above 0.
    """
    if not (0 < window < math.inf and 0 < stride < math.inf):
        raise ValueError(f"window and stride must be above 0 s, got {window:g} and {stride:g}")
    if duration <= window:
        return [(0.0, duration)]
    full = math.floor((duration - window) / stride + 1e-6)
    spans = [(k * stride, k * stride + window) for k in range(full + 1)]
    left, end = (full + 1) * stride, spans[-1][1]
    if duration - end < ROUNDING or left >= duration:  # a stride longer than the window leaves gaps, also at the end
        return [*spans[:-1], (spans[-1][0], min(end, duration))]
    return [*spans, (left if duration - left >= window / 2 else duration - window, duration)]
