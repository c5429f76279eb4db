"""What `omnisent score` prints: rows alone on standard output, as a table or as JSON, and all else on standard error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from omnisent.configuration_omnisent import SAYS_NOTHING
from omnisent.scoring.results import row_columns

PLANTED = f"reads text; trained on Planted clips; random base model; {SAYS_NOTHING}"


@pytest.fixture(scope="session")
def planted_bundle(bundle, tmp_path_factory) -> Path:
    """A bundle that says that it learnt nothing about sentiment, as the demo's does."""
    folder = tmp_path_factory.mktemp("planted") / "model"
    folder.mkdir()
    for file in bundle.iterdir():
        (folder / file.name).symlink_to(file)
    config = {**json.loads((bundle / "config.json").read_text()), "about": PLANTED}
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def rows_of(printed: str) -> list[dict]:
    return [json.loads(line) for line in printed.splitlines()]


def test_json_has_the_lines_of_a_jsonl_file(score, folder, tmp_path):
    code, printed, complained = score(folder, "--json")
    assert code == 1
    assert "1 of 3 clips have no score" in complained
    rows = rows_of(printed)
    assert [Path(row["id"]).name for row in rows] == ["a.mp4", "b.mp4", "c.mp4"]
    assert [list(row) for row in rows] == [list(row_columns())] * 3
    assert "b.mp4" in rows[1]["error"]
    assert rows[1]["score"] is None
    assert score(folder, "--out", "-")[1] == printed
    _, also, _ = score(folder, "--json", "--out", tmp_path / "s.jsonl")
    assert also == printed == (tmp_path / "s.jsonl").read_text()
    score(folder, "--json", "--out", tmp_path / "s.csv")
    assert pd.read_csv(tmp_path / "s.csv")["score"].tolist()[0] == pytest.approx(rows[0]["score"])


def test_windows_are_rows_too(score, folder, tmp_path):
    _, printed, complained = score(folder / "a.mp4", "--windows", "1s", "--json", "--out", tmp_path / "over.jsonl")
    assert printed == (tmp_path / "over.jsonl").read_text()
    assert len(rows_of(printed)) > 1
    assert "windows scored" in complained


def test_quiet_says_nothing_but_errors_and_json_is_alone_on_standard_output(folder, planted_bundle, tmp_path):
    """In a process of its own, as progress bars cannot be turned off once they are loaded."""
    command = [sys.executable, "-W", "always", "-m", "omnisent.cli", "score", str(folder), "--json"]
    failure = "1 of 3 clips have no score; the column error says why"
    said = []
    for quiet in ([], ["--quiet"]):
        told = subprocess.run(
            [*command, "--model", str(planted_bundle), *quiet],
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert told.returncode == 1
        assert [row["about"] for row in rows_of(told.stdout)] == [PLANTED] * 3
        said.append(told.stderr)
    assert {f"{planted_bundle}: {PLANTED}", failure} <= set(said[0].splitlines())
    assert said[1] == f"{failure}\n"


def test_a_model_that_learnt_nothing_about_sentiment_says_so_in_every_output(score, folder, planted_bundle, tmp_path):
    _, printed, complained = score(folder / "a.mp4", "--model", planted_bundle)
    assert printed.splitlines()[-1] == f"{planted_bundle}: {PLANTED}"
    assert "about" not in printed.splitlines()[0].split()
    assert f"{planted_bundle}: {PLANTED}" in complained
    for ending, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        score(folder, "--model", planted_bundle, "--out", tmp_path / f"s.{ending}")
        assert (read(tmp_path / f"s.{ending}")["about"] == PLANTED).all()
    over = ("--windows", "1s", "--out", tmp_path / "over.csv")
    rows = rows_of(score(folder / "a.mp4", "--json", *over, "--model", planted_bundle)[1])
    assert {row["about"] for row in rows} == {PLANTED}


def test_an_existing_file_is_replaced_only_when_the_new_one_is_complete(score, folder, bundle, tmp_path):
    out = tmp_path / "s.jsonl"
    out.write_text("mine")
    assert score(folder, "--out", out, "--overwrite", "--model", tmp_path / "nothing")[0] == 1
    assert out.read_text() == "mine"
    score(folder, "--out", out, "--overwrite")
    assert len(rows_of(out.read_text())) == 3
    assert not list(tmp_path.glob("*.part"))
