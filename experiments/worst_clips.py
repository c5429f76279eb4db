"""The clips with the largest errors, with their words and a picture from each video, for the report.

Words and pictures are read where the run read them. What is not there any more is left out, and said once. Where a scored clip has
another label now, ids may mean other clips, so nothing of that data set is shown.
"""

import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
from PIL import Image

from ..data.clip import Clip
from ..data.load import is_here, load_clips
from ..errors_omnisent import MediaError
from ..frames_omnisent import VideoSampling
from ..hub.card_metadata import dataset_name
from ..media_omnisent import read_media
from ..training import run_folder
from ..training.targets import table_options
from .report_figures import data_uri

WORST = 20
MOST_LETTERS = 400
PICTURE_BYTES = 20_000
QUALITIES = (85, 70, 50, 30, 10)
SAMPLING = VideoSampling(min_frames=4, max_frames=4, min_pixels=56 * 56, max_pixels=196 * 140)


@dataclass(frozen=True)
class WorstClip:
    """A row: figures as text, in the order of the titles; `picture` is a data URI."""

    id: str
    text: str | None
    picture: str | None
    figures: list[str]


@dataclass(frozen=True)
class WorstClips:
    """The table of the worst clips: its caption, the titles of the figures, and its rows."""

    caption: str
    titles: list[str]
    clips: list[WorstClip]


class ClipLibrary:
    """The clips of runs, read once for each data set; it remembers what is missing."""

    def __init__(self) -> None:
        self._clips: dict[str, dict[str, Clip]] = {}
        self._pictures: dict[str, str | None] = {}
        self._missing: defaultdict[str, set[str]] = defaultdict(set)
        self._notes: dict[str, None] = {}

    def clips(
        self, run: Path, scored: Mapping[str, float], worst: Iterable[str], target: str | None
    ) -> dict[str, Clip]:
        """The worst clips of a run, by id; without those that are missing, and empty if the data set has changed since.

        Args:
            run: which scored them.
            scored: the label of every clip that it scored, by id, label units.
            worst: ids of the clips that are wanted.
            target: of the labels; `None` if the run has one.
        """
        config = run_folder.read_config(run)
        name = dataset_name(config["dataset"])
        clips = self._of_run(config, name)
        place = 0 if target is None else list(config["targets"]).index(target)
        if any(id_ in clips and _differs(clips[id_].labels[place], label) for id_, label in scored.items()):
            self._notes[
                f"{name}: clips are shown without words and pictures, as the data set has changed since the run: an id has"
                " another label"
            ] = None
            return {}
        missing = {id_ for id_ in worst if id_ not in clips}
        if clips and missing:
            self._missing[f"{name}: the words of {{}} are not shown: removed since the run"] |= missing
        return {id_: clips[id_] for id_ in worst if id_ in clips}

    def picture(self, run: Path, clip: Clip) -> str | None:
        """A frame of the clip's video as a data URI of a small JPEG; `None` without a video that can be read."""
        if clip.video is None:
            return None
        if clip.video not in self._pictures:
            self._pictures[clip.video] = _picture(clip.video)
        if self._pictures[clip.video] is None:
            name = dataset_name(run_folder.read_config(run)["dataset"])
            self._missing[f"{name}: the videos of {{}} cannot be read here, and have no picture"].add(clip.id)
        return self._pictures[clip.video]

    @property
    def notes(self) -> list[str]:
        """What is missing, a sentence for each data set and reason."""
        counted = [line.format(_counted(len(ids))) for line, ids in self._missing.items()]
        return [f"{line}." for line in (*self._notes, *counted)]

    def _of_run(self, config: Mapping, name: str) -> dict[str, Clip]:
        key = repr(
            [config[field] for field in ("dataset", "root", "targets", "columns", "raters", "encoding", "decimal")]
        )
        if key not in self._clips:
            self._clips[key] = {}
            try:
                if not is_here(config["dataset"], config["root"]):
                    raise FileNotFoundError("it is not here any more")
                options = table_options(SimpleNamespace(**config))
                clips = load_clips(config["dataset"], root=config["root"], missing_ok=True, options=options)
                self._clips[key] = {clip.id: clip for clip in clips}
            except (OSError, ValueError) as error:
                self._notes[
                    f"{name}: clips are shown without words and pictures, as the data set cannot be read: {error}"
                ] = None
        return self._clips[key]


def worst_clips(
    scores: pd.DataFrame, labels: Mapping[str, str], run: Path, library: ClipLibrary, target: str | None
) -> WorstClips:
    """The clips with the largest error of the first arm.

    Args:
        scores: (n, columns) id, label and a score of each arm, label units.
        labels: titles of the arms by their columns, the first one first.
        run: a run on these clips, whose settings say where they are.
        library: where they are looked up.
        target: whose scores these are; `None` if the run has one.
    """
    first = next(iter(labels))
    errors = (scores[first] - scores["label"]).abs()
    worst = scores.assign(error=errors).sort_values("error", ascending=False, kind="stable").head(WORST)
    rows, clips = [], library.clips(run, dict(zip(scores["id"], scores["label"], strict=True)), worst["id"], target)
    for row in worst.to_dict("records"):
        clip = clips.get(row["id"])
        rows.append(
            WorstClip(
                id=row["id"],
                text=None if clip is None else _shortened(clip.text),
                picture=None if clip is None else library.picture(run, clip),
                figures=[f"{row['label']:+.2f}", f"{row['error']:.2f}", *(f"{row[name]:+.2f}" for name in labels)],
            )
        )
    caption = f"The {len(worst)} clips with the largest error of {labels[first]}, of {len(scores)}; label units"
    return WorstClips(caption, ["label", "error", *labels.values()], rows)


def _differs(known: float | None, label: float) -> bool:
    return known is None or not math.isclose(known, label, abs_tol=1e-6)


def _counted(count: int) -> str:
    return "1 of the clips below" if count == 1 else f"{count} of the clips below"


def _shortened(text: str | None) -> str | None:
    if not text or len(text) <= MOST_LETTERS:
        return text
    return f"{text[: MOST_LETTERS - 1].rstrip()}…"


def _picture(video: str, most: int = PICTURE_BYTES) -> str | None:
    """A frame from the middle of a video as a JPEG of at most so many bytes."""
    try:
        frames = read_media(video, audio=False, sampling=SAMPLING).frames
    except MediaError:
        return None
    if frames is None:
        return None
    image = Image.fromarray(frames[len(frames) // 2].permute(1, 2, 0).numpy())
    for quality in QUALITIES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= most:
            return data_uri(file.getvalue(), "jpeg")
    return None
