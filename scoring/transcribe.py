"""Transcribes clips with any speech recognition model that transformers has a pipeline for.

This package reads the audio, so that no other program is needed. Only speech reaches the model, and what the model writes is kept
within bounds: recognition models, Whisper above all, also write something for silence, and may repeat it without end.
"""

import re
from typing import Any

import torch
from transformers import pipeline

from ..audio_omnisent import SAMPLE_RATE
from ..data.clip import Clip
from ..errors_omnisent import MediaError
from ..media_omnisent import read_media
from .speech_detector import SpeechDetector

AT_ONCE_SECONDS = 30
TOKENS_PER_SECOND, TOKENS_AT_LEAST = 16, 16  # fast speech has 5 to 10 a second, and timestamps are tokens too
NOTHING_SAID = "no speech in its audio, so there is no transcript"
# Of Whisper: an answer that repeats itself or is improbable is sampled anew, and one for what is likely no speech left out.
THRESHOLDS = {
    "temperature": (0.0, 0.2, 0.4),
    "compression_ratio_threshold": 1.35,  # of tokens, as transformers computes it
    "logprob_threshold": -1.0,
    "no_speech_threshold": 0.6,
    "condition_on_prev_tokens": False,  # or a repetition would continue in the next window
}
# Whole words that follow each other five times or more, or likewise anything without digits: 5 000 000 is a number.
_LOOP = re.compile(r"(?<!\S)((?:\S+ ){1,40}?)\1{4,}|(\D{1,40}?)\2{4,}", re.IGNORECASE)


class Transcriber:
    """Writes transcripts.

    Args:
        model: Hub id or folder of a speech recognition model, such as a Whisper.
        device: such as `"cuda"` or `"cpu"`.

    Raises:
        OSError, ValueError: from transformers, for a model that cannot be loaded.
    """

    def __init__(self, model: str, device: str) -> None:
        self._recognize: Any = pipeline("automatic-speech-recognition", model=model, device=device)
        self._speech_in = SpeechDetector()

    def __call__(self, clip: Clip) -> tuple[str | None, str | None]:
        """The transcript of a clip, and a warning if nothing is said in it.

        Neither comes of a clip without audio, or of a file that cannot be read (scoring reports it).
        """
        path = clip.audio or clip.video
        if path is None:
            return None, None
        try:
            audio = read_media(path, video=False).audio  # (samples,)
        except MediaError:
            return None, None
        if audio is None:
            return None, None
        speech = self._speech_in(audio)
        text = self._recognized(speech) if len(speech) else None
        return (text, None) if text else (None, NOTHING_SAID)

    def _recognized(self, speech: Any) -> str | None:
        device = self._recognize.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)  # a transcript does not depend on those before it
            result = self._recognize({"raw": speech, "sampling_rate": SAMPLE_RATE}, **self._options(len(speech)))
        return without_loops(result["text"])

    def _options(self, samples: int) -> dict[str, Any]:
        seconds, kind, model = samples / SAMPLE_RATE, self._recognize.type, self._recognize.model
        generation: dict[str, Any] = {}
        if kind.startswith("seq2seq"):  # others, CTC, write at most a token for a piece of audio
            room = getattr(model.config, "max_target_positions", None) or AT_ONCE_SECONDS * TOKENS_PER_SECOND
            most = round(TOKENS_AT_LEAST + TOKENS_PER_SECOND * min(seconds, AT_ONCE_SECONDS))
            generation["max_new_tokens"] = min(most, room // 2)
        options: dict[str, Any] = {"generate_kwargs": generation}
        # Whisper continues at its own timestamps, except models from before these were in its settings; others read chunks.
        has_timestamps = hasattr(getattr(model, "generation_config", None), "no_timestamps_token_id")
        if kind == "seq2seq_whisper":
            generation |= THRESHOLDS
            options["return_timestamps"] = has_timestamps
            if not has_timestamps:  # the token for no speech is found by that of timestamps
                del generation["no_speech_threshold"]
        if seconds > AT_ONCE_SECONDS and not has_timestamps:
            options["chunk_length_s"] = AT_ONCE_SECONDS
        return options


def without_loops(text: str) -> str | None:
    """A transcript in which what follows itself five times or more is written once; `None` if no letter or digit is left.

    That is one to forty whole words, or up to forty characters without digits, such as of a script without spaces.
    """
    once = _LOOP.sub(lambda loop: loop[1] or loop[2], " ".join(text.split()) + " ").strip()
    return once if any(map(str.isalnum, once)) else None
