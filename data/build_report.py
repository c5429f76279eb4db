"""The report of a built data set: counts against the official ones, defects and statistics.

`build.py` opens the media and decides about rows; `build_report_files.py` writes the report.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .catalog import DatasetFacts
from .clip import SPLITS, labels_of
from .mmsa import Defect, TableRow
from .overlap import Overlap, overlaps

CHECKED = {"duration": "float64", "defect": "string"}  # what a build adds to the columns of a data set


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
        """The row with its own columns and those of CHECKED."""
        return {**self.row.to_dict(), "duration": self.duration, "defect": self.kind}


@dataclass(frozen=True)
class SplitCount:
    """Numbers of clips of a split: the `official` one (None if there is none), rows in the `table`, and rows `built`."""

    official: int | None
    table: int
    built: int


@dataclass(frozen=True)
class Explanation:
    """A clip that may explain why a split does not have its official number of clips."""

    id: str | None
    why: str


@dataclass(frozen=True)
class Difference:
    """How many clips a split is missing compared with its official number (below 0: too many), and clips that may explain it."""

    missing: int
    rows: tuple[Explanation, ...]


@dataclass(frozen=True)
class Histogram:
    """`counts` of the bins between the `edges`, label units."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LabelFigures:
    """Statistics of the labels of a split, label units; `zeros` counts the labels that are 0."""

    mean: float
    sd: float
    median: float
    min: float
    max: float
    zeros: int
    histogram: Histogram


@dataclass(frozen=True)
class DurationFigures:
    """Durations of the clips: number of clips with a known one, total hours, and seconds per clip."""

    clips: int
    hours: float
    mean: float
    median: float
    min: float
    max: float


@dataclass(frozen=True)
class MissingModalities:
    """Numbers of clips without text, audio and video; None if no media was checked."""

    text: int
    audio: int | None
    video: int | None


@dataclass(frozen=True)
class SplitFigures:
    """Statistics of a split; `duration` is None if no duration is known."""

    rows: int
    videos: int
    label: LabelFigures
    duration: DurationFigures | None
    missing: MissingModalities


@dataclass(frozen=True)
class BuildReport:
    """The result of a build.

    Attributes:
        name, root, with_media, denoise: the options of the build.
        rows, videos: numbers of built rows, and of their videos.
        counts: by split.
        is_complete: whether every split has its official count; None if there is none.
        differences: by split, where the count is not the official one.
        overlap: what two splits share, by their names, such as `train-valid`.
        statistics: by split; None for one without rows.
        outcomes, defect_counts: numbers of rows by outcome, and of defects by kind.
        defects: all, in the order of the table.
    """

    name: str
    root: str
    with_media: bool
    denoise: str
    rows: int
    videos: int
    counts: dict[str, SplitCount]
    is_complete: bool | None
    differences: dict[str, Difference]
    overlap: dict[str, Overlap]
    statistics: dict[str, SplitFigures | None]
    outcomes: dict[str, int]
    defect_counts: dict[str, int]
    defects: tuple[Defect, ...]

    def to_dict(self) -> dict[str, Any]:
        """The contents of build_report.json."""
        values = asdict(self)
        return {**values, "statistics": {split: part or {"rows": 0} for split, part in values["statistics"].items()}}


def make_report(
    facts: DatasetFacts,
    root: Path,
    built: Sequence[BuiltRow],
    defects: Sequence[Defect],
    *,
    with_media: bool,
    denoise: str,
) -> BuildReport:
    """The report of what was built."""
    left_out = [defect for defect in defects if defect.outcome == "left out"]
    counts = {}
    for at, split in enumerate(SPLITS):
        kept = sum(item.row.clip.split == split for item in built)
        table = kept + len({id(defect) for defect in left_out if defect.split == split})
        counts[split] = SplitCount(facts.split_counts[at] if facts.split_counts else None, table, kept)
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
        is_complete=all(count.official == count.built for count in counts.values()) if facts.split_counts else None,
        differences=_differences(counts, built, defects),
        overlap=overlaps([item.row.clip for item in built]),
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
    counts: dict[str, SplitCount], built: Sequence[BuiltRow], defects: Sequence[Defect]
) -> dict[str, Difference]:
    """For each split without its official count, the rows that may explain it."""
    gaps = _gaps(built)
    without_row = [Explanation(d.id, d.reason) for d in defects if d.outcome == "not in the table"]
    differences = {}
    for split, count in counts.items():
        if count.official is None or count.official == count.built:
            continue
        left_out = [d for d in defects if d.outcome == "left out" and d.split in (split, None)]
        rows = [Explanation(d.id, f"{d.outcome}: {d.reason}") for d in left_out] + without_row
        rows += [Explanation(gap, "not in the table, though clips before and after it are") for gap in gaps[split]]
        differences[split] = Difference(count.official - count.built, tuple(rows))
    return differences


def _gaps(built: Sequence[BuiltRow]) -> dict[str | None, list[str]]:
    """Ids of missing clips between two clips of the same video, by split."""
    indices: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for item in built:
        clip = item.row.clip
        if clip.video_id is not None and clip.clip_index is not None:
            indices[clip.split, clip.video_id].append(clip.clip_index)
    gaps: dict[str | None, list[str]] = {split: [] for split in SPLITS}
    for (split, video_id), present in indices.items():
        present = sorted(present)
        for before, after in pairwise(present):
            if after - before <= 100:  # further apart, the numbers do not count clips
                gaps[split] += [f"{video_id}_{index}" for index in range(before + 1, after)]
    return gaps


def _statistics(part: Sequence[BuiltRow], facts: DatasetFacts, with_media: bool) -> SplitFigures | None:
    if not part:
        return None
    labels = labels_of(item.row.clip for item in part)
    edges = _label_edges(facts)
    durations = np.array([item.duration for item in part if item.duration is not None])
    return SplitFigures(
        rows=len(part),
        videos=len({item.row.clip.video_id for item in part}),
        label=LabelFigures(
            mean=float(labels.mean()),
            sd=float(labels.std()),
            median=float(np.median(labels)),
            min=float(labels.min()),
            max=float(labels.max()),
            zeros=int((labels == 0).sum()),
            histogram=Histogram(tuple(edges.tolist()), tuple(np.histogram(labels, edges)[0].tolist())),
        ),
        duration=_duration_figures(durations) if len(durations) else None,
        missing=MissingModalities(
            text=sum(item.row.clip.text is None for item in part),
            audio=sum(not item.has_audio for item in part) if with_media else None,
            video=sum(item.row.clip.video is None for item in part) if with_media else None,
        ),
    )


def _duration_figures(durations: np.ndarray) -> DurationFigures:
    return DurationFigures(
        clips=len(durations),
        hours=float(durations.sum() / 3600),
        mean=float(durations.mean()),
        median=float(np.median(durations)),
        min=float(durations.min()),
        max=float(durations.max()),
    )


def _label_edges(facts: DatasetFacts) -> np.ndarray:
    """Edges of the histogram's bins, whose centres are the round values: steps of .5 in [-3, 3], of .2 in [-1, 1]."""
    low, high = facts.score_range
    step = 0.5 if high - low > 4 else 0.2
    return np.round(np.arange(low - step / 2, high + step, step), 6)
