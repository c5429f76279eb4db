"""Finds where speech is in audio, with the Silero voice activity detector, whose weights are part of its package.

Music, noise and silence are not speech, whatever a speech recognition model would write for them.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..audio_omnisent import SAMPLE_RATE

THRESHOLD = 0.5  # probability of speech
LEAST_SPEECH = 0.25  # seconds; anything shorter is not speech
LONGEST_PAUSE = 2.0  # seconds; a longer one is not kept
AROUND = 0.4  # seconds that are kept before and after speech


@dataclass(frozen=True)
class Piece:
    """Speech that is transcribed at once: parts of audio, in order.

    Attributes:
        audio: (samples,) at SAMPLE_RATE, the parts without what is between them.
        spans: the first sample of each part in the whole audio, and the one after its last.
    """

    audio: np.ndarray
    spans: tuple[tuple[int, int], ...]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.audio) / SAMPLE_RATE

    def in_whole(self, start: float, end: float) -> tuple[float, float]:
        """Where a time in the piece is in the whole audio, seconds; it ends with the part that it starts in."""
        before = 0.0
        for first, last in self.spans:
            length = (last - first) / SAMPLE_RATE
            if start < before + length or (first, last) == self.spans[-1]:
                shift = first / SAMPLE_RATE - before
                return start + shift, min(end + shift, last / SAMPLE_RATE)
            before += length
        return start, end


class SpeechDetector:
    """Finds the speech in audio. It runs on the CPU, in a few hundredths of the audio's duration."""

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        from silero_vad import get_speech_timestamps, load_silero_vad  # sets the number of threads of the whole process

        torch.set_num_threads(threads)
        with warnings.catch_warnings(action="ignore"):  # of how it loads its weights
            self._model = load_silero_vad()
        self._find = get_speech_timestamps

    def spans(self, audio: np.ndarray, longest: float = math.inf) -> list[tuple[int, int]]:
        """First and last sample of each span of speech, with its pauses of up to LONGEST_PAUSE.

        Args:
            audio: (samples,) at SAMPLE_RATE.
            longest: seconds of a span; one that would be longer is divided at its longest pause, if it has one.
        """
        found = self._find(
            torch.as_tensor(np.clip(audio, -1, 1, dtype=np.float32)),
            self._model,
            sampling_rate=SAMPLE_RATE,
            threshold=THRESHOLD,
            min_speech_duration_ms=round(1000 * LEAST_SPEECH),
            min_silence_duration_ms=round(1000 * LONGEST_PAUSE),
            max_speech_duration_s=longest,
            speech_pad_ms=round(1000 * AROUND),
        )
        return [(span["start"], span["end"]) for span in found]


def pieces_of(audio: np.ndarray, spans: Sequence[tuple[int, int]], longest: float) -> Iterable[Piece]:
    """The speech in audio, (samples,), several spans in a piece as far as they fit into `longest` seconds."""
    some: list[tuple[int, int]] = []
    for span in [*spans, None]:
        length = sum(last - first for first, last in [*some, *([span] if span else [])])
        if some and (span is None or length > longest * SAMPLE_RATE):
            yield Piece(np.concatenate([audio[first:last] for first, last in some]), tuple(some))
            some = []
        if span is not None:
            some.append(span)
