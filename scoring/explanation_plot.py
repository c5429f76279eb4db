"""Draws what a score rests on: bars for modalities, the words of the transcript, and the score over time; a column for each target.

explained.py gives the values.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figure_style import LARGE, MEDIUM, NEGATIVE, POSITIVE, SMALL, Fonts, save_figure
from .explained import beside_score, parts_of, windows_heading, words_heading, words_of
from .explanation import Scores
from .results import score_names
from .scales import Scale, signed
from .timeline_plot import clock

LONGEST_NAME = 80  # letters of a file in the title; of a longer one, the last
ROW_HEIGHT = 0.26  # inches of a bar
MOST_LETTERS = 34  # of a word or a group of words
WIDTH = 7.0  # inches of a column


def plot_explanation(row: Mapping[str, Any], out: Path, *, scales: Sequence[Scale], about: str | None = None) -> None:
    """Write a PNG.

    Args:
        row: with an `explanation`, as `explain_clips` gives it.
        out: the PNG file.
        scales: of the targets.
        about: what the model says of itself, below the plot.
    """
    explanation, fonts = row["explanation"], Fonts.available()
    parts, words = parts_of(explanation), words_of(explanation)
    names = score_names([scale.name for scale in scales])
    windows = explanation["windows"]
    heights = [1.0 + ROW_HEIGHT * len(bars) for bars in (parts, words) if bars] + ([2.2] if windows else [])
    heights = heights or [1.0]
    figure = Figure(figsize=(WIDTH * len(scales), 1.1 + sum(heights)), layout="constrained")
    columns = figure.subfigures(1, len(scales), squeeze=False)[0]
    for place, (column, name, scale) in enumerate(zip(columns, names, scales, strict=True)):
        panels = iter(column.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
        if parts:
            _draw_bars(next(panels), parts, place, "without each modality", fonts)
        if words:
            _draw_bars(next(panels), words, place, words_heading(explanation), fonts)
        if windows:
            _draw_windows(next(panels), explanation, name, scale)
        for unused in panels:
            unused.set_axis_off()
        beside = "".join(f" ({one})" for one in beside_score(row, place, scales))
        score = f"{fonts.written(scale.name, 30)} {scale.written(row[name])}{beside}"
        column.suptitle(score, x=0.01, ha="left", fontsize=LARGE, parse_math=False, fontfamily=fonts.families)
    name = row["id"]
    title = fonts.written(
        name if len(name) <= LONGEST_NAME else f"\N{HORIZONTAL ELLIPSIS}{name[1 - LONGEST_NAME :]}", LONGEST_NAME
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=MEDIUM, parse_math=False, fontfamily=fonts.families)
    if about is not None:
        figure.supxlabel(fonts.written(about, 200), fontsize=SMALL, color="0.3", parse_math=False, wrap=True)
    save_figure(figure, out)


def _draw_bars(axes: Axes, parts: Sequence[tuple[str, Scores]], place: int, heading: str, fonts: Fonts) -> None:
    """A bar for what each part adds, with its number; up and down differ in colour, direction and sign."""
    values = [contributions[place] for _, contributions in parts]
    reach = 1.35 * max(map(abs, values)) or 1.0
    colours = [POSITIVE if value >= 0 else NEGATIVE for value in values]
    axes.barh(range(len(values)), values, height=0.7, color=colours)
    axes.axvline(0, color="0.4", linewidth=0.8)
    for at, value in enumerate(values):
        shift = 4 if value >= 0 else -4
        axes.annotate(
            signed(value, 3),
            (value, at),
            (shift, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
            fontsize=SMALL,
        )
    axes.set_yticks(range(len(parts)), [fonts.written(name, MOST_LETTERS) for name, _ in parts], fontsize=SMALL)
    for label in axes.get_yticklabels():
        label.set(parse_math=False, fontfamily=fonts.families)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.set_xlim(-reach, reach)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"what is added: the score minus the score {heading}", loc="left", fontsize=SMALL)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_windows(axes: Axes, explanation: Mapping[str, Any], name: str, scale: Scale) -> None:
    """The score of each window alone, over the seconds that it spans; of a window without a score, nothing."""
    windows = explanation["windows"]
    for one in windows:
        if one[name] is None:
            continue
        up = one[name] >= (0 if scale.has_sides else scale.middle)
        axes.plot(
            [one["start"], one["end"]],
            [one[name]] * 2,
            color=POSITIVE if up else NEGATIVE,
            linewidth=5,
            solid_capstyle="butt",
        )
    if scale.has_sides:
        axes.axhline(0, color="0.4", linewidth=0.8)
    axes.xaxis.set_major_formatter(clock)
    axes.set_xlabel("time")
    axes.set_title(windows_heading(explanation), loc="left", fontsize=SMALL)
    axes.margins(y=0.25)
    axes.set_xlim(windows[0]["start"], windows[-1]["end"])
    axes.spines[["top", "right"]].set_visible(False)
