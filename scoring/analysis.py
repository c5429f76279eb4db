"""Analyses one clip: its scores, what text, audio, video and each word contribute, and the scores over time of a long one.

explanation.py and the pipeline compute every number; analysis_page.py renders them.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors_omnisent import OmniSentError
from ..pipeline_omnisent import MultimodalSentimentPipeline
from .explanation import difference, explain, modalities_of
from .subtitles import Cue, read_cues
from .timeline import score_timeline
from .timeline_plot import clock
from .windows import WindowScore, windows_of


@dataclass(frozen=True)
class ClipAnalysis:
    """The scores of one clip.

    Attributes:
        scores: of each target, label units.
        label: of a single target, as the pipeline gives it, or `None`.
        seconds: length of the file; `None` for a transcript alone.
        modalities: which of text, audio and video the clip has and the model used.
        without: the scores with a modality left out, by its name; empty if there is only one.
        windows: scores over time of a file that is longer than a window; else empty.
        warning: which part of the file could not be read, or `None`.
        low: lower end of each target's prediction interval, label units; empty without an interval.
        high: upper end, likewise.
        words: of the transcript, or groups of neighbouring ones, in their order: each with what it adds to the score of each
            target, label units; see `explanation.Word`. Empty if they were not asked for, or cannot be left out.
    """

    scores: tuple[float, ...]
    label: str | None
    seconds: float | None
    modalities: tuple[str, ...]
    without: Mapping[str, tuple[float, ...]]
    windows: Sequence[WindowScore]
    warning: str | None = None
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    words: Sequence[tuple[str, tuple[float, ...]]] = ()

    def contributions(self, modality: str) -> tuple[float, ...]:
        """The scores with all modalities minus the scores without this one, label units."""
        return difference(self.scores, self.without[modality])


def analyse_clip(
    pipeline: MultimodalSentimentPipeline,
    path: str | os.PathLike[str] | None,
    transcript: str = "",
    *,
    window: float = 8.0,
    stride: float = 4.0,
    max_seconds: float = 600.0,
    interval: float | None = None,
    on_step: Callable[[int, int], None] | None = None,
    words: bool = False,
) -> ClipAnalysis:
    """Score a video or audio file, or a transcript alone.

    Args:
        pipeline: its modalities are used.
        path: a local video or audio file.
        transcript: plain text, or the contents of a .srt or .vtt file. Plain text is spread evenly over the windows of a long file.
        window: seconds of one window of a long file.
        stride: seconds from one window's start to the next.
        max_seconds: a longer file is refused before anything is scored.
        interval: level of a prediction interval, for which the bundle must be calibrated; see `calibrated_level`.
        on_step: called with the number of finished steps and the total: the whole clip with what it is made of, and each window.
        words: leave out each word, too.

    Raises:
        OmniSentError: for a file or transcript that cannot be read, a file that is too long, or nothing to score.
    """
    text, cues = read_transcript(transcript)
    seconds, clip, present = None, {"text": text}, {"text"} if text else set()
    if path is not None:
        with pipeline.processor.open(path) as media:
            seconds = media.duration
            clip["video" if media.has_video else "audio"] = os.fspath(path)
            present |= {name for name, has in (("video", media.has_video), ("audio", media.has_audio)) if has}
            check_length(path, seconds, max_seconds)
    read = modalities_of(pipeline)
    used = tuple(name for name in read if name in present)
    if not used:
        advice = "a text" if read == ["text"] else "a clip or a transcript"
        raise OmniSentError(f"nothing to score: expected {' or '.join(read)}; give {advice}")
    spans = [] if seconds is None or seconds <= window else windows_of(seconds, window, stride)
    count = _Counter(1 + len(spans), on_step)
    found = count.after(explain(pipeline, clip, modalities=used, words=words, interval=interval))
    result = found.result
    windows: list[WindowScore] = []
    if path is not None and seconds is not None and spans:
        cues = cues or ([Cue(0.0, seconds, text)] if text else [])
        scored = score_timeline(pipeline, path, window=window, stride=stride, cues=cues)
        windows = [count.after(window_score) for window_score in scored]
    low, high = (_by_target(result.get(side)) for side in ("low", "high"))
    return ClipAnalysis(
        found.scores,
        result.get("label"),
        seconds,
        used,
        found.without,
        windows,
        result.get("warning"),
        low,
        high,
        [(word.text, word.contributions) for word in found.words],
    )


def check_length(path: str | os.PathLike[str], seconds: float, max_seconds: float) -> None:
    """Check that a file is not longer than is scored.

    Raises:
        OmniSentError: naming the file and both lengths.
    """
    if seconds > max_seconds:
        raise OmniSentError(
            f"{Path(path).name}: it lasts {clock(seconds)}, and at most {clock(max_seconds)} are scored here;"
            " cut it, or score it with `omnisent score --windows`"
        )


def read_transcript(transcript: str) -> tuple[str | None, list[Cue]]:
    """The text of a transcript, and its cues if it has timestamps as in a .srt or .vtt file.

    Raises:
        OmniSentError: naming the line that is not a cue.
    """
    text = transcript.strip()
    if "-->" not in text:
        return text or None, []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "transcript.vtt" if text.startswith("WEBVTT") else "transcript.srt")
        file.write_text(text, encoding="utf-8")
        try:
            cues = read_cues(file)
        except ValueError as error:
            raise OmniSentError(str(error).replace(str(file), "the transcript")) from None
    return " ".join(cue.text for cue in cues) or None, cues


def calibrated_level(pipeline: MultimodalSentimentPipeline, level: float = 0.9) -> float | None:
    """The level if the bundle has prediction intervals of it for each target, else `None`."""
    config = pipeline.model.config
    tables = [config.calibration_of(target) or {"half_widths": {}} for target in config.targets]
    return level if all(str(level) in table["half_widths"] for table in tables) else None


def _by_target(ends: float | Mapping[str, float] | None) -> tuple[float, ...]:
    if ends is None:
        return ()
    return tuple(ends.values()) if isinstance(ends, Mapping) else (ends,)


class _Counter:
    def __init__(self, steps: int, on_step: Callable[[int, int], None] | None):
        self.done, self.steps, self.on_step = 0, steps, on_step

    def after(self, result: Any) -> Any:
        """Count one pass, and return its result."""
        self.done += 1
        if self.on_step is not None:
            self.on_step(self.done, self.steps)
        return result
