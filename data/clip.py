"""A clip: transcript, media files, label and split. Reads no files."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {name: name for name in SPLITS} | {
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
}  # as tables write them
MODALITIES = ("text", "audio", "video")
ONE_PERSON = "one person against the mean of the others"  # what `human_mae` is the MAE of


@dataclass(frozen=True)
class Clip:
    """One clip.

    Attributes:
        id: unique in its table.
        text: transcript.
        video: path of the video file; its own audio is used if `audio` is unset.
        audio: path of an audio file.
        label: sentiment, label units.
        split: `"train"`, `"valid"` or `"test"`.
        video_id: the video that the clip was cut from.
        clip_index: position of the clip in its video.
        genre: kind of text, such as `"tweets"`.
        rater_mae: mean absolute difference between one person's rating and the mean of the others', label units.
    """

    id: str
    text: str | None = None
    video: str | None = None
    audio: str | None = None
    label: float | None = None
    split: str | None = None
    video_id: str | None = None
    clip_index: int | None = None
    genre: str | None = None
    rater_mae: float | None = None

    def to_dict(self) -> dict:
        """The clip as a mapping, for the processor."""
        return asdict(self)


def labels_of(clips: Iterable[Clip]) -> np.ndarray:
    """Labels (n,) of n clips, float64, label units.

    Raises:
        ValueError: naming the first clip without a label.
    """
    labels = []
    for clip in clips:
        if clip.label is None:
            raise ValueError(f"clip {clip.id} has no label; give it one, or leave it out")
        labels.append(clip.label)
    return np.array(labels, dtype=np.float64)


def human_mae(clips: Iterable[Clip]) -> float | None:
    """MAE of one person's rating against the mean of the other people's, averaged over clips, label units.

    `None` if there are no clips, or one without `rater_mae`.
    """
    errors = [clip.rater_mae for clip in clips]
    known = [error for error in errors if error is not None]
    return float(np.mean(known)) if known and len(known) == len(errors) else None
