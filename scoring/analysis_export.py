"""What a user takes along from the page: the numbers of one or two clips as a CSV, and as a picture made from the same numbers.

Both are links that hold their file, so that the server keeps none.
"""

import base64
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ..data.tables import write_table
from ..figure_style import BLUE, MEDIUM, NEGATIVE, POSITIVE, SMALL, Fonts, save_figure
from .analysis_page import NAMES, ShownClip
from .scales import Scale, signed
from .timeline_plot import draw_timelines

COLUMNS = {
    **{"clip": str, "part": str, "name": str, "start": float, "end": float, "target": str},
    **{"score": float, "low": float, "high": float, "contribution": float, "label": str, "text": str},
}
NOTE = "Scores of what is expressed, not of what a person feels."


def downloads_html(shown: Sequence[ShownClip], transcripts: Sequence[str]) -> str:
    """Two links: the numbers as CSV, and the picture.

    Args:
        shown: one clip, or two that are compared.
        transcripts: with which they were scored.
    """
    stem = "_".join(re.sub(r"[^\w-]+", "-", Path(one.name or "text").stem)[:40] for one in shown)
    csv = _link(
        f"{stem}.csv", "text/csv", "Download the numbers (CSV)", lambda path: write_csv(shown, transcripts, path)
    )
    png = _link(f"{stem}.png", "image/png", "Download a picture (PNG)", lambda path: write_picture(shown, path))
    return f'<p class="os-downloads">{csv}{png}</p>'


def write_csv(shown: Sequence[ShownClip], transcripts: Sequence[str], out: Path) -> None:
    """Write a row for each score of each clip; the column `part` says of what.

    `clip` is the whole clip, with its interval and transcript; `modality` the score without the named one, and what it adds;
    `word` what a word adds; `window` a score over time, from `start` to `end` in seconds. Of two clips, the names in the column
    `clip` begin with "A: " and "B: ".
    """
    letters = ["A: ", "B: "] if len(shown) > 1 else [""]
    rows = (
        {**row, "clip": f"{letter}{row['clip']}"}
        for letter, one, text in zip(letters, shown, transcripts, strict=True)
        for row in _rows(one, text)
    )
    write_table(out, COLUMNS, ([row.get(name) for name in COLUMNS] for row in rows), line_end="\r\n")


def write_picture(shown: Sequence[ShownClip], out: Path) -> None:
    """Write a PNG: the scores of each clip on their scales, what each modality adds, and the scores over time."""
    scales, letters = shown[0].scales, "AB" if len(shown) > 1 else [""]
    longer = [one for one in shown if one.analysis.windows]
    width = len(scales)
    heights = [0.45 + 0.35 * len(shown), *([0.9 + 0.3 * len(NAMES)] * any(one.analysis.without for one in shown))]
    figure = Figure(
        figsize=(11, 0.9 + sum(heights) * width + 3.6 * width * len(longer)),
        layout=ConstrainedLayoutEngine(rect=(0, 0.03, 1, 0.97)),
    )
    top, *courses = figure.subfigures(
        1 + len(longer), 1, squeeze=False, height_ratios=[sum(heights) * width, *([3.6 * width] * len(longer))]
    )[:, 0]
    fonts = Fonts.available()
    names = [f"{letter}  {one.source}".strip() for letter, one in zip(letters, shown, strict=True)]
    top.suptitle(
        fonts.written("     ".join(names), 110),
        x=0.01,
        ha="left",
        fontsize=MEDIUM,
        parse_math=False,
        fontfamily=fonts.families,
    )
    panels = top.subplots(len(heights) * width, 1, squeeze=False, height_ratios=heights * width)[:, 0]
    for place, scale in enumerate(scales):
        _draw_scale(panels[len(heights) * place], shown, letters, place, scale)
        if len(heights) > 1:
            _draw_contributions(panels[len(heights) * place + 1], shown, letters, place, scale)
    longer_names = [name for name, one in zip(names, shown, strict=True) if one.analysis.windows]
    for one, name, course in zip(longer, longer_names, courses, strict=True):
        draw_timelines(course, one.analysis.windows, title=name, scales=scales)
    figure.text(0.01, 0.004, NOTE, fontsize=SMALL, color="0.35")
    save_figure(figure, out)


def _rows(shown: ShownClip, transcript: str) -> Iterator[dict]:
    analysis = shown.analysis
    source = shown.name or "text"
    for place, scale in enumerate(shown.scales):
        row = {"clip": source, "target": scale.name}
        low, high = shown.ends(place) or (None, None)
        score = {"score": analysis.scores[place], "low": low, "high": high, "label": analysis.label}
        yield {**row, "part": "clip", "start": 0.0, "end": analysis.seconds, **score, "text": transcript or None}
        for name, scores in analysis.without.items():
            added = analysis.contributions(name)[place]
            yield {**row, "part": "modality", "name": name, "score": scores[place], "contribution": added}
        for word, contributions in analysis.words:
            yield {**row, "part": "word", "name": word, "contribution": contributions[place]}
        for window in analysis.windows:
            times = {"part": "window", "start": window.start, "end": window.end}
            score_over_time = window.scores[place] if window.scores else None
            yield {**row, **times, "score": score_over_time, "label": window.label, "text": window.text}


def _link(name: str, kind: str, label: str, write: Callable[[Path], None]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"file{Path(name).suffix}")
        write(file)
        data = base64.b64encode(file.read_bytes()).decode("ascii")
    return f'<a class="os-download" download="{escape(name)}" href="data:{kind};base64,{data}">{label}</a>'


def _colour(scale: Scale, value: float) -> str:
    return BLUE if not scale.has_sides else NEGATIVE if value < 0 else POSITIVE


def _draw_scale(axes: Axes, shown: Sequence[ShownClip], letters: Sequence[str], place: int, scale: Scale) -> None:
    for row, (one, letter) in enumerate(zip(shown, letters, strict=True)):
        score, ends, y = one.analysis.scores[place], one.ends(place), -row
        colour = _colour(scale, score)
        if ends is not None:
            axes.plot(ends, (y, y), color=colour, linewidth=7, alpha=0.3, solid_capstyle="butt")
        axes.plot(score, y, "o", color=colour, markersize=9)
        said = f"{letter}  {scale.written(score)}".strip()
        interval = one.interval_of(place)
        axes.text(1.01, y, said, transform=axes.get_yaxis_transform(), va="center", color=colour, fontweight="bold")
        if interval:
            axes.text(
                1.01,
                y - 0.42,
                interval,
                transform=axes.get_yaxis_transform(),
                va="center",
                fontsize=SMALL,
                color="0.35",
            )
    if scale.neutral_band is not None:
        axes.axvspan(-scale.neutral_band, scale.neutral_band, color="0.93", zorder=0)
    axes.set_xlim(scale.low, scale.high)
    axes.set_ylim(-len(shown) + 0.3, 0.6)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel(f"{scale.name} (label units)", parse_math=False, fontsize=SMALL)


def _draw_contributions(
    axes: Axes, shown: Sequence[ShownClip], letters: Sequence[str], place: int, scale: Scale
) -> None:
    names = [name for name in NAMES if any(name in one.analysis.without for one in shown)]
    thick, ticks = 0.8 / len(shown), []
    for row, (one, letter) in enumerate(zip(shown, letters, strict=True)):
        for name in one.analysis.without:
            added, y = (
                one.analysis.contributions(name)[place],
                -names.index(name) - thick * (row - (len(shown) - 1) / 2),
            )
            colour = POSITIVE if added >= 0 else NEGATIVE
            axes.barh(y, added, height=0.9 * thick, color=colour, alpha=1 if row == 0 else 0.6)
            axes.text(1.01, y, signed(added), transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL)
            ticks.append((y, f"{NAMES[name]} {letter}".strip()))
    reach = max((abs(value) for value in axes.get_xlim()), default=1.0)
    reach = max(reach, (scale.high - scale.low) / 12)
    axes.set_xlim(-reach, reach)
    axes.axvline(0, color="0.55", linewidth=0.8)
    axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks], fontsize=SMALL)
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    to = f" to {scale.name}" if len(shown[0].scales) > 1 else ""
    axes.set_xlabel(f"what each modality adds{to}: score minus the score without it", parse_math=False, fontsize=SMALL)
