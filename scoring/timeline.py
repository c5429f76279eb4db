"""A file of any length -> its score over time: one row a window, as a table and as a plot.

The file is opened once; windows are read one after another and scored in batches, so memory holds a batch, not the file.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from ..media_omnisent import read_header
from ..pipeline_omnisent import MultimodalSentimentPipeline
from .subtitles import Cue, cues_beside, text_within
from .timeline_plot import clock, plot_timeline

TABLES = (".csv", ".jsonl", ".parquet")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


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


def parse_seconds(text: str) -> float:
    """Seconds of `"8s"`, `"1.5"`, `"1m30s"`, `"2h"` or `"500ms"`.

    Raises:
        ValueError: for anything else.
    """
    said = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", said):
        return float(said)
    found = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?(?:([\d.]+)ms)?", said)
    try:
        if found is None or not said:
            raise ValueError
        return sum(float(n) * unit for n, unit in zip(found.groups(), _UNITS.values(), strict=True) if n is not None)
    except ValueError:
        raise ValueError(f"{text!r} is not a length of time; expected e.g. 8s, 1.5, 1m30s or 500ms") from None


def windows_of(duration: float, window: float, stride: float) -> list[tuple[float, float]]:
    """Start and end of each window, in seconds, the last one ending with the file.

    Windows start at 0, stride, 2 * stride, ... What is left at the end is a window of its own when it is half a window or more,
    and else the end of one that is shifted back. A file shorter than a window is one window.

    Raises:
        ValueError: when `window` or `stride` is not above 0.
    """
    if not (0 < window < math.inf and 0 < stride < math.inf):
        raise ValueError(f"window and stride must be above 0 s, got {window:g} and {stride:g}")
    if duration <= window:
        return [(0.0, duration)]
    full = math.floor((duration - window) / stride + 1e-6)
    found = [(k * stride, k * stride + window) for k in range(full + 1)]
    left, end = (full + 1) * stride, found[-1][1]
    if duration - end < 1e-3 or left >= duration:  # a stride longer than the window leaves gaps, also at the end
        return [*found[:-1], (found[-1][0], min(end, duration))]
    return [*found, (left if duration - left >= window / 2 else duration - window, duration)]


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
    if out.suffix.lower() not in TABLES:
        raise ValueError(f"{out}: expected a table that ends in {', '.join(TABLES)}")
    cues = cues_beside(path) if cues is None else cues
    expected = len(windows_of(read_header(path).seconds or 0.0, window, stride))
    scored = score_timeline(pipeline, path, window=window, stride=stride, cues=cues, batch_size=batch_size)
    moments = list(tqdm(scored, total=expected, desc=Path(path).name, unit="window"))
    out.parent.mkdir(parents=True, exist_ok=True)
    _write_table(moments, out)
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


def _write_table(moments: Sequence[Moment], out: Path) -> None:
    table = pd.DataFrame([asdict(moment) for moment in moments], columns=[field.name for field in fields(Moment)])
    table = table.astype({"score": "float64", **dict.fromkeys(("label", "text", "error", "warning"), "string")})
    draft = out.with_name(f".{out.name}.part")
    if out.suffix.lower() == ".csv":
        table.to_csv(draft, index=False)
    elif out.suffix.lower() == ".jsonl":
        table.to_json(draft, orient="records", lines=True, force_ascii=False, double_precision=15)
    else:
        table.to_parquet(draft, index=False)
    draft.replace(out)
