"""The pipeline: all that it accepts, what it answers, and one bad clip among good ones."""

import re

import numpy as np
import pytest
import torch
from datasets import Dataset, Video

from omnisent.data.planted import write_audio
from omnisent.errors_omnisent import OmniSentError
from omnisent.losses_omnisent import level_bounds, nested_interval
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from two_targets import TWO


@pytest.fixture
def pipe(model, processor) -> MultimodalSentimentPipeline:
    return MultimodalSentimentPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture
def pipe_of(tiny_backbone, processor):
    """Makes a pipeline of an untrained model with these fields of the configuration."""

    def make(**fields) -> MultimodalSentimentPipeline:
        torch.manual_seed(0)
        model = OmniForSentimentRegression.from_thinker(tiny_backbone, **fields).eval()
        return MultimodalSentimentPipeline(model=model, processor=processor, device="cpu")

    return make


@pytest.fixture
def clips(planted_clips) -> list[dict]:
    return [clip.to_dict() for clip in planted_clips[:5]]


@pytest.fixture
def scores(model, processor, clips) -> list[float]:
    with torch.no_grad():
        return [model(**processor(clip)).scores.item() for clip in clips]


def _scores(results) -> list[float]:
    return [result["score"] for result in results]


def test_one_clip_gives_one_result(pipe, clips, scores):
    result = pipe(clips[0])
    assert result.keys() == {"score", "label"}
    assert result["score"] == pytest.approx(scores[0], abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_list_gives_a_list_whatever_the_batch(pipe, clips, scores, batch_size):
    results = pipe(clips, batch_size=batch_size)
    assert isinstance(results, list)
    assert _scores(results) == pytest.approx(scores, abs=2e-6)


def test_a_generator_is_read_as_results_are_asked_for(pipe, clips, scores):
    read = []

    def stream():
        for clip in clips:
            read.append(clip)
            yield clip

    results = pipe(stream(), batch_size=2)
    assert read == []
    assert next(results)["score"] == pytest.approx(scores[0], abs=2e-6)
    assert len(read) == 2
    assert _scores(results) == pytest.approx(scores[1:], abs=2e-6)


def test_workers_change_nothing(pipe, clips, scores):
    assert _scores(pipe(clips, batch_size=2, num_workers=1)) == pytest.approx(scores, abs=2e-6)


def test_a_path_is_a_video_or_an_audio_file(pipe, model, processor, whole_clips, tmp_path):
    video = whole_clips[0].video
    sound = tmp_path / "voice.m4a"
    write_audio(sound, np.sin(np.arange(16_000) / 20).astype(np.float32) / 2)
    with torch.no_grad():
        expected = [model(**processor(clip)).scores.item() for clip in ({"video": video}, {"audio": str(sound)})]
    assert _scores(pipe([video, sound])) == pytest.approx(expected, abs=2e-6)
    assert pipe(sound)["score"] == pytest.approx(expected[1], abs=2e-6)


def test_a_datasets_column_of_paths_videos_or_rows(pipe, model, processor, whole_clips):
    paths = [clip.video for clip in whole_clips[:3]]
    with torch.no_grad():
        expected = [model(**processor({"video": path})).scores.item() for path in paths]
    table = Dataset.from_dict({"video": paths})
    assert _scores(pipe(table["video"])) == pytest.approx(expected, abs=2e-6)
    assert _scores(pipe(table)) == pytest.approx(expected, abs=2e-6)
    undecoded = table.cast_column("video", Video(decode=False))
    assert _scores(pipe(undecoded["video"], batch_size=3)) == pytest.approx(expected, abs=2e-6)


def test_a_modality_can_be_left_out(pipe, model, processor, whole_clips):
    clip = whole_clips[0].to_dict()
    with torch.no_grad():
        expected = model(**processor(clip, modalities=["text", "video"])).scores.item()
    assert pipe(clip, modalities=["text", "video"])["score"] == pytest.approx(expected, abs=1e-6)
    assert abs(pipe(clip)["score"] - expected) > 1e-4


def test_a_bad_clip_raises_or_is_returned_as_an_error(pipe, clips, scores):
    bad = [clips[0], {"id": "x1", "text": " "}, {"video": "/nowhere/a.mp4"}, 7, clips[1]]
    with pytest.raises(OmniSentError, match="clip x1: nothing to score"):
        pipe(bad)
    results = pipe(bad, on_error="return", batch_size=2)
    assert _scores([results[0], results[4]]) == pytest.approx(scores[:2], abs=2e-6)
    assert [result.keys() for result in results[1:4]] == [{"error"}] * 3
    assert re.search("clip x1: nothing to score", results[1]["error"])
    assert re.search("/nowhere/a.mp4", results[2]["error"])
    assert re.search("expected a path or a clip .* not int", results[3]["error"])
    assert pipe({"text": ""}, on_error="return").keys() == {"error"}


def test_settings_of_the_pipeline_hold_for_every_call(model, processor, clips):
    pipe = MultimodalSentimentPipeline(
        model=model, processor=processor, device="cpu", on_error="return", modalities=["video"]
    )
    assert pipe({"text": "only text"}).keys() == {"error"}
    assert "score" in pipe({"text": "only text"}, modalities=["text"])


@pytest.mark.parametrize(
    ("score", "high", "band", "label"),
    [
        (0.5, 3.0, None, "neutral"),
        (-0.5, 3.0, None, "neutral"),
        (0.51, 3.0, None, "positive"),
        (-2.9, 3.0, None, "negative"),
        (0.1, 1.0, None, "neutral"),
        (0.11, 1.0, None, "positive"),
        (0.01, 3.0, 0.0, "positive"),
        (-1.0, 3.0, 1.5, "neutral"),
    ],
)
def test_labels_follow_the_documented_band(pipe, score, high, band, label):
    pipe.model.config.score_max = high
    assert pipe.postprocess({"scores": [score]}, neutral_band=band) == {"score": score, "label": label}


def test_unknown_settings_and_invalid_clips_are_refused(pipe):
    with pytest.raises(ValueError, match="on_error must be one of raise, return, not 'skip'"):
        pipe({"text": "a"}, on_error="skip")
    with pytest.raises(TypeError, match="expected a path, a clip, or several of them, not int"):
        pipe(3)
    assert pipe([]) == []


def test_an_interval_lies_around_the_score_and_within_the_range(pipe, clips):
    pipe.model.config.calibration = {"clips": 40, "half_widths": {"0.8": 0.5, "0.9": 2.9}}
    plain, narrow, wide = pipe(clips[0]), pipe(clips[0], interval=0.8), pipe(clips[0], interval=0.9)
    assert "low" not in plain
    assert (narrow["low"], narrow["high"]) == pytest.approx((plain["score"] - 0.5, plain["score"] + 0.5))
    assert -3 <= wide["low"] <= wide["score"] <= wide["high"] <= 3
    assert wide["high"] - wide["low"] < 5.8
    with pytest.raises(
        ValueError, match=r"no interval of level 0.7; it has those of levels 0.8, 0.9, from 40 validation clips"
    ):
        pipe(clips[0], interval=0.7)
    for level in (0, 1, 90):
        with pytest.raises(ValueError, match=f"expected a level between 0 and 1 such as 0.9, not {level}"):
            pipe(clips[0], interval=level)


def test_a_bundle_without_calibration_says_so(pipe, clips):
    with pytest.raises(
        ValueError,
        match="it is not calibrated; to calibrate it, finish its run again with `--resume_from_checkpoint true`",
    ):
        pipe(clips[0], interval=0.9)


def test_a_score_that_is_not_finite_is_an_error_of_its_clip_only(pipe, model, clips, scores, processor):
    words = processor.tokenizer("Rate", add_special_tokens=False)["input_ids"]
    bad = {"id": "c9", "text": "astonishing"}
    own = set(processor(bad)["input_ids"][0].tolist())
    others = {token for clip in clips for token in processor(clip)["input_ids"][0].tolist()}
    word = min(own - others - set(words))
    with torch.no_grad():
        model.get_input_embeddings().weight[word] = torch.nan
    results = pipe([*clips[:2], bad, *clips[2:]], batch_size=3, on_error="return")
    assert results[2].keys() == {"error"}
    assert results[2]["error"].startswith("clip c9: no score: the model computes NaN or infinity")
    assert _scores(results[:2] + results[3:]) == pytest.approx(scores, abs=2e-6)
    with pytest.raises(OmniSentError, match="clip c9: no score"):
        pipe(bad)


def test_a_partly_readable_clip_has_a_score_and_a_warning(pipe, half_read, clips):
    half, whole = pipe([{"audio": half_read, "text": "good"}, clips[0]])
    assert half.keys() == {"score", "warning", "label"}
    assert "% of its audio" in half["warning"]
    assert whole.keys() == {"score", "label"}


def test_several_targets_have_scores_by_name_whatever_the_batch(pipe_of, clips):
    pipe = pipe_of(**TWO)
    with torch.no_grad():
        expected = torch.cat([pipe.model(**pipe.processor(clip)).scores for clip in clips])  # (B, K)
    assert expected.shape == (5, 2)
    assert (expected[:, 0] - expected[:, 1]).abs().min() > 0.1
    for batch_size in (1, 2, 5):
        results = pipe(clips, batch_size=batch_size)
        assert [result.keys() for result in results] == [{"scores"}] * 5
        assert [list(result["scores"]) for result in results] == [["valence", "arousal"]] * 5
        found = [list(result["scores"].values()) for result in results]
        assert np.abs(np.array(found) - expected.numpy()).max() < 5e-6
    with_error = pipe([clips[0], {"text": ""}], on_error="return", batch_size=2)
    assert [result.keys() for result in with_error] == [{"scores"}, {"error"}]


def test_the_interval_of_each_target_is_its_own(pipe_of, clips):
    calibration = {
        name: {"clips": 40, "half_widths": {"0.9": half}} for name, half in (("valence", 0.5), ("arousal", 3.9))
    }
    pipe = pipe_of(**{**TWO, "score_max": [9.0, 5.0]}, calibration=calibration)
    result = pipe(clips[0], interval=0.9)
    assert result.keys() == {"scores", "low", "high"}
    valence = result["scores"]["valence"]
    assert result["low"] == pytest.approx({"valence": valence - 0.5, "arousal": 1})
    assert result["high"] == pytest.approx({"valence": valence + 0.5, "arousal": 5})
    pipe.model.config.calibration.pop("arousal")
    with pytest.raises(ValueError, match=r"interval: this bundle has no interval of level 0\.9; it is not calibrated"):
        pipe(clips[0], interval=0.9)


def test_with_bins_the_interval_of_each_target_follows_its_own_distribution(pipe_of, clips):
    calibration = {
        name: {"clips": 40, "half_widths": {"0.8": 1.0, "0.9": 2.0}, "margins": {"0.8": margin, "0.9": margin}}
        for name, margin in (("valence", 0.0), ("arousal", 0.4))
    }
    pipe = pipe_of(**{**TWO, "score_max": [9.0, 5.0]}, loss="ordinal", bins=9, calibration=calibration)
    results = pipe(clips, interval=0.9, batch_size=2)
    for clip, result in zip(clips, results, strict=True):
        with torch.no_grad():
            out = pipe.model(**pipe.processor(clip))
        for place, (name, margin) in enumerate((("valence", 0.0), ("arousal", 0.4))):
            centres = pipe.model.bin_centres[place]
            bounds = level_bounds(out.distribution[:, place], centres, [0.8, 0.9])
            low, high = nested_interval(out.scores[:, place], bounds, torch.tensor([margin, margin]))[0].tolist()
            assert result["scores"][name] == pytest.approx(out.scores[0, place].item(), abs=5e-6)
            assert result["low"][name] == pytest.approx(max(low, 1.0), abs=1e-4)
            assert result["high"][name] == pytest.approx(min(high, float(centres[-1])), abs=1e-4)
            assert result["low"][name] < result["scores"][name] < result["high"][name]
    assert results[0]["high"]["valence"] > 5 >= results[0]["high"]["arousal"]


def test_one_target_without_a_number_is_an_error_of_the_clip(pipe_of, clips):
    pipe = pipe_of(**TWO)
    with torch.no_grad():
        pipe.model.score.layers[-1].bias[1] = torch.nan
    results = pipe(clips[:2], batch_size=2, on_error="return")
    assert [result.keys() for result in results] == [{"error"}] * 2
    assert results[1]["error"].startswith(f"clip {clips[1]['id']}: no score: the model computes NaN or infinity")


def test_on_a_scale_without_two_sides_the_label_is_what_is_rated(pipe_of, clips):
    scale = {"label_mean": 5.0, "label_std": 1.0, "score_min": 1.0, "score_max": 9.0}
    results = pipe_of(id2label={0: "valence"}, **scale)(clips)
    assert [(result.keys(), result["label"]) for result in results] == [({"score", "label"}, "valence")] * 5
    assert all(1 <= result["score"] <= 9 for result in results)
    sided = pipe_of(id2label={0: "valence"}, **{**scale, "label_mean": 0.0, "score_min": -4.0, "score_max": 4.0})
    assert sided(clips[0])["label"] in ("negative", "neutral", "positive")
