"""Plots a timeline: score over time, the neutral band, and the strongest windows with the words spoken in them.

timeline.py computes the scores.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font, get_font_names
from matplotlib.ticker import FuncFormatter, MultipleLocator

from .windows import WindowScore

NEGATIVE, POSITIVE = "#b35806", "#542788"  # the ends of the colour scale of scores in other plots
TICK_SECONDS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)
QUOTE_CHARACTERS = 36
LABEL_WIDTH = 0.28  # of the axes, for a quote of that length
MANY = 150  # from this number of windows on, a moving mean is drawn as well
# For characters that DejaVu Sans lacks.
OTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "SimHei",
)


def clock(seconds: float, _: object = None) -> str:
    """`"2:05"`, `"1:02:05"` from an hour on, `"2:05.5"` for fractions of a second."""
    tenths = round(seconds * 10)
    whole, tenth = divmod(tenths, 10)
    hours, minutes, left = whole // 3600, whole // 60 % 60, whole % 60
    text = f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
    return f"{text}.{tenth}" if tenth else text


def strongest(windows: Sequence[WindowScore], sign: int, neutral_band: float, most: int = 3) -> list[WindowScore]:
    """The windows with the highest (sign 1) or lowest (sign -1) scores, apart from each other, in order of time.

    They are outside the neutral band; if none is, it is the strongest one on that side of 0.
    """
    scored = ((w.score * sign, w) for w in windows if w.score is not None and w.score * sign > 0)
    side = sorted(scored, key=lambda pair: -pair[0])
    chosen = [window for _, window in side[:1]]
    for strength, window in side:
        distance = max(window.end - window.start, 0.08 * windows[-1].end)
        is_apart = all(abs(window.start - other.start) >= distance for other in chosen)
        if is_apart and len(chosen) < most and strength > neutral_band:
            chosen.append(window)
    return sorted(chosen, key=lambda w: w.start)


def plot_timeline(
    windows: Sequence[WindowScore],
    out: Path,
    *,
    title: str,
    neutral_band: float,
    score_range: tuple[float, float] = (-3.0, 3.0),
) -> None:
    """Write a PNG of scores over time.

    Args:
        windows: in order of time; those without a score are gaps, marked at the lower edge.
        out: the PNG file.
        title: above the plot.
        neutral_band: scores within this distance of 0 are neutral, label units.
        score_range: lowest and highest possible score, label units.
    """
    times = np.array([(w.start + w.end) / 2 for w in windows])
    scores = np.array([np.nan if w.score is None else w.score for w in windows])
    last = max((w.end for w in windows), default=1.0)
    highest = np.nanmax(np.abs(scores)) if np.isfinite(scores).any() else 0.0
    reach = min(max(1.1 * highest, 2 * neutral_band, 0.1), max(map(abs, score_range)))
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.axhspan(-neutral_band, neutral_band, color="0.93", zorder=0)
    axes.axhline(0, color="0.55", linewidth=0.8, zorder=1)
    axes.text(1.004, 0, "neutral", transform=axes.get_yaxis_transform(), color="0.45", fontsize=8, va="center")
    _draw_scores(axes, times, scores)
    families = ["DejaVu Sans", *(name for name in OTHER_FONTS if name in set(get_font_names()))]
    letters = {chr(code) for family in families for code in get_font(findfont(family)).get_charmap()}
    for sign, colour in ((1, POSITIVE), (-1, NEGATIVE)):
        for window, place in _placed(strongest(windows, sign, neutral_band), last):
            quote = _quote(window.text or "", letters)
            _label(axes, window, quote, (place, sign * 1.12 * reach), colour, families)
    missing = times[np.isnan(scores)]
    if len(missing):
        axes.plot(
            missing, np.full(len(missing), -1.5 * reach), "x", color="0.35", markersize=4, clip_on=False, zorder=5
        )
    axes.set_xlim(0, last)
    axes.set_ylim(-1.5 * reach, 1.5 * reach)
    axes.xaxis.set_major_locator(MultipleLocator(next((s for s in TICK_SECONDS if last / s <= 12), TICK_SECONDS[-1])))
    axes.xaxis.set_major_formatter(FuncFormatter(clock))
    axes.set_yticks([tick for tick in axes.get_yticks() if abs(tick) <= reach + 1e-9])
    axes.spines[["top", "right"]].set_visible(False)
    gaps = f"; {len(missing)} of {len(windows)} windows have no score (x)" if len(missing) else ""
    axes.set_xlabel(f"time{gaps}")
    axes.set_ylabel("score (label units)")
    title = "".join(letter if letter in letters else "?" for letter in title)
    title = title if len(title) <= 90 else f"{title[:89]}…"
    axes.set_title(title, loc="left", fontsize=11, parse_math=False, fontfamily=families)
    figure.savefig(out, dpi=150)


def _draw_scores(axes: Axes, times: np.ndarray, scores: np.ndarray) -> None:
    many = len(times) > MANY
    axes.fill_between(times, scores, 0, where=scores >= 0, interpolate=True, color=POSITIVE, alpha=0.18, linewidth=0)
    axes.fill_between(times, scores, 0, where=scores <= 0, interpolate=True, color=NEGATIVE, alpha=0.18, linewidth=0)
    style: dict[str, Any] = {"alpha": 0.45, "linewidth": 0.6} if many else {"linewidth": 1.3}
    size = 4 if len(times) <= 60 else 1.5  # a window between two without a score has no line
    axes.plot(times, scores, color="0.25", marker="o", markersize=size, **style)
    if not many:
        return
    width = max(5, len(times) // 60) | 1
    is_scored = np.isfinite(scores).astype(float)
    sums = np.convolve(np.where(is_scored > 0, scores, 0), np.ones(width), "same")
    counts = np.convolve(is_scored, np.ones(width), "same")
    mean = np.where(is_scored > 0, sums / np.maximum(counts, 1), np.nan)
    span = clock(round((times[width] - times[0]) or 1))
    axes.plot(times, mean, color="0.1", linewidth=1.6, label=f"mean over {span}")
    axes.legend(loc="upper right", bbox_to_anchor=(1, 1.1), frameon=False, fontsize=8)


def _label(
    axes: Axes, window: WindowScore, quote: str, place: tuple[float, float], colour: str, families: list[str]
) -> None:
    """Time, score and quote of a window, in the strip above or below the scores."""
    if window.score is None:
        return
    middle = (window.start + window.end) / 2
    score = f"{window.score:+.2f}".replace("-", "\N{MINUS SIGN}")
    heading = f"{clock(window.start)}\N{EN DASH}{clock(window.end)}   {score}"
    axes.plot(middle, window.score, "o", color=colour, markersize=6, zorder=4)
    label = axes.annotate(
        f"{heading}\n{quote}" if quote else heading,
        xy=(middle, window.score),
        xytext=place,
        textcoords=axes.get_yaxis_transform(),
        ha="center",
        va="bottom" if place[1] > 0 else "top",
        color=colour,
        fontsize=8.5,
        fontfamily=families,
        linespacing=1.4,
        parse_math=False,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkB": 4},
    )
    label.set_in_layout(False)


def _placed(windows: Sequence[WindowScore], last: float) -> list[tuple[WindowScore, float]]:
    """Each window with the centre of its label, in [0, 1] of the width; labels are moved so that they do not overlap."""
    half, places = LABEL_WIDTH / 2, [(w.start + w.end) / 2 / last for w in windows]
    for i, place in enumerate(places):
        places[i] = max(place, half if i == 0 else places[i - 1] + LABEL_WIDTH)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], 1 - half if i == len(places) - 1 else places[i + 1] - LABEL_WIDTH)
    return list(zip(windows, places, strict=True))


def _quote(text: str, letters: set[str]) -> str:
    """The start of a text; empty if the available fonts cannot write it."""
    if not text or not set(text) <= letters | {" "}:
        return ""
    most = (
        QUOTE_CHARACTERS if " " in text[:QUOTE_CHARACTERS] else QUOTE_CHARACTERS // 2
    )  # Chinese letters are twice as wide
    if len(text) <= most:
        return f"“{text}”"
    cut = text[: most - 1]
    return f"“{cut.rsplit(' ', 1)[0] if ' ' in cut else cut}…”"
