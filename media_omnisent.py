"""Reads a media file: sampled frames and mono audio. Knows no model, no prompt and no label.

A file is opened once and read in two sweeps: one over all packets (frames counted, audio decoded), one that decodes only
the sampled frames. Whatever FFmpeg cannot decode, marks as corrupt or logs as an error counts as missing: a little is a
warning, more is an error.

Whole files are not read through `LongMedia`: their audio may be longer than their video, their frames may have no display
times, and decoding the audio in the first sweep is faster.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import torch

from .audio_omnisent import SAMPLE_RATE, AudioBuffer, AudioDecoder, as_percent
from .decoding_omnisent import MediaFile
from .errors_omnisent import MediaError, MediaFault
from .frames_omnisent import OFFICIAL_SAMPLING, SampledFrames, VideoSampling, sample_whole_video
from .packets_omnisent import VideoPackets


@dataclass(frozen=True)
class ClipMedia:
    """The frames and audio of one file, or of a segment of it.

    Attributes:
        frames: (F, 3, h, w) uint8 RGB, F even and >= 2, h and w multiples of the size factor; None if not requested.
        seconds_per_frame_pair: time from one pair of frames to the next, 2 * duration / F; None without frames.
        audio: (samples,) float32, mono at `audio_rate`, full scale [-1, 1]; None if not requested or absent.
        duration: seconds; of the video when frames were read, else of the audio.
        warning: how much of the file could not be read; None for a file without faults.
        audio_rate: samples per second; SAMPLE_RATE unless the file's own was asked for.
    """

    frames: torch.Tensor | None
    seconds_per_frame_pair: float | None
    audio: np.ndarray | None
    duration: float
    warning: str | None = None
    audio_rate: int = SAMPLE_RATE

    @classmethod
    def from_decoded(
        cls,
        frames: SampledFrames | None,
        buffer: AudioBuffer,
        audio: np.ndarray | None,
        duration: float,
        faults: list[str],
    ) -> "ClipMedia":
        """The frames and the finished `audio` of `buffer`, with a warning if something is missing.

        Raises:
            MediaError: when too many frames are missing.
        """
        if frames is None:
            return cls(None, None, audio, duration, _warning(buffer.missing, None, faults), buffer.kept_rate)
        stacked = frames.stacked()  # (F, 3, h, w)
        warning = _warning(buffer.missing, frames, faults)
        return cls(stacked, 2 * duration / len(stacked), audio, duration, warning, buffer.kept_rate)


@dataclass(frozen=True)
class MediaHeader:
    """What the header of a file says; nothing is decoded.

    Attributes:
        has_audio: whether there is an audio stream.
        has_video: whether there is a video stream; cover art does not count.
        seconds: duration, or `None` if the header does not state it.
    """

    has_audio: bool
    has_video: bool
    seconds: float | None


def read_header(path: str | os.PathLike[str]) -> MediaHeader:
    """Read only the header of a file.

    Raises:
        MediaError: when it is missing or cannot be opened.
    """
    with MediaFile(path) as file:
        return MediaHeader(file.audio is not None, file.video is not None, _stated_seconds(file) or None)


@dataclass(frozen=True)
class MediaExtent:
    """How much a file's packets hold, whatever its header says.

    Attributes:
        seconds: to the end of the last packet.
        frames: of the video; 0 without one.
        frame_pixels: of one frame.
    """

    seconds: float
    frames: int
    frame_pixels: int


def measure(path: str | os.PathLike[str]) -> MediaExtent:
    """Count the packets of a file, as far as it can be read; nothing is decoded.

    Raises:
        MediaError: when it is missing or cannot be opened.
    """
    with MediaFile(path) as file, file.reporting():
        frames, pixels = 0, 0
        if file.video is not None and file.video.codec_context is not None:
            pixels = file.video.codec_context.width * file.video.codec_context.height
        with suppress(av.FFmpegError):
            for packet, _ in file.all_packets(None):
                frames += packet.stream is file.video
        return MediaExtent(max(file.end - file.zero, 0.0), frames, pixels)


def longest_seconds(headers: Iterable[MediaHeader]) -> float | None:
    """The longest duration in several headers; `None` if no header states one."""
    return max((header.seconds for header in headers if header.seconds), default=None)


def read_media(
    path: str | os.PathLike[str],
    *,
    video: bool = True,
    audio: bool = True,
    sampling: VideoSampling = OFFICIAL_SAMPLING,
    max_sound_seconds: float = 300.0,
    own_rate: bool = False,
) -> ClipMedia:
    """Read sampled frames and mono audio from a local file. Memory is bounded by the size of the result.

    Frame indices are `linspace(0, total - 1, F).round()` with F from qwen-omni-utils' smart_nframes and `total` the
    true number of frames; the frame of a one-frame video is repeated. Frames are rotated upright. Audio is the mean over
    channels, resampled as librosa does; audio beyond `max_sound_seconds` is neither decoded nor kept.

    In a damaged file, audio that cannot be decoded is replaced with silence, and a frame that cannot be decoded or is marked
    as corrupt with the nearest good frame; `warning` says how much. Missing more than MAX_MISSING of the audio is an error.
    Of four or more frames, one or MAX_MISSING of them may be missing, whichever is more; of fewer, none.

    Args:
        path: a local file; URLs are refused.
        video: read frames; a file without video is then an error.
        audio: read audio; a file without audio is normal.
        sampling: which frames, and their size.
        max_sound_seconds: of audio that is kept.
        own_rate: keep the file's own sample rate instead of SAMPLE_RATE.

    Raises:
        MediaError: missing, a folder, empty, not media, truncated, damaged, no video stream, no frames, a codec that
            FFmpeg cannot read, a frame that is too large or more than 200 times as long as wide, or float audio with
            a sample that is not finite or above MAX_SAMPLE.
    """
    with MediaFile(path) as file, file.reporting():
        if video and file.video is None:
            types = ", ".join(sorted({stream.type for stream in file.container.streams})) or "no streams"
            advice = "export it again" if file.audio is None else "give it as audio"
            reason = f"no video stream: the file holds {types}; {advice}"
            raise MediaError(file.path, reason, MediaFault.NO_VIDEO)
        for stream, is_wanted in ((file.video, video), (file.audio, audio)):
            file.open_decoder(stream if is_wanted else None)
        buffer = AudioBuffer(file.path, max_sound_seconds, own_rate=own_rate)
        packets = VideoPackets() if video else None
        _read_packets(file, packets, file.audio if audio else None, buffer)
        samples = buffer.finish()
        frames, seconds = None, 0.0
        if packets is not None:
            frames, seconds = sample_whole_video(file, packets, sampling)
        else:
            is_part = buffer.is_full or samples is None
            seconds = 0.0 if samples is None else len(samples) / buffer.kept_rate
            seconds = file.check_seconds(max(seconds, _stated_seconds(file)) if is_part else seconds)
        return ClipMedia.from_decoded(frames, buffer, samples, seconds, [fault for _, fault in file.faults])


def _read_packets(file: MediaFile, packets: VideoPackets | None, audio: Any | None, buffer: AudioBuffer) -> None:
    """Read every packet once: list those of video, decode those of audio. Without video, stop when the buffer is full."""
    decoder, read_error, is_enough = AudioDecoder(file), None, False
    try:
        for packet, is_suspect in file.all_packets(packets):
            if is_suspect:
                decoder.suspect_gap()
            if packet.stream is audio and not buffer.is_full:
                for frame in decoder.decode(packet):
                    buffer.append(frame)
                is_enough = packets is None and buffer.is_full
                if is_enough:
                    break
    except av.FFmpegError as fault:
        read_error = fault
    file.note_faults()
    if audio is not None and not buffer.is_full and read_error is None:
        for frame in decoder.decode(None):
            buffer.append(frame)
    if not is_enough:
        file.check_is_whole()
        if decoder.has_failed:
            file.check_last_packet()
        if decoder.is_cut_short and not file.is_of_unknown_length():
            file.faults.append((None, f"{file.container.format.name}: its last packet is cut short"))
    if read_error is not None:
        raise read_error
    if packets is not None:
        packets.find_lost()


def _stated_seconds(file: MediaFile) -> float:
    return (file.container.duration or 0) / av.time_base


def _warning(missing_audio: float, frames: SampledFrames | None, faults: list[str]) -> str | None:
    """What is missing from a file: a fraction of its audio, some frames, or nothing although FFmpeg reports faults."""
    missing = [f"{as_percent(missing_audio)} of its audio"] if missing_audio else []
    doubtful = []
    if frames is not None:
        total = len(frames.indices)
        missing += [f"{len(frames.missing)} of {total} frames"] if frames.missing else []
        doubtful = [f"{len(frames.doubtful)} of {total} frames depend on damaged ones"] if frames.doubtful else []
    undecodable = [f"{' and '.join(missing)} cannot be decoded"] if missing else []
    if not undecodable + doubtful and faults:
        return f"FFmpeg reports damage ({faults[0][:120]}), though everything in the file could be decoded"
    return "; ".join(undecodable + doubtful) or None
