"""What a score rests on: the same as leaving a modality or a word out and scoring the clip anew."""

import numpy as np
import pytest
import torch

from omnisent.data.planted import write_video
from omnisent.long_media_omnisent import read_clip as READ
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.scoring.explanation import MOST_WORDS, explain, without_span, word_spans, words_together
from omnisent.scoring.scales import scores_of
from two_targets import TWO

WORDS = "the acting was wonderful and the ending was awful"
SETTINGS = [
    {},
    {"layers": "mix", "pooling": "mean", "pool_over": "clip"},
    {"layers": 1, "pooling": "attention"},
    {"loss": "ordinal", "bins": 8, "score_min": -3.0, "score_max": 3.0},
    TWO,
]


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    path = tmp_path_factory.mktemp("explained") / "talk.mp4"
    place = np.arange(4 * 16_000)
    sound = (0.4 * np.sin(2 * np.pi * (200 + 50 * (place // 16_000)) * place / 16_000)).astype(np.float32)
    levels = (np.arange(40) // 10 * 60).astype(np.uint8)[:, None, None, None]
    write_video(path, np.broadcast_to(levels, (40, 56, 56, 3)), 10, sound)
    return str(path)


def alone(pipe, clip, **options) -> tuple[float, ...]:
    return scores_of(pipe(clip, **options))


def check(pipe, clip, explanation, tolerance=2e-6):
    """Each part is what scoring the clip anew without it gives."""
    whole = alone(pipe, clip)
    assert explanation.scores == pytest.approx(whole, abs=tolerance)
    for name in explanation.without:
        rest = [one for one in explanation.modalities if one != name]
        assert explanation.without[name] == pytest.approx(alone(pipe, clip, modalities=rest), abs=tolerance)
    for word in explanation.words:
        rest = {**clip, "text": without_span(clip["text"], word.start, word.end)}
        expected = np.subtract(whole, alone(pipe, rest))
        assert word.contributions == pytest.approx(expected, abs=2 * tolerance)
        assert clip["text"][word.start : word.end] == word.text


@pytest.mark.parametrize("settings", SETTINGS)
def test_each_part_is_what_scoring_anew_without_it_gives(tiny_backbone, processor, talk, settings):
    torch.manual_seed(0)
    model = OmniForSentimentRegression.from_thinker(tiny_backbone, **settings).eval()
    pooled_over = settings.get("pool_over", "all")
    own = OmniSentProcessor.from_base(tiny_backbone, min_pixels=56 * 56, max_pixels=56 * 56, pool_over=pooled_over)
    pipe = MultimodalSentimentPipeline(model=model, processor=own, device="cpu")
    clip = {"video": talk, "text": WORDS}
    explanation = explain(pipe, clip)
    assert explanation.modalities == ("text", "audio", "video")
    assert [word.text for word in explanation.words] == WORDS.split()
    assert len({explanation.scores, *explanation.without.values()}) == 4
    assert len({word.contributions for word in explanation.words}) == 9
    check(pipe, clip, explanation)


def test_what_was_never_there_is_not_left_out(pipe, talk, tmp_path):
    text_alone = explain(pipe, {"text": WORDS})
    assert text_alone.without == {}
    check(pipe, {"text": WORDS}, text_alone)
    assert explain(pipe, {"text": "wonderful"}).words == ()
    no_text = explain(pipe, talk)
    assert no_text.modalities == ("audio", "video")
    assert no_text.words == ()
    one_word = explain(pipe, {"video": talk, "text": "wonderful"})
    assert len(one_word.words) == 1
    check(pipe, {"video": talk, "text": "wonderful"}, one_word)
    assert one_word.words[0].contributions == pytest.approx(one_word.contributions("text"), abs=2e-6)


def test_words_of_a_context_of_capitals_and_of_an_instruction_are_kept(tiny_backbone, model, talk):
    processor = OmniSentProcessor.from_base(
        tiny_backbone, min_pixels=56 * 56, max_pixels=56 * 56, context_clips=1, text_case="sentence"
    )
    pipe = MultimodalSentimentPipeline(model=model, processor=processor, device="cpu")
    clip = {"video": talk, "text": "IT WAS FINE", "context": ["so they said"], "instruction": "Rate it."}
    check(pipe, clip, explain(pipe, clip))


def test_words_and_their_groups():
    assert [WORDS[start:end] for start, end in word_spans(WORDS)] == WORDS.split()
    assert words_together(" ".join(["so"] * MOST_WORDS)) == 1
    long = " ".join(f"w{n}" for n in range(MOST_WORDS + 1))
    assert words_together(long) == 2
    spans = word_spans(long, 2)
    assert len(spans) == 33
    assert (long[slice(*spans[0])], long[slice(*spans[-1])]) == ("w0 w1", "w64")
    chinese = "我很喜欢 it"
    assert [chinese[start:end] for start, end in word_spans(chinese)] == [*"我很喜欢", "it"]
    assert without_span("a b c", 2, 3) == "a c"
    assert without_span("a b", 2, 3) == "a"
    assert without_span(chinese, 1, 2) == "我喜欢 it"
    assert without_span("a", 0, 1) is None


def test_a_long_transcript_is_explained_in_groups(pipe, talk):
    text = " ".join(f"{word}{n}" for n in range(9) for word in ("so", "it", "was", "fine", "and", "then", "not", "so"))
    explanation = explain(pipe, {"video": talk, "text": text})
    assert explanation.words_together == 2
    assert len(explanation.words) == 36
    rest = {"video": talk, "text": without_span(text, explanation.words[3].start, explanation.words[3].end)}
    expected = np.subtract(alone(pipe, {"video": talk, "text": text}), alone(pipe, rest))
    assert explanation.words[3].contributions == pytest.approx(expected, abs=4e-6)


def test_media_are_read_once_and_the_towers_run_once(pipe, talk, monkeypatch):
    runs = []
    for module in (pipe.model.model.visual, pipe.model.model.audio_tower):
        module.register_forward_hook(lambda *given: runs.append(given[0]))
    reads = []
    monkeypatch.setattr("omnisent.processing_omnisent.read_clip", lambda *given: reads.append(1) or READ(*given))
    explain(pipe, {"video": talk, "text": WORDS})
    assert len(runs) == 2
    assert len(reads) == 1
