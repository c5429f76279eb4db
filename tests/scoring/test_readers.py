"""How many processes read clips, what they hand over, and what the command writes about it."""

import json
import os
from types import SimpleNamespace

import pytest

from media_files import tone, write_clip
from omnisent.data import reader_count
from omnisent.data.clip import Clip
from omnisent.scoring.clips import find_clips
from omnisent.scoring.options import ScoreOptions
from omnisent.scoring.readers import ROW, ClipReader, auto_workers, scored_row, with_text

MEDIA = [Clip(f"{number}", "so", video=f"{number}.mp4") for number in range(100)]


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many cores, and so many GiB of free memory and of shared memory."""

    def of(cores: int, gigabytes: float, processes: int = 1, shared: float = 500) -> None:
        free, of_shared = (
            SimpleNamespace(available=int(gigabytes * (1 << 30))),
            SimpleNamespace(free=int(shared * (1 << 30))),
        )
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        monkeypatch.setattr(reader_count.psutil, "virtual_memory", lambda: free)
        monkeypatch.setattr(reader_count.shutil, "disk_usage", lambda path: of_shared)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))

    return of


@pytest.mark.parametrize(
    ("cores", "gigabytes", "processes", "expected"),
    [(2, 20, 1, 2), (8, 3.5, 1, 3), (64, 500, 1, 16), (8, 20, 4, 2), (4, 0.5, 1, 0), (1, 20, 2, 0)],
)
def test_readers_are_as_many_as_cores_and_memory_allow(machine, cores, gigabytes, processes, expected):
    machine(cores, gigabytes, processes)
    assert auto_workers(MEDIA) == expected


def test_a_container_with_little_shared_memory_reads_in_one_process(machine):
    machine(8, 20, shared=0.0625)
    assert auto_workers(MEDIA) == 0
    assert reader_count.possible_readers() == 8  # that hand nothing over


def test_few_clips_or_texts_need_no_reader(machine):
    machine(8, 20)
    assert auto_workers(MEDIA[:3]) == 0
    assert auto_workers(MEDIA[:9]) == 2
    assert auto_workers([Clip(str(number), "so") for number in range(100)]) == 0


@pytest.mark.parametrize(("given", "expected"), [("auto", None), ("0", 0), ("12", 12)])
def test_workers_are_a_number_or_auto(given, expected):
    assert ScoreOptions("model", workers=given).readers == expected


@pytest.mark.parametrize("given", ["two", "-1", "1.5", ""])
def test_other_workers_are_refused(given):
    with pytest.raises(ValueError, match="--workers must be auto or a number of processes, not"):
        ScoreOptions("model", workers=given).check()


def test_a_clip_is_read_with_the_cells_of_its_row(processor, folder):
    clips = [Clip("a", video=str(folder / "a.mp4")), Clip("gone", video=str(folder / "gone.mp4"))]
    reader = ClipReader(clips, lambda clip: {"encoded": clip["text"]}, {"a": "no speech"})
    read, gone = map(reader.__getitem__, range(2))
    assert read["encoded"] == read[ROW]["text"] == (folder / "a.txt").read_text()
    assert read[ROW]["seconds"] > 1
    assert gone[ROW] == {"id": "gone", "seconds": None, "text": None, "warning": None}
    assert scored_row(read, {"score": 1.0, "warning": "cut"}) == {
        **read[ROW],
        "score": 1.0,
        "warning": "no speech; cut",
    }
    assert scored_row(gone, {"error": "gone"}) == {**gone[ROW], "error": "gone"}


@pytest.mark.parametrize("name", ["memo.mp4", "memo.webm", "memo.m4a"])
def test_a_file_without_video_is_audio_whatever_its_name(tmp_path, name):
    file = write_clip(tmp_path / name, 0, wave=tone(1, 48_000), audio_codec="libopus" if "webm" in name else "aac")
    file.with_suffix(".txt").write_text("said")
    found, error = with_text(find_clips([str(file)])[0])
    assert (found.video, found.audio, found.text, error) == (None, str(file), "said", None)


def test_a_clip_with_video_or_with_a_file_of_each_stays_as_it_is(folder, tmp_path):
    sound = str(write_clip(tmp_path / "memo.mp4", 0, wave=tone(1, 48_000)))
    for video, audio in ((folder / "a.mp4", None), (folder / "a.mp4", sound), (sound, sound), ("gone.mp4", None)):
        clip = Clip("a", "so", video=str(video), audio=audio)
        assert with_text(clip) == (clip, None)


def test_a_transcript_that_cannot_be_read_is_an_error(folder):
    (folder / "a.txt").write_bytes(b"\xff\xfe\xff")
    read = ClipReader([Clip("a", video=str(folder / "a.mp4"))], lambda clip: {})[0]
    assert "expected a transcript in UTF-8" in read["error"]
    assert read[ROW]["text"] is None


@pytest.mark.parametrize("workers", ["0", "1"])
def test_statistics_are_written(score, folder, tmp_path, workers):
    stats = tmp_path / "new" / "stats.json"
    score(folder, "--out", tmp_path / "scores.csv", "--workers", workers, "--stats", stats)
    values = json.loads(stats.read_text())
    assert set(values) == {"clips", "seconds", "clips_per_second", "waiting_share", "workers"}
    assert values["clips"] == 3
    assert values["workers"] == int(workers)
    assert values["clips_per_second"] == values["clips"] / values["seconds"]
    assert 0 <= values["waiting_share"] <= 1


def test_statistics_replace_no_file_without_being_told(score, folder, tmp_path):
    (tmp_path / "stats.json").write_text("mine")
    command = (folder / "a.mp4", "--stats", tmp_path / "stats.json")
    code, _, complained = score(*command)
    assert (code, (tmp_path / "stats.json").read_text()) == (1, "mine")
    assert "stats.json already exists; replace it with --overwrite, or give another --stats" in complained
    assert score(*command, "--overwrite")[0] == 0
    assert json.loads((tmp_path / "stats.json").read_text())["clips"] == 1


def test_of_several_processes_each_writes_its_own(score, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("omnisent.scoring.clip_job.wait_for_all", lambda process: None)
    command = (folder, "--out", tmp_path / "scores.csv", "--batch-size", "1", "--stats", tmp_path / "stats.json")
    assert score(*command)[0] == 0
    assert json.loads((tmp_path / "stats-1.json").read_text())["clips"] == 1  # the second of three
    assert not (tmp_path / "stats.json").exists()
    (tmp_path / "scores.csv.part-1").unlink()
    code, _, complained = score(*command)
    assert code == 1
    assert "stats-1.json already exists" in complained


def test_scores_do_not_depend_on_attention_or_tokens_of_a_batch(score, folder, tmp_path):
    found = []
    for options in ((), ("--attn-implementation", "eager"), ("--batch-tokens", "1")):
        out = tmp_path / f"{len(found)}.jsonl"
        score(folder, "--out", out, *options)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        found.append([row["score"] for row in rows if row["error"] is None])
    assert len(found[0]) == 2
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-5)


def test_an_attention_that_does_not_exist_is_refused(score, folder):
    code, _, complained = score(folder, "--attn-implementation", "fast")
    assert code == 1
    assert "--attn-implementation must be one of sdpa, eager, flash_attention_2, not 'fast'" in complained
