"""A clip: transcript, media files, label and split. Reads no files."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

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
class Rating:
    """The label of a clip for one target, and how far the people who rated it differ; see `Clip`."""

    label: float | None = None
    rater_mae: float | None = None
    label_sd: float | None = None


@dataclass(frozen=True)
class Clip:
    """One clip.

    Attributes:
        id: unique in its table.
        text: transcript.
        video: path of the video file; its own audio is used if `audio` is unset.
        audio: path of an audio file.
        label: of the first target, usually sentiment, label units.
        split: `"train"`, `"valid"` or `"test"`.
        video_id: the video that the clip was cut from.
        clip_index: position of the clip in its video.
        genre: kind of text, such as `"tweets"`.
        rater_mae: mean absolute difference between one person's rating and the mean of the others', label units.
        label_sd: standard deviation of the single ratings, label units.
        speaker: who speaks.
        weight: of the clip in training; 1 if it is not given.
        further: the ratings of the targets after the first; empty if there is one target.
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
    label_sd: float | None = None
    speaker: str | None = None
    weight: float | None = None
    further: tuple[Rating, ...] = ()

    @property
    def ratings(self) -> tuple[Rating, ...]:
        """The ratings of all targets, the first one's from fields of its own."""
        return (Rating(self.label, self.rater_mae, self.label_sd), *self.further)

    @property
    def labels(self) -> tuple[float | None, ...]:
        """The labels of all targets, `None` where one is missing."""
        return (self.label, *(rating.label for rating in self.further))

    def to_dict(self) -> dict:
        """The clip as a mapping, for the processor."""
        return asdict(self)


def labels_of(clips: Iterable[Clip]) -> np.ndarray:
    """Labels of n clips, float64, label units: (n,) of one target, or (n, K) of K targets with nan where one is missing.

    Raises:
        ValueError: naming the first clip without any label.
    """
    labels = []
    for clip in clips:
        if set(clip.labels) == {None}:
            raise ValueError(f"clip {clip.id} has no label; give it one, or leave it out")
        labels.append(clip.labels if clip.further else clip.label)
    return np.array(labels, dtype=np.float64)


def of_target(clips: Iterable[Clip], place: int) -> list[Clip]:
    """The clips that have a label of one of several targets, each with it as its only label.

    Args:
        clips: of K targets.
        place: of the target among them, from 0.
    """
    chosen = []
    for clip in clips:
        own = clip.ratings[place]
        if own.label is not None:
            chosen.append(replace(clip, **asdict(own), further=()))
    return chosen


def rater_mae(ratings: np.ndarray) -> float:
    """Mean absolute difference between one of n >= 2 ratings (n,) and the mean of the others, over all n; label units."""
    others = (ratings.sum() - ratings) / (len(ratings) - 1)
    return float(np.abs(ratings - others).mean())


def human_mae(clips: Iterable[Clip]) -> float | None:
    """MAE of one person's rating against the mean of the other people's, averaged over clips, label units.

    `None` if there are no clips, or one without `rater_mae`.
    """
    errors = [clip.rater_mae for clip in clips]
    known = [error for error in errors if error is not None]
    return float(np.mean(known)) if known and len(known) == len(errors) else None
