"""Finds clips that cannot be used, before training, and clips that lack a modality.

Of a published data set, no test clip is left out, since results on fewer clips are not comparable: it keeps what can be read.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..data.clip import Clip
from ..data.neighbours import preceding_texts
from ..errors_omnisent import OmniSentError
from ..media_omnisent import read_header
from ..processing_omnisent import ClipError, OmniSentProcessor
from .media_checks import MediaChecks, MediaFacts

_MARKS = 2  # tokens around the audio of a video

logger = logging.getLogger("omnisent.bad_clips")


@dataclass(frozen=True)
class BadClip:
    """A clip that cannot be encoded as it is.

    Attributes:
        id, split: of the clip.
        reason: why not.
        kept: what is used of it, `text, audio` or `text`; empty if it is left out.
    """

    id: str
    split: str
    reason: str
    kept: str = ""


def find_bad_clips(clips: Sequence[Clip], checks: MediaChecks, *, keeps_tests: bool = False) -> list[BadClip]:
    """The clips that cannot be encoded, in their order. Warns of those that can only be read in part.

    Args:
        clips: all of them.
        checks: of their media, with the processor of the run.
        keeps_tests: whether a test clip with text keeps what can be read, if text is used.
    """
    context = preceding_texts(clips, checks.processor.context_clips)
    bad = {clip.id: BadClip(clip.id, clip.split or "", reason) for clip, reason in _faults(clips, context, checks)}
    if keeps_tests and "text" in checks.processor.modalities:
        lost = [clip for clip in clips if clip.id in bad and clip.split == "test"]
        for kept in ("text, audio", "text"):
            still_lost = {clip.id for clip, _ in _faults([what_is_kept(clip, kept) for clip in lost], context, checks)}
            bad |= {clip.id: replace(bad[clip.id], kept=kept) for clip in lost if clip.id not in still_lost}
            lost = [clip for clip in lost if clip.id in still_lost]
    return list(bad.values())


def _faults(
    clips: Sequence[Clip], context: Mapping[str, Sequence[str]], checks: MediaChecks
) -> Iterator[tuple[Clip, str]]:
    """Each clip that cannot be encoded, with the reason."""
    for clip, media in zip(clips, checks.of(clips), strict=True):
        reason = _fault({**clip.to_dict(), "context": context[clip.id]}, media, checks.processor)
        if reason is not None:
            yield clip, reason
        elif media.warning:
            warn_if_partial({"clip_id": clip.id, "warning": media.warning})


def _fault(clip: Mapping[str, Any], media: MediaFacts, processor: OmniSentProcessor) -> str | None:
    if media.fault is not None:
        return str(ClipError(media.fault, clip["id"]))
    try:
        if not _surely_fits(clip, media, processor):
            processor.encode(clip)
    except OmniSentError as error:
        return str(error)
    return None


def _surely_fits(clip: Mapping[str, Any], media: MediaFacts, processor: OmniSentProcessor) -> bool:
    """Whether there is something to score, in few enough tokens; reads no media."""
    has = {"video": media.video_tokens > 0, "audio": media.audio_tokens > 0}
    has_text = "text" in processor.modalities and bool((clip["text"] or "").strip())
    tokens = processor.prompt_tokens(clip, **has) + media.video_tokens + media.audio_tokens + _MARKS
    return (has_text or any(has.values())) and tokens <= processor.tokenizer.model_max_length


def what_is_kept(clip: Clip, kept: str) -> Clip:
    """The clip with its text and, for `text, audio`, its sound."""
    return replace(clip, video=None, audio=(clip.audio or clip.video) if "audio" in kept else None)


def warn_if_partial(encoded: Mapping[str, Any]) -> None:
    """Log a warning if part of an encoded clip could not be read."""
    if "warning" in encoded:
        logger.warning("clip %s is only partly readable: %s", encoded["clip_id"], encoded["warning"])


def is_complete(clip: Clip) -> bool:
    """Whether a clip has text, audio and video.

    Raises:
        MediaError: for a video that is missing or cannot be opened.
    """
    if not (clip.text or "").strip() or not clip.video:
        return False
    return bool(clip.audio) or read_header(clip.video).has_audio
