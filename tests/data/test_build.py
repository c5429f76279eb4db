"""Building a data set: what is kept, repaired and left out, that no file can stop a build, and what the report says."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from datasets import load_from_disk

from omnisent.data import build, media_check
from omnisent.data.build import build_dataset
from omnisent.data.build_report import Difference, Explanation, MissingModalities, SplitCount
from omnisent.data.built import BuildRecord, build_record
from omnisent.data.labelled_folder import read_clips
from omnisent.data.media_check import check_file, run_tasks
from omnisent.data.overlap import Overlap
from omnisent.data.planted import write_audio, write_video

HEADER = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode"


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> dict[str, bytes]:
    """Small media by what is wrong with them."""
    folder = tmp_path_factory.mktemp("media")
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 255, (12, 64, 64, 3), dtype=np.uint8)
    sound = generator.normal(0, 0.1, 16_000).astype(np.float32)
    write_video(folder / "good.mp4", frames, 12, sound)
    write_video(folder / "silent.mp4", frames, 12)
    write_audio(folder / "audio only.m4a", sound)
    write_without_pictures(folder / "zero length.mkv", sound)
    made = {path.stem: path.read_bytes() for path in folder.iterdir()}
    good = made["good"]
    moov = good.rindex(b"moov")
    return made | {
        "zero bytes": b"",
        "truncated": good[: len(good) // 2],
        "unreadable": b"<html>404 not found</html>" * 50,
        "damaged": good[:3000] + bytes(400) + good[3400:],
        "no index": good[: moov - 4],
    }


def write_without_pictures(path: Path, sound: np.ndarray) -> None:
    """A video stream without a frame beside one of sound."""
    with av.open(str(path), "w") as out:
        picture = out.add_stream("libx264", rate=25)
        picture.height, picture.width, picture.pix_fmt = 64, 64, "yuv420p"
        voice = out.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None, :1024], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        out.mux(voice.encode(frame))
        out.mux(voice.encode(None))


def write_root(root: Path, rows: list[str], files: dict[str, bytes]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "label.csv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    for name, content in files.items():
        (root / "Raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "Raw" / name).write_bytes(content)
    return root


def kinds(report) -> dict[str, tuple[str, str]]:
    return {defect.id: (defect.kind, defect.outcome) for defect in report.defects}


@pytest.fixture(scope="module")
def defective(tmp_path_factory, media):
    """A root with every defect, built once; the root, the output and the report."""
    folder = tmp_path_factory.mktemp("defective")
    good, rows, files = media["good"], [], {}
    bad = ["zero bytes", "truncated", "audio only", "zero length", "unreadable", "damaged", "no index"]
    for index, name in enumerate(bad):
        rows.append(f"v,{index},text of {name},{index / 10},,,,P,train")
        files[f"v/{index}.mp4"] = media[name]
    rows += ["v,90,missing clip,0,,,,N,valid", "nofolder,1,missing folder,0,,,,N,test"]
    rows += ["w,1,good,1.5,1,,-1,P,train", "w,2,silent,-1.5,,,,N,valid", "w,3,,0,,,,N,test", "w,4,,0,,,,N,test"]
    rows += ["w,1,again,1,,,,P,train", "w,5,a,x,,,,P,train", "w,6,a,3.1,,,,P,test", "w,7,a,0,,,,P,"]
    files |= {"w/1.mp4": good, "w/2.mp4": media["silent"], "w/3.mp4": good, "w/5.mp4": good, "w/8.mp4": good}
    root = write_root(folder / "root", rows, files)
    return root, folder / "out", build_dataset("cmu_mosi", root, folder / "out", workers=1)


def test_each_defect_is_listed_with_its_kind_and_outcome(defective):
    root, _, report = defective
    assert kinds(report) == {
        "v_0": ("zero bytes", "repaired"),
        "v_1": ("truncated", "repaired"),
        "v_2": ("audio only", "repaired"),
        "v_3": ("zero length", "repaired"),
        "v_4": ("unreadable", "repaired"),
        "v_5": ("damaged", "kept"),
        "v_6": ("truncated", "repaired"),
        "v_90": ("missing clip", "repaired"),
        "nofolder_1": ("missing folder", "repaired"),
        "w_4": ("missing clip", "left out"),
        "w_1": ("duplicate id", "left out"),
        "w_5": ("label not a number", "left out"),
        "w_6": ("label out of range", "left out"),
        "w_7": ("no split", "left out"),
        "w_8": ("clip without a row", "not in the table"),
    }
    reasons = {defect.id: defect.reason for defect in report.defects}
    assert reasons["w_5"].startswith(f"{root / 'label.csv'}, line 16, column label")
    assert "0 bytes" in reasons["v_0"]
    assert all(reasons.values())


def test_every_row_of_the_table_is_accounted_for(defective):
    _, out, report = defective
    assert report.counts == {
        "train": SplitCount(official=1284, table=10, built=8),
        "valid": SplitCount(official=229, table=2, built=2),
        "test": SplitCount(official=686, table=4, built=2),
    }
    assert report.outcomes == {"kept": 4, "repaired": 8, "left out": 5, "not in the table": 1}
    with (out / "build_rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(report.outcomes.values())
    assert all(row["reason"] for row in rows)
    assert not report.is_complete
    assert report.differences["test"].missing == 684
    assert [row.id for row in report.differences["test"].rows] == ["w_6", "w_7", "w_4", "w_8"]


def test_the_readable_part_of_a_bad_clip_can_be_trained_on(defective):
    root, out, _ = defective
    clips = {clip.id: clip for clip in read_clips(out)}
    assert set(clips) == {*(f"v_{i}" for i in range(7)), "v_90", "nofolder_1", "w_1", "w_2", "w_3"}
    video = str(root / "Raw/v/2.mp4")
    assert (clips["v_2"].video, clips["v_2"].audio, clips["v_2"].text) == (None, video, "text of audio only")
    assert (clips["v_0"].video, clips["v_0"].audio, clips["v_0"].text) == (None, None, "text of zero bytes")
    assert clips["v_5"].video == str(root / "Raw/v/5.mp4")
    saved = load_from_disk(str(out))
    assert saved.keys() == {"train", "valid", "test"}
    row = {row["id"]: row for row in saved["train"]}["w_1"]
    assert (row["label"], row["label_T"], row["label_A"], row["label_V"], row["defect"]) == (1.5, 1.0, None, -1.0, None)
    assert row["duration"] == pytest.approx(1.0)
    assert {row["id"]: row["defect"] for row in saved["train"]}["v_5"] == "damaged"


def test_the_report_can_be_read(defective):
    _, out, report = defective
    text = (out / "build_report.md").read_text(encoding="utf-8")
    assert "| train | 1,284 | 10 | 8 |" in text
    assert "valid: 227 rows fewer than the official count." in text
    assert "w_4" in text
    stored = json.loads((out / "build_report.json").read_text(encoding="utf-8"))
    assert stored["denoise"] == "none"
    assert stored["statistics"]["train"]["missing"] == {"text": 0, "audio": 4, "video": 6}
    assert stored["statistics"]["valid"]["label"]["zeros"] == 1
    assert stored["statistics"]["test"]["duration"]["clips"] == 1
    assert len(stored["defects"]) == len(report.defects)
    assert (out / "build_report.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_build_opens_nothing_and_a_changed_file_is_opened_again(defective, monkeypatch):
    root, out, first = defective
    opened = []

    def open_nothing(tasks, **_):
        opened.extend(task["path"] for task in tasks)
        yield from ()

    monkeypatch.setattr(build, "run_tasks", open_nothing)
    with (out.with_name("out.checks.jsonl")).open("a") as store:
        store.write('{"key": "1 2 3 half a li')
    assert build_dataset("cmu_mosi", root, out) == first
    assert opened == []
    os.utime(root / "Raw/w/3.mp4", ns=(1, 1))
    with pytest.raises(KeyError):  # nothing answers for it here
        build_dataset("cmu_mosi", root, out)
    assert opened == [str(root / "Raw/w/3.mp4")]
    assert (out / "build_report.json").is_file()


def test_strict_makes_a_defect_fatal_and_says_where_the_list_is(tmp_path, media):
    root = write_root(tmp_path / "root", ["v,1,a,0,,,,N,train", "v,2,a,9,,,,N,train"], {})
    with pytest.raises(ValueError, match=r"first v_2: .*line 3, column label.*out\.refused/build_report\.md"):
        build_dataset("cmu_mosi", root, tmp_path / "out", with_media=False, strict=True)
    assert not (tmp_path / "out").exists()
    assert "label out of range" in (tmp_path / "out.refused/build_report.md").read_text()
    write_root(root, ["v,1,a,0,,,,N,train"], {})
    build_dataset("cmu_mosi", root, tmp_path / "out", with_media=False, strict=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "root"]


def test_text_alone_builds_from_the_table_and_opens_no_media(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "run_tasks", None)
    root = write_root(tmp_path / "root", ["v,1,好,0.4,,,,P,train", "v,2,,0,,,,N,test"], {"v/1.mp4": b"bad"})
    report = build_dataset("ch_sims", root, tmp_path / "out", with_media=False)
    assert kinds(report) == {"v_2": ("nothing to read", "left out")}
    (clip,) = read_clips(tmp_path / "out")
    assert (clip.id, clip.text, clip.label, clip.video) == ("v_1", "好", 0.4, None)
    assert report.statistics["train"].missing == MissingModalities(text=0, audio=None, video=None)
    assert report.statistics["test"] is None
    assert report.to_dict()["statistics"]["test"] == {"rows": 0}


def test_official_counts_gaps_and_videos_in_two_splits_are_reported(tmp_path):
    facts = build.DATASETS["ch_sims"]
    assert facts.split_counts == (1368, 456, 457)
    rows = [f"v{i // 10},{i % 10:04d},t,0,,,,N,train" for i in range(1368)]
    rows += [f"w{i // 10},{i % 10:04d},t,0.4,,,,P,valid" for i in range(456)] + [
        f"v0,{i:04d},t,-1,,,,N,test" for i in range(20, 477)
    ]
    complete = build_dataset("ch_sims", write_root(tmp_path / "root", rows, {}), tmp_path / "out", with_media=False)
    assert complete.is_complete
    assert complete.differences == {}
    assert complete.overlap["train-test"] == Overlap(("v0",), 467)
    assert "- train-test: 1 video (467 clips): v0" in (tmp_path / "out" / "build_report.md").read_text()
    assert complete.overlap["train-valid"] == Overlap((), 0)
    write_root(tmp_path / "root", [row for row in rows if not row.startswith("v3,0004,")], {})
    short = build_dataset("ch_sims", tmp_path / "root", tmp_path / "out", with_media=False)
    why = "not in the table, though clips before and after it are"
    assert short.differences == {"train": Difference(1, (Explanation("v3_4", why),))}


def test_label_statistics_are_those_of_the_table(tmp_path):
    labels = [-3.0, -0.5, 0.0, 0.0, 2.5]
    root = write_root(tmp_path / "root", [f"v,{i},t,{label},,,,P,train" for i, label in enumerate(labels)], {})
    figures = build_dataset("cmu_mosi", root, tmp_path / "out", with_media=False).statistics["train"].label
    assert figures.mean == pytest.approx(-0.2)
    assert figures.sd == pytest.approx(np.std(labels))
    assert (figures.min, figures.median, figures.max, figures.zeros) == (-3.0, 0.0, 2.5, 2)
    histogram = dict(zip(figures.histogram.edges, figures.histogram.counts, strict=False))
    assert {edge: count for edge, count in histogram.items() if count} == {-3.25: 1, -0.75: 1, -0.25: 2, 2.25: 1}


def test_a_folder_that_was_not_built_has_no_record(tmp_path):
    assert build_record(tmp_path) is None
    (tmp_path / "build_report.json").write_text("{}")
    with pytest.raises(ValueError, match=r"build_report\.json: not a build report"):
        build_record(tmp_path)


def test_a_folder_with_other_files_is_not_overwritten(tmp_path):
    root = write_root(tmp_path / "root", ["v,1,a,0,,,,N,train"], {})
    with pytest.raises(FileExistsError, match="holds files that are not a built data set"):
        build_dataset("cmu_mosi", root, root, with_media=False)
    with pytest.raises(ValueError, match="'mosi' is not a data set that can be built; expected planted, cmu_mosi"):
        build_dataset("mosi", root, tmp_path / "out")
    with pytest.raises(ValueError, match="denoise: spectral needs media"):
        build_dataset("cmu_mosi", root, tmp_path / "out", with_media=False, denoise="spectral")


def test_denoised_audio_is_in_the_data_set_and_the_choice_is_recorded(tmp_path, media):
    pytest.importorskip("noisereduce")
    rows = ["v,1,a,0,,,,N,train", "v,2,a,0,,,,N,train"]
    root = write_root(tmp_path / "root", rows, {"v/1.mp4": media["good"], "v/2.mp4": media["silent"]})
    report = build_dataset("cmu_mosi", root, tmp_path / "out", denoise="spectral", workers=1)
    first, second = read_clips(tmp_path / "out")
    assert Path(first.audio).parent == tmp_path / "out.denoised/spectral"
    assert first.video == str(root / "Raw/v/1.mp4")
    assert second.audio is None
    assert report.denoise == "spectral"
    assert build_record(tmp_path / "out") == BuildRecord("cmu_mosi", "spectral", True)
    assert "denoise spectral" in load_from_disk(str(tmp_path / "out"))["train"].info.description


def test_randomly_damaged_copies_get_a_result_and_truncated_ones_are_detected(tmp_path, media):
    chance, good, seen = random.Random(0), media["good"], Counter()
    for index in range(60):
        content = bytearray(good)
        start, size = chance.randrange(len(good)), chance.choice([1, 20, 500, 20_000])
        if index % 3 == 0:
            del content[start:]
        elif index % 3 == 1:
            del content[start : start + size]
        else:
            content[start : start + size] = chance.randbytes(len(content[start : start + size]))
        (tmp_path / "a.mp4").write_bytes(content)
        check = check_file(str(tmp_path / "a.mp4"))
        assert check.reason
        assert check.kind is not None or index % 3
        seen[check.kind] += 1
    assert seen.keys() >= {"truncated", "damaged", "unreadable"}
    assert seen[None] <= 12  # a changed byte need not show in what is decoded


def test_a_reader_that_hangs_or_crashes_costs_one_clip_and_leaves_no_process(tmp_path, monkeypatch):
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, signal, sys, time\nfrom omnisent.data import media_check\n"
        "def do(task):\n"
        "    if 'hang' in task['path']: time.sleep(60)\n"
        "    if 'crash' in task['path']: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if 'leave' in task['path']: print('bye', file=sys.stderr); os._exit(3)\n"
        "    if 'raise' in task['path']: raise KeyError('odd')\n"
        "    return {'pid': os.getpid()}\n"
        "media_check._do = do\nmedia_check.main()\n"
    )
    start = subprocess.Popen
    monkeypatch.setattr(
        media_check.subprocess,
        "Popen",
        lambda command, **options: start([sys.executable, str(script), command[-1]], **options),
    )
    names = ["a", "hang", "b", "crash", "leave", "c", "raise", "d"]
    results = {
        task["path"]: result for task, result in run_tasks([{"path": n} for n in names], workers=2, time_limit=1.5)
    }
    assert results["hang"] == {"died": "took longer than 1.5 s", "kind": "took too long"}
    crashed = {"kind": "crashed the reader"}
    assert results["crash"] == {"died": "the reader crashed with SIGSEGV"} | crashed
    assert results["leave"] == {"died": "the reader ended with code 3: bye"} | crashed
    assert results["raise"] == {"died": "KeyError: 'odd'"} | crashed
    pids = {results[name]["pid"] for name in "abcd"}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_a_worker_ends_with_the_process_that_started_it(tmp_path, media):
    (tmp_path / "a.mp4").write_bytes(media["good"])
    code = (
        "import itertools, os, sys\nfrom omnisent.data import media_check\n"
        "tasks = media_check.run_tasks([{'do': 'check', 'path': sys.argv[1]}] * 100000, workers=1, time_limit=9)\n"
        "next(tasks)\nprint(open('/proc/self/task/%d/children' % os.getpid()).read(),"
        " flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.mp4")], check=False, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL
    (worker,) = map(int, done.stdout.split())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)
