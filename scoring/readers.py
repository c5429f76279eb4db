"""Reads clips for scoring, in worker processes: transcript, media and duration of each."""

import os
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch.utils.data import Dataset

from ..data.clip import Clip
from ..data.reader_count import possible_readers
from ..errors_omnisent import OmniSentError
from ..media_omnisent import longest_seconds, read_header
from ..pipeline_omnisent import as_clip
from .clips import transcript_of
from .results import score_cells
from .transcribe import Transcriber

ROW = "row"  # of an encoded clip: the cells of its row that do not depend on the model
CLIPS_PER_READER = 4


class ClipReader(Dataset):
    """Encoded clips, each with the cells of its row; a clip that cannot be read has an `error` instead of inputs.

    Args:
        clips: a transcript file beside a media file is used.
        encode: of a clip as a mapping, as `MultimodalSentimentPipeline.encoder` gives it.
        warnings: of clips, by their ids, for their rows.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        encode: Callable[[Any], dict],
        warnings: Mapping[str, str] = MappingProxyType({}),
    ):
        self.clips, self.encode, self.warnings = clips, encode, dict(warnings)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip, error = with_text(self.clips[index])
        encoded = {"error": error} if error else self.encode(clip.to_dict())
        return {**encoded, ROW: {**row_of(clip), "warning": self.warnings.get(clip.id)}}


def row_of(clip: Clip) -> dict[str, Any]:
    """The cells of a clip's row that do not depend on the model: id, the duration that the headers of its files state, and text."""
    return {"id": clip.id, "seconds": _seconds(clip), "text": clip.text}


def scored_row(encoded: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an encoded clip with the result of the pipeline, and the warnings of both."""
    row, cells = encoded[ROW], score_cells(result)
    warnings = [one for one in (row["warning"], cells.get("warning")) if one]
    return {**row, **cells, "warning": "; ".join(warnings) or None}


def with_text(clip: Clip) -> tuple[Clip, str | None]:
    """The clip with its transcript, and an error if that cannot be read; a file without video is its `audio`."""
    clip = _by_its_streams(clip)
    try:
        return replace(clip, text=transcript_of(clip)), None
    except (ValueError, OSError) as error:
        return clip, str(error)


def _by_its_streams(clip: Clip) -> Clip:
    """A clip of a single file without video, such as a voice memo in .mp4, as a clip of audio, as the pipeline takes its path."""
    if not clip.video or clip.audio:
        return clip
    try:
        return replace(clip, **{"video": None, **as_clip(clip.video)})
    except OmniSentError:  # it is reported when the file is scored
        return clip


def transcribed(clips: Sequence[Clip], transcriber: Transcriber | None) -> tuple[list[Clip], dict[str, str]]:
    """The clips with their transcripts, and by the ids of those in which nothing is said, a warning.

    Args:
        clips: one that has a transcript keeps it, and so does one whose transcript cannot be read; scoring reports it.
        transcriber: transcribes the others; without one, all are as they were.
    """
    if transcriber is None:
        return list(clips), {}
    done: list[Clip] = []
    warnings: dict[str, str] = {}
    for clip in clips:
        clip, error = with_text(clip)
        if not clip.text and not error:
            text, warning = transcriber(clip)
            clip = replace(clip, text=text)
            warnings |= {clip.id: warning} if warning else {}
        done.append(clip)
    return done, warnings


def auto_workers(clips: Sequence[Clip]) -> int:
    """How many processes should read these clips: within this process's share of the cores and of the free memory."""
    with_media = sum(bool(clip.video or clip.audio) for clip in clips)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(possible_readers(beside, hands_over=True), with_media // CLIPS_PER_READER)


def allow_open_files() -> None:
    """Allow as many open files as the system lets this process have: readers hand over each tensor as one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _seconds(clip: Clip) -> float | None:
    try:
        return longest_seconds(read_header(path) for path in (clip.video, clip.audio) if path)
    except OmniSentError:
        return None
