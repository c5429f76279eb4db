"""What a run would use of a table: its columns, labels, splits and media, as lines to read. Opens no media.

omnisent data check TABLE
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from .auto_split import SPLIT_SEED, auto_split
from .catalog import DATASETS, Target, dataset_facts
from .clip import MODALITIES, SPLITS, Clip, Rating
from .columns import find_columns
from .labelled_folder import clips_of, open_table
from .load import load_clips
from .overlap import overlap_lines, overlaps, words_of
from .saved_sets import HUB
from .table_options import TableOptions

BINS, BAR = 10, 40  # of the histogram; letters of its longest bar
_WIDTH = 14  # of the names of lines


@dataclass(frozen=True)
class Checked:
    """A table that can be used.

    Attributes:
        lines: what it holds, to print.
        clips: its clips, with new splits if these were asked for.
        ranges: lowest and highest label that the histograms show, by target.
    """

    lines: tuple[str, ...]
    clips: tuple[Clip, ...]
    ranges: dict[str, tuple[float, float]]

    def labels(self) -> dict[str, np.ndarray]:
        """The labels that are there, (n,), by target."""
        return {
            target: _labels([clip.ratings[place] for clip in self.clips]) for place, target in enumerate(self.ranges)
        }


def check_table(
    name: str,
    *,
    root: str | Path | None = None,
    options: TableOptions = TableOptions(),  # noqa: B008 (frozen)
    score_ranges: Sequence[tuple[float, float]] | None = None,
    shares: str | None = None,
    with_media: bool = True,
) -> Checked:
    """Read a table as a run would, and say what is in it.

    Args:
        name, root, options, with_media: as `load_clips` takes them.
        score_ranges: of the targets, to count the labels outside; by default those of the data set.
        shares: of a new split, see `auto_split`.

    Raises: as `load_clips` and `auto_split`, but missing media are reported, not raised.
    """
    lines, clips = _read(name, root, options, with_media)
    lines.append(_line("clips", f"{len(clips):,}"))
    ranges = {}
    for place, target in enumerate(options.targets):
        ratings = [clip.ratings[place] for clip in clips]
        own = dataset_facts(name).targets.get(target, Target()).score_range
        bounds = score_ranges[place] if score_ranges else own
        is_ours = score_ranges is not None or name in DATASETS
        lines += _target_lines(target, ratings, bounds, is_ours)
        labels = _labels(ratings)
        inside = is_ours or not len(labels) or bool((labels >= bounds[0]).all() and (labels <= bounds[1]).all())
        ranges[target] = bounds if inside else (float(labels.min()), float(labels.max()))
    lines += [_line("splits", _splits(clips))]
    if shares is not None:
        clips = auto_split(clips, shares, seed=SPLIT_SEED)
        lines.append(_line("auto_split", f"{shares}: {_splits(clips)}"))
    lines += _group_lines(clips)
    lines += _content_lines(clips, with_media)
    for line in overlap_lines(overlaps(clips), "videos"):
        lines.append(_line("note", line))
    checked = Checked(tuple(lines), tuple(clips), ranges)
    histograms = [
        line
        for target, labels in checked.labels().items()
        if len(labels)
        for line in ("", f"labels of {target}", *_histogram(labels, ranges[target]))
    ]
    return Checked((*lines, *histograms), checked.clips, ranges)


def _read(name: str, root: str | Path | None, options: TableOptions, with_media: bool) -> tuple[list[str], list[Clip]]:
    """The clips, and lines about where they come from."""
    if name in DATASETS or not (name.startswith(HUB) or Path(name).exists()):
        clips = load_clips(name, root=root, options=options, with_media=with_media, missing_ok=True)
        return [_line("data set", dataset_facts(name).title)], clips
    table = open_table(name, options)
    columns = find_columns(table, options, needs_labels=True)
    clips = clips_of(table, columns, options, with_media, missing_ok=True)
    lines = [_line("table", table.name), _line("format", table.kind)]
    used = [ours if ours == header else f"{ours} from {header!r}" for ours, header in columns.used.items()]
    used += [
        f"{target} from {len(headers)} raters ({', '.join(headers)})" for target, headers in columns.raters.items()
    ]
    lines.append(_line("columns", ", ".join(used)))
    if columns.is_mmsa:
        lines.append(_line("", "ids and media by video_id and clip_id (MMSA layout)"))
    elif "id" not in columns.used:
        lines.append(_line("", "no column of ids: the numbers of the rows are used"))
    ignored = [header for header in table.header if header.strip() and header not in columns.headers]
    lines.append(_line("ignored", ", ".join(ignored) or "no column"))
    return lines, clips


def _target_lines(target: str, ratings: Sequence[Rating], bounds: tuple[float, float], is_ours: bool) -> list[str]:
    labels = _labels(ratings)
    missing = len(ratings) - len(labels)
    if not len(labels):
        return [_line("target", f"{target}: no clip has a label")]
    low, high = float(labels.min()), float(labels.max())
    figures = f"n {len(labels):,}, missing {missing:,}, min {low:g}, max {high:g}, mean {labels.mean():.3g}, SD {labels.std():.3g}"
    ends = bounds if is_ours else (low, high)
    at_ends = "; ".join(f"{np.mean(labels == end):.1%} of the labels are {end:g}" for end in dict.fromkeys(ends))
    lines = [_line("target", f"{target}: {figures}"), _line("", at_ends)]
    outside = int(((labels < bounds[0]) | (labels > bounds[1])).sum())
    if outside:
        hint = "correct them, or give another score_range" if is_ours else "give the scale as score_range"
        lines.append(_line("note", f"labels of {target} outside [{bounds[0]:g}, {bounds[1]:g}]: {outside:,}; {hint}"))
    for what, name in (("MAE of one rater against the others", "rater_mae"), ("SD of the raters", "label_sd")):
        known = [value for rating in ratings if (value := getattr(rating, name)) is not None]
        if known:
            lines.append(_line("", f"{what} {np.mean(known):.3g} (mean over {len(known):,} clips)"))
    return lines


def _splits(clips: Sequence[Clip]) -> str:
    counts = Counter(clip.split for clip in clips)
    if counts.keys() == {None}:
        return "none; give auto_split, such as 80/10/10, or a column split"
    without = f", none {counts[None]:,}" if counts[None] else ""
    return ", ".join(f"{split} {counts[split]:,}" for split in SPLITS) + without


def _group_lines(clips: Sequence[Clip]) -> list[str]:
    lines = []
    for name, plural in (("video_id", "videos"), ("speaker", "speakers")):
        known = [getattr(clip, name) for clip in clips if getattr(clip, name) is not None]
        where = "all clips" if len(known) == len(clips) else f"{len(known):,} of {len(clips):,} clips"
        lines.append(_line(plural, f"{len(set(known)):,}, known for {where}" if known else "not known"))
    return lines


def _content_lines(clips: Sequence[Clip], with_media: bool) -> list[str]:
    lines = []
    without = {name: sum(getattr(clip, name) is None for clip in clips) for name in MODALITIES}
    names = MODALITIES if with_media else ("text",)
    lines.append(_line("without", ", ".join(f"{name} {without[name]:,}" for name in names)))
    empty = [clip.id for clip in clips if not any(getattr(clip, name) for name in MODALITIES)]
    if empty and with_media:
        lines.append(_line("note", f"clips with neither text nor media: {len(empty):,}, first {empty[0]}"))
    if with_media:
        named = [(clip.id, path) for clip in clips for path in (clip.video, clip.audio) if path is not None]
        missing = [(clip_id, path) for clip_id, path in named if not Path(path).is_file()]
        first = f", first {missing[0][1]} (clip {missing[0][0]})" if missing else ""
        lines.append(_line("media files", f"{len(named):,} named, {len(missing):,} missing{first}"))
    said = Counter(filter(None, (words_of(clip.text or "") for clip in clips)))
    again = [count for count in said.values() if count > 1]
    lines.append(_line("transcripts", f"{len(again):,} said more than once, in {sum(again):,} clips"))
    return lines


def _histogram(labels: np.ndarray, bounds: tuple[float, float]) -> list[str]:
    """Ten lines; labels outside the bounds are counted at the ends."""
    low, high = bounds if bounds[0] < bounds[1] else (bounds[0] - 0.5, bounds[0] + 0.5)
    counts, edges = np.histogram(np.clip(labels, low, high), bins=BINS, range=(low, high))
    names = [f"{start:.3g} to {end:.3g}" for start, end in pairwise(edges)]
    width, figures = max(map(len, names)), max(len(f"{count:,}") for count in counts)
    return [
        f"  {name:>{width}}  {count:>{figures},}  {'#' * round(BAR * count / counts.max())}".rstrip()
        for name, count in zip(names, counts, strict=True)
    ]


def _line(name: str, text: str) -> str:
    return f"{name:<{_WIDTH}}{text}"


def _labels(ratings: Sequence[Rating]) -> np.ndarray:
    return np.array([rating.label for rating in ratings if rating.label is not None])
