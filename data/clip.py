"""A clip, as a row everywhere: transcript, media files, label and split. Reads nothing."""

from dataclasses import asdict, dataclass

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {name: name for name in SPLITS} | {
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
}  # as tables write them
MODALITIES = ("text", "audio", "video")


@dataclass(frozen=True)
class Clip:
    """One clip.

    Attributes:
        id: unique in its table.
        text: transcript.
        video: path of the video file; its own audio is used where `audio` is unset.
        audio: path of an audio file.
        label: sentiment, label units.
        split: `"train"`, `"valid"` or `"test"`.
        video_id: the video that the clip was cut from.
        clip_index: position of the clip in its video.
    """

    id: str
    text: str | None = None
    video: str | None = None
    audio: str | None = None
    label: float | None = None
    split: str | None = None
    video_id: str | None = None
    clip_index: int | None = None

    def to_dict(self) -> dict:
        """The clip as the processor takes it."""
        return asdict(self)
