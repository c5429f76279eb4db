"""Speech recognition models of several kinds: what each writes, when it was said, and within which bounds."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import soundfile

from omnisent.data.clip import Clip
from omnisent.scoring import recognizers, transcribe
from omnisent.scoring.recognizers import FASTER_WHISPER, load_recognizer
from omnisent.scoring.speech_detector import Piece, pieces_of
from omnisent.scoring.transcribe import NOTHING_SAID, Transcriber, transcriber_settings
from speech_recognizers import faster_whisper, tiny_moonshine, tiny_speech2text, tiny_wav2vec2, tiny_whisper
from spoken import RATE, spoken

WITH_WORDS, WITHOUT_TIMES = ("faster-whisper", "whisper", "wav2vec2"), ("moonshine", "speech2text")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """Names for --transcribe, by kind."""
    folder = tmp_path_factory.mktemp("models")
    whisper = tiny_whisper(folder / "whisper", words=True)
    return {
        "whisper": str(whisper),
        "faster-whisper": f"{FASTER_WHISPER}{faster_whisper(folder / 'faster', whisper)}",
        "wav2vec2": str(tiny_wav2vec2(folder / "wav2vec2")),
        "moonshine": str(tiny_moonshine(folder / "moonshine")),
        "speech2text": str(tiny_speech2text(folder / "speech2text")),
    }


@pytest.mark.parametrize("kind", [*WITH_WORDS, *WITHOUT_TIMES])
def test_any_kind_of_model_transcribes_speech_and_only_speech(kind, models, tmp_path):
    transcriber = Transcriber(models[kind], "cpu")
    soundfile.write(tmp_path / "silence.wav", np.zeros(4 * RATE), RATE)
    soundfile.write(tmp_path / "speech.wav", spoken(4), RATE)
    assert transcriber(Clip("a", audio=str(tmp_path / "silence.wav"))) == (None, NOTHING_SAID)
    text, warning = transcriber(Clip("b", audio=str(tmp_path / "speech.wav")))
    assert text
    assert warning is None
    audio = np.concatenate([np.zeros(3 * RATE, np.float32), spoken(4), np.zeros(3 * RATE, np.float32)])
    words = list(transcriber.words(audio, transcriber.spans(audio)))
    assert words
    assert all(2 < word.start <= word.end < 8 for word in words)
    assert list(transcriber.words(audio, transcriber.spans(audio))) == words  # nothing is left to chance
    if kind in WITH_WORDS:
        assert len(words) > 1
        assert all(before.start <= after.start for before, after in pairwise(words))
    assert [word.text[0].isspace() for word in words] == [True] * len(words)


@pytest.mark.parametrize("kind", WITHOUT_TIMES)
def test_a_model_without_times_is_given_less_at_once(kind, models):
    assert load_recognizer(models[kind], "cpu").longest == 10


@pytest.mark.parametrize("kind", ["moonshine", "faster-whisper"])
def test_what_is_written_is_as_long_as_speech_can_be(kind, models):
    recognize = load_recognizer(models[kind], "cpu")
    letters = [len("".join(cue.text for cue in recognize(spoken(seconds), False)).strip()) for seconds in (1, 4)]
    most = 3 if kind == "moonshine" else 1  # characters of a token
    assert 0 < letters[0] <= most * 32 < letters[1] <= most * 80


def test_what_repeats_itself_is_written_once_for_its_piece(tmp_path):
    model = faster_whisper(tmp_path / "loop", tiny_whisper(tmp_path / "whisper", always="a", words=True))
    transcriber = Transcriber(f"{FASTER_WHISPER}{model}", "cpu")
    audio = spoken(4)
    (word,) = transcriber.words(audio, [(RATE, 3 * RATE)])
    assert (word.start, word.end, word.text) == (1, 3, " a")


def test_spans_share_a_piece_as_far_as_they_fit_and_times_are_those_of_the_whole():
    audio = np.arange(100 * RATE, dtype=np.float32)
    spans = [(n * RATE, (n + 4) * RATE) for n in (2, 10, 30, 50)]
    first, second = pieces_of(audio, spans, 12)
    assert (first.seconds, second.seconds) == (12, 4)
    assert first.audio[[0, 4 * RATE, 8 * RATE]].tolist() == [2 * RATE, 10 * RATE, 30 * RATE]
    assert first.in_whole(1, 2) == (3, 4)
    assert first.in_whole(4, 5) == (10, 11)
    assert first.in_whole(3, 9) == (5, 6)  # it ends with the span that it starts in
    assert first.in_whole(12, 12) == (34, 34)
    assert second.in_whole(0, 4) == (50, 54)
    assert list(pieces_of(audio, [], 12)) == []
    assert [piece.seconds for piece in pieces_of(audio, [(0, 20 * RATE)], 12)] == [20]
    assert isinstance(first, Piece)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ImportError, match=r"pip install 'omnisent\[whisper\]'"):
        load_recognizer(f"{FASTER_WHISPER}small", "cpu")

    def missing(name: str) -> str:
        raise recognizers.PackageNotFoundError(name)

    monkeypatch.setattr(recognizers, "version", missing)
    with pytest.raises(ImportError, match=r"pip install 'omnisent\[whisper\]'"):
        transcriber_settings(f"{FASTER_WHISPER}small")


def test_settings_change_with_the_model_its_files_the_code_and_its_thresholds(models, tmp_path, monkeypatch):
    before = transcriber_settings(models["wav2vec2"])
    assert transcriber_settings(models["wav2vec2"]) == before
    assert transcriber_settings(models["moonshine"])["transcribe"] != before["transcribe"]
    model = tiny_wav2vec2(tmp_path / "model")
    whole = transcriber_settings(str(model))
    (model / "more.txt").write_text("new")
    changed = transcriber_settings(str(model))
    assert [name for name in whole if whole[name] != changed[name]] == ["files of the recognition model"]
    for module, name, value in ((transcribe, "VERSION", 99), (recognizers, "NO_SPEECH", 0.1)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            changed = transcriber_settings(models["wav2vec2"])
            assert [key for key in before if before[key] != changed[key]] == ["rules of transcription"]
