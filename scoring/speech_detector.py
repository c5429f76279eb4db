"""Finds where speech is in audio, with the Silero voice activity detector, whose weights are part of its package.

Music, noise and silence are not speech, whatever a speech recognition model would write for them.
"""

import warnings

import numpy as np
import torch

from ..audio_omnisent import SAMPLE_RATE

THRESHOLD = 0.5  # probability of speech
LEAST_SPEECH = 0.25  # seconds; anything shorter is not speech
LONGEST_PAUSE = 2.0  # seconds; a longer one is not kept
AROUND = 0.4  # seconds that are kept before and after speech


class SpeechDetector:
    """Keeps the speech in audio. It runs on the CPU, in a few hundredths of the audio's duration."""

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        from silero_vad import get_speech_timestamps, load_silero_vad  # sets the number of threads of the whole process

        torch.set_num_threads(threads)
        with warnings.catch_warnings(action="ignore"):  # of how it loads its weights
            self._model = load_silero_vad()
        self._find = get_speech_timestamps

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """The speech in audio, (samples,) at SAMPLE_RATE, with its pauses of up to LONGEST_PAUSE; empty if there is none."""
        spans = self._find(
            torch.as_tensor(np.clip(audio, -1, 1, dtype=np.float32)),
            self._model,
            sampling_rate=SAMPLE_RATE,
            threshold=THRESHOLD,
            min_speech_duration_ms=round(1000 * LEAST_SPEECH),
            min_silence_duration_ms=round(1000 * LONGEST_PAUSE),
            speech_pad_ms=round(1000 * AROUND),
        )
        return np.concatenate([audio[span["start"] : span["end"]] for span in spans] or [audio[:0]])
