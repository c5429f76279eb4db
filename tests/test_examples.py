"""The examples run as a user runs them, on files that are made here: those for users of a bundle, without this package."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import openpyxl
import pandas as pd
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

import omnisent
from media_files import tone
from omnisent.data.planted import planted_sentences, write_video
from omnisent.data.tables import read_columns
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.scoring.job import score
from omnisent.scoring.options import ScoreOptions

EXAMPLES = Path(omnisent.__file__).resolve().parent / "examples"
SCRIPT = EXAMPLES / "score_text.py"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
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
    empty = score_text("--model", "bundle", "")
    assert re.match(r"score_text\.py: .*nothing to score", last_line(empty))
    assert "Traceback" not in empty.stderr
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


@pytest.fixture
def bundle(model, processor, tmp_path) -> Path:
    model.save_pretrained(tmp_path / "bundle")
    processor.save_pretrained(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def example(tmp_path):
    """Runs a script with the package."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return run


def last_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 1, done.stdout
    return done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_folder_becomes_a_spreadsheet_in_its_order(example, bundle, model, processor, planted_clips, tmp_path):
    clips = [clip for clip in planted_clips if clip.video][:3]
    folder = tmp_path / "talks"
    folder.mkdir()
    for name, clip in zip("cab", clips, strict=True):
        shutil.copy(clip.video, folder / f"{name}.mp4")
    (folder / "b.txt").write_text("=1+1 is what I said")
    (folder / "bad.mp4").write_bytes(Path(clips[0].video).read_bytes()[:2000])
    done = example("folder_to_spreadsheet.py", "talks", "scores.xlsx", "--model", bundle)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 of 4 files scored, see scores.xlsx\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "scores.xlsx", "talks"]
    sheet = openpyxl.load_workbook(tmp_path / "scores.xlsx").active
    header, *rows = ([cell.value for cell in row] for row in sheet.iter_rows())
    table = pd.DataFrame(rows, columns=header, dtype=object).set_index("file")
    assert list(table.index) == ["talks/a.mp4", "talks/b.mp4", "talks/bad.mp4", "talks/c.mp4"]
    pipe = MultimodalSentimentPipeline(model=model, processor=processor, device="cpu")
    for name, text in (("a", None), ("b", "=1+1 is what I said"), ("c", None)):
        expected = pipe({"video": str(folder / f"{name}.mp4"), "text": text})
        row = table.loc[f"talks/{name}.mp4"]
        assert row["score"] == pytest.approx(expected["score"], abs=1e-4)
        assert (row["label"], row["text"], row["error"]) == (expected["label"], text, None)
    assert sheet["E3"].data_type == "s"  # no formula
    assert "truncated or damaged" in table.loc["talks/bad.mp4", "error"]
    ((cells, (rule,)),) = ((found.sqref, found.rules) for found in sheet.conditional_formatting)
    assert (str(cells), [float(end.val) for end in rule.colorScale.cfvo]) == ("B2:B5", [-3, 0, 3])
    scored = tmp_path / "again.xlsx.jsonl"
    score(ScoreOptions(str(bundle), (str(folder / "a.mp4"),), out=scored), notify=print)
    done = example("folder_to_spreadsheet.py", "talks", "again.xlsx", "--model", bundle)
    assert done.stdout == "1 of 1 files scored, see again.xlsx\n", done.stderr
    assert "the scores are those of again.xlsx.jsonl; remove it to score again" in done.stderr
    assert not scored.exists()
    assert last_line(example("folder_to_spreadsheet.py", "talks", "scores.xlsx", "--model", bundle)) == (
        "folder_to_spreadsheet.py: scores.xlsx: expected the name of a new file that ends in .xlsx"
    )
    (tmp_path / "empty").mkdir()
    assert last_line(example("folder_to_spreadsheet.py", "empty", "new.xlsx", "--model", bundle)) == (
        "folder_to_spreadsheet.py: empty: no video or audio file found there"
    )


@pytest.mark.slow
def test_a_long_recording_gives_its_three_strongest_moments(example, bundle, tmp_path):
    levels = (np.arange(160) // 10 * 15).astype(np.uint8)[:, None, None, None]
    sound = np.concatenate([tone(4, 16_000, hertz=hertz)[0] for hertz in (200, 900, 300, 600)])
    write_video(tmp_path / "talk.mp4", np.broadcast_to(levels, (160, 56, 56, 3)), 10, sound)
    cues = (f"00:{start:02}.000 --> 00:{start + 4:02}.000\nword{start}\n" for start in range(0, 16, 4))
    (tmp_path / "talk.vtt").write_text("\n".join(("WEBVTT\n", *cues)))
    done = example("long_recording.py", "talk.mp4", "--model", bundle, "--windows", "4s")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "talk.timeline.csv")
    assert list(table["start"]) == [0, 2, 4, 6, 8, 10, 12]
    assert (tmp_path / "talk.timeline.png").read_bytes().startswith(b"\x89PNG")
    heading, *moments, files = (line for line in done.stdout.splitlines() if not line.startswith(str(bundle)))
    assert heading.endswith("over 7 of 7 windows; the strongest:")
    assert files == "see talk.timeline.csv and talk.timeline.png"
    rows = [re.fullmatch(r"  0:(\d\d) to 0:(\d\d)  ([+-]\d\.\d\d)  (.*)", line).groups() for line in moments]
    assert 1 < len(rows) <= 3
    by_start = table.set_index("start")
    strengths = [abs(by_start.loc[int(start), "score"]) for start, *_ in rows]
    assert strengths[0] == table["score"].abs().max()
    assert strengths == sorted(strengths, reverse=True)
    for start, end, value, words in rows:
        assert float(value) == pytest.approx(by_start.loc[int(start), "score"], abs=0.006)
        assert words == by_start.loc[int(start), "text"].strip()
        assert all(int(end) <= int(other[0]) or int(start) >= int(other[1]) for other in rows if other[0] != start)
    missing = last_line(example("long_recording.py", "none.mp4", "--model", bundle))
    assert re.fullmatch(r"long_recording\.py: none\.mp4: .*no such file.*", missing, re.IGNORECASE)


def test_moments_of_a_long_recording_are_told_as_on_a_clock():
    clock = runpy.run_path(str(EXAMPLES / "long_recording.py"))["clock"]
    assert [clock(seconds) for seconds in (59.97, 3600)] == ["1:00", "1:00:00"]


@pytest.mark.slow
def test_own_ratings_give_an_own_model(example, tiny_backbone, tmp_path):
    texts, generator = planted_sentences(100), np.random.default_rng(0)
    means = np.linspace(1, 7, len(texts))
    ratings = {f"rater_{name}": np.clip(np.round(means + generator.normal(0, 0.5, len(texts))), 1, 7) for name in "ab"}
    pd.DataFrame({"comment": texts, **ratings}).to_excel(tmp_path / "ratings.xlsx", index=False)
    pd.DataFrame({"comment": texts[::33]}).to_csv(tmp_path / "new.csv", index=False)
    common = ("--scale", 1, 7, "--base_model", tiny_backbone, "--use_cpu", "true")
    what = ("ratings.xlsx", "--text", "comment", "--ratings", "rater_*", *common)
    done = example("own_ratings.py", *what, "--out", "run", "--new", "new.csv", "--max_steps", 30)
    assert done.returncode == 0, done.stderr
    assert "label from 2 raters (rater_a, rater_b)" in done.stdout
    mae, low, high = map(
        float, re.search(r"mean absolute error +(\d\.\d+)  \((\d\.\d+) to (\d\.\d+)\)", done.stdout).groups()
    )
    constant = float(re.search(r"always the same +(\d\.\d+)", done.stdout)[1])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert mae == pytest.approx(metrics["mae"], abs=6e-4)
    assert low < mae < high
    assert mae < 0.7 * constant
    scored = pd.read_csv(tmp_path / "run" / "new_scores.csv")
    assert list(scored["text"]) == texts[::33]
    assert (scored["low"] <= scored["score"]).all()
    assert (scored["score"] <= scored["high"]).all()
    assert np.corrcoef(scored["score"], means[::33])[0, 1] > 0.6
    wrong = last_line(
        example("own_ratings.py", "ratings.xlsx", "--text", "remark", "--ratings", "rater_*", *common, "--out", "b")
    )
    assert wrong.startswith("own_ratings.py: ratings.xlsx: ")
    assert "'remark'" in wrong
    assert "comment, rater_a, rater_b" in wrong
    wrong = last_line(
        example("own_ratings.py", "ratings.xlsx", "--text", "comment", "--ratings", "mark_*", *common, "--out", "b")
    )
    assert "no column matches 'mark_*'" in wrong
    assert not (tmp_path / "b").exists()


CHECKS = """
import json

checks = {
    "folder": folder.name,
    "mae": metrics["mae"],
    "label": complete[-1].label,
    "planted": explained["planted"].to_dict(),
    "adds": explained["it adds"].to_dict(),
    "spans": [float(end) for end in ends],
    "labels": [own.label for own in joined],
    "windows": windows[["start", "end", "score"]].to_numpy().tolist(),
    "words": words["it adds"].to_dict(),
    "arms": {name: arm.mae for name, arm in comparison.arms.items()},
}
print(json.dumps(checks))
"""


@pytest.mark.slow
def test_the_notebook_runs_from_start_to_end_and_finds_what_was_planted(tmp_path):
    """In a kernel of this Python, whatever kernels the user has."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.insert(-1, nbformat.v4.new_code_cell(CHECKS))
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, km=kernel, timeout=1200, resources=resources).execute()  # raises for an error in a cell
    checks = json.loads(notebook.cells.pop(-2).outputs[0].text)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [output for cell in code for output in cell.outputs if output.get("name") == "stderr"] == []
    committed = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [kinds(cell) for cell in code] == [kinds(cell) for cell in committed], (
        "execute and commit the notebook again"
    )
    summary = "".join(output.text for cell in code for output in cell.outputs if output.output_type == "stream")
    assert float(re.search(r"ratio (\d\.\d+)", summary)[1]) < 0.5
    score = next(output.data["text/plain"] for output in code[4].outputs if "data" in output)
    found = {name: float(re.search(rf"'{name}': ([-\d.]+)", score)[1]) for name in ("low", "score", "high")}
    assert found["low"] <= found["score"] <= found["high"]
    assert abs(found["score"] - checks["label"]) < 1
    assert checks["adds"]["text"] == max(checks["adds"].values())
    assert checks["adds"]["text"] == pytest.approx(checks["planted"]["text"], abs=0.7)
    starts, ends, scores = map(np.array, zip(*checks["windows"], strict=True))
    assert ends[-1] == pytest.approx(checks["spans"][-1], abs=0.1)
    spoken = np.searchsorted(checks["spans"], (starts + ends) / 2)
    assert np.corrcoef(scores, np.array(checks["labels"])[spoken])[0, 1] > 0.8
    arms = checks["arms"]
    assert arms.keys() >= {"discriminative", "generative-trained-greedy", "constant"}
    assert arms["discriminative"] < 0.7 * arms["constant"]
    assert not Path(checks["folder"]).exists()
    assert list(tmp_path.iterdir()) == []


def test_the_notebook_is_committed_as_it_was_executed():
    assert NOTEBOOK.stat().st_size < 450_000
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum("image/png" in kind for cell in code for kind in kinds(cell)) == 4


def kinds(cell) -> list[str]:
    """What a cell shows besides printed text: the kind of each output, and the headers of a table."""
    shown = []
    for output in (output for output in cell.outputs if output.output_type != "stream"):
        parts = sorted(output.get("data", {}))
        headers = re.findall(r"<th[^>]*>([^<]*)</th>", output.get("data", {}).get("text/html", ""))
        shown.append(" ".join([output.output_type, *parts, *headers]))
    return shown
