"""`omnisent score` with a base model: the scores of the untrained generative arm, and marked as such wherever they go."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from loopback_hub import LoopbackHub, Repository
from omnisent import train
from omnisent.heads_omnisent import NOT_FINITE
from omnisent.processing_omnisent import SETTINGS
from omnisent.readouts.zero_shot import ZeroShotConfig
from omnisent.scoring.loading import Loading, load_pipeline, read_config
from omnisent.scoring.results import ResumableWriter
from omnisent.training.arguments import parse_arguments

MARK = ZeroShotConfig.readout
SAID = "zero-shot: no training on sentiment; expected value over the answers -3.0 to 3.0; reads text, audio and video"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def texts(tmp_path) -> Path:
    table = tmp_path / "texts.csv"
    pd.DataFrame([(f"c{n}", "fine " * (n + 1)) for n in range(6)], columns=["id", "text"]).to_csv(table, index=False)
    return table


@pytest.fixture
def for_text(tiny_backbone, tmp_path) -> Path:
    """A base model that says that its towers are random, as `small` does."""
    return changed(tiny_backbone, tmp_path / "for_text", untrained_towers=True)


def changed(backbone: Path, folder: Path, **entries) -> Path:
    shutil.copytree(backbone, folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    return folder


def test_scores_are_those_of_the_generative_arm_without_training(
    score, settings, tiny_backbone, planted_root, tmp_path
):
    pixels = {name: SETTINGS[name] for name in ("min_pixels", "max_pixels")}
    arm = {"readout": "generative", "decoding": "expected", "evaluate_only": True, **pixels}
    arm |= {"per_device_eval_batch_size": 1}  # rounding depends on padding
    metrics = train.run(*parse_arguments([settings(**arm)]))
    command = ("--table", planted_root / "clips.csv", "--model", tiny_backbone, "--out", "s.csv")
    code, _, complained = score(*command, "--batch-size", 1)
    assert code == 0
    assert f"{tiny_backbone}: {SAID}; base model {tiny_backbone.name}\n" in complained
    rows = pd.read_csv("s.csv", index_col="id")
    Path("s.csv").unlink()
    arm = pd.read_csv(tmp_path / "run" / "predictions.csv", index_col="id")
    assert len(arm) == 16
    np.testing.assert_allclose(rows.loc[arm.index, "score"], arm["score"], atol=1e-6, rtol=0)
    assert rows.loc[arm.index, "score"].std() > 1e-3
    assert rows.loc[arm.index, "legal_mass"].mean() == pytest.approx(metrics["legal_mass"], rel=1e-4)
    assert (rows["readout"] == MARK).all()


def test_rows_say_in_every_format_that_they_are_zero_shot_and_those_of_a_bundle_are_as_before(
    score, texts, tiny_backbone, bundle, tmp_path
):
    for ending, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        score("--table", texts, "--model", tiny_backbone, "--out", f"s.{ending}")
        table = read(f"s.{ending}")
        assert list(table)[:5] == ["id", "score", "label", "readout", "legal_mass"]
        assert set(table["readout"]) == {MARK}
        assert table["legal_mass"].between(0, 1, inclusive="neither").all()
    assert MARK in score("--text", "fine", "--model", tiny_backbone)[1]
    _, said, complained = score("--table", texts, "--model", bundle, "--out", "b.csv")
    assert list(pd.read_csv("b.csv")) == ["id", "score", "label", "seconds", "text", "warning", "error"]
    assert "zero-shot" not in said + complained


@pytest.mark.slow
def test_a_score_does_not_depend_on_workers_or_batches(score, planted_root, tiny_backbone):
    table = ("--table", planted_root / "clips.csv", "--model", tiny_backbone)
    for name, options in (("alone", ("--batch-size", 1)), ("two", ("--workers", 2, "--stats", "stats.json"))):
        assert score(*table, *options, "--out", f"{name}.csv")[0] == 0
    score(*table, "--batch-tokens", 300, "--out", "few.csv")
    alone, *others = (pd.read_csv(f"{name}.csv") for name in ("alone", "two", "few"))
    for other in others:
        pd.testing.assert_frame_equal(alone, other, atol=5e-6, rtol=1e-4)
    assert json.loads(Path("stats.json").read_text())["clips"] == len(alone)


def test_a_part_file_of_a_bundle_is_not_resumed_with_a_base_model_in_its_place_nor_the_other_way_round(
    score, texts, bundle, tiny_backbone, tmp_path, monkeypatch
):
    place = tmp_path / "model"
    for before, after, message in (
        (bundle, tiny_backbone, f"was started with readout None, now it is {MARK}"),
        (tiny_backbone, bundle, f"was started with readout {MARK}, now it is None"),
    ):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(before, place)
        with monkeypatch.context() as patch:
            patch.setattr(ResumableWriter, "finish", lambda _: sys.exit("stopped"))
            assert score("--table", texts, "--model", place, "--out", "s.csv")[2] == "stopped"
        shutil.rmtree(place)
        shutil.copytree(after, place)
        code, _, complained = score("--table", texts, "--model", place, "--out", "s.csv")
        assert code == 1
        assert message in complained
        Path("s.csv.part").unlink()


def test_an_interrupted_command_resumes_and_another_score_range_is_refused(score, texts, tiny_backbone, monkeypatch):
    command = ("--table", texts, "--model", tiny_backbone, "--out", "s.jsonl")
    score(*command)
    fresh = Path("s.jsonl").read_bytes()
    Path("s.jsonl").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(ResumableWriter, "finish", lambda _: sys.exit("stopped"))
        score(*command)
    code, _, complained = score(*command, "--score-range", 0, 10)
    assert code == 1
    assert "was started with score_range [-3.0, 3.0], now it is [0.0, 10.0]" in complained
    assert score(*command)[0] == 0
    assert Path("s.jsonl").read_bytes() == fresh


def test_another_score_range_is_asked_for_and_scored_on(score, texts, tiny_backbone):
    loading = Loading(str(tiny_backbone), device="cpu", score_range=(1.0, 9.0))
    pipe = load_pipeline(loading)
    assert "Rate the speaker's sentiment from 1 to 9." in pipe.processor.instruction
    assert min(pipe.model.readout.grid.values) == 1.0
    _, _, complained = score("--table", texts, "--model", tiny_backbone, "--score-range", 1, 9, "--out", "s.csv")
    assert "expected value over the answers 1.0 to 9.0" in complained
    scores = pd.read_csv("s.csv")["score"]
    assert scores.between(1, 9).all()
    assert scores[0] == pytest.approx(pipe({"text": "fine"})["score"], abs=1e-6)


def test_a_base_model_with_random_towers_reads_text_alone_and_says_so(score, for_text, folder):
    code, _, complained = score(folder / "a.mp4", folder / "c.mp4", "--model", for_text, "--out", "s.csv")
    assert code == 1  # c.mp4 has no transcript
    assert "; reads text only; " in complained
    rows = pd.read_csv("s.csv")
    assert "nothing to score: expected at least one of text" in rows["error"][1]
    words = rows["text"][0]
    assert rows["score"][0] == load_pipeline(Loading(str(for_text), device="cpu"))({"text": words})["score"]


def test_scores_over_time_say_that_they_are_zero_shot(score, folder, tiny_backbone):
    over = ("--windows", "1s", "--model", tiny_backbone, "--out", "over.csv")
    assert SAID in score(folder / "a.mp4", *over)[2]
    assert set(pd.read_csv("over.csv")["readout"]) == {MARK}
    assert Path("over.png").is_file()


def test_four_bit_weights_score_nearly_alike(tiny_backbone):
    clip = {"text": "it was fine"}
    whole, four = (
        load_pipeline(Loading(str(tiny_backbone), device="cpu", quantize=kind))(clip) for kind in (None, "nf4")
    )
    assert whole["score"] != four["score"]
    assert four["score"] == pytest.approx(whole["score"], abs=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--interval", 0.9), "--interval: .* is a base model, whose zero-shot scores are not calibrated"),
        (("--attn-implementation", "flash_attention_2"), "--attn-implementation: .* use sdpa or eager"),
        (("--score-range", 3, -3), "--score-range: expected a lowest and a highest score, at most 100 apart, not 3"),
        (("--score-range", 0, 1e6), "--score-range: expected .*, not 0 and 1e"),
    ],
)
def test_what_does_not_work_with_a_base_model_is_one_clear_line(score, tiny_backbone, arguments, message):
    code, said, complained = score("--text", "fine", "--model", tiny_backbone, *arguments)
    assert (code, said) == (1, "")
    assert re.match(f"omnisent: {message}", complained.splitlines()[-1])


def test_a_bundle_has_its_own_scale(score, bundle):
    code, _, complained = score("--text", "fine", "--score-range", 0, 1)
    assert code == 1
    assert "--score-range: " in complained
    assert "is a bundle, which scores on the scale that it was trained on" in complained


def test_a_model_that_is_neither_names_both_that_it_could_be(score, tiny_bert):
    code, _, complained = score("--text", "fine", "--model", tiny_bert)
    assert code == 1
    assert "model_type 'bert'; expected a bundle (of 'omnisent')" in complained
    assert "or a base model in the layout of Qwen/Qwen2.5-Omni-7B" in complained


def test_the_kind_of_model_is_known_before_weights_are_loaded(tiny_backbone, bundle, tmp_path):
    folder = shutil.copytree(tiny_backbone, tmp_path / "no weights")
    (folder / "model.safetensors").unlink()
    assert isinstance(read_config(Loading(str(folder))), ZeroShotConfig)
    assert not isinstance(read_config(Loading(str(bundle))), ZeroShotConfig)


def test_a_name_that_training_knows_is_a_base_model_unless_there_is_such_a_folder(tiny_backbone, bundle, tmp_path):
    shutil.copytree(tiny_backbone, "runs/tiny-backbone")
    about = read_config(Loading("tiny")).about
    assert about.endswith("random base model; its scores say nothing about sentiment")
    shutil.copytree(bundle, "tiny")
    assert not isinstance(read_config(Loading("tiny")), ZeroShotConfig)


def test_a_number_that_is_not_finite_is_an_error(tiny_backbone, tmp_path):
    folder = shutil.copytree(tiny_backbone, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["thinker.lm_head.weight"].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    pipe = load_pipeline(Loading(str(folder), device="cpu"))
    assert pipe([{"text": "fine", "id": "a"}], on_error="return") == [{"error": f"clip a: {NOT_FINITE}"}]


@pytest.mark.slow
def test_a_base_model_on_the_hub_is_pinned_to_one_commit(tiny_backbone, tmp_path):
    with LoopbackHub() as hub:
        base = hub.repositories["model", "org/base"] = Repository()
        commit = base.commit({path.name: path.read_bytes() for path in tiny_backbone.iterdir()}, set())
        command = [sys.executable, "-m", "omnisent.cli", "score", "--text", "fine", "--model", "org/base", "--out"]
        done = subprocess.run(
            [*command, "s.jsonl"], env=hub.environment(tmp_path), capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "base model org/base" in done.stderr
    row = json.loads(Path("s.jsonl").read_text())
    alone = load_pipeline(Loading(str(tiny_backbone), device="cpu"))({"text": "fine"})
    assert row["score"] == pytest.approx(alone["score"], abs=1e-6)
    assert list(tmp_path.rglob(commit))
