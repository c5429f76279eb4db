"""Scores a file of any length over time: one row per window, as a table and as a plot.

The file is opened once; windows are read one after another and scored in batches, so memory holds a batch, not the file.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from tqdm.auto import tqdm

from ..data.tables import check_ending, write_table
from ..media_omnisent import read_header
from ..pipeline_omnisent import MultimodalSentimentPipeline
from ..readouts.zero_shot import ZeroShotConfig
from .options import TimelineFormat
from .results import score_columns
from .scales import scales_of, scores_of
from .subtitles import Cue, cues_beside, text_within
from .timeline_files import write_timeline_file
from .timeline_plot import clock, plot_timeline
from .windows import WindowScore, windows_of


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
    return _scored_windows(pipeline, path, window, stride, cues, batch_size)


def write_timeline(
    path: str | os.PathLike[str],
    pipeline: MultimodalSentimentPipeline,
    out: str | os.PathLike[str],
    *,
    window: float,
    stride: float,
    cues: Sequence[Cue] | None = None,
    batch_size: int = 1,
    other: tuple[Path, TimelineFormat] | None = None,
) -> list[WindowScore]:
    """Score a file over time, and write the table and, with the suffix .png, the plot beside it.

    Args:
        path: a local file.
        pipeline: its modalities and neutral band are used.
        out: a table that ends in .csv, .jsonl or .parquet, with the columns start, end, score, label, text, error and
            warning; a bundle with several targets has a column for each instead of score and label, and zero-shot scores have
            the column readout.
        window: seconds of one window.
        stride: seconds from one window's start to the next.
        cues: the transcript; by default that of a .srt or .vtt file beside the video, if there is one.
        batch_size: windows per forward pass.
        other: a file for another program, and its format; see `timeline_files`.

    Returns:
        All windows; those with an `error` have no score.

    Raises:
        OmniSentError: when the file cannot be opened.
        ValueError: for an invalid suffix, window, stride, or transcript file.
    """
    out = Path(out)
    check_ending(out)
    cues = cues_beside(path) if cues is None else cues
    expected = len(windows_of(read_header(path).seconds or 0.0, window, stride))
    scored = score_timeline(pipeline, path, window=window, stride=stride, cues=cues, batch_size=batch_size)
    config, title = pipeline.model.config, Path(path).name
    mark = (config.readout,) if isinstance(config, ZeroShotConfig) else ()
    after = {**({"readout": str} if mark else {}), "text": str, "error": str, "warning": str}
    columns = score_columns(config.targets, {"start": float, "end": float}, after)
    windows = list(tqdm(scored, total=expected, desc=title, unit="window"))
    write_table(out, columns, (_cells(window, len(config.targets), mark) for window in windows), line_end="\n")
    scales, how = scales_of(pipeline), "zero-shot" if mark else ""
    if other is not None:
        write_timeline_file(*other, windows, scales, Path(path), how)
    title = f"{title} ({how})" if how else title
    plot_timeline(windows, out.with_suffix(".png"), title=title, scales=scales)
    return windows


def _cells(window: WindowScore, targets: int, mark: tuple[str, ...]) -> tuple:
    label = (window.label,) if targets == 1 else ()
    scores = window.scores or (None,) * targets
    return (window.start, window.end, *scores, *label, *mark, window.text, window.error, window.warning)


def _scored_windows(
    pipeline: MultimodalSentimentPipeline,
    path: str | os.PathLike[str],
    window: float,
    stride: float,
    cues: Sequence[Cue],
    batch_size: int,
) -> Iterator[WindowScore]:
    with closing(pipeline.processor.open(path)) as media:
        spans = windows_of(media.duration, window, stride)
        kind = "video" if media.has_video else "audio"

        def clips() -> Iterator[dict]:
            for start, end in spans:
                name = f"{Path(path).name} {clock(start, window)} to {clock(end, window)}"
                yield {"id": name, kind: media, "start": start, "end": end, "text": text_within(cues, start, end)}

        results = pipeline(clips(), batch_size=batch_size, on_error="return")
        for (start, end), result in zip(spans, results, strict=True):
            text = text_within(cues, start, end)
            label, error, warning = map(result.get, ("label", "error", "warning"))
            yield WindowScore(start, end, scores_of(result), label, text, error, warning)
