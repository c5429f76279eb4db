"""Fingerprints of what a run read, part by part, so that runs on other clips or other files are not compared unnoticed."""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from .clip import Clip

PIECE = 16384  # bytes that are read at the start, in the middle and at the end of a media file


def fingerprints(clips: Sequence[Clip], *, with_media: bool) -> dict[str, str | None]:
    """A hash for each part of the clips that reaches a model, in their order.

    Args:
        clips: of all splits.
        with_media: whether media files are read; without it the part `media` is `None`.

    Returns:
        `ids and splits`, `labels` (with weights, if there are any), `transcripts`, `videos` (of each clip, and its place there, by
        which preceding clips are found) and `media` (size and three pieces of each file, which a file that was cut, encoded or
        denoised anew does not share).
    """
    return {
        "ids and splits": _digest([[clip.id, clip.split] for clip in clips]),
        "labels": _digest([*([clip.labels if clip.further else clip.label for clip in clips]), *_weights(clips)]),
        "transcripts": _digest([clip.text for clip in clips]),
        "videos": _digest([[clip.video_id, clip.clip_index] for clip in clips]),
        "media": _digest([[_file(clip.video), _file(clip.audio)] for clip in clips]) if with_media else None,
    }


def _weights(clips: Sequence[Clip]) -> list[float | None]:
    """The weights of the clips; none if no clip has one."""
    weights = [clip.weight for clip in clips]
    return weights if any(weight is not None for weight in weights) else []


def differing_part(first: dict[str, str | None], second: dict[str, str | None]) -> str | None:
    """The first part in which two fingerprints differ; a part that either lacks is not compared. `None` if there is none."""
    for part in first:
        hashes = first[part], second.get(part)
        if None not in hashes and hashes[0] != hashes[1]:
            return part
    return None


def _file(path: str | None) -> list[Any] | None:
    """Size of a file, and a hash of three pieces; of one that is missing only that it is."""
    if path is None:
        return None
    if not os.path.isfile(path):
        return ["missing"]
    size = os.path.getsize(path)
    state = hashlib.sha256()
    with open(path, "rb") as file:
        for start in sorted({0, max(0, (size - PIECE) // 2), max(0, size - PIECE)}):
            file.seek(start)
            state.update(file.read(PIECE))
    return [size, state.hexdigest()]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
