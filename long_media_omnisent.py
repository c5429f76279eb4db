"""Answers: any stretch of a media file, however long -> the frames and sound of a file that was cut to it.

The file is opened once and its packets are listed once, undecoded; a stretch then costs what the stretch costs, wherever it
lies. Only that list grows with the file, by 32 bytes for each frame. Knows no model, no transcript and no window.
"""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack

import av
import numpy as np

from .media_omnisent import (
    SAMPLE_RATE,
    ClipMedia,
    MediaError,
    VideoSampling,
    _check_last_packet,
    _check_nothing_is_cut_off,
    _check_reaches_its_duration,
    _check_seconds,
    _decode_by_time,
    _frame_indices,
    _frame_rate,
    _FrameSink,
    _local_file,
    _opened,
    _packets,
    _prepare_decoder,
    _reading_faults,
    _Reports,
    _Silence,
    _Sound,
    _SoundDecoder,
    _Track,
    _video_stream,
    _warning,
)

_OFFICIAL = VideoSampling()
# Sound decoded before a stretch and thrown away: codecs build on packets before, Opus on 80 ms, MP3 on up to nine frames.
_LEAD_SECONDS = 0.5
# An encoder fills its last block, so that sound ends a little after the picture; more than this is sound of its own.
_SOUND_FILL_SECONDS = 0.5


class LongMedia:
    """One open file whose stretches can be read in any order; a context manager.

    Times are seconds on a player's clock, which starts with the file's first stream. Without moving pictures (cover art is none)
    the file is sound alone.

    Args:
        path: a local file.

    Attributes:
        path: the file, as given.
        duration: seconds, to the end of picture and sound.

    Raises:
        MediaError: what `read_media` says of files that cannot be opened, are cut off, or hold neither picture nor sound.

    Example:
        >>> with LongMedia("talk.mp4") as talk:
        ...     media = talk.read(60.0, 68.0)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = _local_file(path)
        self._open = ExitStack()
        with _Reports() as reports:
            self._look(reports)

    def _look(self, reports: _Reports) -> None:
        self._container = self._open.enter_context(_opened(self.path))
        # What its reader says of the file, with the seconds; None holds for all of it.
        self._faults: list[tuple[float | None, str]] = []
        self._note_faults(None, reports)
        try:
            self._pictures = _video_stream(self._container)
            self._voice = self._container.streams.best("audio")
            for stream in (self._pictures, self._voice):
                _prepare_decoder(self.path, stream)
            self._faults += [(None, fault) for fault in reports.errors()]
            self._zero = max(self._container.start_time or 0, 0) / av.time_base
            self._first_sound = 0
            self._list_packets(reports)
        except av.FFmpegError as fault:
            self.close()
            raise _damaged(self.path, fault) from fault
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "LongMedia":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    @property
    def has_video(self) -> bool:
        """Whether there are moving pictures."""
        return self._pictures is not None

    @property
    def has_sound(self) -> bool:
        """Whether there is a sound stream."""
        return self._voice is not None

    def read(
        self,
        start: float,
        end: float | None = None,
        *,
        video: bool = True,
        sound: bool = True,
        sampling: VideoSampling = _OFFICIAL,
        max_sound_seconds: float = 300.0,
    ) -> ClipMedia:
        """What `read_media` reads from a file that was cut to [start, end).

        Frames are chosen among those that begin within the stretch or, where none does, is the one that is on the screen. Sound
        is resampled for each stretch by itself, as that of a cut file is.

        Args:
            start: seconds, at least 0.
            end: seconds, above `start`; the file's end by default. What lies past the file's end is not there.
            video: read frames; `None` where the picture has ended before `start`.
            sound: read sound; `None` where there is none.
            sampling: which frames, and their size; by default as `read_media` takes them.
            max_sound_seconds: sound of the stretch beyond it is neither decoded nor kept.

        Raises:
            ValueError: for a stretch that is empty.
            MediaError: for one that lies past the end or cannot be decoded; other stretches can still be read.
        """
        stop = self.duration if end is None else min(end, self.duration)
        if not 0 <= start < (math.inf if end is None else end):
            raise ValueError(f"expected a stretch with 0 <= start < end, found {start} to {end} s")
        if start >= stop:
            raise MediaError(self.path, f"nothing at {start:.2f} s: it is {self.duration:.2f} s long; ask for less")
        if video and self._pictures is None:
            raise MediaError(self.path, "no video stream: read it with video=False, or as a clip's audio")
        gathered = _Sound(self.path, max(1, round(max_sound_seconds * SAMPLE_RATE)))
        faults = [fault for second, fault in self._faults if second is None or start - 1 <= second <= stop + 1]
        try:
            with _Reports() as reports:
                has_sound = sound and self._voice is not None
                wave = self._wave(gathered, start, stop, reports) if has_sound else None
                part = self._part(start, stop) if video else None
                if part is None:
                    return ClipMedia(None, None, wave, stop - start, _warning(gathered.missing, None, faults))
                sink, duration = self._frames(part, start, stop, sampling, reports)
                frames = sink.stacked()
                warning = _warning(gathered.missing, sink, faults)
                return ClipMedia(frames, 2 * duration / len(frames), wave, duration, warning)
        except av.FFmpegError as fault:
            raise _damaged(self.path, fault) from fault

    def _note_faults(self, packet: av.Packet | None, reports: _Reports) -> None:
        faults = _reading_faults(self.path, self._container, packet, reports)
        has_time = packet is not None and packet.pts is not None
        second = float(packet.pts * packet.time_base) - self._zero if has_time else None
        self._faults += [(second, fault) for fault in faults]

    def _list_packets(self, reports: _Reports) -> None:
        track, end, sound_end = _Track(), 0.0, 0.0
        for packet in _packets(self._container):
            if reports.log or packet.is_corrupt:
                self._note_faults(packet, reports)
                track.suspects.append(len(track.pts))
            stop = 0.0 if packet.pts is None else float((packet.pts + (packet.duration or 0)) * packet.time_base)
            end = max(end, stop)
            if packet.stream is self._pictures:
                track.add(packet)
            elif packet.stream is self._voice:
                sound_end = max(sound_end, stop)
                self._first_sound = min(
                    self._first_sound, packet.pts or 0
                )  # below 0 where an encoder primes its decoder
        self._note_faults(None, reports)
        self._end = end
        _check_nothing_is_cut_off(self.path, self._container)
        _check_reaches_its_duration(self.path, self._container, end)
        picture_end = self._keep_pictures(track) if self._pictures is not None else 0.0
        far = sound_end > picture_end + _SOUND_FILL_SECONDS
        self.duration = (sound_end if far or self._pictures is None else picture_end) - self._zero
        _check_seconds(self.path, self.duration)
        if self.duration <= 0:
            raise MediaError(self.path, "nothing to read: expected pictures or sound, found neither; make it anew")

    def _keep_pictures(self, track: _Track) -> float:
        """Keeps the list of video packets, small; returns where the last frame ends, in seconds."""
        self._pts = np.array([] if None in track.pts else track.pts, np.int64)  # in decode order
        if len(np.unique(self._pts)) < len(track.pts):
            raise MediaError(
                self.path,
                "its frames have no display times (as in AVI), so no stretch can be found; re-encode it as MP4",
            )
        self._suspects = np.array(track.suspects, np.int64)
        self._dts = np.array([pts if dts is None else dts for pts, dts in zip(track.pts, track.dts, strict=True)])
        self._keys = np.flatnonzero(track.is_key)
        shown = np.flatnonzero(track.is_shown)
        if not len(shown):
            raise MediaError(self.path, "zero frames: expected a video, found a stream without pictures; make it anew")
        self._shown = shown[np.argsort(self._pts[shown])]  # places in decode order, in display order
        self._times = self._pts[self._shown]
        step = np.diff(self._times[-2:])
        self._picture_end = int(self._times[-1]) + (track.last_duration or int(step.sum()) or 1)
        return float(self._picture_end * self._pictures.time_base)

    def _part(self, start: float, stop: float) -> _Track | None:
        """The packets from which the frames of a stretch are decoded, none but these marked as shown."""
        ticks = [round((self._zero + second) / self._pictures.time_base) for second in (start, stop)]
        first, last = np.searchsorted(self._times, ticks)
        if first == last:
            if first == 0 or ticks[0] >= self._picture_end:
                return None
            first -= 1
        places = self._shown[first:last]
        group = np.searchsorted(self._keys, places.min(), "right") - 1
        # One group more than holds the first frame: what leads an open group needs the one before.
        base = int(self._keys[group - 1]) if group > 0 else 0
        rows = slice(base, int(places.max()) + 1)
        is_key = np.isin(np.arange(rows.start, rows.stop), self._keys)
        is_shown = np.isin(np.arange(rows.start, rows.stop), places)
        after = self._times[last] if last < len(self._times) else self._picture_end
        columns = (column.tolist() for column in (self._pts[rows], self._dts[rows], is_key, is_shown))
        suspects = (self._suspects[np.isin(self._suspects, np.arange(rows.start, rows.stop + 1))] - base).tolist()
        part = _Track(
            *columns, last_duration=int(after - self._times[last - 1]), is_from_start=not base, suspects=suspects
        )
        part.find_lost()
        return part

    def _frames(
        self, part: _Track, start: float, stop: float, sampling: VideoSampling, reports: _Reports
    ) -> tuple[_FrameSink, float]:
        """The frames asked for, and the seconds that they stand for."""
        total, rate = part.total, _frame_rate(self._pictures, part)
        sink = _FrameSink(self.path, sampling, part, _frame_indices(total, rate, sampling))
        if not _decode_by_time(self._container, self._pictures, sink, reports):
            raise MediaError(
                self.path,
                f"damaged, or without display times: its frames from {start:.2f} to {stop:.2f} s cannot be decoded;"
                " re-encode it as MP4",
            )
        return sink, total / rate

    def _wave(self, gathered: _Sound, start: float, stop: float, reports: _Reports) -> np.ndarray | None:
        """Samples (n,) at SAMPLE_RATE, from the decoded ones that lie in [start, stop)."""
        place = 0
        for frame in self._decoded_sound(start, reports):
            if (
                not gathered.taken and frame.pts is not None
            ):  # then sample by sample, as the clock of some containers is coarse
                place = round(float(frame.pts * frame.time_base - self._zero) * frame.sample_rate)
            first, last = round(start * frame.sample_rate) - place, round(stop * frame.sample_rate) - place
            if last <= 0 or gathered.is_full:
                break
            if first < frame.samples:
                gathered.take(frame, slice(max(first, 0), last))
            place += frame.samples
        return gathered.finish()

    def _decoded_sound(self, start: float, reports: _Reports) -> Iterator[av.AudioFrame | _Silence]:
        voice, decoder = self._voice, _SoundDecoder(self._voice, reports)
        lead = math.floor((self._zero + start - _LEAD_SECONDS) / voice.time_base)
        try:
            self._container.seek(max(lead, self._first_sound), stream=voice)
        except av.FFmpegError:  # as in FLV, whose list of sound packets may begin after the first
            self._container.seek(0)
        reports.errors()
        for packet in _packets(self._container, voice):
            if reports.log or packet.is_corrupt:
                decoder.suspect_gap()
            yield from decoder.decode(packet)
        yield from decoder.decode(None)
        if decoder.has_failed:
            _check_last_packet(self.path, self._container, self._end)


def _damaged(path: str, fault: av.FFmpegError) -> MediaError:
    return MediaError(path, f"damaged: FFmpeg stopped with '{fault.strerror}'; make the file anew")
