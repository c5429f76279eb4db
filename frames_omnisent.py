"""Samples, decodes and resizes a video's frames, and replaces those that cannot be decoded.

Counts, indices and sizes follow qwen-omni-utils, so that numbers match the official path.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import av
import numpy as np
import torch
from qwen_omni_utils.v2_5.vision_process import smart_nframes, smart_resize
from torch.nn import functional

from .decoding_omnisent import MAX_MISSING, MediaFile
from .errors_omnisent import MediaError, MediaFault
from .packets_omnisent import VideoPackets

# In these codecs no frame depends on a non-reference frame, so skipping it changes nothing.
_NONREF_IS_EXACT = {"h264", "mpeg4", "mpeg2video", "mpeg1video"}


@dataclass(frozen=True)
class VideoSampling:
    """How many frames are sampled, and their size: the rules and defaults of qwen-omni-utils, but at most 16 frames.

    Args:
        fps: frames sampled per second of video, before the two bounds below.
        min_frames, max_frames: bounds of the number of frames, which is even and at most that of the file.
        min_pixels, max_pixels: bounds of height x width of one frame.
        size_factor: height and width become multiples of it (patch 14 x merge 2).
        exact_resize: True resizes in float and rounds, bit-equal to the official path; False uses the faster uint8
            kernel, which differs by a few grey levels at sharp edges.

    Raises:
        ValueError: a bound that no video can meet.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 16
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    size_factor: int = 28
    exact_resize: bool = True

    def __post_init__(self) -> None:
        if not self.fps > 0:
            raise ValueError(f"VideoSampling.fps must be above 0, got {self.fps}")
        if self.max_frames < 2 or self.min_frames > self.max_frames:
            raise ValueError(
                f"VideoSampling needs 2 <= max_frames >= min_frames, got {self.max_frames}, {self.min_frames}"
            )
        if self.size_factor < 1 or not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                "VideoSampling needs size_factor >= 1 and 0 < min_pixels <= max_pixels, "
                f"got {self.size_factor}, {self.min_pixels}, {self.max_pixels}"
            )


OFFICIAL_SAMPLING = VideoSampling()


class SampledFrames:
    """The sampled frames of a video by index: decoded, upright, and resized to the size computed for the first one.

    Args:
        by_number: identify frames by their number instead of their presentation time.

    Attributes:
        indices: of the sampled frames, in display order.
        rows: position of each index in `indices`.
        decoded: indices of the frames that were kept.
        faults: positions (in decode order) at which FFmpeg reports damage.
        lost: positions of packets that gave no frame.
        positions: packet position by presentation time; None if frames are identified by number.
        times: presentation times of the displayed packets, in display order.
        index_of: index of each sampled frame by presentation time.
    """

    def __init__(
        self,
        file: MediaFile,
        sampling: VideoSampling,
        packets: VideoPackets,
        indices: list[int],
        by_number: bool = False,
    ) -> None:
        self.file, self.sampling, self.packets, self.indices = file, sampling, packets, indices
        self.rows = {index: row for row, index in enumerate(indices)}
        self.decoded: set[int] = set()
        self.faults: set[int] = set()
        self.lost: set[int] = set()
        self.positions = None if by_number else packets.positions()
        self.times = packets.shown_pts()
        self.index_of = {} if self.positions is None else {self.times[index]: index for index in indices}
        self._floats: torch.Tensor | None = None

    @property
    def missing(self) -> list[int]:
        """The sampled frames that are missing or damaged."""
        return [index for index in self.indices if self._is_missing(index)]

    @property
    def doubtful(self) -> list[int]:
        """The sampled frames that depend on damaged ones, and may show artefacts."""
        return [
            index
            for index in self.indices
            if self.faults and not self._is_missing(index) and self._sources(index)[1] & self.faults
        ]

    def stacked(self) -> torch.Tensor:
        """All frames, (F, 3, h, w) uint8, a missing one replaced with the nearest good one; a single frame is repeated.

        Raises:
            MediaError: when too many are missing.
        """
        missing, count = set(self.missing), len(self.indices)
        most = max(1, int(MAX_MISSING * count)) if count >= 4 else 0
        if len(missing) > most:
            raise MediaError(
                self.file.path,
                f"damaged: {len(missing)} of {count} frames cannot be decoded, at most {most} may be missing;"
                " export it again",
                MediaFault.DAMAGED,
            )
        good = [index for index in self.indices if index not in missing]
        for index in missing:
            nearest = min(good, key=lambda other: abs(other - index))
            self._pixels[self.rows[index]] = self._pixels[self.rows[nearest]]
        return self._pixels if count > 1 else self._pixels.repeat(2, 1, 1, 1)

    def keep(self, index: int, frame: av.VideoFrame) -> None:
        """Store a frame that is not known to be damaged."""
        self.file.check_frame_size(frame.width, frame.height)
        pixels = upright_rgb(frame)  # (3, H, W)
        if not self.decoded:
            size = self._target_size(*pixels.shape[1:])
            self._pixels = torch.empty(len(self.indices), 3, *size, dtype=torch.uint8)  # (F, 3, h, w)
        self._resize(pixels, self._pixels[self.rows[index]])
        self.decoded.add(index)

    def _resize(self, pixels: torch.Tensor, out: torch.Tensor) -> None:
        """Antialiased bicubic of (3, H, W) uint8 into `out` (3, h, w); torchvision's float kernel when exact."""
        size = tuple(out.shape[1:])
        if pixels.shape == out.shape:
            out.copy_(pixels)
        elif not self.sampling.exact_resize:
            out.copy_(functional.interpolate(pixels[None], size, mode="bicubic", antialias=True)[0])
        else:
            if self._floats is None or self._floats.shape != pixels.shape:
                self._floats = torch.empty(pixels.shape)  # kept, since memory that is new to the process is slow
            floats = self._floats.copy_(pixels)[None]
            values = functional.interpolate(floats, size, mode="bicubic", antialias=True)[0].clamp_(0, 255).round_()
            np.copyto(out.numpy(), values.numpy(), casting="unsafe")  # faster than torch's conversion

    def _position(self, index: int) -> int | None:
        return index if self.positions is None else self.positions.get(self.times[index])

    def _sources(self, index: int) -> tuple[set[int], set[int]]:
        position = self._position(index)
        return (set(), set()) if position is None else self.packets.sources(position, self.positions is not None)

    def _is_missing(self, index: int) -> bool:
        if index not in self.decoded:
            return True
        if not self.faults:
            return False
        return self._position(index) in self.faults or bool(self._sources(index)[0] & self.lost)

    def _target_size(self, height: int, width: int) -> tuple[int, int]:
        rules, path = self.sampling, self.file.path
        try:
            size = smart_resize(height, width, rules.size_factor, rules.min_pixels, rules.max_pixels)
        except ValueError as fault:
            reason = f"frames of {width}x{height} cannot be used: {fault}; crop the video"
            raise MediaError(path, reason, MediaFault.UNSUPPORTED) from fault
        if not all(size):
            reason = f"frames of {width}x{height} cannot shrink to {rules.max_pixels} pixels; crop the video"
            raise MediaError(path, reason, MediaFault.UNSUPPORTED)
        return size


def sample_whole_video(file: MediaFile, packets: VideoPackets, sampling: VideoSampling) -> tuple[SampledFrames, float]:
    """The sampled frames of a file whose packets were all read, and the duration of the video in seconds."""
    total, rate = packets.total, frame_rate(file.video, packets)
    if total == 0:
        reason = "zero frames: expected a video, found a video stream without frames; export it again"
        raise MediaError(file.path, reason, MediaFault.NO_FRAMES)
    sampled = SampledFrames(file, sampling, packets, frame_indices(total, rate, sampling))
    if not decode_by_time(sampled) or sampled.missing or sampled.doubtful:
        # Decoding from the start either succeeds or says what is wrong.
        sampled = SampledFrames(file, sampling, packets, sampled.indices)
        count, has_order = decode_in_order(sampled)
        is_whole = not (sampled.faults or packets.lost)
        if not has_order or (is_whole and count != total):
            # Without faults, some packets share a frame or give none: count the frames instead.
            total = count if is_whole else total
            indices = frame_indices(total, rate, sampling) if count else []
            sampled = SampledFrames(file, sampling, packets, indices, by_number=True)
            count, _ = decode_in_order(sampled)
        if not count:
            reason = "damaged: zero frames of its video stream can be decoded; export it again"
            raise MediaError(file.path, reason, MediaFault.DAMAGED)
        if len(packets.pts) - 1 in sampled.lost:
            file.check_last_packet()
        if sampled.positions is None and count + len(sampled.lost) != total:
            reason = f"damaged: {total - count} of {total} frames cannot be decoded or put in order; export it again"
            raise MediaError(file.path, reason, MediaFault.DAMAGED)
    return sampled, file.check_seconds(total / rate)


def frame_rate(stream: Any, packets: VideoPackets) -> float:
    """Average frames per second: as stated, unless the packets' own clock contradicts it by more than a tenth."""
    stated = float(stream.average_rate or stream.guessed_rate or 0)
    times = packets.shown_pts()
    ticks = times[-1] - times[0] if times else 0
    if ticks and packets.last_duration:
        measured = len(times) / float((ticks + packets.last_duration) * stream.time_base)
    elif ticks:
        measured = (len(times) - 1) / float(ticks * stream.time_base)
    else:
        return stated or 25.0
    return stated if abs(stated - measured) <= 0.1 * measured else measured


def frame_indices(total: int, rate: float, sampling: VideoSampling) -> list[int]:
    """The frame indices that qwen-omni-utils samples; [0] for a one-frame video, which its rule does not cover."""
    if total < 2:
        return [0]
    fps, rate = (1.0, 1.0) if sampling.fps >= rate else (sampling.fps, rate)  # at most all frames
    bounds = {"fps": fps, "min_frames": sampling.min_frames, "max_frames": sampling.max_frames}
    count = smart_nframes(bounds, total_frames=total, video_fps=rate)
    return torch.linspace(0, total - 1, count).round().long().tolist()


def decode_by_time(sampled: SampledFrames) -> bool:
    """Decode only what the sampled frames need, seeking over the rest; False if the timestamps do not allow it."""
    file, positions, packets = sampled.file, sampled.positions, sampled.packets
    if positions is None:
        return False
    try:
        for first, last in packets.ranges({positions[pts] for pts in sampled.index_of if pts in positions}):
            times = (packets.pts[first], packets.dts[first])
            file.container.seek(min(time for time in times if time is not None), stream=file.video)
            if not _decode_range(sampled, positions, first, last):
                return False
    except av.FFmpegError:
        return False
    return bool(sampled.faults or packets.lost) or len(sampled.decoded) == len(sampled.indices)


def _decode_range(sampled: SampledFrames, positions: dict[Any, int], first: int, last: int) -> bool:
    """Decode the packets from one position to another; False if they, or their frames, are not in order."""
    file, stream = sampled.file, sampled.file.video
    context, previous, expected = stream.codec_context, None, first
    may_skip = context.name in _NONREF_IS_EXACT
    # Frames before the second key frame may depend on frames before the first, which are not decoded.
    keys_seen = 2 if sampled.packets.is_from_start and not first else 0

    def in_display_order(packet: av.Packet | None, at: int) -> bool:
        nonlocal previous
        frames, is_bad = file.decode(stream, packet, has_sought=keys_seen < 2)
        if is_bad:
            sampled.faults.add(at)
        if frames is None:
            sampled.lost.add(at)
        for frame in frames or []:
            if frame.pts is None or (previous is not None and frame.pts <= previous):
                return False
            previous = frame.pts
            position = positions.get(frame.pts)
            if frame.is_corrupt:
                sampled.faults.add(at if position is None else position)
            elif frame.pts in sampled.index_of and position not in sampled.faults:
                sampled.keep(sampled.index_of[frame.pts], frame)
        return True

    for packet in file.packets(stream):
        at = positions.get(packet.pts, -1)
        if at < first and expected == first:
            continue
        if at != expected:
            return False
        expected += 1
        keys_seen += sampled.packets.is_key[at]
        context.skip_frame = "NONREF" if may_skip and packet.pts not in sampled.index_of else "DEFAULT"
        if not in_display_order(packet, at):
            return False
        if at == last:
            return in_display_order(None, at)
    return False


def decode_in_order(sampled: SampledFrames) -> tuple[int, bool]:
    """Decode every frame and keep the sampled ones; returns the number of frames, and whether their times are in order.

    Frames are identified by time or, without times, by number; packets that gave no frame are counted.
    """
    file, packets, positions, indices = sampled.file, sampled.packets, sampled.positions, set(sampled.indices)
    try:
        file.container.seek(min((dts for dts in packets.dts if dts is not None), default=0), stream=file.video)
    except av.FFmpegError as fault:
        reason = "this file cannot be rewound to its first frame; put the video into an MP4"
        raise MediaError(file.path, reason, MediaFault.UNSUPPORTED) from fault
    file.video.codec_context.skip_frame = "DEFAULT"
    number_of: dict[Any, int] = {pts: number for number, pts in enumerate(sampled.times)}
    count, previous, has_order = 0, -1, True
    for at, packet in enumerate(chain(file.packets(file.video), (None,))):
        if not at and packet is not None and packet.pts != packets.pts[0] and packet.dts != packets.dts[0]:
            reason = "damaged: the file's index does not lead to its first frame; export it again"
            raise MediaError(file.path, reason, MediaFault.DAMAGED)
        if packet is not None and positions is not None:
            at = positions.get(packet.pts, at)
        frames, is_bad = file.decode(file.video, packet)
        if is_bad:
            sampled.faults.add(at)
        if frames is None:
            sampled.lost.add(at)
        for frame in frames or []:
            number = count + len(sampled.lost) if positions is None else number_of.get(frame.pts, -1)
            position = number if positions is None else positions.get(frame.pts, at)
            has_order &= number > previous
            previous = number
            if frame.is_corrupt:
                sampled.faults.add(position)
            elif number in indices and position not in sampled.faults:
                sampled.keep(number, frame)
            count += 1
    return count, has_order


def upright_rgb(frame: av.VideoFrame) -> torch.Tensor:
    """One frame as (3, H, W) uint8, rotated by its display matrix; channels last in memory, as decoded."""
    pixels = frame.to_ndarray(format="rgb24", threads=1)  # (H, W, 3)
    turns = round(frame.rotation / 90) % 4
    return torch.from_numpy(np.ascontiguousarray(np.rot90(pixels, turns))).permute(2, 0, 1)
