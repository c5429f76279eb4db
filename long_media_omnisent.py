"""Reads any segment of a media file of any length, as if the file had been cut to the segment.

The file is opened once and its packets are listed once, without decoding; the cost of a segment then does not depend on where
it is. Only this list grows with the file, by 32 bytes per frame. Knows no model, no transcript and no window.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import av
import numpy as np

from .audio_omnisent import AudioBuffer, AudioDecoder
from .decoding_omnisent import MediaFile
from .errors_omnisent import MediaError, MediaFault
from .frames_omnisent import OFFICIAL_SAMPLING, SampledFrames, VideoSampling, decode_by_time, frame_indices, frame_rate
from .media_omnisent import ClipMedia, read_media
from .packets_omnisent import VideoPackets

# Audio decoded before a segment and discarded: codecs depend on earlier packets, Opus on 80 ms, MP3 on up to nine frames.
_LEAD_SECONDS = 0.5
# Encoders pad the last block, so audio ends a little after the video; only audio that is longer than this sets the duration.
_AUDIO_FILL_SECONDS = 0.5


class LongMedia:
    """One open file whose segments can be read in any order; a context manager.

    Times are in seconds from the start of the file's first stream, as in a player. A file whose only video is cover art is
    read as audio.

    Args:
        path: a local file.

    Attributes:
        path: the file, as given.
        duration: seconds, to the end of video and audio.

    Raises:
        MediaError: as `read_media`, for a file that cannot be opened, is truncated, or has neither video nor audio.

    Example:
        >>> with LongMedia("talk.mp4") as talk:
        ...     media = talk.read(60.0, 68.0)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = MediaFile(path)
        self.path = self._file.path
        try:
            with self._file.reporting():
                for stream in (self._file.video, self._file.audio):
                    self._file.open_decoder(stream)
                self._list_packets()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "LongMedia":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def has_video(self) -> bool:
        """Whether there is a video stream; cover art does not count."""
        return self._file.video is not None

    @property
    def has_audio(self) -> bool:
        """Whether there is an audio stream."""
        return self._file.audio is not None

    def read(
        self,
        start: float,
        end: float | None = None,
        *,
        video: bool = True,
        audio: bool = True,
        sampling: VideoSampling = OFFICIAL_SAMPLING,
        max_sound_seconds: float = 300.0,
    ) -> ClipMedia:
        """Read [start, end), as `read_media` would read a file that was cut to it.

        Frames are sampled from those that start within the segment; if none does, it is the frame displayed at `start`. Audio
        is resampled per segment, like that of a cut file.

        Args:
            start: seconds, at least 0.
            end: seconds, above `start`; by default, and at most, the end of the file.
            video: read frames; they are `None` if the video ends before `start`.
            audio: read audio; it is `None` if there is none.
            sampling: how many frames, and their size.
            max_sound_seconds: longer audio is cut to this length.

        Raises:
            ValueError: for an empty segment.
            MediaError: for a segment that is after the end or cannot be decoded; other segments can still be read.
        """
        stop = self.duration if end is None else min(end, self.duration)
        if not 0 <= start < (math.inf if end is None else end):
            raise ValueError(f"expected a segment with 0 <= start < end, found {start} to {end} s")
        if start >= stop:
            reason = f"nothing at {start:.2f} s: the file is {self.duration:.2f} s long; start the segment earlier"
            raise MediaError(self.path, reason, MediaFault.PAST_END)
        if video and not self.has_video:
            reason = "no video stream: the file holds audio; give it as audio"
            raise MediaError(self.path, reason, MediaFault.NO_VIDEO)
        faults = [fault for second, fault in self._file.faults if second is None or start - 1 <= second <= stop + 1]
        buffer = AudioBuffer(self.path, max_sound_seconds)
        with self._file.reporting():
            samples = self._audio(buffer, start, stop) if audio and self.has_audio else None
            packets = self._packets_of(start, stop) if video else None
            frames, seconds = None, stop - start
            if packets is not None:
                frames, seconds = self._frames(packets, start, stop, sampling)
            return ClipMedia.from_decoded(frames, buffer, samples, seconds, faults)

    def _list_packets(self) -> None:
        file, packets = self._file, VideoPackets()
        self._first_audio = 0  # ticks; below 0 where an encoder primes its decoder
        for packet, _ in file.all_packets(packets):
            if packet.stream is file.audio:
                self._first_audio = min(self._first_audio, packet.pts or 0)
        file.note_faults()
        file.check_is_whole()
        video_end = self._keep_packets(packets) if self.has_video else 0.0
        audio_end = file.end_of(file.audio) if self.has_audio else 0.0
        is_audio_longer = audio_end > video_end + _AUDIO_FILL_SECONDS
        end = audio_end if is_audio_longer or not self.has_video else video_end
        self.duration = file.check_seconds(end - file.zero)
        if self.duration <= 0:
            reason = "nothing to read: expected video or audio, found neither; export it again"
            raise MediaError(self.path, reason, MediaFault.NO_FRAMES)

    def _keep_packets(self, packets: VideoPackets) -> float:
        """Keep the list of video packets as compact arrays; returns the end of the last frame, in seconds."""
        self._pts = np.array([] if None in packets.pts else packets.pts, np.int64)  # in decode order
        if len(np.unique(self._pts)) < len(packets.pts):
            reason = "its frames have no display times (as in AVI), so no segment can be found; re-encode it as MP4"
            raise MediaError(self.path, reason, MediaFault.UNSUPPORTED)
        self._suspects = np.array(packets.suspects, np.int64)
        dts_or_pts = [pts if dts is None else dts for pts, dts in zip(packets.pts, packets.dts, strict=True)]
        self._dts = np.array(dts_or_pts)
        self._keys = np.flatnonzero(packets.is_key)
        shown = np.flatnonzero(packets.is_shown)
        if not len(shown):
            reason = "zero frames: expected a video, found a stream without frames; export it again"
            raise MediaError(self.path, reason, MediaFault.NO_FRAMES)
        self._shown = shown[np.argsort(self._pts[shown])]  # positions in decode order, in display order
        self._times = self._pts[self._shown]
        step = np.diff(self._times[-2:])
        self._video_end = int(self._times[-1]) + (packets.last_duration or int(step.sum()) or 1)
        return float(self._video_end * self._file.video.time_base)

    def _packets_of(self, start: float, stop: float) -> VideoPackets | None:
        """The packets needed to decode the frames of a segment; only the segment's own are marked as shown."""
        ticks = [round((self._file.zero + second) / self._file.video.time_base) for second in (start, stop)]
        first, last = np.searchsorted(self._times, ticks)
        if first == last:
            if first == 0 or ticks[0] >= self._video_end:
                return None
            first -= 1
        positions = self._shown[first:last]
        group = np.searchsorted(self._keys, positions.min(), "right") - 1
        # Start one group of pictures earlier: leading frames of an open group depend on the group before.
        base = int(self._keys[group - 1]) if group > 0 else 0
        rows = slice(base, int(positions.max()) + 1)
        is_key = np.isin(np.arange(rows.start, rows.stop), self._keys)
        is_shown = np.isin(np.arange(rows.start, rows.stop), positions)
        after = self._times[last] if last < len(self._times) else self._video_end
        suspects = (self._suspects[np.isin(self._suspects, np.arange(rows.start, rows.stop + 1))] - base).tolist()
        packets = VideoPackets(
            self._pts[rows].tolist(),
            self._dts[rows].tolist(),
            is_key.tolist(),
            is_shown.tolist(),
            last_duration=int(after - self._times[last - 1]),
            is_from_start=not base,
            suspects=suspects,
        )
        packets.find_lost()
        return packets

    def _frames(
        self, packets: VideoPackets, start: float, stop: float, sampling: VideoSampling
    ) -> tuple[SampledFrames, float]:
        """The sampled frames of a segment, and the seconds that they cover."""
        total, rate = packets.total, frame_rate(self._file.video, packets)
        frames = SampledFrames(self._file, sampling, packets, frame_indices(total, rate, sampling))
        if not decode_by_time(frames):
            raise MediaError(
                self.path,
                f"damaged, or without display times: its frames from {start:.2f} to {stop:.2f} s cannot be decoded;"
                " re-encode it as MP4",
                MediaFault.DAMAGED,
            )
        return frames, total / rate

    def _audio(self, buffer: AudioBuffer, start: float, stop: float) -> np.ndarray | None:
        """The audio in [start, stop), (samples,) at SAMPLE_RATE."""
        place = 0
        with self._file.fresh_audio_decoder():  # so that a segment does not depend on those that were read before
            for frame in self._decoded_audio(start):
                if not buffer.taken and frame.pts is not None:
                    # Later frames are placed by counting samples, since some containers have coarse timestamps.
                    place = round(float(frame.pts * frame.time_base - self._file.zero) * frame.sample_rate)
                first, last = round(start * frame.sample_rate) - place, round(stop * frame.sample_rate) - place
                if last <= 0 or buffer.is_full:
                    break
                if first < frame.samples:
                    buffer.append(frame, slice(max(first, 0), last))
                place += frame.samples
        return buffer.finish()

    def _decoded_audio(self, start: float) -> Iterator[Any]:
        """Decoded frames and silences, starting shortly before `start`."""
        file, decoder = self._file, AudioDecoder(self._file)
        lead = math.floor((file.zero + start - _LEAD_SECONDS) / file.audio.time_base)
        try:
            file.container.seek(max(lead, self._first_audio), stream=file.audio)
        except av.FFmpegError:  # as in FLV, whose index of audio packets may start after the first
            file.container.seek(0)
        file.log.take()
        for packet in file.packets(file.audio):
            if file.log.lines or packet.is_corrupt:
                decoder.suspect_gap()
            yield from decoder.decode(packet)
        yield from decoder.decode(None)
        if decoder.has_failed:
            file.check_last_packet()


def read_clip(
    clip: Mapping[str, Any], modalities: Sequence[str], sampling: VideoSampling, max_sound_seconds: float
) -> ClipMedia:
    """The frames and audio samples of a clip, for audio and video among the given modalities; each `None` if the clip has none.

    A clip is a mapping, as [`OmniSentProcessor`] takes it.

    Raises:
        MediaError: naming the file.
    """
    video, audio = clip.get("video"), clip.get("audio")
    own_audio = video is not None and audio is None and "audio" in modalities
    frames, pair_seconds, samples, duration = None, None, None, 0.0
    warnings: list[str] = []
    segment = (clip.get("start"), clip.get("end"))
    if video is not None and ("video" in modalities or own_audio):
        rules: dict[str, Any] = {"sampling": sampling, "max_sound_seconds": max_sound_seconds}
        media = _read_file(video, *segment, video="video" in modalities, audio=own_audio, **rules)
        frames, pair_seconds = media.frames, media.seconds_per_frame_pair
        samples, duration = media.audio, media.duration
        warnings += [media.warning] if media.warning else []
    if audio is not None and "audio" in modalities:
        media = _read_file(audio, *segment, video=False, audio=True, max_sound_seconds=max_sound_seconds)
        samples, duration = media.audio, max(duration, media.duration)
        warnings += [media.warning] if media.warning else []
    return ClipMedia(frames, pair_seconds, samples, duration, "; ".join(warnings) or None)


def _read_file(
    file: str | os.PathLike[str] | LongMedia, start: float | None, end: float | None, **options: Any
) -> ClipMedia:
    """A whole file, or a segment of it."""
    if isinstance(file, LongMedia):
        return file.read(start or 0.0, end, **options)
    if start is None and end is None:
        return read_media(file, **options)
    with LongMedia(file) as media:
        return media.read(start or 0.0, end, **options)
