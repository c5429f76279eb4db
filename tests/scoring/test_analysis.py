"""The analysis of a clip: the pipeline's own score, what each modality contributes, and the score over time of a long clip."""

import numpy as np
import pytest

from omnisent.data.planted import write_audio, write_video
from omnisent.errors_omnisent import MediaError, OmniSentError
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.scoring.analysis import analyse_clip, calibrated_level
from omnisent.scoring.analysis_page import ShownClip, score_html
from omnisent.scoring.scales import scales_of
from omnisent.scoring.subtitles import Cue
from omnisent.scoring.timeline import score_timeline

WORDS = "the acting was wonderful and the ending was awful"
SRT = """1
00:00:00,000 --> 00:00:04,000
the acting was wonderful

2
00:00:04,000 --> 00:00:08,000
<i>the ending</i> was awful
"""


def near(*scores: float):
    """To float rounding: what is left out is not scored in a batch of its own."""
    return pytest.approx(scores, abs=2e-6)


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """Eight seconds; the picture grows brighter with each, and the sound higher."""
    path = tmp_path_factory.mktemp("analysis") / "talk.mp4"
    place = np.arange(8 * 16_000)
    sound = (0.4 * np.sin(2 * np.pi * (200 + 50 * (place // 16_000)) * place / 16_000)).astype(np.float32)
    levels = (np.arange(80) // 10 * 30).astype(np.uint8)[:, None, None, None]
    write_video(path, np.broadcast_to(levels, (80, 56, 56, 3)), 10, sound)
    return path


def test_it_is_the_pipelines_score_with_and_without_each_modality(pipe, talk):
    analysis = analyse_clip(pipe, talk, WORDS)
    clip = {"video": str(talk), "text": WORDS}
    assert analysis.scores == near(pipe(clip)["score"])
    assert analysis.label == pipe(clip)["label"]
    assert analysis.seconds == pytest.approx(8.0, abs=0.1)
    assert set(analysis.modalities) == {"text", "audio", "video"}
    for left_out, others in (("text", ["audio", "video"]), ("audio", ["text", "video"]), ("video", ["text", "audio"])):
        score = pipe(clip, modalities=others)["score"]
        assert analysis.without[left_out] == near(score)
        assert analysis.contributions(left_out) == near(analysis.scores[0] - score)
    assert len({analysis.scores, *analysis.without.values()}) == 4
    assert analysis.windows == []


def test_several_targets_have_scores_contributions_and_windows_each(two_pipe, talk):
    analysis = analyse_clip(two_pipe, talk, WORDS, window=4, stride=4)
    clip = {"video": str(talk), "text": WORDS}
    assert analysis.scores == near(*two_pipe(clip)["scores"].values())
    assert analysis.label is None
    silent = tuple(two_pipe(clip, modalities=["text", "video"])["scores"].values())
    assert analysis.without["audio"] == near(*silent)
    assert analysis.contributions("audio") == near(analysis.scores[0] - silent[0], analysis.scores[1] - silent[1])
    assert [len(window.scores) for window in analysis.windows] == [2, 2]


def test_only_modalities_of_the_clip_are_left_out(pipe, talk, tmp_path):
    write_video(tmp_path / "silent.mp4", np.full((20, 56, 56, 3), 90, np.uint8), 10)
    write_audio(tmp_path / "voice.m4a", np.sin(np.arange(32_000) / 9).astype(np.float32))
    assert analyse_clip(pipe, tmp_path / "silent.mp4").without == {}
    assert analyse_clip(pipe, tmp_path / "voice.m4a").modalities == ("audio",)
    assert analyse_clip(pipe, None, WORDS).seconds is None
    both = analyse_clip(pipe, tmp_path / "voice.m4a", WORDS)
    assert both.without["text"] == near(pipe({"audio": str(tmp_path / "voice.m4a")})["score"])
    assert both.without["audio"] == near(pipe({"text": WORDS})["score"])
    assert set(analyse_clip(pipe, talk).without) == {"audio", "video"}


def test_the_pipelines_own_modalities_are_used(pipe, talk):
    text_only = MultimodalSentimentPipeline(
        model=pipe.model, processor=pipe.processor, device="cpu", modalities=["text"]
    )
    analysis = analyse_clip(text_only, talk, WORDS)
    assert analysis.modalities == ("text",)
    assert analysis.scores == near(pipe({"text": WORDS})["score"])
    with pytest.raises(OmniSentError, match="nothing to score: expected text; give a text"):
        analyse_clip(text_only, talk, " ")


def test_a_long_clip_is_scored_over_time_with_its_words_spread_over_it(pipe, talk):
    analysis = analyse_clip(pipe, talk, WORDS, window=4, stride=2)
    expected = list(score_timeline(pipe, talk, window=4, stride=2, cues=[Cue(0.0, analysis.seconds, WORDS)]))
    assert analysis.windows == expected
    assert [window.text for window in analysis.windows][::2] == ["the acting was wonderful", "and the ending was awful"]
    assert analysis.scores == analyse_clip(pipe, talk, WORDS).scores


def test_a_transcript_with_times_gives_each_window_its_words(pipe, talk):
    analysis = analyse_clip(pipe, talk, SRT, window=4, stride=4)
    assert [window.text for window in analysis.windows] == ["the acting was wonderful", "the ending was awful"]
    whole = pipe({"video": str(talk), "text": "the acting was wonderful the ending was awful"})
    assert analysis.scores == near(whole["score"])
    vtt = "WEBVTT\n\n00:05.000 --> 00:06.000\nawful\n"
    assert [window.text for window in analyse_clip(pipe, talk, vtt, window=4, stride=4).windows] == [None, "awful"]
    with pytest.raises(OmniSentError, match=r"^the transcript, line 2: "):
        analyse_clip(pipe, talk, SRT.replace("00:00:04,000\nthe", "soon\nthe"))


def test_words_are_left_out_on_request(pipe, talk):
    assert analyse_clip(pipe, talk, WORDS).words == []
    words = analyse_clip(pipe, talk, WORDS, words=True).words
    assert [word for word, _ in words] == WORDS.split()
    without = pipe({"video": str(talk), "text": "the acting was and the ending was awful"})["score"]
    assert words[3][1] == near(pipe({"video": str(talk), "text": WORDS})["score"] - without)


def test_steps_are_counted_to_the_end(pipe, talk):
    steps = []
    analyse_clip(pipe, talk, WORDS, window=4, stride=2, on_step=lambda *step: steps.append(step))
    assert steps == [(done, 4) for done in range(1, 5)]


def test_what_is_too_long_or_broken_is_refused_before_it_is_scored(pipe, talk, tmp_path):
    steps = []
    with pytest.raises(OmniSentError, match=r"^talk\.mp4: it lasts 0:08, and at most 0:05 are scored here; cut it"):
        analyse_clip(pipe, talk, WORDS, max_seconds=5, on_step=lambda *step: steps.append(step))
    (tmp_path / "broken.mp4").write_bytes(b"no media at all")
    with pytest.raises(MediaError, match="not media"):
        analyse_clip(pipe, tmp_path / "broken.mp4", WORDS)
    assert steps == []


def test_a_score_that_is_not_finite_is_an_error(broken_pipe, talk):
    with pytest.raises(OmniSentError, match="no score: the model computes NaN or infinity"):
        analyse_clip(broken_pipe, talk, WORDS)


def test_a_partly_read_file_has_a_warning(pipe, half_read):
    analysis = analyse_clip(pipe, half_read, WORDS)
    assert "% of its audio" in analysis.warning
    shown = score_html(ShownClip(analysis, "half.m4a", scales_of(pipe)))
    assert f"Only part of the file could be read: {analysis.warning}." in shown


def test_an_interval_is_the_pipelines_and_only_of_a_level_that_is_calibrated(pipe, two_pipe):
    result = two_pipe({"text": WORDS}, interval=0.9)
    analysis = analyse_clip(two_pipe, None, WORDS, interval=0.9)
    assert (analysis.low, analysis.high) == (tuple(result["low"].values()), tuple(result["high"].values()))
    assert (analyse_clip(pipe, None, WORDS).low, analyse_clip(pipe, None, WORDS).high) == ((), ())
    assert [calibrated_level(two_pipe), calibrated_level(two_pipe, 0.8), calibrated_level(pipe)] == [0.9, None, None]
