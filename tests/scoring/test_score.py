"""`omnisent score`: a row for every clip in order, a reason in place of a score, and nothing lost or doubled by a kill."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from media_files import tone, write_clip
from omnisent.data.planted import write_audio
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.scoring.loading import Loading, load_pipeline
from speech_recognizers import tiny_whisper


def _expected(bundle, clips: list[dict]) -> list[float]:
    model, processor = OmniForSentimentRegression.from_pretrained(bundle), OmniSentProcessor.from_pretrained(bundle)
    with torch.no_grad():
        return [model(**processor(clip)).scores.item() for clip in clips]


def test_rows_are_in_order_with_a_reason_where_there_is_no_score(score, folder, bundle, whole_clips, tmp_path):
    code, said, complained = score(folder, "--out", tmp_path / "scores.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [str(folder / name) for name in ("a.mp4", "b.mp4", "c.mp4")]
    expected = _expected(
        bundle, [{"video": str(folder / "a.mp4"), "text": whole_clips[0].text}, {"video": str(folder / "c.mp4")}]
    )
    assert [rows[0]["score"], rows[2]["score"]] == pytest.approx(expected, abs=2e-6)
    assert rows[0]["text"] == whole_clips[0].text
    assert rows[0]["seconds"] > 1
    assert rows[0]["error"] is rows[1]["score"] is rows[1]["label"] is rows[2]["text"] is None
    assert "b.mp4" in rows[1]["error"]
    assert code == 1
    assert said == ""
    assert f"2 scores in {tmp_path / 'scores.jsonl'}\n" in complained
    assert "1 of 3 clips without a transcript" in complained
    assert "1 of 3 clips have no score" in complained
    assert not list(tmp_path.glob("*.part*"))


def test_without_out_a_table_is_printed_and_success_is_exit_code_zero(score, folder, bundle):
    code, said, complained = score(folder / "a.mp4", "--text", "it was fine")
    header, row = said.strip().splitlines()
    assert header.split() == ["id", "score", "label", "seconds"]
    expected = _expected(bundle, [{"video": str(folder / "a.mp4"), "text": "it was fine"}])[0]
    assert float(row.split()[1]) == pytest.approx(expected, abs=6e-4)
    assert code == 0
    assert "without a transcript" not in complained


def test_a_file_of_audio_alone_is_scored_as_its_path_by_the_pipeline(score, bundle, tmp_path):
    memo = write_clip(tmp_path / "memo.mp4", 0, wave=tone(2, 48_000))
    (tmp_path / "clips.csv").write_text("id,video\n1,memo.mp4\n")
    expected = load_pipeline(Loading(str(bundle), device="cpu"))(str(memo))["score"]
    for what in ((memo,), (tmp_path,), ("--table", tmp_path / "clips.csv"), (memo, "--explain")):
        code, out, complained = score(*what, "--json")
        assert code == 0, complained
        assert json.loads(out)["score"] == pytest.approx(expected, abs=1e-5)


def test_a_text_without_a_file_is_scored(score, text_bundle, about, tmp_path):
    words = "I loved every minute"
    code, said, complained = score("--text", words, "--model", text_bundle)
    header, row = said.strip().splitlines()
    assert header.split() == ["id", "score", "label"]
    assert row.split()[0] == "text"
    (expected,) = _expected(text_bundle, [{"text": words}])
    assert float(row.split()[1]) == pytest.approx(expected, abs=6e-4)
    assert (code, complained.splitlines()[0]) == (0, f"{text_bundle}: {about}")
    assert "transcript" not in complained
    code, *_ = score("--text", words, "--model", text_bundle, "--out", tmp_path / "s.jsonl")
    row = json.loads((tmp_path / "s.jsonl").read_text())
    assert (code, row["id"], row["text"], row["error"]) == (0, "text", words, None)
    assert row["score"] == pytest.approx(expected, abs=2e-6)
    code, said, _ = score("--text", " ", "--model", text_bundle)
    assert code == 1
    assert "nothing to score: expected at least one of text" in said


def test_a_bundle_says_what_it_is_on_standard_error_only(score, folder, bundle, text_bundle, about, tmp_path):
    line = f"{text_bundle}: {about}"
    code, said, complained = score(folder / "a.mp4", "--model", text_bundle, "--out", tmp_path / "s.csv")
    assert (code, complained.splitlines()[0]) == (0, line)
    assert about not in said + (tmp_path / "s.csv").read_text()
    over = ("--windows", "1s", "--out", tmp_path / "over.csv")
    assert line in score(folder / "a.mp4", "--model", text_bundle, *over)[2]
    assert f"{bundle}: " not in score(folder / "a.mp4")[2]


def test_every_format_has_the_same_rows(score, folder, tmp_path):
    for ending in ("jsonl", "csv", "parquet"):
        score(folder, "--out", tmp_path / f"scores.{ending}")
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert table.astype(object).where(table.notna(), None).to_dict("records") == lines
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: "" if value is None else str(value) for name, value in line.items()} for line in lines]


def test_a_table_is_scored_by_its_columns_and_with_workers_alike(score, planted_root, planted_clips, tmp_path):
    table = Path(planted_root) / "clips.csv"
    for workers in (0, 2):
        code, *_ = score("--table", table, "--out", tmp_path / f"{workers}.jsonl", "--workers", workers)
        assert code == 0
    assert (tmp_path / "0.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "0.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [clip.id for clip in planted_clips]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "scores.txt"], r"scores\.txt: expected a table that ends in \.csv, \.jsonl, \.parquet"),
        (["--dtype", "float8"], "--dtype must be one of bfloat16, float16, float32, not 'float8'"),
        (["--quantize", "int3"], "--quantize must be one of nf4, none, not 'int3'"),
        (["--windows", "8s", "--text", "fine"], "--text cannot be combined with --windows"),
        (["--windows", "8 parsecs"], "'8 parsecs' is not a duration"),
        (["--table", "nowhere.csv"], "either files or --table"),
    ],
)
def test_wrong_arguments_are_one_clear_line(score, folder, arguments, message):
    code, _, complained = score(folder / "a.mp4", *arguments)
    assert code == 1
    assert complained.startswith("omnisent: ")
    assert re.search(message, complained)


def test_a_missing_model_is_one_clear_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder; give a bundle's folder or the id"):
        load_pipeline(Loading(str(tmp_path / "nothing")))
    with pytest.raises(FileNotFoundError, match=r"no config\.json in this folder"):
        load_pipeline(Loading(str(tmp_path)))


def test_four_bit_weights_score_nearly_alike(folder, bundle):
    clip = {"video": str(folder / "a.mp4")}
    whole, small = (load_pipeline(Loading(str(bundle), quantize=how)) for how in (None, "nf4"))
    assert small.model.is_loaded_in_4bit
    assert small(clip)["score"] == pytest.approx(whole(clip)["score"], abs=0.5)
    assert small(clip)["score"] != whole(clip)["score"]


def test_interval_adds_columns(score, folder, bundle, tmp_path):
    code, _, complained = score(folder / "a.mp4", "--interval", "0.9")
    assert code == 1
    assert "no interval of level 0.9; it is not calibrated" in complained
    config = json.loads((bundle / "config.json").read_text())
    calibrated = tmp_path / "calibrated"
    shutil.copytree(bundle, calibrated)
    config["calibration"] = {"clips": 40, "half_widths": {"0.9": 0.25}}
    (calibrated / "config.json").write_text(json.dumps(config))
    code, *_ = score(folder / "a.mp4", "--interval", "0.9", "--out", tmp_path / "s.csv", "--model", calibrated)
    row = pd.read_csv(tmp_path / "s.csv").iloc[0]
    assert code == 0
    assert row["high"] - row["low"] == pytest.approx(0.5)
    assert row["low"] < row["score"] < row["high"]


def test_an_existing_file_is_not_overwritten(score, folder, tmp_path):
    (tmp_path / "scores.csv").write_text("mine")
    code, _, complained = score(folder, "--out", tmp_path / "scores.csv")
    assert code == 1
    assert "already exists; replace it with --overwrite, or give another --out" in complained
    assert (tmp_path / "scores.csv").read_text() == "mine"


def test_a_long_file_is_scored_over_time(score, folder, tmp_path):
    code, said, complained = score(
        folder / "a.mp4", "--windows", "1s", "--stride", "500ms", "--out", tmp_path / "over.csv"
    )
    table = pd.read_csv(tmp_path / "over.csv")
    assert code == 0
    assert (table["end"] - table["start"]).round(3).iloc[0] == 1.0
    assert table["start"].iloc[1] == 0.5
    assert table["score"].notna().all()
    assert (tmp_path / "over.png").stat().st_size > 5000
    assert f"{len(table)} of {len(table)} windows scored" in complained
    assert said == ""


def test_clips_without_a_transcript_are_transcribed_first(score, folder, bundle, tmp_path):
    (folder / "b.mp4").unlink()
    write_audio(folder / "d.m4a", np.zeros(32_000, np.float32))
    whisper = tiny_whisper(tmp_path / "whisper")
    code, _, complained = score(folder, "--transcribe", whisper, "--out", tmp_path / "scores.jsonl")
    first, second, third = (json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines())
    assert code == 0, complained
    assert first["text"] == (folder / "a.txt").read_text()
    assert second["text"]
    assert third["text"] is None
    nothing_said = "no speech in its audio, so there is no transcript"
    assert [row["warning"] for row in (first, second, third)] == [None, None, nothing_said]
    expected = _expected(
        bundle, [{"video": str(folder / "c.mp4"), "text": second["text"]}, {"audio": str(folder / "d.m4a")}]
    )
    assert [second["score"], third["score"]] == pytest.approx(expected, abs=2e-6)
    assert "1 of 3 clips have no speech in their audio to transcribe" in complained
    assert "1 of 3 clips without a transcript" in complained
    assert "unreadable" not in complained


def test_corrupt_partly_readable_and_oddly_named_files_affect_only_their_rows(
    score, folder, half_read, whole_clips, bundle, tmp_path
):
    (folder / "b.mp4").unlink()
    sound = np.zeros(16000, np.float32)
    sound[800] = 3e38
    soundfile.write(folder / "poisoned.wav", sound, 16000, subtype="FLOAT")
    shutil.copy(half_read, folder / f"half{Path(half_read).suffix}")
    shutil.copy(whole_clips[2].video, os.fsencode(folder) + b"/odd-\xff.mp4")
    out = tmp_path / "scores.jsonl"
    code, said, complained = score(folder, "--out", out)
    rows = {Path(row["id"]).name: row for row in map(json.loads, out.read_text(encoding="utf-8").splitlines())}
    assert rows.keys() == {"a.mp4", "c.mp4", f"half{Path(half_read).suffix}", "odd-\\udcff.mp4", "poisoned.wav"}
    failed = {name for name, row in rows.items() if row["error"]}
    assert failed == {"poisoned.wav"}
    assert all((row["score"] is None) == (name in failed) for name, row in rows.items())
    assert "poisoned.wav" in rows["poisoned.wav"]["error"]
    assert "% of its audio" in rows[f"half{Path(half_read).suffix}"]["warning"]
    assert [row["warning"] for name, row in rows.items() if not name.startswith("half")] == [None] * 4
    assert code == 1
    assert "1 of 5 clips have a warning; the column warning says what is missing" in complained
    code, said, _ = score(folder)
    assert {"warning", "error"} <= set(said.splitlines()[0].split())


def test_a_model_that_computes_nan_is_an_error_of_every_row(score, folder, bundle, tmp_path):
    """Its weights are finite, and sums of them are not."""
    other = tmp_path / "bundle"
    shutil.copytree(bundle, other)
    weights = load_file(other / "head.safetensors")
    weights[max(weights)] = torch.full_like(weights[max(weights)], 3e38)
    save_file(weights, other / "head.safetensors")
    code, _, complained = score(folder, "--out", tmp_path / "s.jsonl", "--model", other)
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert code == 1
    assert [row["score"] for row in rows] == [None] * 3
    assert "no score: the model computes NaN or infinity" in rows[0]["error"]
    assert rows[0]["error"].startswith(f"clip {rows[0]['id']}: ")
    assert "3 of 3 clips have no score" in complained


def test_several_targets_have_a_column_each_and_their_ends_too(score, folder, two_bundle, tmp_path):
    command = (folder, "--model", two_bundle, "--device", "cpu", "--batch-size", "2")
    code, _, complained = score(*command, "--interval", "0.9", "--out", tmp_path / "s.csv")
    assert code == 1
    assert "1 of 3 clips have no score" in complained
    table = pd.read_csv(tmp_path / "s.csv")
    names = ["valence", "valence_low", "valence_high", "arousal", "arousal_low", "arousal_high"]
    assert list(table) == ["id", *names, "seconds", "text", "warning", "error"]
    assert table.loc[1, names].isna().all()
    assert "b.mp4" in table["error"][1]
    model, processor = (kind.from_pretrained(two_bundle) for kind in (OmniForSentimentRegression, OmniSentProcessor))
    with torch.no_grad():
        expected = model(**processor({"video": str(folder / "c.mp4")})).scores[0].tolist()
    assert table.loc[2, ["valence", "arousal"]].tolist() == pytest.approx(expected, abs=5e-6)
    assert table["valence_high"][2] - table["valence_low"][2] == pytest.approx(1.0)
    assert table["arousal_high"][2] - table["arousal"][2] == pytest.approx(0.75)
    code, said, _ = score(*command)
    assert said.splitlines()[0].split() == ["id", "valence", "arousal", "seconds", "error"]
    code, *_ = score(*command, "--out", tmp_path / "s.jsonl")
    first, second, _ = (json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines())
    assert list(first) == list(second) == ["id", "valence", "arousal", "seconds", "text", "warning", "error"]
    assert [first[name] for name in ("valence", "arousal")] == table.loc[0, ["valence", "arousal"]].tolist()


def test_a_target_with_the_name_of_another_column_is_one_clear_line(score, folder, two_bundle, tmp_path):
    other = tmp_path / "bundle"
    shutil.copytree(two_bundle, other)
    config = json.loads((other / "config.json").read_text())
    config |= {"id2label": {"0": "valence", "1": "seconds"}, "calibration": None}
    (other / "config.json").write_text(json.dumps(config))
    code, _, complained = score(folder, "--model", other)
    assert code == 1
    assert complained == (
        "omnisent: the bundle's targets are valence, seconds, but the table has another column 'seconds'; rename the target in the"
        " bundle's config.json"
    )


@pytest.fixture
def foreign(tmp_path) -> Path:
    """A table as a German spreadsheet program writes it, with labels of something else."""
    file = tmp_path / "Bewertungen.csv"
    file.write_text("Nr;Äußerung;Valenz\na7;Es war schön;3,5\na8;Öde und fad;1,25\n", encoding="cp1252")
    return file


def test_a_table_is_scored_as_its_tool_wrote_it(score, foreign, bundle, two_bundle, tmp_path):
    table = ("--table", foreign, "--encoding", "cp1252", "--decimal", ",")
    expected = _expected(bundle, [{"text": "Es war schön"}, {"text": "Öde und fad"}])
    for number, columns in enumerate(("id=Nr, text=Äußerung", '{"id": "Nr", "text": "Äußerung"}')):
        code, _, complained = score(*table, "--columns", columns, "--out", tmp_path / f"{number}.jsonl")
        assert (code, complained.startswith("omnisent: ")) == (0, False)
        rows = [json.loads(line) for line in (tmp_path / f"{number}.jsonl").read_text().splitlines()]
        assert [row["id"] for row in rows] == ["a7", "a8"]
        assert [row["text"] for row in rows] == ["Es war schön", "Öde und fad"]
        assert [row["score"] for row in rows] == pytest.approx(expected, abs=2e-6)
    # The columns that a model was trained with do, whether or not the table has those of its labels.
    trained = "id=Nr,text=Äußerung,valence=Valenz,arousal=Erregung"
    code, said, _ = score(*table, "--columns", trained, "--model", two_bundle)
    assert (code, said.split()[:3]) == (0, ["id", "valence", "arousal"])
    code, _, complained = score(*table, "--columns", "id=Nr,text=Äußerung,valence=Valenz")
    assert code == 1
    assert complained.startswith("omnisent: --columns: unknown name 'valence'; expected one of id, text, video, audio,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "text"], "--columns: expected text=HEADER"),
        (
            ["--columns", "text=Wort", "--encoding", "cp1252"],
            "Bewertungen.csv: columns: text: there is no column 'Wort'",
        ),
        (["--encoding", "latein"], "--encoding: 'latein' is unknown"),
        (["--decimal", ";"], "--decimal: expected '.' or ',', found ';'"),
        (["--columns", "text=Äußerung"], "Bewertungen.csv"),
    ],
)
def test_a_table_that_cannot_be_read_so_is_one_clear_line(score, foreign, arguments, message):
    code, _, complained = score("--table", foreign, *arguments)
    assert code == 1
    assert complained.startswith("omnisent: ")
    assert message in complained
