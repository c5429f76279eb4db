"""Opens a media file: its streams, its packets, and whether it is whole. Decodes no audio and chooses no frames.

FFmpeg conceals much damage: it logs an error or marks a packet as corrupt, and continues. These reports are collected here.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av

from .errors_omnisent import MediaError, MediaFault
from .packets_omnisent import VideoPackets

MAX_FRAME_PIXELS = 8192 * 4352
MAX_MISSING = 0.1  # fraction of the audio, and of the sampled frames; of four or more frames, one may always be missing
MAX_SECONDS = 1_000_000  # eleven days; a header that states more is damaged

# Playlists and image patterns can refer to other files or URLs, so only self-contained formats are read.
_CONTAINERS = (
    "mov,matroska,webm,avi,flv,asf,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,gif,rm,mxf,dv,"
    "wav,w64,aiff,au,caf,mp3,flac,ogg,aac,ac3,eac3,amr,ape,wv,tta"
)
_STATES_ITS_DURATION = {"matroska", "webm", "avi", "flv", "wav", "w64", "flac", "aiff", "mov"}
# H.264's message that a frame to drop is already gone; after a seek into an open group of pictures this is not damage.
_HARMLESS_AFTER_SEEK = "mmco: unref short failure"
_LAST_PACKET_SECONDS = 0.1  # longest duration of an audio packet or a video frame


class ErrorLog:
    """Collects the errors that FFmpeg logs in this thread while the block runs.

    The log level is global to the process, so the last reader to leave restores it.
    """

    _lock, _readers = threading.Lock(), 0
    _before: tuple[int | None, bool] = None, True

    def __enter__(self) -> "ErrorLog":
        with ErrorLog._lock:
            if not ErrorLog._readers:
                level = av.logging.get_level()
                ErrorLog._before = level, av.logging.get_skip_repeated()
                av.logging.set_level(max(level or 0, av.logging.ERROR))
                av.logging.set_skip_repeated(
                    False
                )  # else a message about one file would hide the same message about the next
            ErrorLog._readers += 1
        self._capture = av.logging.Capture()
        self.lines: list[tuple[int, str, str]] = self._capture.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._capture.__exit__(*exception)
        with ErrorLog._lock:
            ErrorLog._readers -= 1
            if not ErrorLog._readers:
                av.logging.set_level(ErrorLog._before[0])
                av.logging.set_skip_repeated(ErrorLog._before[1])

    def take(self) -> list[str]:
        """The errors since the last call, each with the name of the component that reported it."""
        if not self.lines:
            return []
        errors = [f"{component}: {text.strip()}" for level, component, text in self.lines if level <= av.logging.ERROR]
        self.lines.clear()
        return errors


class MediaFile:
    """One open file, with FFmpeg's error reports; a context manager. Read it inside `reporting()`.

    Args:
        path: a local file; URLs are refused.

    Attributes:
        path: the file, as given.
        container: PyAV's container.
        video, audio: the best stream of each, or None; cover art does not count as video.
        zero: start of the first stream, in seconds.
        log: FFmpeg's errors, inside `reporting()`.
        faults: reports of the demuxer, each with its time in seconds after `zero`, or None for the whole file.

    Raises:
        MediaError: for a file that is missing, not a regular file, empty, not media, truncated or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = _local_file(path)
        self.faults: list[tuple[float | None, str]] = []
        self._ends: dict[Any, int] = {}  # of each stream, in its ticks
        self._fresh_audio: Any = None  # instead of the decoder of the audio stream
        with self.reporting():
            self.container = self._open()
            try:
                self.zero = max(self.container.start_time or 0, 0) / av.time_base
                self._check_nothing_is_cut_off()
                self.note_faults()
                art = av.stream.Disposition.attached_pic
                moving = [stream for stream in self.container.streams.video if not stream.disposition & art]
                best = self.container.streams.best("video")
                self.video: Any = best if best in moving else next(iter(moving), None)
                self.audio = self.container.streams.best("audio")
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> "MediaFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Collect FFmpeg's errors in `log`, and turn its exceptions into a MediaError."""
        with ErrorLog() as self.log:
            try:
                yield
            except av.FFmpegError as fault:
                raise MediaError(
                    self.path,
                    f"damaged: FFmpeg stopped with '{fault.strerror}'; export it again",
                    MediaFault.DAMAGED,
                ) from fault

    def _open(self) -> Any:
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        try:
            return av.open(f"file:{self.path}", metadata_errors="replace", options=options)
        except av.FFmpegError as fault:
            raise MediaError(self.path, *_why_not_opened(self.path, fault)) from fault

    def open_decoder(self, stream: Any | None) -> None:
        """Open the decoder of a stream, with a single thread; does nothing for None."""
        if stream is None:
            return
        context = stream.codec_context
        if context is None:
            raise MediaError(
                self.path,
                f"its {stream.type} uses a codec that FFmpeg cannot read; re-encode it (H.264, AAC)",
                MediaFault.UNSUPPORTED,
            )
        context.thread_count = 1  # DataLoader workers each run a reader; more threads would compete for the cores
        with suppress(av.FFmpegError):  # no packet can be decoded then
            context.open(strict=False)  # now, because it reports errors of the header only once
        if stream.type == "video":
            self.check_frame_size(context.width, context.height)
        self.faults += [(None, fault) for fault in self.log.take()]

    @contextmanager
    def fresh_audio_decoder(self) -> Iterator[None]:
        """Decode audio as of a file that was just opened: those of AAC and AC-3 add noise that depends on all that they decoded."""
        other = self._open()
        try:
            context = other.streams[self.audio.index].codec_context
            context.thread_count = 1
            with suppress(av.FFmpegError):
                context.open(strict=False)
            self.log.take()  # they are known
            self._fresh_audio = context
            yield
        finally:
            self._fresh_audio = None
            other.close()

    def packets(self, *streams: Any) -> Iterator[av.Packet]:
        """The packets with data, of the given streams or of all."""
        try:
            yield from (packet for packet in self.container.demux(*streams) if packet.size)
        except IndexError:
            return  # PyAV fails at the end of a file in which a stream starts after the header; all packets were read

    def all_packets(self, listed: VideoPackets | None) -> Iterator[tuple[av.Packet, bool]]:
        """Every packet, and whether the file is damaged before it; records faults and stream ends, and lists video packets."""
        for packet in self.packets():
            is_suspect = bool(self.log.lines) or packet.is_corrupt
            if is_suspect:
                self.note_faults(packet)
                if listed is not None:
                    listed.suspects.append(len(listed.pts))
            stream = packet.stream
            if packet.pts is not None:
                self._ends[stream] = max(self._ends.get(stream, 0), packet.pts + (packet.duration or 0))
            if listed is not None and stream is self.video:
                listed.add(packet)
            yield packet, is_suspect

    def decode(self, stream: Any, packet: av.Packet | None, has_sought: bool = False) -> tuple[list[Any] | None, bool]:
        """Decode a packet, or flush the decoder with None: its frames (None on failure), and whether FFmpeg reports damage.

        Frames that are marked as corrupt are left to the caller, since they may belong to earlier packets.
        """
        log = self.log
        if log.lines:  # messages of the demuxer
            log.lines.clear()
        context = self._fresh_audio if stream is self.audio and self._fresh_audio else stream.codec_context
        try:
            frames = context.decode(packet)
        except av.FFmpegError:
            return None, True
        is_bad = packet is not None and packet.is_corrupt
        if log.lines:
            is_bad |= any(not (has_sought and error.endswith(_HARMLESS_AFTER_SEEK)) for error in log.take())
        return frames, is_bad

    def note_faults(self, packet: Any | None = None) -> None:
        """Add the reports of the demuxer, about a packet or the whole file, to `faults`.

        Reports about a video frame are ignored, since the decoder repeats them if the frame is used. All audio is used. A short
        last packet is not a fault in a WAV of unknown length.
        """
        is_audio = packet is not None and packet.stream.type == "audio"
        name = self.container.format.name
        faults = [error for error in self.log.take() if is_audio or error.startswith(f"{name}:")]
        if packet is not None and packet.is_corrupt and not self.is_of_unknown_length():
            faults.append(f"{name}: a packet is marked as corrupt or cut short")
        second = None
        if packet is not None and packet.pts is not None:
            second = float(packet.pts * packet.time_base) - self.zero
        self.faults += [(second, fault) for fault in faults]

    @property
    def end(self) -> float:
        """End of the packets read so far, in seconds."""
        return max((self.end_of(stream) for stream in self._ends), default=0.0)

    def end_of(self, stream: Any) -> float:
        """End of the packets of a stream read so far, in seconds; 0 without packets."""
        return float(self._ends.get(stream, 0) * stream.time_base)

    def is_of_unknown_length(self) -> bool:
        """Whether it is a WAV without a length in its header, as from a pipe; its last packet may be short."""
        return self.container.format.name == "wav" and _stated_size(self.path, "wav") is None

    def check_frame_size(self, width: int, height: int) -> None:
        """Refuse frames that are too large."""
        if width * height > MAX_FRAME_PIXELS:
            raise MediaError(
                self.path,
                f"frames too large: {width}x{height}, at most {MAX_FRAME_PIXELS} pixels are read; scale the video down",
                MediaFault.UNSUPPORTED,
            )

    def check_seconds(self, seconds: float) -> float:
        """Refuse an impossible duration; return a possible one."""
        if not seconds <= MAX_SECONDS:
            raise MediaError(
                self.path,
                f"damaged: its header states {seconds:.3g} s, at most {MAX_SECONDS:g} s are read; export it again",
                MediaFault.DAMAGED,
            )
        return seconds

    def check_is_whole(self) -> None:
        """After all packets were read, refuse a file that is shorter than its index or header states."""
        self._check_nothing_is_cut_off()
        promised = self._promised_end()
        if promised is not None and promised - self.end > max(0.5, 0.1 * promised):
            raise MediaError(
                self.path,
                f"truncated: its header promises {promised:.2f} s, its data ends at {self.end:.2f} s; copy it again",
                MediaFault.TRUNCATED,
            )

    def check_last_packet(self) -> None:
        """Refuse a file whose last packet cannot be decoded, unless its header states that nothing comes after it."""
        promised = self._promised_end()
        if promised is None or promised - self.end > _LAST_PACKET_SECONDS:
            raise MediaError(
                self.path,
                f"truncated: its last packet, at {self.end:.2f} s, is cut off or damaged; copy it again",
                MediaFault.TRUNCATED,
            )

    def _promised_end(self) -> float | None:
        """End of the file by its header, in seconds; None if FFmpeg only estimates it."""
        container = self.container
        if not container.duration or not _STATES_ITS_DURATION & set(container.format.name.split(",")):
            return None
        return (container.duration + max(container.start_time or 0, 0)) / av.time_base

    def _check_nothing_is_cut_off(self) -> None:
        """Compare the offsets in the container's index with the size of the file."""
        size, promised = os.path.getsize(self.path), 0
        for stream in self.container.streams:
            entries = stream.index_entries
            if len(entries):
                promised = max(promised, entries[-1].pos + entries[-1].size)
        stated = _stated_size(self.path, self.container.format.name) or 0  # FFmpeg limits it to the size of the file
        promised = stated if size < 0.9 * stated else promised
        # Of a truncated index, FFmpeg reads the tracks before the cut.
        if "mov" in self.container.format.name.split(","):
            promised = max([promised, *(end for box, end in mp4_boxes(self.path) if box == b"moov")])
        if promised > size:
            raise MediaError(
                self.path,
                f"truncated: its index promises {promised} bytes, the file has {size}; copy or download it again",
                MediaFault.TRUNCATED,
            )


def _local_file(path: str | os.PathLike[str]) -> str:
    name = os.fsdecode(os.fspath(path))
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name):
        reason = "expected a local file, found a URL; download it and give the path"
        raise MediaError(name, reason, MediaFault.NO_FILE)
    try:
        status = Path(name).stat()
    except (OSError, ValueError) as fault:
        reason = f"missing: expected a media file, found none ({fault}); check the path"
        raise MediaError(name, reason, MediaFault.MISSING) from fault
    if not Path(name).is_file():
        other = "a folder" if Path(name).is_dir() else "a device or pipe"
        reason = f"expected a media file, found {other}; give the path of one file"
        raise MediaError(name, reason, MediaFault.NO_FILE)
    if status.st_size == 0:
        reason = "empty: expected a media file, found 0 bytes; copy or download it again"
        raise MediaError(name, reason, MediaFault.EMPTY)
    return name


def _why_not_opened(name: str, fault: av.FFmpegError) -> tuple[str, MediaFault]:
    if not os.access(name, os.R_OK):
        reason = "expected a readable file, found one without read permission; change its permissions"
        return reason, MediaFault.NO_FILE
    with open(name, "rb") as file:
        head = file.read(12)
    if head[4:8] in {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"}:
        reason = "truncated or damaged: an MP4 or MOV whose index (moov) is missing or unreadable; copy it again"
        return reason, MediaFault.TRUNCATED
    if head[:4] in {b"RIFF", b"fLaC", b"OggS", b"\x1aE\xdf\xa3"}:
        reason = "truncated or damaged: it starts as a media file, but its header cannot be read; copy it again"
        return reason, MediaFault.TRUNCATED
    reason = f"not media: expected a video or audio file, found bytes that FFmpeg cannot read as one ({fault.strerror})"
    return reason, MediaFault.NOT_MEDIA


def _stated_size(name: str, container: str) -> int | None:
    """The size in the header of a WAV, W64 or AU file; None if it was unknown when the header was written, as to a pipe."""
    with open(name, "rb") as file:
        head = file.read(24)
    match container:
        case "wav":
            stated, unknown = int.from_bytes(head[4:8], "little"), 0x7FFF0000
        case "w64":
            stated, unknown = int.from_bytes(head[16:24], "little"), 1 << 62
        case "au":
            stated, unknown = int.from_bytes(head[8:12], "big"), 0x7FFF0000
        case _:
            return None
    return stated if 0 < stated < unknown else None


def mp4_boxes(path: str) -> Iterator[tuple[bytes, int]]:
    """Type and end of each top-level box of an MP4 or MOV, up to one that extends to the end of the file."""
    size, start = os.path.getsize(path), 0
    with open(path, "rb") as file:
        while start + 8 <= size:
            file.seek(start)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:], "big")
            if length < 8:  # 0: the box extends to the end of the file
                return
            start += length
            yield head[4:8], start
