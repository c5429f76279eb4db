"""The errors that a caller of omnisent may want to catch. Each says what was expected, what was found, and what to do."""

from enum import StrEnum


class OmniSentError(ValueError):
    """Base class of the errors that concern one clip or one file."""


class MediaFault(StrEnum):
    """What is wrong with a media file, or with what was asked of it."""

    MISSING = "missing"  # there is no such file
    NO_FILE = "no file"  # an address, a folder or a device, or a file that this user may not read
    EMPTY = "empty"  # zero bytes
    NOT_MEDIA = "not media"
    TRUNCATED = "truncated"
    DAMAGED = "damaged"
    NO_VIDEO = "no video"
    NO_FRAMES = "no frames"  # a video stream that holds none
    UNSUPPORTED = "unsupported"  # a codec, a size, a rate or a layout that omnisent does not read
    PAST_END = "past the end"  # a segment that begins where the file has ended


class MediaError(OmniSentError):
    """A file whose frames or audio cannot be read as asked.

    Attributes:
        path: the file, as given; bytes of its name that are not UTF-8 are shown with a backslash.
        reason: what was expected, what was found, and what to do.
        kind: which of the faults it is.
    """

    def __init__(self, path: str, reason: str, kind: MediaFault) -> None:
        # The name may hold bytes that are not UTF-8, and whoever writes the error down must not fail.
        self.path, self.reason = (text.encode("utf-8", "backslashreplace").decode() for text in (path, reason))
        self.kind = kind
        super().__init__(self.path, self.reason, kind)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
