"""The scripts for users of a bundle run without this package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import omnisent
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
