"""Opens a media file: its streams, its packets, and whether it is whole. Decodes no audio and chooses no frames.

FFmpeg conceals much damage: it logs an error or marks a packet as corrupt, and goes on. All of that is gathered here.
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
MAX_MISSING = 0.1  # of the audio, and of the frames asked for; one frame in four or more may always be missing
MAX_SECONDS = 1_000_000  # eleven days; a header that says more is damaged

# Playlists and image patterns can name other files or addresses, so only containers that hold their own media are read.
_CONTAINERS = (
    "mov,matroska,webm,avi,flv,asf,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,gif,rm,mxf,dv,"
    "wav,w64,aiff,au,caf,mp3,flac,ogg,aac,ac3,eac3,amr,ape,wv,tta"
)
_STATES_ITS_DURATION = {"matroska", "webm", "avi", "flv", "wav", "w64", "flac", "aiff", "mov"}
# H.264's complaint that a frame to be dropped is gone already: after a seek into an open group that is no damage.
_SEEK_COMPLAINT = "mmco: unref short failure"
_LAST_PACKET_SECONDS = 0.1  # as long as a packet of audio or a frame may be


class ErrorLog:
    """What FFmpeg logs as an error in this thread while the block runs.

    The level of its log belongs to the process, so that the last reader to leave sets it back.
    """

    _lock, _readers = threading.Lock(), 0
    _before: tuple[int | None, bool] = None, True

    def __enter__(self) -> "ErrorLog":
        with ErrorLog._lock:
            if not ErrorLog._readers:
                level = av.logging.get_level()
                ErrorLog._before = level, av.logging.get_skip_repeated()
                av.logging.set_level(max(level or 0, av.logging.ERROR))
                av.logging.set_skip_repeated(False)  # or the last line about one file hides the same about the next
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
        """The errors since the last call, each with the name of the part that reports it."""
        if not self.lines:
            return []
        errors = [f"{part}: {text.strip()}" for level, part, text in self.lines if level <= av.logging.ERROR]
        self.lines.clear()
        return errors


class MediaFile:
    """One open file, and what FFmpeg reports of it; a context manager. Read it inside `reporting()`.

    Args:
        path: a local file; an address is refused.

    Attributes:
        path: the file, as given.
        container: PyAV's container.
        video, audio: the best stream of each, or None; cover art is no video.
        zero: seconds at which its first stream starts.
        log: FFmpeg's errors, inside `reporting()`.
        faults: what the container's reader reports, each with its second after `zero`, or None for the whole file.

    Raises:
        MediaError: missing, no file, empty, not media, truncated or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = _local_file(path)
        self.faults: list[tuple[float | None, str]] = []
        self._ends: dict[Any, int] = {}  # of each stream, in its ticks
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
        """Collects FFmpeg's errors in `log`, and turns its exceptions into a MediaError."""
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
        """Makes a stream ready to be decoded, in this thread alone; does nothing for None."""
        if stream is None:
            return
        context = stream.codec_context
        if context is None:
            raise MediaError(
                self.path,
                f"its {stream.type} uses a codec that FFmpeg cannot read; re-encode it (H.264, AAC)",
                MediaFault.UNSUPPORTED,
            )
        context.thread_count = 1  # DataLoader workers each run a reader; more threads would only fight over the cores
        with suppress(av.FFmpegError):  # then no packet can be decoded
            context.open(strict=False)  # now, as what it says of its header it says once
        if stream.type == "video":
            self.check_frame_size(context.width, context.height)
        self.faults += [(None, fault) for fault in self.log.take()]

    def packets(self, *streams: Any) -> Iterator[av.Packet]:
        """The packets that hold data, of the given streams or of all."""
        try:
            yield from (packet for packet in self.container.demux(*streams) if packet.size)
        except IndexError:
            return  # PyAV trips at the end of a file in which a stream began after the header; all packets were given

    def all_packets(self, listed: VideoPackets | None) -> Iterator[tuple[av.Packet, bool]]:
        """Every packet, and whether the file is damaged before it; notes faults and ends, and lists those of video."""
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
        """The frames of a packet, or for None the decoder's rest; None where it fails; and whether FFmpeg reports damage.

        Which frames are marked as corrupt is not looked at: these may be of packets before.
        """
        log = self.log
        if log.lines:  # of the file's reader
            log.lines.clear()
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError:
            return None, True
        is_bad = packet is not None and packet.is_corrupt
        if log.lines:
            is_bad |= any(not (has_sought and error.endswith(_SEEK_COMPLAINT)) for error in log.take())
        return frames, is_bad

    def note_faults(self, packet: Any | None = None) -> None:
        """Adds what the container's reader reports, at a packet or of the whole file, to `faults`.

        What it says of a frame, its decoder says again if that frame is used; of audio all is used. That the last packet
        is a short one is no fault of a WAV that never said how long it would be.
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
        """Seconds at which the packets read so far end."""
        return max((self.end_of(stream) for stream in self._ends), default=0.0)

    def end_of(self, stream: Any) -> float:
        """Seconds at which the packets of a stream read so far end; 0 without any."""
        return float(self._ends.get(stream, 0) * stream.time_base)

    def is_of_unknown_length(self) -> bool:
        """Whether it is a WAV that does not say how long it is, as one from a pipe, so that its last packet may be short."""
        return self.container.format.name == "wav" and _stated_size(self.path, "wav") is None

    def check_frame_size(self, width: int, height: int) -> None:
        """Refuses frames that are too large."""
        if width * height > MAX_FRAME_PIXELS:
            raise MediaError(
                self.path,
                f"frames too large: {width}x{height}, at most {MAX_FRAME_PIXELS} pixels are read; scale the video down",
                MediaFault.UNSUPPORTED,
            )

    def check_seconds(self, seconds: float) -> float:
        """Refuses a duration that no file has; returns it."""
        if not seconds <= MAX_SECONDS:
            raise MediaError(
                self.path,
                f"damaged: by its header it lasts {seconds:.3g} s, at most {MAX_SECONDS:g} s are read; export it again",
                MediaFault.DAMAGED,
            )
        return seconds

    def check_is_whole(self) -> None:
        """Refuses a file that is shorter than its index or its header promises, after all packets were read."""
        self._check_nothing_is_cut_off()
        promised = self._promised_end()
        if promised is not None and promised - self.end > max(0.5, 0.1 * promised):
            raise MediaError(
                self.path,
                f"truncated: its header promises {promised:.2f} s, its data ends at {self.end:.2f} s; copy it again",
                MediaFault.TRUNCATED,
            )

    def check_last_packet(self) -> None:
        """Refuses a file whose last packet cannot be decoded, unless its header says that nothing comes after it."""
        promised = self._promised_end()
        if promised is None or promised - self.end > _LAST_PACKET_SECONDS:
            raise MediaError(
                self.path,
                f"truncated: its last packet, at {self.end:.2f} s, is cut off or damaged; copy it again",
                MediaFault.TRUNCATED,
            )

    def _promised_end(self) -> float | None:
        """Where it ends by its header, in seconds; None where FFmpeg estimates that."""
        container = self.container
        if not container.duration or not _STATES_ITS_DURATION & set(container.format.name.split(",")):
            return None
        return (container.duration + max(container.start_time or 0, 0)) / av.time_base

    def _check_nothing_is_cut_off(self) -> None:
        """Compares where the container's own index says that data lies with the size of the file."""
        size, promised = os.path.getsize(self.path), 0
        for stream in self.container.streams:
            entries = stream.index_entries
            if len(entries):
                promised = max(promised, entries[-1].pos + entries[-1].size)
        stated = _stated_size(self.path, self.container.format.name) or 0  # FFmpeg shortens this to the file's size
        promised = stated if size < 0.9 * stated else promised
        if "mov" in self.container.format.name.split(
            ","
        ):  # of an index that is cut off it reads the tracks before that
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
        reason = "expected a local file, found an address; download it and give the path"
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
        reason = "expected a readable file, found that this user may not read it; change its permissions"
        return reason, MediaFault.NO_FILE
    with open(name, "rb") as file:
        head = file.read(12)
    if head[4:8] in {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"}:
        reason = "truncated or damaged: an MP4 or MOV whose index (moov) is missing or unreadable; copy it again"
        return reason, MediaFault.TRUNCATED
    if head[:4] in {b"RIFF", b"fLaC", b"OggS", b"\x1aE\xdf\xa3"}:
        reason = "truncated or damaged: it starts as a media file, but its header cannot be read; copy it again"
        return reason, MediaFault.TRUNCATED
    reason = f"not media: expected a video or sound file, found bytes that FFmpeg cannot read as one ({fault.strerror})"
    return reason, MediaFault.NOT_MEDIA


def _stated_size(name: str, container: str) -> int | None:
    """What the header of a WAV, W64 or AU file promises; None where it was written before that was known, as to a pipe."""
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
    """Type and end of each box at the top of an MP4 or MOV, by its own length, up to one that reaches the file's end."""
    size, start = os.path.getsize(path), 0
    with open(path, "rb") as file:
        while start + 8 <= size:
            file.seek(start)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:], "big")
            if length < 8:  # 0: the box reaches the file's end
                return
            start += length
            yield head[4:8], start
