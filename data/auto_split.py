"""Splits a table of its own into train, valid and test: no video or speaker in two splits, labels alike in all of them."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .clip import SPLITS, Clip

SPLIT_SEED = 0  # the same for every run, so that runs can be compared
STRATUM = 10  # groups with similar labels, in random order


def parse_shares(shares: str) -> tuple[float, float, float]:
    """The shares of train, valid and test, which sum to 1, from a text such as `80/10/10`.

    Raises:
        ValueError: for anything but three numbers above 0.
    """
    parts = [part.strip() for part in shares.split("/")]
    numbers = [float(part) for part in parts if re.fullmatch(r"[0-9]*\.?[0-9]+", part)]
    if len(parts) != len(SPLITS) or len(numbers) != len(SPLITS) or min(numbers) <= 0:
        raise ValueError(
            f"auto_split: expected shares of {', '.join(SPLITS)} above 0, such as 80/10/10, found {shares!r}"
        )
    train, valid, test = (number / sum(numbers) for number in numbers)
    return train, valid, test


def auto_split(clips: Sequence[Clip], shares: str, *, seed: int) -> list[Clip]:
    """The clips, in their order, each with a split, unless it has no label; the same for the same clips in any order.

    If the speaker of every clip is known, no speaker is in two splits. No video is in two splits where it is known; a clip of
    unknown video and speaker is a group of its own. Groups are ordered by the mean of their labels of the first target, so that
    every split gets its share of the low, middle and high ones.

    Args:
        clips: without splits.
        shares: of train, valid and test, such as `80/10/10`; of clips, as far as whole groups allow.
        seed: of the order of groups with similar labels.

    Raises:
        ValueError: for other shares, a clip that has a split, or fewer than three groups.
    """
    wanted = dict(zip(SPLITS, parse_shares(shares), strict=True))
    for clip in clips:
        if clip.split is not None:
            raise ValueError(
                f"auto_split: clip {clip.id} is in the {clip.split} split; leave auto_split out, or give group_split true"
                " for a new split by video"
            )
    labelled = [clip for clip in clips if set(clip.labels) != {None}]
    groups = _groups(sorted(labelled, key=lambda clip: clip.id))
    if len(groups) < len(SPLITS):
        raise ValueError(
            f"auto_split: {len(groups)} groups of clips of the same {_kind(clips)}; {', '.join(SPLITS)} need at least one each"
        )
    groups.sort(key=lambda group: (_mean_label(group), group[0].id))
    rng = np.random.default_rng(seed)
    parts: dict[str, list[list[Clip]]] = {split: [] for split in SPLITS}
    sizes, total = dict.fromkeys(SPLITS, 0), 0
    for start in range(0, len(groups), STRATUM):
        stratum = groups[start : start + STRATUM]
        for at in rng.permutation(len(stratum)):
            group = stratum[at]
            total += len(group)
            lacks = {split: wanted[split] * total - sizes[split] for split in SPLITS}
            split = max(SPLITS, key=lambda name: lacks[name])
            parts[split].append(group)
            sizes[split] += len(group)
    for split in SPLITS:  # of few groups, a small share can get none
        if not parts[split]:
            largest = max(SPLITS, key=lambda name: len(parts[name]))
            smallest = min(parts[largest], key=len)
            parts[largest].remove(smallest)
            parts[split].append(smallest)
    split_of = {clip.id: split for split, chosen in parts.items() for group in chosen for clip in group}
    return [replace(clip, split=split_of.get(clip.id)) for clip in clips]


def _kind(clips: Sequence[Clip]) -> str:
    known = [name for name in ("video_id", "speaker") if any(getattr(clip, name) is not None for clip in clips)]
    return " or ".join(known) or "id"


def _groups(clips: Sequence[Clip]) -> list[list[Clip]]:
    """The clips by what links them, directly or through others: a video, and a speaker if all are known."""
    by_speaker = all(clip.speaker is not None for clip in clips)
    earlier = list(range(len(clips)))
    first: dict[tuple[str, str], int] = {}

    def leader(at: int) -> int:
        while earlier[at] != at:
            earlier[at] = at = earlier[earlier[at]]
        return at

    for at, clip in enumerate(clips):
        links = [("video", clip.video_id), ("speaker", clip.speaker if by_speaker else None)]
        for kind, name in links:
            if name is not None:
                earlier[leader(at)] = leader(first.setdefault((kind, name), at))
    groups: dict[int, list[Clip]] = defaultdict(list)
    for at, clip in enumerate(clips):
        groups[leader(at)].append(clip)
    return list(groups.values())


def _mean_label(group: Sequence[Clip]) -> float:
    """Of the first target; groups without a label come last."""
    labels = [clip.label for clip in group if clip.label is not None]
    return float(np.mean(labels)) if labels else math.inf
