"""What stands in two splits, videos, transcripts and speakers, which a model would meet again at the test; and splits by video.

Reads no files.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from unicodedata import east_asian_width

import numpy as np

from .clip import SPLITS, Clip

FEWEST_WORDS, FEWEST_LETTERS = 5, 10  # of a transcript that is no stock phrase; letters if it has no spaces


@dataclass(frozen=True)
class Overlap:
    """What two splits share: videos, transcripts and speakers, and the number of clips of each in both splits."""

    videos: tuple[str, ...]
    clips: int
    texts: int = 0
    text_clips: int = 0
    speakers: int = 0
    speaker_clips: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether they share nothing."""
        return not self.videos and not self.texts and not self.speakers

    def in_words(self, documents: str) -> str:
        """What is shared, e.g. `2 videos (7 clips) and 1 transcript (2 clips)`.

        Args:
            documents: what the videos are called, in the plural.
        """
        parts = [
            f"{count:,} {name if count != 1 else name.removesuffix('s')} ({clips:,} clips)"
            for count, name, clips in (
                (len(self.videos), documents, self.clips),
                (self.texts, "transcripts", self.text_clips),
                (self.speakers, "speakers", self.speaker_clips),
            )
            if count
        ]
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def overlaps(clips: Sequence[Clip]) -> dict[str, Overlap]:
    """What each two splits share, by their names, as `train-test`; also where that is nothing."""
    videos, texts, speakers = (
        {split: Counter(filter(None, (of(clip) for clip in clips if clip.split == split))) for split in SPLITS}
        for of in (lambda clip: clip.video_id, lambda clip: words_of(clip.text or ""), lambda clip: clip.speaker)
    )
    found = {}
    for pair in combinations(SPLITS, 2):
        (shared, clips_shared), (said, clips_said), (who, clips_who) = (
            _in_both(*(counts[split] for split in pair)) for counts in (videos, texts, speakers)
        )
        found["-".join(pair)] = Overlap(tuple(sorted(shared)), clips_shared, len(said), clips_said, len(who), clips_who)
    return found


def _in_both(first: Counter[str], second: Counter[str]) -> tuple[set[str], int]:
    """What is in both, and how many clips have it."""
    both = first.keys() & second.keys()
    return both, sum(counts[one] for counts in (first, second) for one in both)


def overlap_lines(found: dict[str, Overlap], documents: str) -> list[str]:
    """A line for each two splits that share anything.

    Args:
        found: of `overlaps`.
        documents: what the videos are called, in the plural.
    """
    return [
        f"{pair.replace('-', ' and ')} share {overlap.in_words(documents)}"
        for pair, overlap in found.items()
        if not overlap.is_empty
    ]


def split_by_video(clips: Sequence[Clip], *, seed: int) -> list[Clip]:
    """The clips of all splits, split anew so that no video is in two of them; every split keeps about its share of the clips.

    Args:
        clips: those without a split stay without one.
        seed: of the order of the videos.

    Raises:
        ValueError: for a clip whose video is not known, or fewer than three videos.
    """
    used = [clip for clip in clips if clip.split in SPLITS]
    unknown = [clip.id for clip in used if clip.video_id is None]
    if unknown:
        raise ValueError(
            f"group_split: {len(unknown)} clips have no video_id, first {unknown[0]}; give them one, or use the table's splits"
        )
    sizes = Counter(str(clip.video_id) for clip in used)
    if len(sizes) < len(SPLITS):
        raise ValueError(f"group_split: {len(sizes)} videos; a split by video needs at least {len(SPLITS)}")
    wanted = {split: sum(clip.split == split for clip in used) for split in SPLITS}
    names, room, split_of = sorted(sizes), dict(wanted), {}
    for name in (names[at] for at in np.random.default_rng(seed).permutation(len(names))):
        split_of[name] = max(SPLITS, key=lambda split: room[split] / max(wanted[split], 1))
        room[split_of[name]] -= sizes[name]
    return [replace(clip, split=split_of[str(clip.video_id)]) if clip.split in SPLITS else clip for clip in clips]


def words_of(text: str) -> str:
    """The words of a transcript in small letters without punctuation, to compare it; empty if it is too short to tell."""
    words = "".join(sign if sign.isalnum() else " " for sign in text.casefold()).split()
    without_spaces = sum(east_asian_width(letter) in "WF" for letter in "".join(words))  # as Chinese is written
    long_enough = len(words) >= FEWEST_WORDS or without_spaces >= FEWEST_LETTERS
    return " ".join(words) if long_enough else ""
