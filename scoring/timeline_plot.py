"""Plots a timeline: the score of each target over time, and the strongest windows with the words spoken in them.

timeline.py computes the scores.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import FuncFormatter, MultipleLocator

from ..figure_style import BLUE, GREY, MEDIUM, NEGATIVE, POSITIVE, SMALL, Fonts, panel, save_figure
from .scales import Scale
from .windows import WindowScore

TICK_SECONDS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)
QUOTE_CHARACTERS = 36
LABEL_WIDTH = 0.28  # of the axes, for a quote of that length
MANY = 150  # from this number of windows on, a moving mean is drawn as well


def clock(seconds: float, _: object = None) -> str:
    """`"2:05"`, `"1:02:05"` from an hour on, `"2:05.5"` for fractions of a second."""
    tenths = round(seconds * 10)
    whole, tenth = divmod(tenths, 10)
    hours, minutes, left = whole // 3600, whole // 60 % 60, whole % 60
    text = f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
    return f"{text}.{tenth}" if tenth else text


def strongest(
    scored: Sequence[tuple[WindowScore, float]], sign: int, middle: float, least: float, most: int = 3
) -> list[tuple[WindowScore, float]]:
    """The windows with the highest (sign 1) or lowest (sign -1) scores, apart from each other, in order of time.

    They are above or below `middle` by more than `least`; if none is, it is the strongest one on that side.
    """
    pairs = ((sign * (score - middle), window, score) for window, score in scored)
    side = sorted((one for one in pairs if one[0] > 0), key=lambda one: -one[0])
    chosen = [(window, score) for _, window, score in side[:1]]
    for strength, window, score in side:
        distance = max(window.end - window.start, 0.08 * scored[-1][0].end)
        is_apart = all(abs(window.start - other.start) >= distance for other, _ in chosen)
        if is_apart and len(chosen) < most and strength > least:
            chosen.append((window, score))
    return sorted(chosen, key=lambda one: one[0].start)


def plot_timeline(windows: Sequence[WindowScore], out: Path, *, title: str, scales: Sequence[Scale]) -> None:
    """Write a PNG of scores over time, with a panel for each target.

    Args:
        windows: in order of time; those without a score are gaps, marked at the lower edge.
        out: the PNG file.
        title: above the plot.
        scales: of the targets.
    """
    figure = Figure(figsize=(11, 1 + 3.8 * len(scales)), layout="constrained")
    draw_timelines(figure, windows, title=title, scales=scales)
    save_figure(figure, out)


def draw_timelines(figure: FigureBase, windows: Sequence[WindowScore], *, title: str, scales: Sequence[Scale]) -> None:
    """Draw what `plot_timeline` writes into a figure or a part of one."""
    last = max((w.end for w in windows), default=1.0)
    panels = figure.subplots(len(scales), squeeze=False, sharex=True)[:, 0]
    fonts = Fonts.available()
    for place, (axes, scale) in enumerate(zip(panels, scales, strict=True)):
        _draw_panel(axes, windows, place, scale, last, fonts)
    axes = panels[-1]
    axes.set_xlim(0, last)
    axes.xaxis.set_major_locator(MultipleLocator(next((s for s in TICK_SECONDS if last / s <= 12), TICK_SECONDS[-1])))
    axes.xaxis.set_major_formatter(FuncFormatter(clock))
    missing = sum(not window.scores for window in windows)
    gaps = f"; {missing} of {len(windows)} windows have no score (x)" if missing else ""
    axes.set_xlabel(f"time{gaps}")
    title = fonts.written(title, 90)
    panels[0].set_title(title, loc="left", fontsize=MEDIUM, parse_math=False, fontfamily=fonts.families)


def _draw_panel(
    axes: Axes, windows: Sequence[WindowScore], place: int, scale: Scale, last: float, fonts: Fonts
) -> None:
    """The scores of one target: those of a scale with two sides around 0, others between the ends of their scale."""
    times = np.array([(w.start + w.end) / 2 for w in windows])
    scores = np.array([w.scores[place] if w.scores else np.nan for w in windows])
    scored = [(w, w.scores[place]) for w in windows if w.scores]
    band = scale.neutral_band or 0.0
    if scale.has_sides:
        highest = max((abs(score) for _, score in scored), default=0.0)
        middle, usual = 0.0, 0.0
        reach = min(max(1.1 * highest, 2 * band, 0.1), max(abs(scale.low), abs(scale.high)))
        axes.axhline(0, color="0.55", linewidth=0.8, zorder=1)
    else:
        middle, usual = scale.middle, float(np.median([score for _, score in scored] or [scale.middle]))
        reach = (scale.high - scale.low) / 2
        axes.grid(axis="y", color="0.92", linewidth=0.8)
    if scale.neutral_band is not None:
        axes.axhspan(-band, band, color="0.93", zorder=0)
        axes.text(1.004, 0, "neutral", transform=axes.get_yaxis_transform(), color=GREY, fontsize=SMALL, va="center")
    if _are_alike(windows):
        _draw_scores(axes, times, scores, scale.has_sides)
    else:
        _draw_spans(axes, windows, scores, scale.has_sides)
    for sign, colour in ((1, POSITIVE), (-1, NEGATIVE)):
        for window, score, at in _placed(strongest(scored, sign, usual, band), last):
            middle_of_label = (at, middle + sign * 1.12 * reach)
            _label(axes, window, score, scale, middle_of_label, colour if scale.has_sides else BLUE, fonts)
    missing = times[np.isnan(scores)]
    lower, upper = middle - 1.5 * reach, middle + 1.5 * reach
    if len(missing):
        axes.plot(missing, np.full(len(missing), lower), "x", color="0.35", markersize=4, clip_on=False, zorder=5)
    axes.set_ylim(lower, upper)
    ticks = axes.get_yticks() if scale.has_sides else np.linspace(scale.low, scale.high, 5)
    axes.set_yticks([tick for tick in ticks if abs(tick - middle) <= reach + 1e-9])
    panel(axes)
    name = fonts.written(scale.name, 30)
    axes.set_ylabel(f"{name} (label units)", parse_math=False, fontfamily=fonts.families)


def _are_alike(windows: Sequence[WindowScore]) -> bool:
    """Whether all windows but the last have the same length, unlike sentences."""
    lengths = [window.end - window.start for window in windows[:-1]]
    return not lengths or max(lengths) - min(lengths) < 1e-3


def _draw_spans(axes: Axes, windows: Sequence[WindowScore], scores: np.ndarray, has_sides: bool) -> None:
    """Windows of different lengths, with gaps between them: each from its start to its end."""
    scored = [(window, score) for window, score in zip(windows, scores, strict=True) if np.isfinite(score)]
    starts, lengths = [w.start for w, _ in scored], [w.end - w.start for w, _ in scored]
    heights = np.array([score for _, score in scored])
    if has_sides:
        colours = [POSITIVE if height >= 0 else NEGATIVE for height in heights]
        axes.bar(starts, heights, lengths, align="edge", color=colours, alpha=0.18, linewidth=0)
    axes.hlines(heights, starts, np.add(starts, lengths), color="0.25", linewidth=1.6)


def _draw_scores(axes: Axes, times: np.ndarray, scores: np.ndarray, has_sides: bool) -> None:
    many = len(times) > MANY
    for is_side, colour in ((scores >= 0, POSITIVE), (scores <= 0, NEGATIVE)) if has_sides else ():
        axes.fill_between(times, scores, 0, where=is_side, interpolate=True, color=colour, alpha=0.18, linewidth=0)
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
    axes.legend(loc="upper right", bbox_to_anchor=(1, 1.1), frameon=False, fontsize=SMALL)


def _label(
    axes: Axes, window: WindowScore, score: float, scale: Scale, place: tuple[float, float], colour: str, fonts: Fonts
) -> None:
    """Time, score and quote of a window, in the strip above or below the scores."""
    middle = (window.start + window.end) / 2
    heading = f"{clock(window.start)}\N{EN DASH}{clock(window.end)}   {scale.written(score)}"
    quote = _quote(window.text or "", fonts.letters)
    axes.plot(middle, score, "o", color=colour, markersize=6, zorder=4)
    label = axes.annotate(
        f"{heading}\n{quote}" if quote else heading,
        xy=(middle, score),
        xytext=place,
        textcoords=axes.get_yaxis_transform(),
        ha="center",
        va="bottom" if place[1] > score else "top",
        color=colour,
        fontsize=SMALL,
        fontfamily=fonts.families,
        linespacing=1.4,
        parse_math=False,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkB": 4},
    )
    label.set_in_layout(False)


def _placed(scored: Sequence[tuple[WindowScore, float]], last: float) -> list[tuple[WindowScore, float, float]]:
    """Each window and score with the centre of its label, in [0, 1] of the width; labels are moved so that they do not overlap."""
    half, places = LABEL_WIDTH / 2, [(w.start + w.end) / 2 / last for w, _ in scored]
    for i, place in enumerate(places):
        places[i] = max(place, half if i == 0 else places[i - 1] + LABEL_WIDTH)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], 1 - half if i == len(places) - 1 else places[i + 1] - LABEL_WIDTH)
    return [(window, score, place) for (window, score), place in zip(scored, places, strict=True)]


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
