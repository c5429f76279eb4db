"""The report of a built data set: counts against the official ones, defects and statistics, as JSON, Markdown and a plot.

Opens no media and decides nothing: `build.py` does.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .built import REPORT_NAME
from .catalog import DatasetFacts
from .clip import SPLITS
from .mmsa import COLUMNS, Defect, TableRow

FEATURES = {**COLUMNS, "duration": "float64", "defect": "string"}


@dataclass(frozen=True)
class BuiltRow:
    """A row of the table with its outcome.

    Attributes:
        row: as it goes into the data set.
        outcome: `kept` or `repaired`.
        reason: what its file holds, or what is wrong with it.
        kind: the kind of its defect, None for a good row.
        duration: seconds; None where no file was opened or could be read.
        has_audio: whether audio can be read; None where no file was opened.
    """

    row: TableRow
    outcome: str = "kept"
    reason: str = ""
    kind: str | None = None
    duration: float | None = None
    has_audio: bool | None = None

    def to_dict(self) -> dict[str, str | float | int | None]:
        """The row with the keys of FEATURES."""
        return {**self.row.to_dict(), "duration": self.duration, "defect": self.kind}


@dataclass(frozen=True)
class BuildReport:
    """The result of a build.

    Attributes:
        name, root, with_media, denoise: what was asked for.
        rows, videos: rows built, and the videos that they come from.
        counts: by split, `official` (None where there is no official count), `table` (rows of the table) and `built`.
        is_complete: whether every split has its official count; None where there is none.
        differences: by split that differs, `missing` (official - built) and `rows`, each with id and reason, that
            explain it.
        overlap: by pair of splits, such as `train-valid`, the videos with clips in both and the number of these clips.
        statistics: by split, figures of the labels and durations (seconds), and the number of rows without each
            modality.
        defects: all, in the order of the table.
    """

    name: str
    root: str
    with_media: bool
    denoise: str
    rows: int
    videos: int
    counts: dict[str, dict[str, int | None]]
    is_complete: bool | None
    differences: dict[str, dict]
    overlap: dict[str, dict]
    statistics: dict[str, dict]
    outcomes: dict[str, int]
    defect_counts: dict[str, int]
    defects: tuple[Defect, ...]


def make_report(
    facts: DatasetFacts,
    root: Path,
    built: Sequence[BuiltRow],
    defects: Sequence[Defect],
    *,
    with_media: bool,
    denoise: str,
) -> BuildReport:
    """Counts and measures what was built."""
    left_out = [defect for defect in defects if defect.outcome == "left out"]
    counts = {}
    for at, split in enumerate(SPLITS):
        kept = sum(item.row.clip.split == split for item in built)
        table = kept + len({id(defect) for defect in left_out if defect.split == split})
        counts[split] = {
            "official": facts.split_counts[at] if facts.split_counts else None,
            "table": table,
            "built": kept,
        }
    outcomes = Counter(item.outcome for item in built) | Counter(
        d.outcome for d in defects if d.outcome in _WITHOUT_ROW
    )
    return BuildReport(
        name=facts.name,
        root=str(root),
        with_media=with_media,
        denoise=denoise,
        rows=len(built),
        videos=len({item.row.clip.video_id for item in built} - {None}),
        counts=counts,
        is_complete=all(c["official"] == c["built"] for c in counts.values()) if facts.split_counts else None,
        differences=_differences(counts, built, defects),
        overlap=_overlap(built),
        statistics={
            split: _statistics([item for item in built if item.row.clip.split == split], facts, with_media)
            for split in SPLITS
        },
        outcomes=dict(outcomes),
        defect_counts=dict(Counter(defect.kind for defect in defects).most_common()),
        defects=tuple(defects),
    )


_WITHOUT_ROW = ("left out", "not in the table")


def _differences(
    counts: dict[str, dict[str, int | None]], built: Sequence[BuiltRow], defects: Sequence[Defect]
) -> dict[str, dict]:
    """For each split without its official count, the rows that may explain it."""
    gaps = _gaps(built)
    different = {}
    for split, count in counts.items():
        if count["official"] is None or count["official"] == count["built"]:
            continue
        rows = [
            {"id": d.id, "why": f"{d.outcome}: {d.reason}"}
            for d in defects
            if d.outcome == "left out" and d.split in (split, None)
        ]
        rows += [{"id": d.id, "why": d.reason} for d in defects if d.outcome == "not in the table"]
        rows += [
            {"id": clip_id, "why": "not in the table, though clips before and after it are"} for clip_id in gaps[split]
        ]
        different[split] = {"missing": count["official"] - count["built"], "rows": rows}
    return different


def _gaps(built: Sequence[BuiltRow]) -> dict[str, list[str]]:
    """Ids of the clips that lie between two clips of the same video and are not there, by split."""
    indices: dict[tuple[str, str], list[int]] = defaultdict(list)
    for item in built:
        clip = item.row.clip
        if clip.video_id is not None and clip.clip_index is not None:
            indices[clip.split, clip.video_id].append(clip.clip_index)
    gaps: dict[str, list[str]] = {split: [] for split in SPLITS}
    for (split, video_id), present in indices.items():
        present = sorted(present)
        for before, after in pairwise(present):
            if after - before <= 100:  # further apart, the numbers do not count clips
                gaps[split] += [f"{video_id}_{index}" for index in range(before + 1, after)]
    return gaps


def _overlap(built: Sequence[BuiltRow]) -> dict[str, dict]:
    clips: dict[str, Counter] = {split: Counter() for split in SPLITS}
    for item in built:
        if item.row.clip.video_id is not None:
            clips[item.row.clip.split][item.row.clip.video_id] += 1
    overlap = {}
    for one, other in combinations(SPLITS, 2):
        shared = sorted(clips[one].keys() & clips[other].keys())
        number = sum(clips[one][video] + clips[other][video] for video in shared)
        overlap[f"{one}-{other}"] = {"videos": shared, "clips": number}
    return overlap


def _statistics(part: Sequence[BuiltRow], facts: DatasetFacts, with_media: bool) -> dict:
    if not part:
        return {"rows": 0}
    labels = np.array([item.row.clip.label for item in part])
    edges = _label_edges(facts)
    durations = np.array([item.duration for item in part if item.duration is not None])
    return {
        "rows": len(part),
        "videos": len({item.row.clip.video_id for item in part}),
        "label": {
            "mean": float(labels.mean()),
            "sd": float(labels.std()),
            "median": float(np.median(labels)),
            "min": float(labels.min()),
            "max": float(labels.max()),
            "zeros": int((labels == 0).sum()),
            "histogram": {"edges": edges.tolist(), "counts": np.histogram(labels, edges)[0].tolist()},
        },
        "duration": None if not len(durations) else _duration_figures(durations),
        "missing": {
            "text": sum(item.row.clip.text is None for item in part),
            "audio": sum(not item.has_audio for item in part) if with_media else None,
            "video": sum(item.row.clip.video is None for item in part) if with_media else None,
        },
    }


def _duration_figures(durations: np.ndarray) -> dict[str, float]:
    return {
        "clips": len(durations),
        "hours": float(durations.sum() / 3600),
        "mean": float(durations.mean()),
        "median": float(np.median(durations)),
        "min": float(durations.min()),
        "max": float(durations.max()),
    }


def _label_edges(facts: DatasetFacts) -> np.ndarray:
    """Edges of the histogram's bins, whose centres are the round values: steps of .5 in [-3, 3], of .2 in [-1, 1]."""
    low, high = facts.score_range
    step = 0.5 if high - low > 4 else 0.2
    return np.round(np.arange(low - step / 2, high + step, step), 6)


def write_report(folder: Path, report: BuildReport, built: Sequence[BuiltRow]) -> None:
    """Writes build_report.json, build_report.md and build_report.png."""
    (folder / REPORT_NAME).write_text(
        json.dumps(asdict(report), ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    (folder / "build_report.md").write_text(_markdown(report), encoding="utf-8")
    _plot(folder / "build_report.png", report, built)


def _markdown(report: BuildReport) -> str:
    outcomes = ", ".join(f"{number:,} {outcome}" for outcome, number in report.outcomes.items())
    lines = [f"# {report.name}: build report", "", f"From `{report.root}`; denoise: {report.denoise}."]
    lines += [f"{report.rows:,} rows of {report.videos:,} videos built: {outcomes}.", ""]
    if not report.with_media:
        lines += ["Built from the table alone; no media was looked for.", ""]
    lines += ["## Splits", ""]
    lines += _table(
        ("split", "official", "in the table", "built"),
        [(split, c["official"], c["table"], c["built"]) for split, c in report.counts.items()],
    )
    lines.append("")
    if report.is_complete is not None:
        verdict = (
            "All counts are the official ones."
            if report.is_complete
            else "**The counts differ from the official ones.**"
        )
        lines += [verdict, ""]
    for split, difference in report.differences.items():
        number = difference["missing"]
        lines += [f"{split}: {abs(number):,} rows {'fewer' if number > 0 else 'more'} than the official count."]
        lines += _shortened([f"- {row['id']}: {row['why']}" for row in difference["rows"]], "differences") or [
            "- No row of the table explains this: rows are missing from the table itself."
        ]
        lines.append("")
    lines += ["## Videos in more than one split", ""]
    shared = {pair: found for pair, found in report.overlap.items() if found["videos"]}
    for pair, found in shared.items():
        names = ", ".join(found["videos"][:20]) + (", ..." if len(found["videos"]) > 20 else "")
        lines.append(f"- {pair}: {len(found['videos']):,} videos with {found['clips']:,} clips: {names}")
    lines += [*([] if shared else ["None."]), "", "## Figures", "", *_figures(report)]
    lines += ["![labels and durations](build_report.png)", "", "## Defects", ""]
    if not report.defects:
        return "\n".join([*lines, "None.", ""])
    lines += [*_table(("defect", "clips"), list(report.defect_counts.items())), ""]
    lines += [f"- {d.id or d.path} ({d.kind}, {d.outcome}): {d.reason}" for d in report.defects]
    return "\n".join([*lines, ""])


def _figures(report: BuildReport) -> list[str]:
    parts = {split: part for split, part in report.statistics.items() if part["rows"]}

    def row(name: str, pick) -> tuple:
        return (name, *(pick(part) for part in parts.values()))

    def label(key: str):
        return lambda part: f"{part['label'][key]:.4f}"

    def seconds(key: str):
        return lambda part: "-" if part["duration"] is None else f"{part['duration'][key]:.2f}"

    def missing(key: str):
        return lambda part: part["missing"][key]

    rows = [row("rows", lambda part: part["rows"]), row("videos", lambda part: part["videos"])]
    rows += [row(f"label {key}", label(key)) for key in ("mean", "sd", "median", "min", "max")]
    rows += [row("label 0", lambda part: part["label"]["zeros"])]
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
    """Labels and durations of each split, as fractions, so that splits of different size can be compared."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    parts = {split: part for split, part in report.statistics.items() if part["rows"]}
    durations = {
        split: [item.duration for item in built if item.row.clip.split == split and item.duration is not None]
        for split in parts
    }
    longest = np.percentile([seconds for part in durations.values() for seconds in part] or [1.0], 99)
    for split, part in parts.items():
        edges = np.array(part["label"]["histogram"]["edges"])
        fractions = np.array(part["label"]["histogram"]["counts"]) / part["rows"]
        left.stairs(fractions, edges, label=f"{split} ({part['rows']:,})")
        if durations[split]:
            weights = np.full(len(durations[split]), 1 / len(durations[split]))
            bins = np.linspace(0, longest, 31)
            right.hist(np.minimum(durations[split], longest), bins, weights=weights, histtype="step", label=split)
    left.set(title=f"{report.name}: labels", xlabel="label", ylabel="fraction of the split", ylim=(0, None))
    left.legend()
    right.set(title="durations", xlabel="seconds (the longest 1 % in the last bin)", ylabel="fraction of the split")
    if not any(durations.values()):
        right.text(0.5, 0.5, "no durations: no media was opened", ha="center", transform=right.transAxes)
    FigureCanvasAgg(figure).print_png(os.fspath(path))
