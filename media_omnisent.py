"""Answers: a media file -> sampled frames and mono sound. Knows no model, no prompt and no label.

Counts, indices and sizes follow qwen-omni-utils, so that numbers match the official path. A file is opened once and
read in two sweeps: one over all packets (frames counted, sound decoded), one that decodes only the frames asked for.
What FFmpeg cannot decode, marks as corrupt or logs as an error is missing: little of it is a warning, more an error.
"""

import math
import os
import re
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, pairwise
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
MAX_SAMPLE = 100.0  # of float sound, where full scale is 1: 40 dB above it is no recording
MAX_MISSING = 0.1  # of the sound, and of the frames asked for; one frame in four or more may always be missing
SAMPLE_RATES = (1000, 1_000_000)
MAX_SECONDS = 1_000_000  # eleven days; a header that says more is damaged

# Playlists and image patterns can name other files or addresses, so only containers that hold their own media are read.
_CONTAINERS = (
    "mov,matroska,webm,avi,flv,asf,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,gif,rm,mxf,dv,"
    "wav,w64,aiff,au,caf,mp3,flac,ogg,aac,ac3,eac3,amr,ape,wv,tta"
)
_STATES_ITS_DURATION = {"matroska", "webm", "avi", "flv", "wav", "w64", "flac", "aiff", "mov"}
# In these codecs a non-reference frame is used by no other, so leaving it undecoded changes nothing.
_NONREF_IS_EXACT = {"h264", "mpeg4", "mpeg2video", "mpeg1video"}
_SAMPLE_FORMATS = {"u8", "s16", "s32", "flt", "dbl"}
_REORDERED = 16  # frames at most by which orders of decoding and display differ
# H.264's complaint that a picture to be dropped is gone already: after a seek into an open group that is no damage.
_SEEK_COMPLAINT = "mmco: unref short failure"
_LAST_PACKET_SECONDS = 0.1  # as long as a packet of sound or a frame may be
_CLOCK_SECONDS = 0.01  # the clock of some containers is coarse, so less is no gap


class OmniSentError(ValueError):
    """Base of the errors that a caller of omnisent may want to catch."""


class MediaError(OmniSentError):
    """A file from which the frames or the sound asked for cannot be had.

    Attributes:
        path: the file, as given; bytes of its name that are not UTF-8 are shown with a backslash.
        reason: what was expected, what was found, and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        # The name may hold bytes that are not UTF-8, and whoever writes the error down must not fail.
        self.path, self.reason = (text.encode("utf-8", "backslashreplace").decode() for text in (path, reason))
        super().__init__(self.path, self.reason)

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


class _Reports:
    """What FFmpeg logs as an error in this thread while the block runs; it conceals much that it raises no exception for.

    The level of its log belongs to the process, so that the last reader to leave sets it back.
    """

    _lock, _readers, _before = threading.Lock(), 0, (None, True)

    def __enter__(self) -> "_Reports":
        with _Reports._lock:
            if not _Reports._readers:
                level = av.logging.get_level()
                _Reports._before = level, av.logging.get_skip_repeated()
                av.logging.set_level(max(level or 0, av.logging.ERROR))
                av.logging.set_skip_repeated(False)  # or the last line about one file hides the same about the next
            _Reports._readers += 1
        self._capture = av.logging.Capture()
        self.log: list[tuple[int, str, str]] = self._capture.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._capture.__exit__(*exception)
        with _Reports._lock:
            _Reports._readers -= 1
            if not _Reports._readers:
                av.logging.set_level(_Reports._before[0])
                av.logging.set_skip_repeated(_Reports._before[1])

    def errors(self) -> list[str]:
        """The errors since the last call, each with the name of the part that reports it."""
        if not self.log:
            return []
        errors = [f"{part}: {text.strip()}" for level, part, text in self.log if level <= av.logging.ERROR]
        self.log.clear()
        return errors


@dataclass
class _Track:
    """The video packets of a file in decode order: presentation and decode times in ticks, and their flags.

    `suspects` are the places before which the file itself is damaged; `lost` are the times of frames missing there.
    """

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    is_key: list[bool] = field(default_factory=list)
    is_shown: list[bool] = field(default_factory=list)
    last_duration: int = 0
    is_from_start: bool = True
    suspects: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)

    def add(self, packet: av.Packet) -> None:
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        self.is_key.append(packet.is_keyframe)
        self.is_shown.append(not packet.is_discard)
        self.last_duration = packet.duration or 0

    @property
    def total(self) -> int:
        """How many frames come out of the decoder, with those that the file has lost."""
        return sum(self.is_shown) + len(self.lost)

    def shown_pts(self) -> list[int]:
        """Times of these frames, in display order."""
        shown = [pts for pts, shown in zip(self.pts, self.is_shown, strict=True) if shown and pts is not None]
        return sorted(shown + self.lost)

    def places(self) -> dict[int, int] | None:
        """Place in decode order by presentation time, where each packet has a time of its own."""
        places = {pts: at for at, pts in enumerate(self.pts)}
        return None if None in places or len(places) < len(self.pts) else places

    def find_lost(self) -> None:
        """Lists the frames that are missing where the file is damaged: those that the times of the others leave room for."""
        times, places = self.shown_pts(), self.places()
        if not self.suspects or places is None or len(times) < 3:
            return
        near = {at for place in self.suspects for at in range(place - _REORDERED, place + _REORDERED + 1)}
        steps = sorted(later - time for time, later in pairwise(times))
        step = steps[len(steps) // 2]
        for time, later in pairwise(times):
            if places[time] in near or places[later] in near:
                count = min(round((later - time) / step), len(times))
                self.lost += [time + (later - time) * part // count for part in range(1, count)]

    def sources(self, place: int, has_times: bool) -> tuple[set[int], set[int]]:
        """The places of the key frames, and of all packets, that the frame at a place may be made of."""
        keys = [at for at, is_key in enumerate(self.is_key) if is_key]
        group = bisect_right(keys, place)
        key = keys[group - 1] if group else 0
        if not has_times:  # then order of display and of decoding agree only from group to group
            return {key}, set(range(key, keys[group] if group < len(keys) else len(self.is_key)))
        is_leading = self.pts[place] < self.pts[key]  # leading frames of an open group need the group before
        first = key if not is_leading else keys[group - 2] if group > 1 else 0
        return {first, key}, {at for at in range(first, place + 1) if self.pts[at] >= self.pts[first]}


@dataclass(frozen=True)
class _Silence:
    """Stands for sound that cannot be decoded; where it begins, in ticks, and how long it is."""

    pts: int
    time_base: Fraction
    sample_rate: int
    samples: int


class _SoundDecoder:
    """Decodes the packets of a sound stream in order; what cannot be decoded comes out as silence of the same length."""

    def __init__(self, stream: Any, reports: _Reports) -> None:
        self.stream, self.reports = stream, reports
        self._context = stream.codec_context if stream is not None else None
        self._is_at_ease = True  # nothing below is other than for a good file
        self._last: av.AudioFrame | None = None  # the last good frame
        self._seconds = 0.0  # of the bad packets since
        self._begin: float | None = None  # of what is missing since, in ticks
        self._is_bad = self._may_lack = False
        self._short: list[av.AudioFrame] = []  # what a packet of PCM holds that ends within a sample or is marked
        self.has_failed = self.is_cut_short = False  # at the last packet

    def suspect_gap(self) -> None:
        """Says that the file itself is damaged here: a gap before the next good frame is sound that is missing."""
        self._may_lack, self._is_at_ease = True, False

    def decode(self, packet: av.Packet | None) -> list[av.AudioFrame | _Silence]:
        """The sound of one packet, or for None the decoder's rest, after what was missing before it."""
        frames, is_bad = _decode(self._context, packet, self.reports)
        for frame in frames or []:
            is_bad |= frame.is_corrupt
        if not is_bad and self._is_at_ease and packet is not None:
            if frames:
                self._last = frames[-1]
            return frames
        made: list[av.AudioFrame | _Silence] = []
        if packet is not None:
            self.has_failed, self.is_cut_short = frames is None, False
        if self._short:  # in the middle it shifts what follows by a part of a sample, at the end it lacks nothing
            if packet is None:
                made += self._short
            else:
                self._lose(packet, self._short)
            self._short = []
        if is_bad and frames and packet is not None and self._context.name.startswith("pcm_"):
            self._short, self.is_cut_short = frames, True
        elif is_bad:
            self._lose(packet, frames or [])
        else:
            for frame in frames:
                made += self._missing(frame)
                self._last = frame
                made.append(frame)
        if packet is None and self._is_bad:
            made += self._missing(None)
        self._is_at_ease = not (self._is_bad or self._may_lack or self._short or self.has_failed or self.is_cut_short)
        return made

    def _lose(self, packet: av.Packet | None, frames: list[av.AudioFrame]) -> None:
        if not self._is_bad:
            self._is_bad, self._begin = True, self._end_of_last()
        first = frames[0].pts if frames else packet.pts if packet is not None else None
        if self._begin is None and first is not None:
            self._begin = max(first, self.stream.start_time or 0)  # an encoder's priming lies before the start
        seconds = sum(frame.samples / max(frame.sample_rate, 1) for frame in frames)
        stated = float((packet.duration or 0) * self.stream.time_base) if packet is not None else 0.0
        self._seconds += seconds or stated or (self._last.samples / self._last.sample_rate if self._last else 0.0)

    def _end_of_last(self) -> float | None:
        if self._last is None or self._last.pts is None:
            return None
        return self._last.pts + self._last.samples / self._last.sample_rate / float(self.stream.time_base)

    def _missing(self, following: av.AudioFrame | None) -> list[_Silence]:
        if not (self._is_bad or self._may_lack):
            return []
        seconds, begin = self._seconds, self._begin if self._is_bad else self._end_of_last()
        if following is not None and following.pts is not None and begin is not None:
            gap = float((following.pts - begin) * self.stream.time_base)
            seconds = gap if gap >= 0 else seconds
        is_missing = self._is_bad or seconds > _CLOCK_SECONDS
        self._is_bad, self._may_lack, self._begin, self._seconds = False, False, None, 0.0
        if not is_missing:
            return []
        rate = (following.sample_rate if following is not None else self._context.sample_rate) or SAMPLE_RATE
        return [_Silence(round(begin or 0), self.stream.time_base, rate, max(1, round(seconds * rate)))]


class _Sound:
    """Gathers decoded audio frames as mono float32 at SAMPLE_RATE, at most `limit` samples."""

    def __init__(self, path: str, limit: int) -> None:
        self.path, self.limit = path, limit
        self.rate: int | None = None
        self.resampler: Any = None
        self.taken = self.lost = self.made = 0
        self.chunks: list[np.ndarray] = []

    @property
    def is_full(self) -> bool:
        return self.made >= self.limit

    @property
    def missing(self) -> float:
        """Share of what was taken in that could not be decoded."""
        return self.lost / max(self.taken, 1)

    def take(self, frame: av.AudioFrame | _Silence, part: slice = slice(None)) -> None:
        """Takes in a decoded frame, or a part of its samples."""
        if frame.sample_rate != self.rate:
            self._set_rate(frame.sample_rate)
        if isinstance(frame, _Silence):
            room = math.ceil((self.limit - self.made) * (self.rate / SAMPLE_RATE)) + self.rate
            wave = np.zeros(min(len(range(frame.samples)[part]), room), np.float32)
            self.lost += len(wave)
        else:
            wave = _mono(self.path, frame)[part]
        self.taken += len(wave)
        self._keep(wave if self.resampler is None else self.resampler.resample_chunk(wave))

    def finish(self) -> np.ndarray | None:
        """Returns (samples,) float32 with librosa's count, ceil(taken * SAMPLE_RATE / rate); None without samples."""
        if self.rate is None or not self.taken:
            return None
        if self.missing > MAX_MISSING:
            raise MediaError(
                self.path,
                f"damaged: {_percent(self.missing)} of its sound cannot be decoded, at most {_percent(MAX_MISSING)} may be"
                " missing; make the file anew",
            )
        if self.resampler is not None and not self.is_full:
            self._keep(self.resampler.resample_chunk(np.empty(0, np.float32), last=True))
        count = min(math.ceil(self.taken * (float(SAMPLE_RATE) / self.rate)), self.limit)
        wave = np.concatenate(self.chunks)[:count]
        _check_samples(self.path, wave)
        return np.pad(wave, (0, count - len(wave)))

    def _keep(self, wave: np.ndarray) -> None:
        self.chunks.append(wave)
        self.made += len(wave)

    def _set_rate(self, rate: int) -> None:
        if self.rate is not None:
            raise MediaError(
                self.path, f"expected sound at one sample rate, found {self.rate} Hz then {rate} Hz; re-encode it"
            )
        if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
            raise MediaError(
                self.path,
                f"its sound has a sample rate of {rate} Hz, expected {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]};"
                " re-encode it",
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

    In a damaged file silence stands for sound that cannot be decoded, and the nearest good frame for a frame that cannot
    or that the decoder marks as corrupt; the warning says how much that is. More than MAX_MISSING of the sound is an
    error, as are more than MAX_MISSING of the frames, or more than one; or one of fewer than four.

    Args:
        path: a local file; addresses such as http://... are refused.
        video: read frames; a file without video is then an error.
        sound: read sound; a file without sound is normal.

    Raises:
        MediaError: missing, a folder, empty, not media, truncated, damaged, no video stream, no frames, a codec that
            FFmpeg cannot read, a frame that is too large or more than 200 times as long as wide, or float sound with
            a sample that is not finite or above MAX_SAMPLE.
    """
    name = _local_file(path)
    with _Reports() as reports, _opened(name) as container:
        faults = _reading_faults(name, container, None, reports)
        pictures = _video_stream(container) if video else None
        voice = container.streams.best("audio") if sound else None
        if video and pictures is None:
            raise MediaError(name, f"no video stream: {_describe(container)}; read it with video=False")
        for stream in (pictures, voice):
            _prepare_decoder(name, stream)
        faults += reports.errors()
        gathered = _Sound(name, max(1, round(max_sound_seconds * SAMPLE_RATE)))
        track, end = _sweep_packets(name, container, pictures, voice, gathered, reports, faults)
        wave = gathered.finish()
        if pictures is None:
            seconds = _check_seconds(name, _sound_seconds(container, gathered, wave))
            return ClipMedia(None, None, wave, seconds, _warning(gathered.missing, None, faults))
        sink, duration = _sample_frames(name, container, pictures, track, end, sampling, reports)
        frames = sink.stacked()
        return ClipMedia(frames, 2 * duration / len(frames), wave, duration, _warning(gathered.missing, sink, faults))


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
    if not os.access(name, os.R_OK):
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
    stated = _stated_size(name, container) or 0  # FFmpeg shortens this to the file's size without a word
    promised = stated if size < 0.9 * stated else promised
    if "mov" in container.format.name.split(","):  # and of an index that is cut off it reads the tracks before the cut
        promised = max(promised, _end_of_index(name, size))
    if promised > size:
        raise MediaError(
            name, f"truncated: its index promises {promised} bytes, the file has {size}; copy or download it again"
        )


def _reading_faults(name: str, container: Any, packet: av.Packet | None, reports: _Reports) -> list[str]:
    """What its reader says of a file, at opening or at a packet.

    What it says of a frame, its decoder says again if that frame is used; of sound all is used. That the last packet is
    a short one is no fault of a WAV that never said how long it would be.
    """
    is_sound = packet is not None and packet.stream.type == "audio"
    faults = [error for error in reports.errors() if is_sound or error.startswith(f"{container.format.name}:")]
    if packet is not None and packet.is_corrupt and not _is_of_unknown_length(name, container):
        faults.append(f"{container.format.name}: a packet is marked as corrupt or cut short")
    return faults


def _is_of_unknown_length(name: str, container: Any) -> bool:
    """Whether it is a WAV that does not say how long it is, as one from a pipe, so that its last packet may be short."""
    return container.format.name == "wav" and _stated_size(name, container) is None


def _stated_size(name: str, container: Any) -> int | None:
    """What the header of a WAV, W64 or AU file promises; None where it was written before that was known, as to a pipe."""
    with open(name, "rb") as file:
        head = file.read(24)
    match container.format.name:
        case "wav":
            stated, unknown = int.from_bytes(head[4:8], "little"), 0x7FFF0000
        case "w64":
            stated, unknown = int.from_bytes(head[16:24], "little"), 1 << 62
        case "au":
            stated, unknown = int.from_bytes(head[8:12], "big"), 0x7FFF0000
        case _:
            return None
    return stated if 0 < stated < unknown else None


def _end_of_index(name: str, size: int) -> int:
    """Where the last moov box of an MP4 or MOV ends, by its own length; 0 without one."""
    start = end = 0
    with open(name, "rb") as file:
        while start + 8 <= size:
            file.seek(start)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:], "big")
            if length < 8:  # 0: the box goes on to the end
                break
            start += length
            end = start if head[4:8] == b"moov" else end
    return end


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
    with suppress(av.FFmpegError):  # then no packet can be decoded
        context.open(strict=False)  # now, as what it says of its header it says once
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


def _sweep_packets(
    name: str,
    container: Any,
    pictures: Any | None,
    voice: Any | None,
    gathered: _Sound,
    reports: _Reports,
    faults: list[str],
) -> tuple[_Track, float]:
    """Reads every packet once: lists the video's, decodes the sound's, notes the faults and how far the file goes."""
    track, stop, was_stopped = _Track(), None, False
    ends: dict[Any, int] = {}  # of each stream, in its ticks
    decoder = _SoundDecoder(voice, reports)
    try:
        for packet in _packets(container):
            if reports.log or packet.is_corrupt:
                faults += _reading_faults(name, container, packet, reports)
                track.suspects.append(len(track.pts))
                decoder.suspect_gap()
            stream = packet.stream
            if packet.pts is not None:
                ends[stream] = max(ends.get(stream, 0), packet.pts + (packet.duration or 0))
            if stream is pictures:
                track.add(packet)
            elif stream is voice and not gathered.is_full:
                for frame in decoder.decode(packet):
                    gathered.take(frame)
                was_stopped = pictures is None and gathered.is_full
                if was_stopped:
                    break
    except av.FFmpegError as fault:
        stop = fault
    faults += _reading_faults(name, container, None, reports)
    end = max((float(ticks * stream.time_base) for stream, ticks in ends.items()), default=0.0)
    if voice is not None and not gathered.is_full and stop is None:
        for frame in decoder.decode(None):
            gathered.take(frame)
    if not was_stopped:
        _check_nothing_is_cut_off(name, container)
        _check_reaches_its_duration(name, container, end)
        if decoder.has_failed:
            _check_last_packet(name, container, end)
        if decoder.is_cut_short and not _is_of_unknown_length(name, container):
            faults.append(f"{container.format.name}: its last packet is cut short")
    if stop is not None:
        raise stop
    track.find_lost()
    return track, end


def _decode(
    context: Any, packet: av.Packet | None, reports: _Reports, has_sought: bool = False
) -> tuple[list[Any] | None, bool]:
    """The frames of a packet, or for None the decoder's rest; None where it fails; and whether FFmpeg reports damage.

    Which frames are marked as corrupt is not looked at: these may be of packets before.
    """
    if reports.log:  # of the file's reader
        reports.log.clear()
    try:
        frames = context.decode(packet)
    except av.FFmpegError:
        return None, True
    is_bad = packet is not None and packet.is_corrupt
    if reports.log:
        is_bad |= any(not (has_sought and error.endswith(_SEEK_COMPLAINT)) for error in reports.errors())
    return frames, is_bad


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %") if share >= 0.005 else "less than 1 %"


def _warning(sound: float, sink: "_FrameSink | None", faults: list[str]) -> str | None:
    """What of a file is missing: the share of its sound, the frames, or nothing although its reader reports faults."""
    missing = [f"{_percent(sound)} of its sound"] if sound else []
    doubtful = []
    if sink is not None:
        total = len(sink.wanted)
        missing += [f"{len(sink.missing)} of {total} frames"] if sink.missing else []
        doubtful = [f"{len(sink.doubtful)} of {total} frames build on damaged ones"] if sink.doubtful else []
    said = [f"{' and '.join(missing)} cannot be decoded"] if missing else []
    if not said + doubtful and faults:
        return f"FFmpeg reports damage ({faults[0][:120]}), though what the file holds could be decoded"
    return "; ".join(said + doubtful) or None


def _promised_end(container: Any) -> float | None:
    """Where a file ends by its header, in seconds; None where FFmpeg estimates that."""
    if not container.duration or not _STATES_ITS_DURATION & set(container.format.name.split(",")):
        return None
    return (container.duration + max(container.start_time or 0, 0)) / av.time_base


def _check_reaches_its_duration(name: str, container: Any, end: float) -> None:
    promised = _promised_end(container)
    if promised is not None and promised - end > max(0.5, 0.1 * promised):
        raise MediaError(
            name, f"truncated: its header promises {promised:.2f} s, its data ends at {end:.2f} s; copy it again"
        )


def _check_last_packet(name: str, container: Any, end: float) -> None:
    """Refuses a file whose last packet cannot be decoded, unless its header says that nothing comes after it."""
    promised = _promised_end(container)
    if promised is None or promised - end > _LAST_PACKET_SECONDS:
        raise MediaError(name, f"truncated: its last packet, at {end:.2f} s, is cut off or damaged; copy it again")


def _check_seconds(name: str, seconds: float) -> float:
    if not seconds <= MAX_SECONDS:
        raise MediaError(
            name, f"damaged: by its header it lasts {seconds:.3g} s, at most {MAX_SECONDS:g} s are read; make it anew"
        )
    return seconds


def _sound_seconds(container: Any, gathered: _Sound, wave: np.ndarray | None) -> float:
    read = 0.0 if wave is None else len(wave) / SAMPLE_RATE
    return max(read, (container.duration or 0) / av.time_base) if gathered.is_full or wave is None else read


def _mono(name: str, frame: av.AudioFrame) -> np.ndarray:
    """One decoded audio frame as (samples,) float32, full scale [-1, 1], the mean over its channels."""
    if frame.format.name.removesuffix("p") not in _SAMPLE_FORMATS:
        raise MediaError(
            name, f"its sound has samples of format {frame.format.name}, expected 8 to 32 bits; re-encode it"
        )
    if frame.format.is_planar and frame.layout.nb_channels >= 8:
        frame = _interleaved(name, frame)
    wave = frame.to_ndarray()
    if not frame.format.is_planar:
        wave = wave.reshape(-1, frame.layout.nb_channels).T
    if wave.dtype == np.uint8:
        wave = wave.astype(np.float32) / 128 - 1
    elif wave.dtype.kind == "i":
        wave = wave.astype(np.float32) / 2.0 ** (8 * wave.dtype.itemsize - 1)
    else:
        _check_samples(name, wave)
    return np.ascontiguousarray(wave.mean(axis=0), dtype=np.float32)


def _interleaved(name: str, frame: av.AudioFrame) -> av.AudioFrame:
    """The same samples, not one plane a channel: of eight planes and more PyAV reads past the last, and crashes."""
    try:
        (packed,) = av.AudioResampler(frame.format.name.removesuffix("p"), frame.layout, frame.sample_rate).resample(
            frame
        )
    except (av.FFmpegError, ValueError) as fault:
        raise MediaError(
            name, f"its sound has {frame.layout.nb_channels} channels, which cannot be read; mix it down to two"
        ) from fault
    return packed


def _check_samples(name: str, wave: np.ndarray) -> None:
    if np.vdot(wave, wave) <= MAX_SAMPLE**2:  # then so is each one's square, and this is quick
        return
    peak = np.abs(wave).max(initial=0)
    if not peak <= MAX_SAMPLE:
        raise MediaError(
            name,
            f"damaged: its sound has a sample of {peak:.3g}, expected finite ones of at most {MAX_SAMPLE:g} where full"
            " scale is 1; make the file anew",
        )


def _sample_frames(
    name: str, container: Any, stream: Any, track: _Track, end: float, sampling: VideoSampling, reports: _Reports
) -> tuple["_FrameSink", float]:
    """Returns the frames asked for, and the duration of the video in seconds."""
    total, rate = track.total, _frame_rate(stream, track)
    if total == 0:
        raise MediaError(name, "zero frames: expected a video, found a video stream without pictures; make it anew")
    sink = _FrameSink(name, sampling, track, _frame_indices(total, rate, sampling))
    if not _decode_by_time(container, stream, sink, reports) or sink.missing or sink.doubtful:
        # Decoding from the start either succeeds or says what is wrong.
        sink = _FrameSink(name, sampling, track, sink.wanted)
        count, has_order = _decode_in_order(container, stream, sink, reports)
        is_whole = not (sink.faults or track.lost)
        if not has_order or (is_whole and count != total):
            # Without a fault there is a frame for two packets, or none for a hidden one: the frames alone are counted.
            total = count if is_whole else total
            sink = _FrameSink(name, sampling, track, _frame_indices(total, rate, sampling) if count else [], True)
            count, _ = _decode_in_order(container, stream, sink, reports)
        if not count:
            raise MediaError(name, "damaged: zero frames of its video stream can be decoded; make the file anew")
        if len(track.pts) - 1 in sink.lost:
            _check_last_packet(name, container, end)
        if sink.places is None and count + len(sink.lost) != total:
            raise MediaError(
                name, f"damaged: of its {total} frames {total - count} cannot be decoded or placed; make the file anew"
            )
    return sink, _check_seconds(name, total / rate)


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
    """Keeps the decoded frames that are wanted, by index, each upright and resized to the size that the first one sets.

    Attributes:
        wanted: indices in display order.
        faults: places in decode order at which FFmpeg reports damage; in `lost`, those of which no frame came.
    """

    def __init__(
        self, name: str, sampling: VideoSampling, track: _Track, wanted: list[int], by_count: bool = False
    ) -> None:
        self.name, self.sampling, self.track, self.wanted = name, sampling, track, wanted
        self.size: tuple[int, int] | None = None
        self.frames: dict[int, torch.Tensor] = {}
        self.faults: set[int] = set()
        self.lost: set[int] = set()
        self.places = None if by_count else track.places()
        self.times = track.shown_pts()
        self.index_of = {} if self.places is None else {self.times[index]: index for index in wanted}

    @property
    def missing(self) -> list[int]:
        """The wanted frames that did not come out, or came out damaged."""
        return [index for index in self.wanted if self._is_missing(index)]

    @property
    def doubtful(self) -> list[int]:
        """The others that were decoded from damaged ones, and may show traces of the damage."""
        return [
            index
            for index in self.wanted
            if self.faults and not self._is_missing(index) and self._sources(index)[1] & self.faults
        ]

    def stacked(self) -> torch.Tensor:
        """(F, 3, h, w) uint8, the nearest good frame in place of each that is missing; a single frame twice.

        Raises:
            MediaError: when too many are missing.
        """
        missing, count = set(self.missing), len(self.wanted)
        most = max(1, int(MAX_MISSING * count)) if count >= 4 else 0
        if len(missing) > most:
            raise MediaError(
                self.name,
                f"damaged: {len(missing)} of {count} frames cannot be decoded, at most {most} may be missing;"
                " make the file anew",
            )
        good = [index for index in self.wanted if index not in missing]
        frames = [self.frames[min(good, key=lambda other: abs(other - index))] for index in self.wanted]
        return torch.stack(frames if count > 1 else frames * 2)

    def _place(self, index: int) -> int | None:
        return index if self.places is None else self.places.get(self.times[index])

    def _sources(self, index: int) -> tuple[set[int], set[int]]:
        return self.track.sources(self._place(index), self.places is not None)

    def _is_missing(self, index: int) -> bool:
        if index not in self.frames:
            return True
        return bool(self.faults) and (self._place(index) in self.faults or bool(self._sources(index)[0] & self.lost))

    def keep(self, index: int, frame: av.VideoFrame) -> None:
        """Takes in a frame that is not known to be damaged."""
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


def _decode_by_time(container: Any, stream: Any, sink: _FrameSink, reports: _Reports) -> bool:
    """Decodes only what the wanted frames need, seeking over the rest; False where timestamps do not allow it."""
    places, track = sink.places, sink.track
    if places is None:
        return False
    try:
        for first, last in _stretches(track, {places[pts] for pts in sink.index_of if pts in places}):
            container.seek(
                min(time for time in (track.pts[first], track.dts[first]) if time is not None), stream=stream
            )
            if not _decode_stretch(container, stream, (first, last), sink, reports):
                return False
    except av.FFmpegError:
        return False
    return bool(sink.faults or track.lost) or len(sink.frames) == len(sink.wanted)


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


def _decode_stretch(container: Any, stream: Any, stretch: tuple[int, int], sink: _FrameSink, reports: _Reports) -> bool:
    first, last = stretch
    context, previous, expected = stream.codec_context, None, first
    may_skip = context.name in _NONREF_IS_EXACT
    keys_seen = (
        2 if sink.track.is_from_start and not first else 0
    )  # what comes before the second is decoded without what came before the first

    def in_display_order(packet: av.Packet | None, at: int) -> bool:
        nonlocal previous
        frames, is_bad = _decode(context, packet, reports, has_sought=keys_seen < 2)
        if is_bad:
            sink.faults.add(at)
        if frames is None:
            sink.lost.add(at)
        for frame in frames or []:
            if frame.pts is None or (previous is not None and frame.pts <= previous):
                return False
            previous = frame.pts
            place = sink.places.get(frame.pts)
            if frame.is_corrupt:
                sink.faults.add(at if place is None else place)
            elif frame.pts in sink.index_of and place not in sink.faults:
                sink.keep(sink.index_of[frame.pts], frame)
        return True

    for packet in _packets(container, stream):
        at = sink.places.get(packet.pts, -1)
        if at < first and expected == first:
            continue
        if at != expected:
            return False
        expected += 1
        keys_seen += sink.track.is_key[at]
        context.skip_frame = "NONREF" if may_skip and packet.pts not in sink.index_of else "DEFAULT"
        if not in_display_order(packet, at):
            return False
        if at == last:
            return in_display_order(None, at)
    return False


def _decode_in_order(container: Any, stream: Any, sink: _FrameSink, reports: _Reports) -> tuple[int, bool]:
    """Decodes every frame and keeps the wanted ones; how many there are, and whether their times are in order.

    A frame is known by its time, or without times by its number, in which those count of which no frame came.
    """
    track, context, wanted = sink.track, stream.codec_context, set(sink.wanted)
    try:
        container.seek(min((dts for dts in track.dts if dts is not None), default=0), stream=stream)
    except av.FFmpegError as fault:
        raise MediaError(sink.name, "its frames have no places to return to; put the video into an MP4") from fault
    context.skip_frame = "DEFAULT"
    number_of = None if sink.places is None else {pts: number for number, pts in enumerate(sink.times)}
    count, previous, has_order = 0, -1, True
    for at, packet in enumerate(chain(_packets(container, stream), (None,))):
        if not at and packet is not None and packet.pts != track.pts[0] and packet.dts != track.dts[0]:
            raise MediaError(
                sink.name, "damaged: the file's index does not lead to its first frame; make the file anew"
            )
        if packet is not None and sink.places is not None:
            at = sink.places.get(packet.pts, at)
        frames, is_bad = _decode(context, packet, reports)
        if is_bad:
            sink.faults.add(at)
        if frames is None:
            sink.lost.add(at)
        for frame in frames or []:
            number = count + len(sink.lost) if number_of is None else number_of.get(frame.pts, -1)
            place = number if number_of is None else sink.places.get(frame.pts, at)
            has_order &= number > previous
            previous = number
            if frame.is_corrupt:
                sink.faults.add(place)
            elif number in wanted and place not in sink.faults:
                sink.keep(number, frame)
            count += 1
    return count, has_order
