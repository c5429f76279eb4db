"""`omnisent score` that was killed, run in several processes, or resumed after files changed: the same file as of a new run."""

import json
import multiprocessing
import os
import random
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from omnisent.scoring import transcribe
from omnisent.scoring.results import VERSION, ResumableWriter, Source, row_columns
from speech_recognizers import tiny_wav2vec2


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
    place: Path,
    bundle: Path,
    tmp_path: Path,
    kills: int,
    ending: str,
    *,
    workers: str,
    pause: float,
    change=lambda: None,
) -> tuple[Path, Path]:
    """The file of a run killed at random moments, with `change` called after each kill, and that of a fresh run in the end."""
    started = multiprocessing.get_context("forkserver")
    started.set_forkserver_preload(["omnisent.scoring.job"])
    script = tmp_path / "run.py"
    command = [
        "omnisent",
        "score",
        str(place),
        "--model",
        str(bundle),
        "--batch-size",
        "2",
        "--workers",
        workers,
        "--out",
    ]

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


@pytest.mark.parametrize(("ending", "workers"), [("csv", "0"), pytest.param("parquet", "1", marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_same_file(many, bundle, tmp_path, ending, workers):
    fresh, killed = _killed_and_fresh(many(24, 3), bundle, tmp_path, 3, ending, workers=workers, pause=0.1)
    assert killed.read_bytes() == fresh.read_bytes()
    table = pd.read_csv(fresh) if ending == "csv" else pd.read_parquet(fresh)
    assert len(table) == table["id"].nunique() == 24
    assert table["error"].notna().sum() == 3


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


@pytest.mark.slow
def test_twenty_kills_with_changing_clips_give_the_file_of_a_new_run(many, bundle, tmp_path, meddle):
    place = many(1000, 50)
    change = {"pause": 0.5, "change": lambda: meddle(place)}
    fresh, killed = _killed_and_fresh(place, bundle, tmp_path, 20, "jsonl", workers="auto", **change)
    assert killed.read_bytes() == fresh.read_bytes()
    rows = [json.loads(line) for line in fresh.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == 1000
    assert sum(row["error"] is not None for row in rows) > 30


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bundle", "tiny_backbone"])
def test_several_processes_share_the_work_and_write_one_file(score, many, model, tmp_path, request):
    place, bundle = many(22, 3), request.getfixturevalue(model)
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
    assert "19 scores in" in done.stderr
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
    """A command that is stopped by Ctrl-C once so many windows of one clip are kept."""
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


def test_a_run_with_several_targets_resumes_and_only_its_part_file_names_them(
    score, folder, bundle, two_bundle, tmp_path, monkeypatch
):
    out, other, command = (
        tmp_path / "s.csv",
        tmp_path / "other.csv",
        (folder, "--interval", "0.9", "--model", two_bundle),
    )
    _interrupted(score, monkeypatch, 2, *command, "--out", out)
    header = json.loads(out.with_name("s.csv.part").read_text().splitlines()[0])
    assert header["targets"] == ["valence", "arousal"]
    _, _, complained = score(*command, "--out", out, "--batch-size", 1)
    assert "changed since" not in complained
    score(*command, "--out", other, "--batch-size", 1)
    assert out.read_bytes() == other.read_bytes()
    _interrupted(score, monkeypatch, 2, folder, "--out", tmp_path / "one.csv", "--model", bundle)
    assert "targets" not in json.loads((tmp_path / "one.csv.part").read_text().splitlines()[0])


def test_other_names_of_targets_are_another_file(score, folder, two_bundle, tmp_path, monkeypatch):
    out, other = tmp_path / "s.csv", tmp_path / "bundle"
    shutil.copytree(two_bundle, other)
    _interrupted(score, monkeypatch, 2, folder, "--out", out, "--model", other)
    config = json.loads((other / "config.json").read_text())
    config |= {"id2label": {"0": "valence", "1": "tension"}, "calibration": None}
    (other / "config.json").write_text(json.dumps(config))
    code, _, complained = score(folder, "--out", out, "--model", other, "--batch-size", 1)
    assert code == 1
    assert "was started with targets ['valence', 'arousal'], now it is ['valence', 'tension']; remove it" in complained


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


def test_rows_with_transcripts_by_other_rules_are_not_kept(score, folder, tmp_path, monkeypatch):
    out, recognizer = tmp_path / "s.csv", tiny_wav2vec2(tmp_path / "recognizer")
    _interrupted(score, monkeypatch, 1, folder, "--transcribe", recognizer, "--out", out)
    monkeypatch.setattr(transcribe, "VERSION", transcribe.VERSION + 1)
    code, _, complained = score(folder, "--transcribe", recognizer, "--out", out, "--batch-size", 1)
    assert code == 1
    assert "was started with rules of transcription version" in complained
