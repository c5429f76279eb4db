"""Writes the report of a built data set: build_report.json, .md and .png. `build_report.py` counts and measures."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..figure_style import outline, panel
from .build_report import BuildReport, BuiltRow, SplitFigures
from .built import REPORT_NAME
from .catalog import DATASETS


def write_report(folder: Path, report: BuildReport, built: Sequence[BuiltRow]) -> None:
    """Writes build_report.json, build_report.md and build_report.png."""
    (folder / REPORT_NAME).write_text(
        json.dumps(report.to_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    (folder / "build_report.md").write_text(_markdown(report), encoding="utf-8")
    _plot(folder / "build_report.png", report, built)


def _markdown(report: BuildReport) -> str:
    outcomes = ", ".join(f"{number:,} {outcome}" for outcome, number in report.outcomes.items())
    documents = DATASETS[report.name].documents
    lines = [f"# {report.name}: build report", "", f"From `{report.root}`; denoise: {report.denoise}."]
    lines += [f"{report.rows:,} rows of {report.videos:,} {documents} built: {outcomes}.", ""]
    if not report.with_media:
        lines += ["Built from the table alone; no media was checked.", ""]
    lines += ["## Splits", ""]
    lines += _table(
        ("split", "official", "in the table", "built"),
        [(split, count.official, count.table, count.built) for split, count in report.counts.items()],
    )
    lines.append("")
    if report.is_complete is not None:
        summary = (
            "All counts are the official ones."
            if report.is_complete
            else "**The counts differ from the official ones.**"
        )
        lines += [summary, ""]
    for split, difference in report.differences.items():
        number = difference.missing
        lines += [f"{split}: {abs(number):,} rows {'fewer' if number > 0 else 'more'} than the official count."]
        lines += _shortened([f"- {row.id}: {row.why}" for row in difference.rows], "differences") or [
            "- No row of the table explains this: rows are missing from the table itself."
        ]
        lines.append("")
    lines += [f"## {documents.capitalize()} and transcripts in more than one split", ""]
    overlaps = {pair: overlap for pair, overlap in report.overlap.items() if not overlap.is_empty}
    for pair, overlap in overlaps.items():
        names = ", ".join(overlap.videos[:20]) + (", ..." if len(overlap.videos) > 20 else "")
        lines.append(f"- {pair}: {overlap.in_words(documents)}{f': {names}' if names else ''}")
    lines += [*([] if overlaps else ["None."]), "", "## Statistics", "", *_figures(report, documents)]
    lines += ["![labels and durations](build_report.png)", "", "## Defects", ""]
    if not report.defects:
        return "\n".join([*lines, "None.", ""])
    lines += [*_table(("defect", "clips"), list(report.defect_counts.items())), ""]
    lines += [f"- {d.id or d.path} ({d.kind}, {d.outcome}): {d.reason}" for d in report.defects]
    return "\n".join([*lines, ""])


def _figures(report: BuildReport, documents: str) -> list[str]:
    parts = {split: part for split, part in report.statistics.items() if part is not None}

    def row(name: str, pick: Callable[[SplitFigures], int | str | None]) -> tuple:
        return (name, *(pick(part) for part in parts.values()))

    def label(key: str) -> Callable[[SplitFigures], str]:
        return lambda part: f"{getattr(part.label, key):.4f}"

    def seconds(key: str) -> Callable[[SplitFigures], str]:
        return lambda part: "-" if part.duration is None else f"{getattr(part.duration, key):.2f}"

    def missing(key: str) -> Callable[[SplitFigures], int | None]:
        return lambda part: getattr(part.missing, key)

    rows = [row("rows", lambda part: part.rows), row(documents, lambda part: part.videos)]
    rows += [row(f"label {key}", label(key)) for key in ("mean", "sd", "median", "min", "max")]
    rows += [row("label 0", lambda part: part.label.zeros)]
    rows += [row(f"duration {key}, s", seconds(key)) for key in ("mean", "median", "min", "max")]
    rows += [row("duration, hours", seconds("hours"))]
    rows += [row(f"without {key}", missing(key)) for key in ("text", "audio", "video")]
    return [*_table(("", *parts), rows), ""]


def _table(header: Sequence[str], rows: Sequence[Sequence]) -> list[str]:
    def line(cells: Sequence) -> str:
        return "| " + " | ".join("-" if c is None else f"{c:,}" if isinstance(c, int) else str(c) for c in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *map(line, rows)]


def _shortened(lines: list[str], key: str, most: int = 50) -> list[str]:
    if len(lines) <= most:
        return lines
    return [*lines[:most], f"- ... and {len(lines) - most:,} more, in build_report.json under {key}"]


def _plot(path: Path, report: BuildReport, built: Sequence[BuiltRow]) -> None:
    """Labels and durations of each split, as fractions, so that splits of different sizes can be compared."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    parts = {split: part for split, part in report.statistics.items() if part is not None}
    durations = {
        split: [item.duration for item in built if item.row.clip.split == split and item.duration is not None]
        for split in parts
    }
    longest = np.percentile([seconds for part in durations.values() for seconds in part] or [1.0], 99)
    for place, (split, part) in enumerate(parts.items()):
        histogram = part.label.histogram
        left.stairs(
            np.array(histogram.counts) / part.rows, histogram.edges, **outline(place), label=f"{split} ({part.rows:,})"
        )
        if durations[split]:
            weights = np.full(len(durations[split]), 1 / len(durations[split]))
            bins = np.linspace(0, longest, 31)
            seconds = np.minimum(durations[split], longest)
            right.hist(seconds, bins, weights=weights, histtype="step", **outline(place), label=split)
    left.set(title=f"{report.name}: labels", xlabel="label", ylabel="fraction of the split", ylim=(0, None))
    left.legend()
    right.set(title="durations", xlabel="seconds (the longest 1 % in the last bin)", ylabel="fraction of the split")
    for axes in (left, right):
        panel(axes)
    if not any(durations.values()):
        right.text(0.5, 0.5, "no durations: no media was opened", ha="center", transform=right.transAxes)
    FigureCanvasAgg(figure).print_png(os.fspath(path))
