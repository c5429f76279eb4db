"""The clips of a run: what its splits share is said, and a split by video shares no video."""

import json
import logging

import pytest
import torch

from omnisent.data.overlap import overlaps
from omnisent.training.arguments import parse_arguments
from omnisent.training.build import build_trainer
from omnisent.training.data import prepare_data

SAID = "this is the same sentence in both"


@pytest.fixture
def table(tmp_path):
    """Texts of twelve videos, of which one is in train and test; one sentence is in train and valid."""
    rows = ["id,text,label,split,video_id,clip_index"]
    for video in range(12):
        for clip in range(4):
            split = ("train", "train", "valid", "test")[video % 4] if video or clip < 2 else "test"
            text = SAID if (video, clip) in ((1, 0), (2, 0)) else f"sentence number {clip} of the video {video}"
            rows.append(f"v{video}_{clip},{text},{clip - 1.5},{split},v{video},{clip}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "clips.csv")


def test_what_splits_share_is_said_and_kept(settings, table, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    data = prepare_data(*parse_arguments([settings(dataset=table, modalities=["text"])]))
    assert "train and test share 1 document (4 clips)" in caplog.text
    assert "train and valid share 1 transcript (2 clips)" in caplog.text
    assert "group_split true makes a split in which they share no documents" in caplog.text
    data.write_environment(tmp_path)
    stored = json.loads((tmp_path / "environment.json").read_text())["overlap"]
    assert stored == ["train and valid share 1 transcript (2 clips)", "train and test share 1 document (4 clips)"]


def test_a_split_by_video_is_made_when_asked_for(settings, table, caplog):
    caplog.set_level(logging.WARNING)
    data = prepare_data(*parse_arguments([settings(dataset=table, modalities=["text"], group_split=True)]))
    assert not any(overlap.videos for overlap in overlaps(data.clips).values())
    assert sum(len(clips) for clips in data.splits.values()) == 48
    assert "share 1 document" not in caplog.text
    assert "group_split" not in caplog.text


@pytest.fixture
def weighted(tmp_path):
    """Texts with weights: three clips in train with the labels 1, 1 and 3, and one in each other split."""

    def write(*weights: str) -> str:
        rows = ["id,text,label,split,sample_weight"]
        cells = zip((1, 1, 3, 2, 2), ("train", "train", "train", "valid", "test"), [*weights, "", ""], strict=True)
        rows += [f"{at},text {at},{label},{split},{weight}" for at, (label, split, weight) in enumerate(cells)]
        (tmp_path / "weighted.csv").write_text("\n".join(rows) + "\n")
        return str(tmp_path / "weighted.csv")

    return write


def test_training_clips_count_by_their_weights_and_by_how_rare_their_labels_are(settings, weighted):
    def weights(table: str, balance: str):
        arguments = parse_arguments([settings(dataset=table, modalities=["text"], balance=balance)])
        return prepare_data(*arguments).weights(balance)

    assert weights(weighted("", "", ""), "none") is None
    assert weights(weighted("2", "1", ""), "none").tolist() == [1.5, 0.75, 0.75]
    assert weights(weighted("", "", ""), "inverse_density").tolist() == [0.75, 0.75, 1.5]
    assert weights(weighted("0", "1", "1"), "inverse_density").tolist() == pytest.approx([0, 1, 2])
    with pytest.raises(ValueError, match="sample_weight is 0 for every training clip"):
        weights(weighted("0", "0", "0"), "none")


@pytest.mark.parametrize("readout", ["discriminative", "generative"])
def test_weights_change_the_loss_of_training_and_no_evaluation(settings, weighted, readout):
    arguments = parse_arguments(
        [settings(dataset=weighted("0", "0", "3"), modalities=["text"], readout=readout, lora_dropout=0.0)]
    )
    trainer, datasets = build_trainer(*arguments, prepare_data(*arguments))
    assert [dataset.weights is None for dataset in datasets.values()] == [False, True, True]
    model, collate = trainer.model.train(), trainer.data_collator
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    items = [datasets["train"][place] for place in range(3)]
    assert collate(items)["sample_weight"].tolist() == [0.0, 0.0, 3.0]

    def loss(chosen) -> float:
        batch = {name: value for name, value in collate(chosen).items() if name != "clip_index"}
        return model(**batch).loss.item()

    alone = [{name: value for name, value in items[2].items() if name != "sample_weight"}]
    assert loss(items) == pytest.approx(loss(alone), rel=1e-4)  # 3 times its loss, over 3 clips
