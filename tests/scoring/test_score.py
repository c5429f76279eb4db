"""`omnisent score`: a row for every clip in order, a reason in place of a score, and nothing lost or doubled by a kill."""

import csv
import json
import multiprocessing
import os
import random
import re
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from omnisent.cli import main
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.scoring.batch import Loading, load_pipeline
from omnisent.scoring.results import VERSION, ResumableWriter, Source, row_columns


@pytest.fixture
def score(monkeypatch, bundle, capsys):
    """Runs the command; returns exit code, output and error output."""

    def run(*arguments) -> tuple[int, str, str]:
        command = ["omnisent", "score", "--model", str(bundle), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        code = stopped.value.code
        return (1, said.out, code) if isinstance(code, str) else (code or 0, said.out, said.err)

    return run


@pytest.fixture
def folder(whole_clips, tmp_path) -> Path:
    """Two good videos, one of them with a transcript, and a damaged one between them."""
    place = tmp_path / "talks"
    place.mkdir()
    shutil.copy(whole_clips[0].video, place / "a.mp4")
    (place / "a.txt").write_text(whole_clips[0].text)
    (place / "b.mp4").write_bytes(Path(whole_clips[1].video).read_bytes()[:2000])
    shutil.copy(whole_clips[1].video, place / "c.mp4")
    return place


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
    assert said.startswith("2 scores in ")
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
    assert "already exists" in complained
    assert (tmp_path / "scores.csv").read_text() == "mine"


def test_a_long_file_is_scored_over_time(score, folder, tmp_path):
    code, said, _ = score(folder / "a.mp4", "--windows", "1s", "--stride", "500ms", "--out", tmp_path / "over.csv")
    table = pd.read_csv(tmp_path / "over.csv")
    assert code == 0
    assert (table["end"] - table["start"]).round(3).iloc[0] == 1.0
    assert table["start"].iloc[1] == 0.5
    assert table["score"].notna().all()
    assert (tmp_path / "over.png").stat().st_size > 5000
    assert f"{len(table)} of {len(table)} windows scored" in said


@pytest.fixture
def whisper(tmp_path) -> Path:
    """A speech recogniser with random weights and a byte for a token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    tokenizer = WhisperTokenizer(vocab={letter: index for index, letter in enumerate(letters)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    end, start = (tokenizer.convert_tokens_to_ids(token) for token in special[:2])
    torch.manual_seed(0)
    sizes = {f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "vocab_size": len(tokenizer)}
    ids = {"decoder_start_token_id": start, "pad_token_id": end, "bos_token_id": end, "eos_token_id": end}
    model = WhisperForConditionalGeneration(
        WhisperConfig(**sizes, **ids, begin_suppress_tokens=None, suppress_tokens=None)
    )
    model.generation_config.max_length = 8
    model.generation_config.suppress_tokens = [i for i in range(len(tokenizer)) if i >= 256 or not letters[i].isalpha()]
    folder = tmp_path / "whisper"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def test_clips_without_a_transcript_are_transcribed_first(score, folder, whisper, bundle, tmp_path):
    (folder / "b.mp4").unlink()
    code, _, complained = score(folder, "--transcribe", whisper, "--out", tmp_path / "scores.jsonl")
    first, second = (json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines())
    assert code == 0, complained
    assert first["text"] == (folder / "a.txt").read_text()
    assert second["text"]
    expected = _expected(bundle, [{"video": str(folder / "c.mp4"), "text": second["text"]}])[0]
    assert second["score"] == pytest.approx(expected, abs=2e-6)
    assert "without a transcript" not in complained


@pytest.fixture
def many(whole_clips, tmp_path):
    """A folder with so many clips, some of them damaged."""

    def make(count: int, damaged: int) -> Path:
        place = tmp_path / "many"
        place.mkdir()
        broken = set(random.Random(0).sample(range(count), damaged))
        for index in range(count):
            source, path = Path(whole_clips[index % len(whole_clips)].video), place / f"{index:05}.mp4"
            if index in broken:
                path.write_bytes(source.read_bytes()[: 1000 + index])
            else:
                os.link(source, path)
        return place

    return make


def _killed_and_fresh(
    place: Path, bundle: Path, tmp_path: Path, kills: int, ending: str, pause: float, change=lambda: None
) -> tuple[Path, Path]:
    """The file of a run killed at random moments, with `change` called after each kill, and that of a fresh run in the end."""
    started = multiprocessing.get_context("forkserver")
    started.set_forkserver_preload(["omnisent.scoring.job"])
    script = tmp_path / "run.py"
    command = ["omnisent", "score", str(place), "--model", str(bundle), "--batch-size", "2", "--out"]

    def start(out: Path):
        script.write_text(f"import sys\nfrom omnisent.cli import main\nsys.argv = {[*command, str(out)]!r}\nmain()\n")
        process = started.Process(target=runpy.run_path, args=(str(script),))
        process.start()
        return process

    fresh, killed = (tmp_path / f"{name}.{ending}" for name in ("fresh", "killed"))
    part, delays = killed.with_name(f"{killed.name}.part"), random.Random(1)
    for _ in range(kills):
        before = part.stat().st_size if part.exists() else 0
        process = start(killed)
        while process.is_alive() and (not part.exists() or part.stat().st_size <= before):
            time.sleep(0.01)
        time.sleep(delays.random() * pause)
        process.kill()
        process.join()
        assert not killed.exists(), "it was done before it was killed"
        change()
    for out in (killed, fresh):
        process = start(out)
        process.join(600)
        assert process.exitcode == 1
    return fresh, killed


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_killed_run_resumes_to_the_same_file(many, bundle, tmp_path, ending):
    fresh, killed = _killed_and_fresh(many(40, 4), bundle, tmp_path, 3, ending, pause=0.1)
    assert killed.read_bytes() == fresh.read_bytes()
    table = pd.read_csv(fresh) if ending == "csv" else pd.read_parquet(fresh)
    assert len(table) == table["id"].nunique() == 40
    assert table["error"].notna().sum() == 4


@pytest.fixture
def meddle(whole_clips):
    """Changes three clips of a folder at random: other words, no words, or another video."""
    draws = random.Random(2)

    def change(place: Path) -> None:
        for path in draws.sample(sorted(place.glob("*.mp4")), 3):
            words = path.with_suffix(".txt")
            what = draws.choice(("words", "video", "no words"))
            if what == "words":
                words.write_text(draws.choice(("I liked it", "I hated it", "so and so")) + "!" * draws.randrange(9))
            elif what == "video":
                path.unlink()  # it is linked to a clip that other tests read
                shutil.copy(draws.choice(whole_clips).video, path)
            else:
                words.unlink(missing_ok=True)

    return change


def test_a_killed_run_whose_clips_change_gives_the_file_of_a_new_run(many, bundle, tmp_path, meddle):
    place = many(40, 4)
    fresh, killed = _killed_and_fresh(place, bundle, tmp_path, 3, "jsonl", pause=0.3, change=lambda: meddle(place))
    assert killed.read_bytes() == fresh.read_bytes()


@pytest.mark.slow
def test_twenty_kills_with_changing_clips_give_the_file_of_a_new_run(many, bundle, tmp_path, meddle):
    place = many(1000, 50)
    fresh, killed = _killed_and_fresh(place, bundle, tmp_path, 20, "jsonl", pause=2.0, change=lambda: meddle(place))
    assert killed.read_bytes() == fresh.read_bytes()
    rows = [json.loads(line) for line in fresh.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == 1000
    assert sum(row["error"] is not None for row in rows) > 30


def test_several_processes_share_the_work_and_write_one_file(score, many, bundle, tmp_path):
    place = many(22, 3)
    alone, shared = tmp_path / "alone.csv", tmp_path / "shared.csv"
    options = ["--model", str(bundle), "--batch-size", "2"]
    score(place, *options, "--out", alone)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [
        *launch,
        "--num_machines",
        "1",
        "-m",
        "omnisent.cli",
        "score",
        str(place),
        *options,
        "--out",
        str(shared),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert "19 scores in" in done.stdout, done.stderr[-2000:]
    assert done.returncode != 0  # for there are clips without a score
    pd.testing.assert_frame_equal(pd.read_csv(shared), pd.read_csv(alone), atol=1e-6)
    assert not list(tmp_path.glob("*.part*"))


def test_two_commands_do_not_write_one_file(tmp_path):
    about, batches = {"model": "a"}, [[Source("a", "1")]]
    writer = ResumableWriter(tmp_path / "scores.csv", about, batches, row_columns())
    code = (
        "from omnisent.scoring.results import *; "
        f"ResumableWriter({str(tmp_path / 'scores.csv')!r}, {about}, {batches}, row_columns())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "is being written by another process" in other.stderr
    writer.close()
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_part_file_of_other_settings_is_refused_by_name(score, folder, tmp_path, bundle):
    out = tmp_path / "scores.csv"
    part = tmp_path / "scores.csv.part"
    part.write_text(json.dumps({"journal": VERSION, "model": str(bundle), "device": "cpu", "dtype": "bfloat16"}) + "\n")
    code, _, complained = score(folder, "--out", out)
    assert code == 1
    assert "was started with dtype bfloat16, now it is float32" in complained


def _interrupted(score, monkeypatch, after: int, *arguments) -> None:
    """A command that is stopped by Ctrl-C once so many batches of one clip are kept."""
    add = ResumableWriter.add

    def stop(writer, number, rows):
        if number == after:
            raise KeyboardInterrupt
        add(writer, number, rows)

    with monkeypatch.context() as patch:
        patch.setattr(ResumableWriter, "add", stop)
        assert score(*arguments, "--batch-size", 1)[0] == 130


def _change_transcript(folder, clips) -> None:
    (folder / "a.txt").write_text("no, really bad")


def _change_video(folder, clips) -> None:
    shutil.copy(clips[2].video, folder / "a.mp4")


def _add_transcript(folder, clips) -> None:
    (folder / "b.txt").write_text("what a day")


def _mend_video(folder, clips) -> None:
    shutil.copy(clips[3].video, folder / "b.mp4")


@pytest.mark.parametrize(
    ("change", "row"), [(_change_transcript, 0), (_change_video, 0), (_add_transcript, 1), (_mend_video, 1)]
)
def test_a_row_is_computed_again_when_its_sources_have_changed(
    score, folder, whole_clips, tmp_path, monkeypatch, change, row
):
    out, fresh = tmp_path / "scores.jsonl", tmp_path / "fresh.jsonl"
    _interrupted(score, monkeypatch, 2, folder, "--out", out)
    before = [json.loads(line) for line in out.with_name("scores.jsonl.part").read_text().splitlines()[1:]]
    change(folder, whole_clips)
    _, _, complained = score(folder, "--out", out, "--batch-size", 1)
    assert "1 clips changed since they were scored, and are scored again" in complained
    score(folder, "--out", fresh, "--batch-size", 1)
    assert out.read_bytes() == fresh.read_bytes()
    assert json.loads(out.read_text().splitlines()[row]) != before[row]["rows"][0]


def test_rows_of_a_changed_bundle_are_computed_again(score, folder, bundle, tmp_path, monkeypatch):
    out, fresh, other = tmp_path / "scores.jsonl", tmp_path / "fresh.jsonl", tmp_path / "bundle"
    shutil.copytree(bundle, other)
    _interrupted(score, monkeypatch, 2, folder, "--out", out, "--model", other)
    before = json.loads(out.with_name("scores.jsonl.part").read_text().splitlines()[1])["rows"][0]
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "label_mean": config["label_mean"] + 0.5}))
    _, _, complained = score(folder, "--out", out, "--batch-size", 1, "--model", other)
    assert "2 clips changed since they were scored" in complained
    score(folder, "--out", fresh, "--batch-size", 1, "--model", other)
    assert out.read_bytes() == fresh.read_bytes()
    assert json.loads(out.read_text().splitlines()[0])["score"] == pytest.approx(before["score"] + 0.5, abs=1e-5)


def test_only_changed_rows_of_a_table_are_scored_again(score, tmp_path, monkeypatch):
    table, out = tmp_path / "clips.csv", tmp_path / "scores.csv"
    table.write_text("id,text\na,good\nb,bad\nc,so\n")
    _interrupted(score, monkeypatch, 2, "--table", table, "--out", out)
    table.write_text("id,text\na,good\nb,really very bad\nc,so\n")
    _, _, complained = score("--table", table, "--out", out, "--batch-size", 1)
    assert "1 clips changed since they were scored" in complained
    score("--table", table, "--out", tmp_path / "fresh.csv", "--batch-size", 1)
    assert out.read_bytes() == (tmp_path / "fresh.csv").read_bytes()


def test_rows_are_kept_only_for_their_own_clips(tmp_path):
    writer = ResumableWriter(tmp_path / "scores.csv", {}, [[Source("a", "1"), Source("b", "2")]], row_columns())
    with pytest.raises(ValueError, match=r"expected rows of the clips \['a', 'b'\], got those of \['b', 'a'\]"):
        writer.add(0, [{"id": "b", "score": 1.0}, {"id": "a", "score": 2.0}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        writer.add(0, [{"id": "a", "score": float("nan")}, {"id": "b", "score": 2.0}])
    writer.close()
    again = ResumableWriter(tmp_path / "scores.csv", {}, [[Source("a", "1"), Source("b", "2")]], row_columns())
    assert again.missing == [0]


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
    assert "1 of 5 clips partly unreadable; the column warning says what is missing" in complained
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
