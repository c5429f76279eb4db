"""A file of any length -> its score over time: one row a window, as a table and as a plot.

The file is opened once; windows are read one after another and scored in batches, so memory holds a batch, not the file.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from ..data.tables import check_ending, write_table
from ..media_omnisent import read_header
from ..pipeline_omnisent import MultimodalSentimentPipeline
from .subtitles import Cue, cues_beside, text_within
from .timeline_plot import clock, plot_timeline
from .windows import windows_of

COLUMNS = {
    **dict.fromkeys(("start", "end", "score"), float),
    **dict.fromkeys(("label", "text", "error", "warning"), str),
}


@dataclass(frozen=True)
class Moment:
    """One window of a timeline.

    Attributes:
        start: seconds.
        end: seconds.
        score: label units; `None` where the window could not be scored.
        label: `"negative"`, `"neutral"` or `"positive"`, or `None`.
        text: the words of the transcript in the window, or `None`.
        error: why there is no score, or `None`.
        warning: what of the window could not be read, or `None`.
    """

    start: float
    end: float
    score: float | None
    label: str | None
    text: str | None
    error: str | None
    warning: str | None = None


def score_timeline(
    pipeline: MultimodalSentimentPipeline,
    path: str | os.PathLike[str],
    *,
    window: float,
    stride: float,
    cues: Sequence[Cue] = (),
    batch_size: int = 1,
) -> Iterator[Moment]:
    """Scores a sliding window over a video or sound file, in memory that does not grow with its length.

    Args:
        pipeline: its modalities are used.
        path: a local file.
        window: seconds of one window.
        stride: seconds from one window's start to the next.
        cues: the transcript; each window is given the words spoken in it.
        batch_size: windows a forward pass; a window's score does not depend on it.

    Returns:
        The moments in order of time, as they are scored; a window that cannot be scored says why.

    Raises:
        OmniSentError: when the file cannot be opened.
        ValueError: when `window` or `stride` is not above 0.
    """
    windows_of(0.0, window, stride)
    return _moments(pipeline, path, window, stride, cues, batch_size)


def write_timeline(
    path: str | os.PathLike[str],
    pipeline: MultimodalSentimentPipeline,
    out: str | os.PathLike[str],
    *,
    window: float,
    stride: float,
    cues: Sequence[Cue] | None = None,
    batch_size: int = 1,
) -> list[Moment]:
    """Scores a file over time and writes the table, and the plot beside it with the ending .png.

    Args:
        path: a local file.
        pipeline: its modalities and neutral band are used.
        out: a table that ends in .csv, .jsonl or .parquet, with the columns of `Moment`.
        window: seconds of one window.
        stride: seconds from one window's start to the next.
        cues: the transcript; by default that of a .srt or .vtt file beside the video, if there is one.
        batch_size: windows a forward pass.

    Returns:
        All moments; those with an `error` have no score.

    Raises:
        OmniSentError: when the file cannot be opened.
        ValueError: for a wrong ending, window, stride, or transcript file.
    """
    out = Path(out)
    check_ending(out)
    cues = cues_beside(path) if cues is None else cues
    expected = len(windows_of(read_header(path).seconds or 0.0, window, stride))
    scored = score_timeline(pipeline, path, window=window, stride=stride, cues=cues, batch_size=batch_size)
    moments = list(tqdm(scored, total=expected, desc=Path(path).name, unit="window"))
    write_table(out, COLUMNS, map(astuple, moments), line_end="\n")
    config = pipeline.model.config
    plot_timeline(
        moments,
        out.with_suffix(".png"),
        title=Path(path).name,
        neutral_band=pipeline.neutral_band,
        score_range=(config.score_min, config.score_max),
    )
    return moments


def _moments(
    pipeline: MultimodalSentimentPipeline,
    path: str | os.PathLike[str],
    window: float,
    stride: float,
    cues: Sequence[Cue],
    batch_size: int,
) -> Iterator[Moment]:
    with closing(pipeline.processor.open(path)) as media:
        spans = windows_of(media.duration, window, stride)
        kind = "video" if media.has_video else "audio"

        def clips() -> Iterator[dict]:
            for start, end in spans:
                name = f"{Path(path).name} {clock(start, window)} to {clock(end, window)}"
                yield {"id": name, kind: media, "start": start, "end": end, "text": text_within(cues, start, end)}

        results = pipeline(clips(), batch_size=batch_size, on_error="return")
        for (start, end), result in zip(spans, results, strict=True):
            found = (result.get(name) for name in ("score", "label"))
            text = text_within(cues, start, end)
            yield Moment(start, end, *found, text, result.get("error"), result.get("warning"))
