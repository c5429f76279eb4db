"""Every row of a run belongs to its clip, and a run that cannot show it is not finished."""

import csv

import pytest
import torch

from omnisent import train
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.train import main, run
from omnisent.training.arguments import parse_arguments
from omnisent.training.trainer import SentimentTrainer
from runs import cached_settings, scores_of


def _bundle_scores(run_folder, clips) -> list[float]:
    """Of each clip by itself, by the run's saved bundle."""
    model = OmniForSentimentRegression.from_pretrained(run_folder / "model")
    processor = OmniSentProcessor.from_pretrained(run_folder / "model")
    with torch.no_grad():
        return [model(**processor(clip.to_dict())).scores.item() for clip in clips]


@pytest.mark.parametrize("cached", [False, True])
def test_rows_belong_to_their_clips_when_clips_are_grouped_by_length(settings, tmp_path, planted_clips, cached):
    changes = cached_settings(tmp_path) if cached else {"learning_rate": 0.02}
    run(
        *parse_arguments([settings(**changes, train_sampling_strategy="group_by_length", per_device_eval_batch_size=3)])
    )
    test = [clip for clip in planted_clips if clip.split == "test"]
    expected = _bundle_scores(tmp_path / "run", test)
    assert scores_of(tmp_path / "run") == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected}) > 8
    valid = [clip for clip in planted_clips if clip.split == "valid"]
    with (tmp_path / "run" / "valid_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [clip.id for clip in valid]
    assert [float(row["score"]) for row in rows] == pytest.approx(_bundle_scores(tmp_path / "run", valid), abs=1e-5)


def test_a_clip_that_is_predicted_twice_in_place_of_another_is_refused(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(SentimentTrainer, "_get_eval_sampler", lambda self, clips: [0, *range(len(clips) - 1)])
    with pytest.raises(SystemExit, match=r"evaluation gave the prediction of clip 0 for clip 1; nothing is written"):
        main([settings()])
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert not (tmp_path / "run" / "predictions.csv").exists()


@pytest.mark.parametrize("readout", ["discriminative", pytest.param("generative", marks=pytest.mark.slow)])
def test_a_run_whose_saved_bundle_gives_other_scores_is_not_finished(settings, tmp_path, monkeypatch, readout):
    save = train.save_bundle

    def save_another(folder, model, processor):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name or name.startswith("score."):
                    parameter.add_(0.1)
        save(folder, model, processor)

    monkeypatch.setattr(train, "save_bundle", save_another)
    with pytest.raises(SystemExit, match=r"clip planted-\S+: its row has \S+, but scored alone the saved model gives"):
        main([settings(readout=readout, decoding="expected", max_steps=2)])
    assert not (tmp_path / "run" / "metrics.json").exists()
