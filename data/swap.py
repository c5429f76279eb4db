"""Clips with the words, the sound or the picture of a clip of another video, to see what a model makes of them. Reads no files."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from .clip import Clip


def swapped_clips(clips: Sequence[Clip], modalities: Collection[str], *, seed: int) -> list[Clip]:
    """Each clip with the given modalities of another one, which is used once; id, label and everything else stay its own.

    The other clip is of another video, if no video has more than half of the clips.

    Args:
        clips: each with what is swapped.
        modalities: some of text, audio and video.
        seed: of the pairs.

    Raises:
        ValueError: for fewer than two clips.
    """
    if len(clips) < 2:
        raise ValueError(f"swapped: {len(clips)} clip; it takes at least two to swap {', '.join(modalities)}")
    others = _others([clip.video_id or clip.id for clip in clips], seed)
    return [_with_parts_of(clip, clips[other], modalities) for clip, other in zip(clips, others, strict=True)]


def _others(videos: Sequence[str], seed: int) -> np.ndarray:
    """For each of n clips the index of another: videos in random order, moved on by the length of the longest."""
    names, places, sizes = np.unique(videos, return_inverse=True, return_counts=True)
    generator = np.random.default_rng(seed)
    order = np.lexsort((generator.permutation(len(videos)), generator.permutation(len(names))[places]))
    step = sizes.max() if 2 * sizes.max() <= len(videos) else 1
    others = np.empty(len(videos), int)
    others[order] = np.roll(order, -step)
    return others


def _with_parts_of(clip: Clip, other: Clip, modalities: Collection[str]) -> Clip:
    sound = other if "audio" in modalities else clip
    return replace(
        clip,
        text=other.text if "text" in modalities else clip.text,
        video=other.video if "video" in modalities else clip.video,
        audio=sound.audio or sound.video,
    )
