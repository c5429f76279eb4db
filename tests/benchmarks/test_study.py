"""Kept runs of a study come back as they were, with the labels of the data set."""

import importlib
import json
import shutil
from pathlib import Path

import pytest

import omnisent
from omnisent.experiments.comparison import compare


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(omnisent.__file__).parent / "benchmarks"))
    return importlib.import_module("study")


@pytest.mark.slow
def test_a_comparison_goes_on_from_kept_runs(comparison, short_config, tmp_path, study):
    runs = study.keep(comparison, tmp_path / "kept")
    assert len(runs) == len(list(comparison.rglob("metrics.json")))
    files = {path.name for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    summaries = {"comparison.json", "comparison.md", "comparison.png"}
    assert files == {"config.yaml", "environment.json", "metrics.json", "scores.csv", *summaries}
    kept = "".join(path.read_text() for path in (tmp_path / "kept").rglob("*.*") if path.suffix != ".png")
    assert "label" not in (tmp_path / "kept" / "discriminative" / "seed-0" / "scores.csv").read_text()
    assert str(comparison) not in kept

    study.restore(tmp_path / "kept", tmp_path / "back", None)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "back").rglob("metrics.json")}
    (again,) = compare([str(short_config)], [0, 1], tmp_path / "back")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "back").rglob("metrics.json")} == before
    assert again.to_dict()["tests"] == json.loads((comparison / "comparison.json").read_text())["tests"]

    shutil.rmtree(tmp_path / "back" / "discriminative")
    scores = tmp_path / "kept" / "discriminative" / "seed-0" / "scores.csv"
    scores.write_text(scores.read_text().replace("planted-", "unknown-"))
    with pytest.raises(SystemExit, match="the data set has no clip unknown-"):
        study.restore(tmp_path / "kept", tmp_path / "back", None)
    assert not (tmp_path / "back" / "discriminative" / "seed-0").exists()


def test_the_trials_of_a_sweep_are_kept_without_the_paths_of_the_machine(tmp_path, study):
    folder, kept, again = tmp_path / "sweep", tmp_path / "kept", tmp_path / "again"
    folder.mkdir()
    config = {"root": "/data/here", "output_dir": "runs/x", "lora_r": 8}
    lines = [{"study_name": "head"}, {"study_id": 0, "user_attr": {"tuned": {"config": config}}}]
    (folder / study.TRIALS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert study.keep(folder, kept) == []
    assert "/data/here" not in (kept / study.TRIALS).read_text()
    assert study.restore(kept, again, "/data/there") == []
    first, second = map(json.loads, (again / study.TRIALS).read_text().splitlines())
    back = second["user_attr"]["tuned"]["config"]
    assert first == lines[0]
    assert (back["root"], back["lora_r"]) == ("/data/there", 8)
    assert back["group_split"] is False  # of a field newer than the sweep
