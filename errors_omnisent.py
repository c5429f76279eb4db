"""The errors that a caller of omnisent may want to catch. Each says what was expected, what was found, and what to do."""

from enum import StrEnum


class OmniSentError(ValueError):
    """Base class of the errors that concern one clip or one file."""


class ClipError(OmniSentError):
    """A clip that cannot be turned into model inputs; `clip_id` names it."""

    def __init__(self, message: str, clip_id: str | None = None):
        super().__init__(message if clip_id is None else f"clip {clip_id}: {message}")
        self.clip_id = clip_id


class MediaFault(StrEnum):
    """What is wrong with a media file, or with the requested part of it."""

    MISSING = "missing"  # there is no such file
    NO_FILE = "no file"  # a URL, a folder or a device, or a file without read permission
    EMPTY = "empty"  # zero bytes
    NOT_MEDIA = "not media"
    TRUNCATED = "truncated"
    DAMAGED = "damaged"
    NO_VIDEO = "no video"
    NO_FRAMES = "no frames"  # a video stream without frames
    UNSUPPORTED = "unsupported"  # a codec, size, rate or layout that omnisent cannot read
    PAST_END = "past the end"  # a segment that starts after the end of the file


class MediaError(OmniSentError):
    """A file whose frames or audio cannot be read.

    Attributes:
        path: the file, as given; bytes of its name that are not UTF-8 are escaped with a backslash.
        reason: what was expected, what was found, and what to do.
        kind: which of the faults it is.
    """

    def __init__(self, path: str, reason: str, kind: MediaFault) -> None:
        # File names may contain bytes that are not UTF-8; printing or logging the error must not fail.
        self.path, self.reason = (text.encode("utf-8", "backslashreplace").decode() for text in (path, reason))
        self.kind = kind
        super().__init__(self.path, self.reason, kind)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
