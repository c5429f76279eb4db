"""What a score rests on: the same as leaving a modality or a word out and scoring the clip anew."""

import numpy as np
import pytest
import torch

from omnisent.data.planted import write_video
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.scoring.explanation import explain, without_span
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
