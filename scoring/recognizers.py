"""Speech recognition models, of transformers and of faster-whisper: seconds of speech to text, with times if the model has any.

What a model writes is kept within bounds: recognition models, Whisper above all, may repeat something without end.
"""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import pipeline
from transformers.utils import cached_file

from ..audio_omnisent import SAMPLE_RATE
from ..thinker_omnisent import pinned_revision
from .row_sources import files_of
from .subtitles import Cue

FASTER_WHISPER = "faster-whisper:"  # before the name or folder of such a model
AT_ONCE_SECONDS = 28.0  # a Whisper hears 30 s
WITHOUT_TIMES_SECONDS = 10.0  # of what a model without times transcribes at once
TOKENS_PER_SECOND, TOKENS_AT_LEAST = 16, 16  # fast speech has 5 to 10 a second, and timestamps are tokens too
# Of Whisper: an answer that repeats itself or is improbable is sampled anew, and one for what is likely no speech left out.
TEMPERATURES = (0.0, 0.2, 0.4)
LOG_PROBABILITY, NO_SPEECH = -1.0, 0.6
TOKEN_COMPRESSION = 1.35  # of tokens, as transformers computes it


class Recognizer(Protocol):
    """Writes what is said in a piece of speech.

    Attributes:
        longest: seconds of speech that it is given at once.
    """

    longest: float

    def __call__(self, audio: np.ndarray, timed: bool) -> list[Cue]:
        """Words, segments or all of it, in order; their texts joined are the transcript. Times are seconds.

        Args:
            audio: (samples,) at SAMPLE_RATE.
            timed: whether times are wanted as exact as the model has them.
        """


def load_recognizer(model: str, device: str) -> Recognizer:
    """A model of transformers, Hub id or folder; after `faster-whisper:` one of that package, or its name for a size.

    Raises:
        ImportError: for faster-whisper where it is not installed.
        OSError, ValueError, RuntimeError: for a model that cannot be loaded.
    """
    if model.startswith(FASTER_WHISPER):
        return FasterWhisper(model.removeprefix(FASTER_WHISPER), device)
    return TransformersRecognizer(model, device)


def recognizer_settings(model: str) -> dict[str, Any]:
    """What a transcript depends on beside its audio and this package: the model, its files or commit, and other packages.

    Raises:
        ImportError: for faster-whisper where it is not installed.
    """
    is_faster, name = model.startswith(FASTER_WHISPER), model.removeprefix(FASTER_WHISPER)
    try:
        used = ("faster-whisper", "ctranslate2") if is_faster else ("transformers",)
        packages = ", ".join(f"{package} {version(package)}" for package in ("silero-vad", *used))
    except PackageNotFoundError as error:
        raise _missing() from error
    files = None
    if Path(name).is_dir():
        files = files_of(Path(name))
    elif not is_faster:
        with suppress(OSError):  # loading it says why it is not available
            cached_file(name, "config.json")  # from then on, its commit is known
        files = pinned_revision(name, None)
    return {"transcribe": model, "files of the recognition model": files, "packages for transcription": packages}


def _missing() -> ImportError:
    return ImportError("--transcribe faster-whisper:MODEL needs faster-whisper: pip install 'omnisent[whisper]'")


def most_tokens(seconds: float, room: int) -> int:
    """How many tokens may be written for so much speech, by a model with room for so many."""
    return min(round(TOKENS_AT_LEAST + TOKENS_PER_SECOND * seconds), room // 2)


class TransformersRecognizer:
    """Any model that the pipeline of transformers for speech recognition takes."""

    def __init__(self, model: str, device: str) -> None:
        self._pipeline: Any = pipeline("automatic-speech-recognition", model=model, device=device)
        self._settings = getattr(self._pipeline.model, "generation_config", None)
        self._is_whisper = self._pipeline.type == "seq2seq_whisper"
        # Old Whispers lack settings for timestamps, by whose token that for no speech is found, and some those for words.
        self._has_segments = self._is_whisper and hasattr(self._settings, "no_timestamps_token_id")
        self._times = self._finest_times()
        self.longest = AT_ONCE_SECONDS if self._times else WITHOUT_TIMES_SECONDS

    def _finest_times(self) -> Any:
        """As the pipeline takes it: `"word"`, `True` for those of segments, or `False` for none."""
        kind, tokenizer = self._pipeline.type, self._pipeline.tokenizer
        if self._is_whisper:
            has_words = self._has_segments and getattr(self._settings, "alignment_heads", None) is not None
            return "word" if has_words else self._has_segments
        has_words = kind == "ctc_with_lm" or (kind == "ctc" and hasattr(tokenizer, "_get_word_offsets"))
        return "word" if has_words else False

    def __call__(self, audio: np.ndarray, timed: bool) -> list[Cue]:
        seconds, device = len(audio) / SAMPLE_RATE, self._pipeline.device
        options: dict[str, Any] = {"generate_kwargs": self._generation(seconds)}
        if self._has_segments:
            options["return_timestamps"] = self._times if timed else True
        elif timed and self._times:
            options["return_timestamps"] = self._times
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)  # a transcript does not depend on those before it
            result = self._pipeline({"raw": audio, "sampling_rate": SAMPLE_RATE}, **options)
        if not timed or "chunks" not in result:
            return [Cue(0.0, seconds, result["text"])]
        gap = "" if self._is_whisper else " "
        return [Cue(*_within(chunk["timestamp"], seconds), gap + chunk["text"]) for chunk in result["chunks"]]

    def _generation(self, seconds: float) -> dict[str, Any]:
        if not self._pipeline.type.startswith("seq2seq"):  # others, CTC, write at most a token for a piece of audio
            return {}
        config = self._pipeline.model.config.get_text_config(decoder=True)
        room = next((int(n) for name in _ROOM if (n := getattr(config, name, None))), 2 * TOKENS_PER_SECOND * 30)
        generation: dict[str, Any] = {"max_new_tokens": most_tokens(seconds, room)}
        if self._is_whisper:
            generation |= {
                "temperature": TEMPERATURES,
                "compression_ratio_threshold": TOKEN_COMPRESSION,
                "logprob_threshold": LOG_PROBABILITY,
                "condition_on_prev_tokens": False,  # or a repetition would continue in the next window
            }
        if self._has_segments:
            generation["no_speech_threshold"] = NO_SPEECH
        return generation


_ROOM = ("max_target_positions", "max_position_embeddings")  # names of the longest answer in settings of models


class FasterWhisper:
    """A Whisper that CTranslate2 computes, with the times of words."""

    longest = AT_ONCE_SECONDS

    def __init__(self, model: str, device: str) -> None:
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise _missing() from error
        kind, _, index = device.partition(":")
        self._model = WhisperModel(model, device=kind, device_index=int(index or 0))

    def __call__(self, audio: np.ndarray, timed: bool) -> list[Cue]:
        seconds = len(audio) / SAMPLE_RATE
        segments, _ = self._model.transcribe(
            audio,
            temperature=0.0,  # its samples at higher ones cannot be drawn again, which resuming needs
            log_prob_threshold=LOG_PROBABILITY,
            no_speech_threshold=NO_SPEECH,
            condition_on_previous_text=False,
            max_new_tokens=most_tokens(seconds, self._model.max_length),
            word_timestamps=timed,
            vad_filter=False,  # it is given speech alone
        )
        cues = []
        for segment in segments:
            parts = [(word.start, word.end, word.word) for word in segment.words or ()]
            parts = parts or [(segment.start, segment.end, segment.text)]
            cues += [Cue(*_within((start, end), seconds), text) for start, end, text in parts]
        return cues


def _within(times: tuple[float | None, float | None], seconds: float) -> tuple[float, float]:
    """Start and end, which may be unknown, within a piece of speech."""
    start = min(max(float(times[0] or 0.0), 0.0), seconds)
    return start, min(max(float(seconds if times[1] is None else times[1]), start), seconds)
