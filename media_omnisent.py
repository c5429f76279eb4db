"""Answers: a media file -> sampled frames and mono sound. Knows no model, no prompt and no label.

Counts, indices and sizes follow qwen-omni-utils, so that numbers match the official path. A file is opened once and
read in two sweeps: one over all packets (frames counted, sound decoded), one that decodes only the frames asked for.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from qwen_omni_utils.v2_5.vision_process import smart_nframes, smart_resize
from torch.nn import functional

try:
    import soxr
except ImportError:
    soxr = None

SAMPLE_RATE = 16_000
MAX_FRAME_PIXELS = 8192 * 4352

# Playlists and image patterns can name other files or addresses, so only containers that hold their own media are read.
_CONTAINERS = (
    "mov,matroska,webm,avi,flv,asf,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,gif,rm,mxf,dv,"
    "wav,w64,aiff,au,caf,mp3,flac,ogg,aac,ac3,eac3,amr,ape,wv,tta"
)
_STATES_ITS_DURATION = {"matroska", "webm", "avi", "flv", "wav", "w64", "flac", "aiff", "mov"}
# In these codecs a non-reference frame is used by no other, so leaving it undecoded changes nothing.
_NONREF_IS_EXACT = {"h264", "mpeg4", "mpeg2video", "mpeg1video"}
_SAMPLE_FORMATS = {"u8", "s16", "s32", "flt", "dbl"}


class OmniSentError(ValueError):
    """Base of the errors that a caller of omnisent may want to catch."""


class MediaError(OmniSentError):
    """A file from which the frames or the sound asked for cannot be had.

    Attributes:
        path: the file, as given.
        reason: what was expected, what was found, and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class VideoSampling:
    """How many frames are taken, and their size: the rules and defaults of qwen-omni-utils, 16 frames at most.

    Args:
        fps: frames taken per second of video, before the two bounds below.
        min_frames, max_frames: bounds of the count, which is even and never above the frames that the file has.
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


@dataclass(frozen=True)
class ClipMedia:
    """What one file holds.

    Attributes:
        frames: (F, 3, h, w) uint8 RGB, F even and >= 2, h and w multiples of the size factor; None when not asked for.
        seconds_per_frame_pair: true time of one pair of frames, 2 * duration / F; None without frames.
        sound: (samples,) float32, mono at SAMPLE_RATE, full scale [-1, 1]; None when not asked for or absent.
        duration: seconds; of the video when frames were read, else of the sound.
        warning: what of the file could not be read, with the share that is missing; None for a file without faults.
    """

    frames: torch.Tensor | None
    seconds_per_frame_pair: float | None
    sound: np.ndarray | None
    duration: float
    warning: str | None = None


@dataclass
class _Track:
    """The video packets of a file in decode order: presentation and decode times in ticks, and their flags."""

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    is_key: list[bool] = field(default_factory=list)
    is_shown: list[bool] = field(default_factory=list)
    last_duration: int = 0

    def add(self, packet: av.Packet) -> None:
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        self.is_key.append(packet.is_keyframe)
        self.is_shown.append(not packet.is_discard)
        self.last_duration = packet.duration or 0

    def shown_pts(self) -> list[int]:
        """Times of the frames that come out of the decoder, in display order."""
        return sorted(pts for pts, shown in zip(self.pts, self.is_shown, strict=True) if shown and pts is not None)


class _Sound:
    """Gathers decoded audio frames as mono float32 at SAMPLE_RATE, at most `limit` samples."""

    def __init__(self, path: str, limit: int) -> None:
        self.path, self.limit = path, limit
        self.rate: int | None = None
        self.resampler: Any = None
        self.taken = self.made = 0
        self.chunks: list[np.ndarray] = []

    @property
    def is_full(self) -> bool:
        return self.made >= self.limit

    def decode(self, stream: Any, packet: av.Packet | None) -> av.FFmpegError | None:
        """Takes in one packet, or for None the decoder's rest; returns the fault, which a cut file may show early."""
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError as fault:
            return fault
        for frame in frames:
            self.take(frame)
        return None

    def take(self, frame: av.AudioFrame, part: slice = slice(None)) -> None:
        """Takes in a decoded frame, or a part of its samples."""
        if frame.sample_rate != self.rate:
            self._set_rate(frame.sample_rate)
        wave = _mono(self.path, frame)[part]
        self.taken += len(wave)
        self._keep(wave if self.resampler is None else self.resampler.resample_chunk(wave))

    def finish(self) -> np.ndarray | None:
        """Returns (samples,) float32 with librosa's count, ceil(taken * SAMPLE_RATE / rate); None without samples."""
        if self.rate is None or not self.taken:
            return None
        if self.resampler is not None and not self.is_full:
            self._keep(self.resampler.resample_chunk(np.empty(0, np.float32), last=True))
        count = min(math.ceil(self.taken * (float(SAMPLE_RATE) / self.rate)), self.limit)
        wave = np.concatenate(self.chunks)[:count]
        if not np.isfinite(wave).all():
            raise MediaError(self.path, "damaged: its sound has NaN or infinite samples; make the file anew")
        return np.pad(wave, (0, count - len(wave)))

    def _keep(self, wave: np.ndarray) -> None:
        self.chunks.append(wave)
        self.made += len(wave)

    def _set_rate(self, rate: int) -> None:
        if self.rate is not None or rate <= 0:
            raise MediaError(
                self.path, f"expected sound at one sample rate, found {self.rate} Hz then {rate} Hz; re-encode it"
            )
        self.rate = rate
        if rate != SAMPLE_RATE:
            if soxr is None:
                raise ImportError("sound that is not at 16 kHz needs the soxr package: pip install soxr")
            self.resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")


def read_media(
    path: str | os.PathLike[str],
    *,
    video: bool = True,
    sound: bool = True,
    sampling: VideoSampling = VideoSampling(),
    max_sound_seconds: float = 300.0,
) -> ClipMedia:
    """Reads sampled frames and mono sound from one local file, in memory bounded by what is returned.

    Frame indices are `linspace(0, total - 1, F).round()` with F from qwen-omni-utils' smart_nframes and `total` the
    true number of frames; a one-frame video is given its frame twice. Frames are turned upright as the file says.
    Sound is the mean over channels, resampled as librosa does; past `max_sound_seconds` it is neither decoded nor kept.

    Args:
        path: a local file; addresses such as http://... are refused.
        video: read frames; a file without video is then an error.
        sound: read sound; a file without sound is normal.

    Raises:
        MediaError: missing, a folder, empty, not media, truncated, damaged, no video stream, no frames, a codec that
            FFmpeg cannot read, or a frame that is too large or more than 200 times as long as wide.
    """
    name = _local_file(path)
    with _opened(name) as container:
        pictures = _video_stream(container) if video else None
        voice = container.streams.best("audio") if sound else None
        if video and pictures is None:
            raise MediaError(name, f"no video stream: {_describe(container)}; read it with video=False")
        for stream in (pictures, voice):
            _prepare_decoder(name, stream)
        gathered = _Sound(name, max(1, round(max_sound_seconds * SAMPLE_RATE)))
        track = _sweep_packets(name, container, pictures, voice, gathered)
        wave = gathered.finish()
        if pictures is None:
            return ClipMedia(None, None, wave, _sound_seconds(container, gathered, wave))
        frames, duration = _sample_frames(name, container, pictures, track, sampling)
        return ClipMedia(frames, 2 * duration / len(frames), wave, duration)


@dataclass(frozen=True)
class MediaHeader:
    """What a file says of itself before it is decoded.

    Attributes:
        has_sound: whether there is a sound stream.
        has_video: whether there is a video stream; cover art is none.
        seconds: duration, or `None` when it is not stated.
    """

    has_sound: bool
    has_video: bool
    seconds: float | None


def read_header(path: str | os.PathLike[str]) -> MediaHeader:
    """Look at a file's header alone.

    Raises:
        MediaError: when it is missing or cannot be opened.
    """
    with _opened(_local_file(path)) as container:
        return MediaHeader(
            has_sound=container.streams.best("audio") is not None,
            has_video=_video_stream(container) is not None,
            seconds=container.duration / av.time_base if container.duration else None,
        )


def longest_seconds(headers: Iterable[MediaHeader]) -> float | None:
    """The longest duration that some files state; `None` where none does."""
    return max((header.seconds for header in headers if header.seconds), default=None)


def _local_file(path: str | os.PathLike[str]) -> str:
    name = os.fsdecode(os.fspath(path))
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name):
        raise MediaError(name, "expected a local file, found an address; download it and give the path")
    try:
        status = Path(name).stat()
    except (OSError, ValueError) as fault:
        raise MediaError(name, f"missing: expected a media file, found none ({fault}); check the path") from fault
    if not Path(name).is_file():
        kind = "a folder" if Path(name).is_dir() else "a device or pipe"
        raise MediaError(name, f"expected a media file, found {kind}; give the path of one file")
    if status.st_size == 0:
        raise MediaError(name, "empty: expected a media file, found 0 bytes; copy or download it again")
    return name


@contextmanager
def _opened(name: str) -> Iterator[Any]:
    """The container of a file, with every FFmpeg exception inside the block turned into a MediaError."""
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{name}", metadata_errors="replace", options=options)
    except av.FFmpegError as fault:
        raise MediaError(name, _why_not_opened(name, fault)) from fault
    with container:
        try:
            _check_nothing_is_cut_off(name, container)
            yield container
        except av.FFmpegError as fault:
            raise MediaError(name, f"damaged: FFmpeg stopped with '{fault.strerror}'; make the file anew") from fault


def _why_not_opened(name: str, fault: av.FFmpegError) -> str:
    if isinstance(fault, PermissionError):
        return "expected a readable file, found that this user may not read it; change its permissions"
    with open(name, "rb") as file:
        head = file.read(12)
    if head[4:8] in {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"}:
        return "truncated or damaged: an MP4 or MOV whose index (moov) is missing or unreadable; copy it again"
    if head[:4] in {b"RIFF", b"fLaC", b"OggS", b"\x1aE\xdf\xa3"}:
        return "truncated or damaged: it starts as a media file, but its header cannot be read; copy it again"
    return f"not media: expected a video or sound file, found bytes that FFmpeg cannot read as one ({fault.strerror})"


def _check_nothing_is_cut_off(name: str, container: Any) -> None:
    """Compares where the container's own index says that data lies with the size of the file."""
    size, promised = os.path.getsize(name), 0
    for stream in container.streams:
        entries = stream.index_entries
        if len(entries):
            promised = max(promised, entries[-1].pos + entries[-1].size)
    if container.format.name == "wav":  # FFmpeg shortens the promise to the file's size without a word
        with open(name, "rb") as file:
            stated = int.from_bytes(file.read(8)[4:], "little")
        promised = stated if stated < 0x7FFF0000 and size < 0.9 * stated else promised
    if promised > size:
        raise MediaError(
            name, f"truncated: its index promises {promised} bytes, the file has {size}; copy or download it again"
        )


def _describe(container: Any) -> str:
    kinds = sorted({stream.type for stream in container.streams})
    return f"the file holds {', '.join(kinds) if kinds else 'no streams'}"


def _video_stream(container: Any) -> Any | None:
    art = av.stream.Disposition.attached_pic
    moving = [stream for stream in container.streams.video if not stream.disposition & art]
    best = container.streams.best("video")
    return best if best in moving else next(iter(moving), None)


def _prepare_decoder(name: str, stream: Any | None) -> None:
    if stream is None:
        return
    context = stream.codec_context
    if context is None:
        raise MediaError(name, f"its {stream.type} uses a codec that FFmpeg cannot read; re-encode it (H.264, AAC)")
    context.thread_count = 1  # DataLoader workers each run a reader; more threads would only fight over the cores
    if stream.type == "video":
        _check_frame_size(name, context.width, context.height)


def _check_frame_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise MediaError(
            name, f"frames too large: {width}x{height}, at most {MAX_FRAME_PIXELS} pixels are read; scale it"
        )


def _packets(container: Any, *streams: Any) -> Iterator[av.Packet]:
    """The packets that hold data, of the given streams or of all."""
    try:
        yield from (packet for packet in container.demux(*streams) if packet.size)
    except IndexError:
        return  # PyAV trips at the end of a file in which a stream began after the header; all packets were given


def _sweep_packets(name: str, container: Any, pictures: Any | None, voice: Any | None, gathered: _Sound) -> _Track:
    """Reads every packet once: lists the video's, decodes the sound's, and notes how far the file goes."""
    track, end, fault, was_stopped = _Track(), 0.0, None, False
    try:
        for packet in _packets(container):
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream is pictures:
                track.add(packet)
            elif packet.stream is voice and not gathered.is_full and fault is None:
                fault = gathered.decode(voice, packet)
                was_stopped = pictures is None and gathered.is_full
                if was_stopped:
                    break
    except av.FFmpegError as stop:
        fault = stop
    if voice is not None and not gathered.is_full and fault is None:
        fault = gathered.decode(voice, None)
    if not was_stopped:
        _check_nothing_is_cut_off(name, container)
        _check_reaches_its_duration(name, container, end)
    if fault is not None:
        raise fault
    return track


def _check_reaches_its_duration(name: str, container: Any, end: float) -> None:
    if not container.duration or not _STATES_ITS_DURATION & set(container.format.name.split(",")):
        return
    promised = (container.duration + max(container.start_time or 0, 0)) / av.time_base
    if promised - end > max(0.5, 0.1 * promised):
        raise MediaError(
            name, f"truncated: its header promises {promised:.2f} s, its data ends at {end:.2f} s; copy it again"
        )


def _sound_seconds(container: Any, gathered: _Sound, wave: np.ndarray | None) -> float:
    read = 0.0 if wave is None else len(wave) / SAMPLE_RATE
    return max(read, (container.duration or 0) / av.time_base) if gathered.is_full or wave is None else read


def _mono(name: str, frame: av.AudioFrame) -> np.ndarray:
    """One decoded audio frame as (samples,) float32, full scale [-1, 1], the mean over its channels."""
    if frame.format.name.removesuffix("p") not in _SAMPLE_FORMATS:
        raise MediaError(
            name, f"its sound has samples of format {frame.format.name}, expected 8 to 32 bits; re-encode it"
        )
    wave = frame.to_ndarray()
    if not frame.format.is_planar:
        wave = wave.reshape(-1, frame.layout.nb_channels).T
    if wave.dtype == np.uint8:
        wave = wave.astype(np.float32) / 128 - 1
    elif wave.dtype.kind == "i":
        wave = wave.astype(np.float32) / 2.0 ** (8 * wave.dtype.itemsize - 1)
    with np.errstate(invalid="ignore"):  # what is not finite is refused once, at the end
        return np.ascontiguousarray(wave.mean(axis=0), dtype=np.float32)


def _sample_frames(
    name: str, container: Any, stream: Any, track: _Track, sampling: VideoSampling
) -> tuple[torch.Tensor, float]:
    """Returns (F, 3, h, w) uint8 and the duration of the video in seconds."""
    total, rate = sum(track.is_shown), _frame_rate(stream, track)
    if total == 0:
        raise MediaError(name, "zero frames: expected a video, found a video stream without pictures; make it anew")
    wanted = _frame_indices(total, rate, sampling)
    sink = _FrameSink(name, sampling)
    if not _decode_by_time(container, stream, track, wanted, sink):
        total = _decode_in_order(container, stream, track, wanted, sink)
        if total and total != sum(track.is_shown):
            wanted = _frame_indices(total, rate, sampling)
            total = _decode_in_order(container, stream, track, wanted, sink)
        if not total:
            raise MediaError(name, "damaged: zero frames of its video stream can be decoded; make the file anew")
    frames = [sink.frames[index] for index in wanted]
    return torch.stack(frames if len(frames) > 1 else frames * 2), total / rate


def _frame_rate(stream: Any, track: _Track) -> float:
    """Average frames per second: as stated, unless the packets' own clock contradicts it by more than a tenth."""
    stated = float(stream.average_rate or stream.guessed_rate or 0)
    times = track.shown_pts()
    ticks = times[-1] - times[0] if times else 0
    if ticks and track.last_duration:
        measured = len(times) / float((ticks + track.last_duration) * stream.time_base)
    elif ticks:
        measured = (len(times) - 1) / float(ticks * stream.time_base)
    else:
        return stated or 25.0
    return stated if abs(stated - measured) <= 0.1 * measured else measured


def _frame_indices(total: int, rate: float, sampling: VideoSampling) -> list[int]:
    """The indices that qwen-omni-utils' readers take; [0] for one frame, where its rule has no answer."""
    if total < 2:
        return [0]
    fps, rate = (1.0, 1.0) if sampling.fps >= rate else (sampling.fps, rate)  # more than all frames is all frames
    bounds = {"fps": fps, "min_frames": sampling.min_frames, "max_frames": sampling.max_frames}
    count = smart_nframes(bounds, total_frames=total, video_fps=rate)
    return torch.linspace(0, total - 1, count).round().long().tolist()


class _FrameSink:
    """Keeps decoded frames by index, each upright and resized to the size that the first one sets."""

    def __init__(self, name: str, sampling: VideoSampling) -> None:
        self.name, self.sampling = name, sampling
        self.size: tuple[int, int] | None = None
        self.frames: dict[int, torch.Tensor] = {}

    def keep(self, index: int, frame: av.VideoFrame) -> None:
        _check_frame_size(self.name, frame.width, frame.height)
        pixels = _upright_rgb(frame)  # (3, H, W)
        if self.size is None:
            self.size = self._target_size(*pixels.shape[1:])
        self.frames[index] = _resize(pixels, self.size, self.sampling.exact_resize)

    def _target_size(self, height: int, width: int) -> tuple[int, int]:
        rules = self.sampling
        try:
            size = smart_resize(height, width, rules.size_factor, rules.min_pixels, rules.max_pixels)
        except ValueError as fault:
            raise MediaError(
                self.name, f"frames of {width}x{height} cannot be used: {fault}; crop the video"
            ) from fault
        if not all(size):
            raise MediaError(
                self.name, f"frames of {width}x{height} cannot shrink to {rules.max_pixels} pixels; crop them"
            )
        return size


def _upright_rgb(frame: av.VideoFrame) -> torch.Tensor:
    """One frame as (3, H, W) uint8, turned as its display matrix says; channels last in memory, as it was decoded."""
    pixels = frame.to_ndarray(format="rgb24", threads=1)  # (H, W, 3)
    turns = round(frame.rotation / 90) % 4
    return torch.from_numpy(np.ascontiguousarray(np.rot90(pixels, turns))).permute(2, 0, 1)


def _resize(pixels: torch.Tensor, size: tuple[int, int], exact: bool) -> torch.Tensor:
    """(3, H, W) uint8 -> (3, *size) uint8 by antialiased bicubic; torchvision's float kernel when exact."""
    if tuple(pixels.shape[1:]) == size:
        return pixels.contiguous()
    batch = pixels[None].float() if exact else pixels[None]
    batch = functional.interpolate(batch, size, mode="bicubic", antialias=True)
    return (batch.clamp_(0, 255).round_().to(torch.uint8) if exact else batch)[0].contiguous()


def _decode_by_time(container: Any, stream: Any, track: _Track, wanted: list[int], sink: _FrameSink) -> bool:
    """Decodes only what the wanted frames need, seeking over the rest; False where timestamps do not allow it."""
    position = {pts: at for at, pts in enumerate(track.pts)}
    if None in position or len(position) < len(track.pts):
        return False
    times = track.shown_pts()
    index_of = {times[index]: index for index in wanted}
    try:
        for first, last in _stretches(track, {position[pts] for pts in index_of}):
            container.seek(
                min(time for time in (track.pts[first], track.dts[first]) if time is not None), stream=stream
            )
            if not _decode_stretch(container, stream, position, (first, last), index_of, sink):
                return False
    except av.FFmpegError:
        return False  # decoding from the start either succeeds or says what is wrong
    return len(sink.frames) == len(wanted)


def _stretches(track: _Track, wanted: set[int]) -> list[tuple[int, int]]:
    """Packet ranges (first, last) in decode order that start at a keyframe and cover every wanted packet."""
    stretches: list[tuple[int, int]] = []
    key = key_before = 0
    for at, pts in enumerate(track.pts):
        if track.is_key[at]:
            key_before, key = key, at
        if at not in wanted:
            continue
        first = key_before if pts < track.pts[key] else key  # leading frames of an open group need the group before
        while stretches and first <= stretches[-1][1] + 1:
            first = min(first, stretches.pop()[0])
        stretches.append((first, at))
    return stretches


def _decode_stretch(
    container: Any,
    stream: Any,
    position: dict[int, int],
    stretch: tuple[int, int],
    index_of: dict[int, int],
    sink: _FrameSink,
) -> bool:
    first, last = stretch
    context, previous, expected = stream.codec_context, None, first
    may_skip = context.name in _NONREF_IS_EXACT

    def in_display_order(frames: Iterable[av.VideoFrame]) -> bool:
        nonlocal previous
        for frame in frames:
            if frame.pts is None or (previous is not None and frame.pts <= previous):
                return False
            previous = frame.pts
            if frame.pts in index_of:
                sink.keep(index_of[frame.pts], frame)
        return True

    for packet in _packets(container, stream):
        at = position.get(packet.pts, -1)
        if at < first and expected == first:
            continue
        if at != expected:
            return False
        expected += 1
        context.skip_frame = "NONREF" if may_skip and packet.pts not in index_of else "DEFAULT"
        if not in_display_order(packet.decode()):
            return False
        if at == last:
            return in_display_order(context.decode(None))
    return False


def _decode_in_order(container: Any, stream: Any, track: _Track, wanted: list[int], sink: _FrameSink) -> int:
    """Decodes every frame, keeps the wanted ones, and returns how many frames there are."""
    sink.frames.clear()
    container.seek(min((dts for dts in track.dts if dts is not None), default=0), stream=stream)
    context, keep, count = stream.codec_context, set(wanted), 0
    context.skip_frame = "DEFAULT"
    decoded = (packet.decode() for packet in _packets(container, stream))
    rest = (context.decode(None) for _ in range(1))
    for frame in chain.from_iterable(chain(decoded, rest)):
        if count in keep:
            sink.keep(count, frame)
        count += 1
    return count
