"""Scores a file of any length over time: one row per window, as a table and as a plot.

The file is opened once; windows are read one after another and scored in batches, so memory holds a batch, not the file. Rows are
written as they are scored, and an interrupted command resumes from them.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..configuration_omnisent import OmniSentConfig
from ..long_media_omnisent import LongMedia
from ..pipeline_omnisent import MultimodalSentimentPipeline
from ..readouts.zero_shot import ZeroShotConfig
from .options import TimelineFormat
from .output import marks_of, window_columns, window_row
from .results import ResumableWriter, Source, label_of, score_names
from .scales import scales_of, scores_of
from .sentences import sentences
from .subtitles import Cue, starting_by, text_within
from .timeline_files import write_timeline_file
from .timeline_plot import clock, plot_timeline
from .windows import ROUNDING, Window, WindowScore, windows_of


@dataclass(frozen=True)
class TimelineFiles:
    """Where scores over time are written.

    Attributes:
        table: ends in .csv, .jsonl or .parquet. Its columns are start, end, score, label, text, error and warning; a bundle with
            several targets has a column for each instead of score and label, and zero-shot scores have the column readout.
        other: a file for another program, see `timeline_files`.
        kind: its format.
    """

    table: Path
    other: Path | None = None
    kind: TimelineFormat | None = None

    @property
    def plot(self) -> Path:
        """The picture beside the table."""
        return self.table.with_suffix(".png")

    @property
    def all(self) -> list[Path]:
        """The table first, and the plot last."""
        return [file for file in (self.table, self.other, self.plot) if file]


def score_timeline(
    pipeline: MultimodalSentimentPipeline,
    path: str | os.PathLike[str],
    *,
    window: float,
    stride: float,
    cues: Sequence[Cue] = (),
    batch_size: int = 1,
) -> Iterator[WindowScore]:
    """Score a sliding window over a video or audio file, in memory that does not grow with its length.

    Args:
        pipeline: its modalities are used.
        path: a local file.
        window: seconds of one window.
        stride: seconds from one window's start to the next.
        cues: the transcript; each window is given the words spoken in it.
        batch_size: windows per forward pass; a window's score does not depend on it.

    Returns:
        The windows in order of time, as they are scored; one that cannot be scored has an error.

    Raises:
        OmniSentError: when the file cannot be opened.
        ValueError: when `window` or `stride` is not above 0.
    """
    windows_of(0.0, window, stride)
    return _scored_timeline(pipeline, path, window, stride, cues, batch_size)


def timeline_windows(duration: float, window: float | None, stride: float | None, cues: Sequence[Cue]) -> list[Window]:
    """The windows of a file, with the words spoken in each; those that a cue has beyond the end of the file are in the last one.

    Args:
        duration: of the file, seconds.
        window: seconds of one window; `None` for a window of each sentence of the transcript that starts within the file.
        stride: seconds from one window's start to the next; by default half a window.
        cues: the transcript.
    """
    if window is None:
        found = [one for one in sentences(cues) if one.start < duration]
        return [Window(one.start, min(one.end, duration), one.text) for one in found]
    spans = windows_of(duration, window, window / 2 if stride is None else stride)
    cues = starting_by(cues, duration)
    ends = [math.inf if duration - end < ROUNDING else end for _, end in spans]
    return [Window(*span, text_within(cues, span[0], end)) for span, end in zip(spans, ends, strict=True)]


class Timeline:
    """The scores of a file over time, in files that an interrupted command resumes.

    Args:
        media: the open file.
        windows: in order of time.
        files: what is written.
        config: of the model.
        settings: what all rows depend on; with others, a part file is refused.
        sources: of each window, what else its row depends on.
        batch_size: windows per forward pass, and those that are kept at once.
        overwrite: the table may exist, and is replaced.

    Attributes:
        kept: how many windows were scored before.
        changed: how many were scored, but have changed since.

    Raises:
        ValueError: for an unsupported suffix, or a part file with other settings.
        FileExistsError: when one of the files already exists.
    """

    def __init__(
        self,
        media: LongMedia,
        windows: Sequence[Window],
        files: TimelineFiles,
        config: OmniSentConfig,
        settings: Mapping[str, Any],
        sources: Sequence[Source],
        batch_size: int,
        *,
        overwrite: bool = False,
    ) -> None:
        self.media, self.windows, self.files, self.config, self.batch_size = media, windows, files, config, batch_size
        batches = [sources[first : first + batch_size] for first in range(0, len(windows), batch_size)]
        self._writer = ResumableWriter(files.table, settings, batches, window_columns(config), overwrite=overwrite)
        self.kept, self.changed = self._writer.kept, self._writer.changed

    def score(self, pipeline: MultimodalSentimentPipeline) -> None:
        """Score the windows that are missing; each batch is on disk when the next is read."""
        writer, size = self._writer, self.batch_size
        missing = [window for number in writer.missing for window in self.windows[number * size : (number + 1) * size]]
        name = Path(self.media.path).name
        rows = score_windows(pipeline, self.media, missing, size)
        with tqdm(total=len(self.windows), initial=writer.kept, desc=name, unit="window") as progress:
            for number in writer.missing:
                batch = writer.batches[number]
                some = [self._row(source, next(rows)) for source in batch]
                writer.add(number, some)
                progress.update(len(some))

    def finish(self, pipeline: MultimodalSentimentPipeline) -> list[WindowScore]:
        """Write the plot, the file for another program, and at last the table; returns all windows."""
        scored, files, title = list(map(self._scored, self._writer.rows())), self.files, Path(self.media.path).name
        scales, how = scales_of(pipeline), "zero-shot" if isinstance(self.config, ZeroShotConfig) else ""
        files.table.parent.mkdir(parents=True, exist_ok=True)
        self._writer.start_finishing(files.all)
        if files.other is not None and files.kind is not None:
            media = Path(self.media.path)
            write_timeline_file(files.other, files.kind, scored, scales, media, self.media.duration, how)
        plot_timeline(scored, files.plot, title=f"{title} ({how})" if how else title, scales=scales)
        self._writer.finish(line_end="\n")
        return scored

    def _row(self, source: Source, scored: WindowScore) -> dict[str, Any]:
        return {"id": source.id, **window_row(scored, self.config.targets), **marks_of(self.config)}

    def _scored(self, row: Mapping[str, Any]) -> WindowScore:
        scores = tuple(row[name] for name in score_names(self.config.targets)) if row["error"] is None else ()
        rest = (row[name] for name in ("text", "error", "warning"))
        return WindowScore(row["start"], row["end"], scores, label_of(row, self.config.targets), *rest)


def score_windows(
    pipeline: MultimodalSentimentPipeline, media: LongMedia, windows: Sequence[Window], batch_size: int
) -> Iterator[WindowScore]:
    """The windows of an open file, in order, as they are scored; one that cannot be scored has an error."""
    kind, title = "video" if media.has_video else "audio", Path(media.path).name

    def clips() -> Iterator[dict]:
        for window in windows:
            name = f"{title} {clock(window.start)} to {clock(window.end)}"
            yield {"id": name, kind: media, "start": window.start, "end": window.end, "text": window.text}

    results = pipeline(clips(), batch_size=batch_size, on_error="return")
    for window, result in zip(windows, results, strict=True):
        label, error, warning = map(result.get, ("label", "error", "warning"))
        yield WindowScore(window.start, window.end, scores_of(result), label, window.text, error, warning)


def _scored_timeline(
    pipeline: MultimodalSentimentPipeline,
    path: str | os.PathLike[str],
    window: float,
    stride: float,
    cues: Sequence[Cue],
    batch_size: int,
) -> Iterator[WindowScore]:
    with closing(pipeline.processor.open(path)) as media:
        yield from score_windows(pipeline, media, timeline_windows(media.duration, window, stride, cues), batch_size)
