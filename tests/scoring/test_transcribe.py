"""A transcript holds what is said: nothing for audio without speech, and no endless repetition, whatever the model would write."""

import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline

from omnisent.data.clip import Clip
from omnisent.scoring.speech_detector import SpeechDetector, pieces_of
from omnisent.scoring.transcribe import NOTHING_SAID, Transcriber, without_loops
from speech_recognizers import tiny_wav2vec2, tiny_whisper
from spoken import RATE, spoken

TIME = np.arange(4 * RATE) / RATE
NOISE = np.random.default_rng(0).normal(size=len(TIME))


def tone(hertz: float) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * TIME)


def chords() -> np.ndarray:
    """Four chords that fade, a second each, with overtones."""
    ratios = [(2 * np.pi * ratio * part, part) for ratio in (1, 1.26, 1.5) for part in (1, 2, 3)]
    roots = np.repeat([220, 262, 196, 294], RATE)
    return sum(0.05 * np.sin(angle * roots * TIME) / part for angle, part in ratios) * np.exp(-2 * (TIME % 1))


WITHOUT_SPEECH = {
    "silence": 0 * TIME,
    "quiet noise": 0.001 * NOISE,
    "loud noise": 0.3 * NOISE,
    "brown noise": np.cumsum(NOISE) / 500,
    "hum": tone(50),
    "tone": tone(440),
    "tremolo": tone(300) * (1 + np.sin(8 * np.pi * TIME)) / 2,
    "square": np.sign(tone(150)) / 5,
    "sweep": 0.3 * np.sin(2 * np.pi * (100 + 300 * TIME) * TIME),
    "clicks": (np.abs(NOISE) > 3.5) * 0.8,
    "chords": chords(),
}


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("model") / "whisper")


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    return tiny_wav2vec2(tmp_path_factory.mktemp("model") / "wav2vec2")


@pytest.fixture
def clip(tmp_path):
    """A clip of audio."""

    def written(audio: np.ndarray, name: str = "a") -> Clip:
        soundfile.write(tmp_path / f"{name}.wav", np.clip(audio, -1, 1), RATE)
        return Clip(name, audio=str(tmp_path / f"{name}.wav"))

    return written


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2"])
def test_nothing_said_is_nothing_written(kind, request, clip):
    model = request.getfixturevalue(kind)
    transcriber = Transcriber(str(model), "cpu")
    for name, audio in WITHOUT_SPEECH.items():
        assert transcriber(clip(audio)) == (None, NOTHING_SAID), name
    bare = pipeline("automatic-speech-recognition", model=str(model), device="cpu")
    raw = {"raw": WITHOUT_SPEECH["chords"].astype(np.float32), "sampling_rate": RATE}
    assert bare(raw, **({"max_new_tokens": 8} if kind == "whisper" else {}))["text"].strip()  # the model itself babbles


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2"])
@pytest.mark.parametrize("seconds", [2, 33])
def test_speech_is_transcribed(kind, seconds, request, clip):
    text, warning = Transcriber(str(request.getfixturevalue(kind)), "cpu")(clip(spoken(seconds)))
    assert text
    assert warning is None


def test_only_speech_reaches_the_model():
    pause = np.zeros(6 * RATE, np.float32)
    audio = np.concatenate([pause, spoken(3), pause, spoken(2), pause])
    (piece,) = pieces_of(audio, SpeechDetector().spans(audio), 30)
    speech = piece.audio
    assert 5 * RATE < len(speech) < 8 * RATE
    assert np.abs(speech).sum() == pytest.approx(np.abs(audio).sum())
    short = np.concatenate([spoken(2), pause[:RATE], spoken(2)])
    ((first, last),) = SpeechDetector().spans(short)
    assert last - first == pytest.approx(len(short), abs=RATE // 10)


def test_the_detector_leaves_torch_as_many_threads_as_before():
    torch.set_num_threads(2)
    try:
        SpeechDetector()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_model_without_timestamps_transcribes_too(clip, tmp_path):
    transcriber = Transcriber(str(tiny_whisper(tmp_path / "old", timestamps=False)), "cpu")
    assert 0 < len(transcriber(clip(spoken(2)))[0]) < len(transcriber(clip(spoken(33)))[0])


def test_a_transcript_is_at_most_as_long_as_speech_can_be(clip, whisper):
    transcriber = Transcriber(str(whisper), "cpu")
    texts = [transcriber(clip(spoken(seconds)))[0] for seconds in (1, 4)]
    assert 0 < len(texts[0]) <= 16 + 16 * 2 < len(texts[1]) <= 16 + 16 * 5


def test_a_transcript_does_not_depend_on_those_before_it(clip, whisper):
    transcriber, first, second = Transcriber(str(whisper), "cpu"), clip(spoken(2), "a"), clip(spoken(3), "b")
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    texts = [transcriber(one) for one in (first, second)]
    assert torch.rand(1) == expected
    assert [transcriber(one) for one in (second, first)] == texts[::-1]
    assert texts[0] != texts[1]


def test_a_model_that_repeats_itself_is_cut_short(clip, tmp_path):
    model = tiny_whisper(tmp_path / "loop", always="a")
    assert Transcriber(str(model), "cpu")(clip(spoken(4))) == ("a", None)


def test_clips_without_audio_and_unreadable_ones_have_neither_transcript_nor_warning(whisper, half_read, tmp_path):
    transcriber = Transcriber(str(whisper), "cpu")
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    assert transcriber(Clip("a", text="a")) == transcriber(Clip("b", audio=str(tmp_path / "bad.wav"))) == (None, None)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("I don't know. " * 40, "I don't know."),
        ("So. " + "I don't know. " * 5 + "Yes.", "So. I don't know. Yes."),
        ("No no no no!", "No no no no!"),
        ("It was very, very, very, very good.", "It was very, very, very, very good."),
        ("no No NO no no no nothing", "no nothing"),
        ("It cost 5000000.", "It cost 5000000."),
        ("10 10 10 10 10", "10"),
        ("我不知道。" * 6, "我不知道。"),
        ("......" * 100, None),
        (" ♪ ♪ ", None),
        ("", None),
        ("Ha" + "ha" * 50, "Ha"),
        ("a\nb", "a b"),
    ],
)
def test_loops_are_written_once(text, kept):
    assert without_loops(text) == kept
