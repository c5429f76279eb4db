"""Clips that cannot be read: an error by name, or listed and left out; test clips of a published data set keep their text."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import soundfile

from omnisent.data.mmsa import MMSA_ORDER
from omnisent.data.planted import make_planted_clips
from omnisent.train import main, run
from omnisent.training.arguments import parse_arguments
from runs import calibration_of, weights_of


def test_bad_clips_are_an_error_by_name_or_are_listed_and_left_out(settings, tmp_path, caplog):
    root = tmp_path / "damaged"
    clips = make_planted_clips(root, n_train=12, n_valid=6, n_test=6, seed=8)
    broken = [c for c in clips if c.video and c.split == "train"][1]
    with open(broken.video, "r+b") as file:
        file.truncate(os.path.getsize(broken.video) // 3)
    with pytest.raises(SystemExit, match=rf"^train\.py: clip {broken.id}: .*{os.path.basename(broken.video)}"):
        main([settings(dataset=str(root))])
    main([settings(dataset=str(root), on_bad_clip="skip", output_dir=str(tmp_path / "skipped"))])
    with (tmp_path / "skipped" / "bad_clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["split"]) for row in rows] == [(broken.id, "train")]
    assert os.path.basename(broken.video) in rows[0]["reason"]
    metrics = json.loads((tmp_path / "skipped" / "metrics.json").read_text())
    assert (metrics["bad_clips"], metrics["interval_coverage"]) == (1, None)
    assert calibration_of(tmp_path / "skipped" / "model").keys() == {"clips", "videos", "half_widths"}
    assert "6 validation clips are too few for intervals of level 0.9" in caplog.text


def test_corrupt_audio_among_the_training_clips_is_refused_or_left_out(settings, tmp_path):
    generator, rows = np.random.default_rng(0), ["id,audio,label,split"]
    for number in range(30):
        sound = (0.2 * generator.standard_normal(8000)).astype(np.float32)
        if number == 7:
            sound[4000] = 3e38  # finite, but no sound; its features are not
        soundfile.write(tmp_path / f"{number}.wav", sound, 16_000, subtype="FLOAT")
        split = "train" if number < 24 else ("valid", "test")[number % 2]
        rows.append(f"c{number},{number}.wav,{number % 7 - 3},{split}")
    table = tmp_path / "clips.csv"
    table.write_text("\n".join(rows))
    config = settings(
        dataset=str(table), num_train_epochs=1, max_steps=-1, eval_strategy="epoch", save_strategy="epoch"
    )
    with pytest.raises(SystemExit, match=r"^train\.py: clip c7: .*7\.wav: "):
        main([config])
    main([config, "--on_bad_clip", "skip", "--output_dir", str(tmp_path / "skipped")])
    with (tmp_path / "skipped" / "bad_clips.csv").open(newline="") as file:
        assert [(row["id"], row["split"]) for row in csv.DictReader(file)] == [("c7", "train")]
    assert all(bool(weight.isfinite().all()) for weight in weights_of(tmp_path / "skipped" / "model").values())


def test_a_bad_clip_is_one_clear_line_from_a_worker_too(settings, tmp_path):
    root = tmp_path / "damaged"
    clips = make_planted_clips(root, n_train=12, n_valid=6, n_test=6, seed=8)
    for clip in clips:
        if clip.video and clip.split == "train":
            with open(clip.video, "r+b") as file:
                file.truncate(os.path.getsize(clip.video) // 3)
    with pytest.raises(SystemExit) as stopped:
        main([settings(dataset=str(root), dataloader_num_workers=1)])
    assert "\n" not in str(stopped.value)
    assert "clip planted-" in str(stopped.value)


def test_a_named_data_set_is_trained_on_from_its_root_and_lists_missing_clips(settings, tmp_path, whole_clips):
    root, rows = tmp_path / "mosi", []
    for number, clip in enumerate(whole_clips[:12]):
        split = ("train", "train", "valid", "test")[number % 4]
        (root / "Raw" / f"v{number}").mkdir(parents=True)
        if number:
            shutil.copy(clip.video, root / "Raw" / f"v{number}" / "7.mp4")
        rows.append(f"v{number},7,{clip.text.replace(',', '')},{clip.label},,,,,{split}")
    (root / "label.csv").write_text("\n".join([",".join(MMSA_ORDER), *rows]))
    named = {"dataset": "cmu_mosi", "root": str(root), "max_steps": 2}
    with pytest.raises(SystemExit, match=r"1 of 12 media files do not exist: .*v0.7\.mp4 \(clip v0_7\)"):
        main([settings(**named)])
    main([settings(**named, on_bad_clip="skip")])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["bad_clips"] == 1


def test_a_test_clip_of_a_named_data_set_is_never_left_out_but_keeps_its_text(settings, tmp_path, whole_clips):
    root, rows = tmp_path / "mosi", []
    for number, clip in enumerate(whole_clips[:12]):
        split = ("train", "train", "valid", "test")[number % 4]
        (root / "Raw" / f"v{number}").mkdir(parents=True)
        target = root / "Raw" / f"v{number}" / "7.mp4"
        shutil.copy(clip.video, target)
        if number in (1, 3):  # of training and of the test
            with target.open("r+b") as file:
                file.truncate(target.stat().st_size // 3)
        rows.append(f"v{number},7,{clip.text.replace(',', '')},{clip.label},,,,,{split}")
    (root / "label.csv").write_text("\n".join([",".join(MMSA_ORDER), *rows]))
    named = {"dataset": "cmu_mosi", "root": str(root), "max_steps": 2, "on_bad_clip": "skip"}
    metrics = run(*parse_arguments([settings(**named)]))
    assert (metrics["n"], metrics["bad_clips"], metrics["without_video"], metrics["without_audio"]) == (3, 1, 1, 1)
    text = run(*parse_arguments([settings(**named, modalities=["text"], output_dir=str(tmp_path / "text"))]))
    assert (text["bad_clips"], text["without_video"], text["without_audio"]) == (0, None, None)  # it reads none
    whole = run(*parse_arguments([settings(**named, complete_clips=True, output_dir=str(tmp_path / "whole"))]))
    assert (whole["n"], whole["bad_clips"], whole["without_video"]) == (2, 2, 0)
    with (tmp_path / "run" / "bad_clips.csv").open(newline="") as file:
        found = [(row["id"], row["split"], row["kept"]) for row in csv.DictReader(file)]
    assert found == [("v1_7", "train", ""), ("v3_7", "test", "text")]
    ids = [row["id"] for row in csv.DictReader((tmp_path / "run" / "predictions.csv").open(newline=""))]
    assert ids == ["v3_7", "v7_7", "v11_7"]
    no_words = run(
        *parse_arguments([settings(**named, modalities=["audio", "video"], output_dir=str(tmp_path / "av"))])
    )
    assert (no_words["n"], no_words["bad_clips"], no_words["without_video"]) == (2, 2, 0)
