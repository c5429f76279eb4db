"""What is said in a clip, by a speech recognition model of the user's choice: any of transformers' pipelines for it.

The sound is read by this package, so that no other program is needed.
"""

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
        OSError, ValueError: as transformers has it, for a model that cannot be loaded.
    """

    def __init__(self, model: str, device: str) -> None:
        self._recognize = pipeline("automatic-speech-recognition", model=model, device=device)

    def __call__(self, clip: Clip) -> str | None:
        """What is said in a clip; `None` without sound or words, or when its file cannot be read, which scoring will say."""
        path = clip.audio or clip.video
        if path is None:
            return None
        try:
            sound = read_media(path, video=False).audio  # (samples,)
        except MediaError:
            return None
        if sound is None:
            return None
        options = {}
        if (
            len(sound) > AT_ONCE_SECONDS * SAMPLE_RATE
        ):  # Whisper goes on by its own timestamps, others from piece to piece
            is_whisper = self._recognize.type == "seq2seq_whisper"
            options = {"return_timestamps": True} if is_whisper else {"chunk_length_s": AT_ONCE_SECONDS}
        heard = self._recognize({"raw": sound, "sampling_rate": SAMPLE_RATE}, **options)
        return heard["text"].strip() or None
