"""Transcribes clips with any speech recognition model that transformers has a pipeline for.

This package reads the audio, so that no other program is needed.
"""

from typing import Any

from transformers import pipeline

from ..audio_omnisent import SAMPLE_RATE
from ..data.clip import Clip
from ..errors_omnisent import MediaError
from ..media_omnisent import read_media

AT_ONCE_SECONDS = 30


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

    def __call__(self, clip: Clip) -> str | None:
        """The transcript of a clip; `None` without audio or words, or for a file that cannot be read (scoring reports it)."""
        path = clip.audio or clip.video
        if path is None:
            return None
        try:
            audio = read_media(path, video=False).audio  # (samples,)
        except MediaError:
            return None
        if audio is None:
            return None
        options: dict[str, Any] = {}
        if (
            len(audio) > AT_ONCE_SECONDS * SAMPLE_RATE
        ):  # Whisper continues at its own timestamps, other models in chunks
            is_whisper = self._recognize.type == "seq2seq_whisper"
            options = {"return_timestamps": True} if is_whisper else {"chunk_length_s": AT_ONCE_SECONDS}
        result = self._recognize({"raw": audio, "sampling_rate": SAMPLE_RATE}, **options)
        return result["text"].strip() or None
