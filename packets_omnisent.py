"""The list of a video's packets: which frames there are, which are lost, and which packets a frame is decoded from."""

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import av

_REORDERED = 16  # largest difference between decode order and display order, in frames


@dataclass
class VideoPackets:
    """The video packets of a file or of a part of it, in decode order: their times in ticks, and their flags.

    A *position* is the index of a packet in this list.

    Attributes:
        pts, dts: presentation and decode times, int; None where the container has none.
        is_key: whether decoding can start at the packet.
        is_shown: whether the packet's frame is displayed.
        last_duration: of the last packet, in ticks; 0 if unknown.
        is_from_start: whether the list starts at the start of the file.
        suspects: positions before which the file itself is damaged.
        lost: presentation times of frames that are missing from the file.
    """

    pts: list[Any] = field(default_factory=list)
    dts: list[Any] = field(default_factory=list)
    is_key: list[bool] = field(default_factory=list)
    is_shown: list[bool] = field(default_factory=list)
    last_duration: int = 0
    is_from_start: bool = True
    suspects: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)

    def add(self, packet: av.Packet) -> None:
        """Append the next packet."""
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        self.is_key.append(packet.is_keyframe)
        self.is_shown.append(not packet.is_discard)
        self.last_duration = packet.duration or 0

    @property
    def total(self) -> int:
        """Number of displayed frames, including lost ones."""
        return sum(self.is_shown) + len(self.lost)

    def shown_pts(self) -> list[int]:
        """Presentation times of the displayed frames, including lost ones, in display order."""
        shown = [pts for pts, shown in zip(self.pts, self.is_shown, strict=True) if shown and pts is not None]
        return sorted(shown + self.lost)

    def positions(self) -> dict[Any, int] | None:
        """Position by presentation time; None unless every packet has its own time."""
        positions = {pts: at for at, pts in enumerate(self.pts)}
        return None if None in positions or len(positions) < len(self.pts) else positions

    def find_lost(self) -> None:
        """Fill `lost`: near damage, a gap of several frame durations between two frames means that frames are missing."""
        times, positions = self.shown_pts(), self.positions()
        if not self.suspects or positions is None or len(times) < 3:
            return
        near = {at for suspect in self.suspects for at in range(suspect - _REORDERED, suspect + _REORDERED + 1)}
        steps = sorted(later - time for time, later in pairwise(times))
        step = steps[len(steps) // 2]
        for time, later in pairwise(times):
            if positions[time] in near or positions[later] in near:
                count = min(round((later - time) / step), len(times))
                self.lost += [time + (later - time) * part // count for part in range(1, count)]

    def sources(self, position: int, has_times: bool) -> tuple[set[int], set[int]]:
        """The positions of the key frames, and of all packets, that the frame at a position may depend on."""
        keys = [at for at, is_key in enumerate(self.is_key) if is_key]
        group = bisect_right(keys, position)
        key = keys[group - 1] if group else 0
        if not has_times:  # then display and decode order agree only between groups of pictures
            return {key}, set(range(key, keys[group] if group < len(keys) else len(self.is_key)))
        is_leading = self.pts[position] < self.pts[key]  # leading frames of an open group need the group before
        first = key if not is_leading else keys[group - 2] if group > 1 else 0
        return {first, key}, {at for at in range(first, position + 1) if self.pts[at] >= self.pts[first]}

    def ranges(self, needed: set[int]) -> list[tuple[int, int]]:
        """Ranges (first, last) of positions that start at a key frame and cover every needed position."""
        ranges: list[tuple[int, int]] = []
        key = key_before = 0
        for at, pts in enumerate(self.pts):
            if self.is_key[at]:
                key_before, key = key, at
            if at not in needed:
                continue
            first = key_before if pts < self.pts[key] else key  # as in `sources`
            while ranges and first <= ranges[-1][1] + 1:
                first = min(first, ranges.pop()[0])
            ranges.append((first, at))
        return ranges
