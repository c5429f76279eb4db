"""Transcribes clips and long recordings. Only speech reaches the recognition model: for silence too, it would write something.

This package reads the audio, so that no other program is needed.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..data.clip import Clip
from ..errors_omnisent import MediaError
from ..media_omnisent import read_media
from . import recognizers, speech_detector
from .recognizers import load_recognizer, recognizer_settings
from .speech_detector import Piece, SpeechDetector, pieces_of
from .subtitles import Cue, words_of

VERSION = 2  # raise when the same audio and model give another transcript
NOTHING_SAID = "no speech in its audio, so there is no transcript"
# Whole words that follow each other five times or more, or likewise anything without digits: 5 000 000 is a number.
_LOOP = re.compile(r"(?<!\S)((?:\S+ ){1,40}?)\1{4,}|(\D{1,40}?)\2{4,}", re.IGNORECASE)
_RULES = (
    (speech_detector, ("THRESHOLD", "LEAST_SPEECH", "LONGEST_PAUSE", "AROUND")),
    (recognizers, ("AT_ONCE_SECONDS", "WITHOUT_TIMES_SECONDS", "TOKENS_PER_SECOND", "TOKENS_AT_LEAST")),
    (recognizers, ("TEMPERATURES", "LOG_PROBABILITY", "NO_SPEECH", "TOKEN_COMPRESSION")),
)


def transcriber_settings(model: str) -> dict[str, Any]:
    """What a transcript depends on beside its audio: model and packages, the version of this code, and its thresholds.

    Raises:
        ImportError: for a model of a package that is not installed.
    """
    values = [f"{name.lower()} {getattr(module, name)}" for module, names in _RULES for name in names]
    return {**recognizer_settings(model), "rules of transcription": ", ".join([f"version {VERSION}", *values])}


class Transcriber:
    """Writes transcripts.

    Args:
        model: a speech recognition model, see `load_recognizer`.
        device: such as `"cuda"` or `"cpu"`.

    Raises:
        ImportError, OSError, ValueError, RuntimeError: for a model that cannot be loaded.
    """

    def __init__(self, model: str, device: str) -> None:
        self._recognize = load_recognizer(model, device)
        self._detector = SpeechDetector()

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
        pieces = pieces_of(audio, self.spans(audio), self._recognize.longest)
        text = without_loops(" ".join(_joined(self._recognize(piece.audio, False)) for piece in pieces))
        return (text, None) if text else (None, NOTHING_SAID)

    def spans(self, audio: np.ndarray) -> list[tuple[int, int]]:
        """Where speech is in audio, (samples,): first and last sample of each span, no longer than is transcribed at once."""
        return self._detector.spans(audio, self._recognize.longest)

    def words(self, audio: np.ndarray, spans: list[tuple[int, int]]) -> Iterator[Cue]:
        """The words in spans of audio, (samples,), with their times in seconds; each text with the space before it."""
        for piece in pieces_of(audio, spans, self._recognize.longest):
            for word in self._words_in(piece):
                yield Cue(*piece.in_whole(word.start, word.end), word.text)

    def _words_in(self, piece: Piece) -> list[Cue]:
        cues = self._recognize(piece.audio, True)
        text = without_loops(_joined(cues))
        if text is None:
            return []
        if text != " ".join(_joined(cues).split()):  # which of its times are those of the loops is not known
            cues = [Cue(0.0, piece.seconds, f" {text}")]
        elif cues and not cues[0].text[:1].isspace():
            cues = [Cue(cues[0].start, cues[0].end, f" {cues[0].text}"), *cues[1:]]
        return [word for cue in cues for word in words_of(cue)]


def _joined(cues: list[Cue]) -> str:
    return "".join(cue.text for cue in cues)


def without_loops(text: str) -> str | None:
    """A transcript in which what follows itself five times or more is written once; `None` if no letter or digit is left.

    That is one to forty whole words, or up to forty characters without digits, such as of a script without spaces.
    """
    once = _LOOP.sub(lambda loop: loop[1] or loop[2], " ".join(text.split()) + " ").strip()
    return once if any(map(str.isalnum, once)) else None
