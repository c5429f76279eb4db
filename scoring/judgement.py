"""One clip -> what there is to say of it: its score, what text, sound and picture each add, and its course when it is long.

Knows no page and no command; the numbers are the pipeline's.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors_omnisent import OmniSentError
from ..pipeline_omnisent import MultimodalSentimentPipeline
from .subtitles import Cue, read_cues
from .timeline import Moment, score_timeline
from .timeline_plot import clock
from .windows import windows_of


@dataclass(frozen=True)
class Judgement:
    """What the model says of one clip.

    Attributes:
        score: label units.
        label: `"negative"`, `"neutral"` or `"positive"`.
        seconds: length of the file; `None` for a transcript alone.
        modalities: which of text, audio and video the clip has and the model used.
        without: the score with a modality left out, by its name; empty where there is only one.
        moments: the score over time of a file that is longer than a window; else empty.
        warning: what of the file could not be read, or `None`.
    """

    score: float
    label: str
    seconds: float | None
    modalities: tuple[str, ...]
    without: Mapping[str, float]
    moments: Sequence[Moment]
    warning: str | None = None

    def adds(self, modality: str) -> float:
        """By how much the score moves when a modality is put back, label units."""
        return self.score - self.without[modality]


def judge(
    pipeline: MultimodalSentimentPipeline,
    path: str | os.PathLike[str] | None,
    transcript: str = "",
    *,
    window: float = 8.0,
    stride: float = 4.0,
    max_seconds: float = 600.0,
    on_step: Callable[[int, int], None] | None = None,
) -> Judgement:
    """Score a video, a sound, or a transcript alone.

    Args:
        pipeline: its modalities are used.
        path: a local video or sound file.
        transcript: plain words, or what a .srt or .vtt file holds. In the windows of a long file words without times are taken
            to be spread evenly over it.
        window: seconds of one window of a long file.
        stride: seconds from one window's start to the next.
        max_seconds: a longer file is refused before anything is scored.
        on_step: called with the passes that are done, and with how many there are.

    Raises:
        OmniSentError: for a file or transcript that cannot be read, for a file that is too long, and for nothing to score.
    """
    text, cues = read_transcript(transcript)
    seconds, clip, have = None, {"text": text}, {"text"} if text else set()
    if path is not None:
        with pipeline.processor.open(path) as media:
            seconds = media.duration
            clip["video" if media.has_video else "audio"] = os.fspath(path)
            have |= {name for name, there in (("video", media.has_video), ("audio", media.has_audio)) if there}
    if seconds is not None and seconds > max_seconds:
        raise OmniSentError(
            f"{Path(path).name}: it lasts {clock(seconds)}, and at most {clock(max_seconds)} are scored here;"
            " cut it, or score it with `omnisent score --windows`"
        )
    used = tuple(name for name in _wanted(pipeline) if name in have)
    if not used:
        raise OmniSentError(
            f"nothing to score: expected one of {', '.join(_wanted(pipeline))}; give a clip or a transcript"
        )
    lengthy = seconds is not None and seconds > window
    parts = used if len(used) > 1 else ()
    steps = 1 + len(parts) + (len(windows_of(seconds, window, stride)) if lengthy else 0)
    tell = _Counter(steps, on_step)
    result = tell.after(pipeline(clip, modalities=used))
    without = {
        left_out: tell.after(pipeline(clip, modalities=[name for name in used if name != left_out]))["score"]
        for left_out in parts
    }
    moments: list[Moment] = []
    if lengthy:
        cues = cues or ([Cue(0.0, seconds, text)] if text else [])
        scored = score_timeline(pipeline, path, window=window, stride=stride, cues=cues)
        moments = [tell.after(moment) for moment in scored]
    return Judgement(result["score"], result["label"], seconds, used, without, moments, result.get("warning"))


def read_transcript(transcript: str) -> tuple[str | None, list[Cue]]:
    """Words and, where they were given with times as in a .srt or .vtt file, their cues.

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


def _wanted(pipeline: MultimodalSentimentPipeline) -> Sequence[str]:
    """The modalities that the pipeline was made with, else its processor's."""
    return pipeline._preprocess_params.get("modalities") or pipeline.processor.modalities


class _Counter:
    def __init__(self, steps: int, on_step: Callable[[int, int], None] | None):
        self.done, self.steps, self.on_step = 0, steps, on_step

    def after(self, result: Any) -> Any:
        """Counts a pass whose result is there."""
        self.done += 1
        if self.on_step is not None:
            self.on_step(self.done, self.steps)
        return result
