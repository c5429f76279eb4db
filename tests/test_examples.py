"""The scripts for users of a bundle run without this package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import omnisent
from omnisent.data.tables import read_columns
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline

SCRIPT = Path(omnisent.__file__).parent / "examples" / "score_text.py"
TEXTS = ("I loved every minute.", "It was far too long.")


@pytest.fixture
def score_text(tmp_path):
    """Runs the script in a folder."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ""}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(SCRIPT), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.mark.slow
def test_texts_are_scored_with_the_given_bundle_or_the_one_of_make_real(score_text, model, processor, tmp_path):
    missing = score_text(*TEXTS)
    assert missing.returncode == 1
    assert missing.stderr == "runs/real/model is not there: make it with `make real`, or give --model\n"
    model.save_pretrained(tmp_path / "bundle")
    processor.save_pretrained(tmp_path / "bundle")
    given = score_text("--model", "bundle", *TEXTS)
    assert given.returncode == 0, given.stderr
    pipe = MultimodalSentimentPipeline(model=model, processor=processor, device="cpu")
    expected = [pipe({"text": text}) for text in TEXTS]
    rows = [re.fullmatch(r"([+-]\d\.\d\d)  (\w+) +  ?(.*)", line).groups() for line in given.stdout.splitlines()]
    assert [(label, text) for _, label, text in rows] == [
        (result["label"], text) for result, text in zip(expected, TEXTS, strict=True)
    ]
    assert [float(score) for score, _, _ in rows] == pytest.approx([result["score"] for result in expected], abs=0.006)
    shutil.move(tmp_path / "bundle", tmp_path / "runs" / "real" / "model")
    assert score_text(*TEXTS).stdout == given.stdout


@pytest.mark.slow
def test_a_text_model_of_transformers_is_tuned_as_a_rival(planted_root, planted_clips, tiny_bert, tmp_path):
    script = SCRIPT.with_name("text_baseline.py")
    command = [sys.executable, str(script), str(tiny_bert), str(planted_root), "--out", str(tmp_path / "out")]
    command += ["--epochs", "2", "--learning_rate", "1e-3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = read_columns(tmp_path / "out" / "predictions.csv", {"id": str, "score": float})
    assert [row["id"] for row in rows] == [clip.id for clip in planted_clips if clip.split == "test"]
    assert len({round(row["score"], 4) for row in rows}) > 1
