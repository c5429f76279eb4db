"""Decodes a file's audio to mono samples at 16 kHz. Audio that cannot be decoded is replaced with silence of the same length."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from .decoding_omnisent import MAX_MISSING, MediaFile
from .errors_omnisent import MediaError, MediaFault

try:
    import soxr
except ImportError:
    soxr = None

SAMPLE_RATE = 16_000
SAMPLE_RATES = (1000, 1_000_000)
MAX_SAMPLE = 100.0  # of float audio, where full scale is 1; nothing is recorded at 40 dB above it

_SAMPLE_FORMATS = {"u8", "s16", "s32", "flt", "dbl"}
_SAMPLES_AT_ONCE = 16_384  # converted and resampled together
_CLOCK_SECONDS = 0.01  # shorter gaps are rounding: some containers have coarse timestamps


@dataclass(frozen=True)
class Silence:
    """Replaces audio that cannot be decoded: where it starts, in ticks, and how long it is."""

    pts: int
    time_base: Fraction
    sample_rate: int
    samples: int


class AudioDecoder:
    """Decodes a file's audio packets in order; audio that cannot be decoded becomes silence of the same length.

    Attributes:
        has_failed: whether the last packet could not be decoded.
        is_cut_short: whether the last packet of PCM ends within a sample or is marked as corrupt.
    """

    def __init__(self, file: MediaFile) -> None:
        self.file, self.stream = file, file.audio
        self._is_healthy = True  # no fault is pending
        self._last: av.AudioFrame | None = None  # the last good frame
        self._seconds = 0.0  # duration of the bad packets since then
        self._begin: float | None = None  # start of the missing audio, in ticks
        self._is_bad = self._may_lack = False
        self._short: list[av.AudioFrame] = []  # frames of a PCM packet that ends within a sample or is corrupt
        self.has_failed = self.is_cut_short = False

    def suspect_gap(self) -> None:
        """Note that the file is damaged here, so that a gap before the next good frame counts as missing audio."""
        self._may_lack, self._is_healthy = True, False

    def decode(self, packet: av.Packet | None) -> list[av.AudioFrame | Silence]:
        """Decode a packet, or flush the decoder with None. Silence comes first for audio that is missing before it."""
        frames, is_bad = self.file.decode(self.stream, packet)
        for frame in frames or []:
            is_bad |= frame.is_corrupt
        if not is_bad and self._is_healthy and packet is not None:
            if frames:
                self._last = frames[-1]
            return frames or []
        decoded: list[av.AudioFrame | Silence] = []
        if packet is not None:
            self.has_failed, self.is_cut_short = frames is None, False
        if self._short:  # in the middle, the following samples are shifted; at the end, nothing is missing
            if packet is None:
                decoded += self._short
            else:
                self._lose(packet, self._short)
            self._short = []
        is_pcm = self.stream.codec_context.name.startswith("pcm_")
        if is_bad and frames and packet is not None and is_pcm:
            self._short, self.is_cut_short = frames, True
        elif is_bad:
            self._lose(packet, frames or [])
        else:
            for frame in frames or []:
                decoded += self._missing(frame)
                self._last = frame
                decoded.append(frame)
        if packet is None and self._is_bad:
            decoded += self._missing(None)
        self._is_healthy = not (self._is_bad or self._may_lack or self._short or self.has_failed or self.is_cut_short)
        return decoded

    def _lose(self, packet: av.Packet | None, frames: list[av.AudioFrame]) -> None:
        if not self._is_bad:
            self._is_bad, self._begin = True, self._end_of_last()
        first = frames[0].pts if frames else packet.pts if packet is not None else None
        if self._begin is None and first is not None:
            self._begin = max(first, self.stream.start_time or 0)  # the encoder's priming samples are before the start
        seconds = sum(frame.samples / max(frame.sample_rate, 1) for frame in frames)
        stated = float((packet.duration or 0) * self.stream.time_base) if packet is not None else 0.0
        self._seconds += seconds or stated or (self._last.samples / self._last.sample_rate if self._last else 0.0)

    def _end_of_last(self) -> float | None:
        if self._last is None or self._last.pts is None:
            return None
        return self._last.pts + self._last.samples / self._last.sample_rate / float(self.stream.time_base)

    def _missing(self, following: av.AudioFrame | None) -> list[Silence]:
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
        rate = (
            following.sample_rate if following is not None else self.stream.codec_context.sample_rate
        ) or SAMPLE_RATE
        return [Silence(round(begin or 0), self.stream.time_base, rate, max(1, round(seconds * rate)))]


class AudioBuffer:
    """Gathers decoded audio frames as mono float32, at most `max_seconds` of them, at SAMPLE_RATE, or at the file's own rate.

    Frames are converted many at a time; the result does not depend on how many.
    """

    def __init__(self, path: str, max_seconds: float, *, own_rate: bool = False) -> None:
        self.path, self.max_seconds, self.own_rate = path, max_seconds, own_rate
        self.kept_rate, self.limit = SAMPLE_RATE, max(1, round(max_seconds * SAMPLE_RATE))
        self.rate: int | None = None
        self.resampler: Any = None
        self.taken = self.lost = self.kept = 0
        self.chunks: list[np.ndarray] = []
        self._waiting: list[np.ndarray] = []  # (channels, samples) each, all of one type
        self._waiting_samples = 0

    @property
    def is_full(self) -> bool:
        """Whether `max_seconds` of audio are kept."""
        return self.kept >= self.limit

    @property
    def missing(self) -> float:
        """Fraction of the audio that could not be decoded."""
        return self.lost / max(self.taken, 1)

    def append(self, frame: av.AudioFrame | Silence, part: slice = slice(None)) -> None:
        """Add a decoded frame, or a part of its samples."""
        if frame.sample_rate != self.rate:
            self._set_rate(frame.sample_rate)
        if isinstance(frame, Silence):
            most = math.ceil((self.limit - self.kept) * (frame.sample_rate / self.kept_rate)) + frame.sample_rate
            samples = np.zeros((1, min(len(range(frame.samples)[part]), most)), np.float32)
            self.lost += samples.shape[1]
        else:
            samples = _channels(self.path, frame)[:, part]
        before = self._waiting[0] if self._waiting else samples
        if (before.dtype, len(before)) != (samples.dtype, len(samples)):
            self._convert()
        self._waiting.append(samples)
        self._waiting_samples += samples.shape[1]
        self.taken += samples.shape[1]
        if self._waiting_samples >= _SAMPLES_AT_ONCE:
            self._convert()

    def finish(self) -> np.ndarray | None:
        """The kept audio, (samples,) float32, as long as librosa's: ceil(taken * kept_rate / rate); None without samples.

        Raises:
            MediaError: when too much is missing.
        """
        if self.rate is None or not self.taken:
            return None
        if self.missing > MAX_MISSING:
            raise MediaError(
                self.path,
                f"damaged: {as_percent(self.missing)} of its audio cannot be decoded, at most {as_percent(MAX_MISSING)}"
                " may be missing; export it again",
                MediaFault.DAMAGED,
            )
        self._convert()
        if self.resampler is not None and not self.is_full:
            self._keep(self.resampler.resample_chunk(np.empty(0, np.float32), last=True))
        count = min(math.ceil(self.taken * (float(self.kept_rate) / self.rate)), self.limit)
        samples = np.concatenate(self.chunks)[:count]
        _check_samples(self.path, samples)
        return np.pad(samples, (0, count - len(samples)))

    def _convert(self) -> None:
        """Keep the waiting samples, as mono and resampled."""
        if self._waiting:
            samples = _mono(self.path, np.concatenate(self._waiting, axis=1))
            self._waiting, self._waiting_samples = [], 0
            self._keep(samples if self.resampler is None else self.resampler.resample_chunk(samples))

    def _keep(self, samples: np.ndarray) -> None:
        self.chunks.append(samples)
        self.kept += len(samples)

    def _set_rate(self, rate: int) -> None:
        if self.rate is not None:
            raise MediaError(
                self.path,
                f"expected audio with one sample rate, found {self.rate} Hz then {rate} Hz; re-encode it",
                MediaFault.UNSUPPORTED,
            )
        if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
            raise MediaError(
                self.path,
                f"its audio has a sample rate of {rate} Hz, expected {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]};"
                " re-encode it",
                MediaFault.UNSUPPORTED,
            )
        self.rate = rate
        if self.own_rate:
            self.kept_rate, self.limit = rate, max(1, round(self.max_seconds * rate))
        elif rate != SAMPLE_RATE:
            if soxr is None:
                raise ImportError("audio that is not at 16 kHz needs the soxr package: pip install soxr")
            self.resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")


def as_percent(fraction: float) -> str:
    """A fraction in whole percent, as in `12 %`."""
    return f"{fraction:.0%}".replace("%", " %") if fraction >= 0.005 else "less than 1 %"


def _channels(path: str, frame: av.AudioFrame) -> np.ndarray:
    """One decoded audio frame as (channels, samples), in the type of its format."""
    if frame.format.name.removesuffix("p") not in _SAMPLE_FORMATS:
        raise MediaError(
            path,
            f"its audio has samples of format {frame.format.name}, expected 8 to 32 bits; re-encode it",
            MediaFault.UNSUPPORTED,
        )
    if frame.format.is_planar and frame.layout.nb_channels >= 8:
        frame = _interleaved(path, frame)
    samples = frame.to_ndarray()
    return samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T


def _mono(path: str, samples: np.ndarray) -> np.ndarray:
    """Decoded (channels, samples) as (samples,) float32, full scale [-1, 1], the mean over the channels."""
    if samples.dtype == np.uint8:
        samples = samples.astype(np.float32) / 128 - 1
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / 2.0 ** (8 * samples.dtype.itemsize - 1)
    else:
        _check_samples(path, samples)
    return np.ascontiguousarray(samples.mean(axis=0), dtype=np.float32)


def _interleaved(path: str, frame: av.AudioFrame) -> av.AudioFrame:
    """The frame with interleaved channels: with eight planes or more, PyAV reads past the last one and crashes."""
    try:
        (packed,) = av.AudioResampler(frame.format.name.removesuffix("p"), frame.layout, frame.sample_rate).resample(
            frame
        )
    except (av.FFmpegError, ValueError) as fault:
        raise MediaError(
            path,
            f"its audio has {frame.layout.nb_channels} channels, which cannot be read; mix it down to two",
            MediaFault.UNSUPPORTED,
        ) from fault
    return packed


def _check_samples(path: str, samples: np.ndarray) -> None:
    if np.vdot(samples, samples) <= MAX_SAMPLE**2:  # a fast check: the sum of squares bounds every square
        return
    peak = np.abs(samples).max(initial=0)
    if not peak <= MAX_SAMPLE:
        raise MediaError(
            path,
            f"damaged: its audio has a sample of {peak:.3g}, expected finite samples of at most {MAX_SAMPLE:g} where full"
            " scale is 1; export it again",
            MediaFault.DAMAGED,
        )
