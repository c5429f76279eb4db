"""Scoring on a local Ray of two CPUs: the rows of one process, bad files and a killed reader among them."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from omnisent.cli import main
from omnisent.feeding_omnisent import Batching
from omnisent.scoring.batch import score_clips, windows_of
from omnisent.scoring.clips import find_clips
from omnisent.scoring.loading import Loading, load_pipeline
from omnisent.scoring.output import summary
from omnisent.scoring.processes import Process
from omnisent.scoring.ray_engine import score_on_ray

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def one_thread():
    """As Ray's actors have it; the sums of a product depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def clips(whole_clips, tmp_path):
    """A hundred and twenty files, every twentieth one cut off."""
    for index in range(120):
        source, path = Path(whole_clips[index % len(whole_clips)].video), tmp_path / f"{index:03}.mp4"
        if index % 20 == 7:
            path.write_bytes(source.read_bytes()[: 1000 + index])
        else:
            os.link(source, path)
    return find_clips([str(tmp_path)])


def _kill_a_reader(after: int, seen: list) -> None:
    while len(seen) < after:
        time.sleep(0.05)
    ours = [process.pid for process in psutil.process_iter() if "MapWorker(Map(_Reader" in " ".join(_command(process))]
    seen.append(("killed", ours[:1]))
    os.kill(ours[0], signal.SIGKILL)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.slow
def test_rows_are_those_of_one_process_though_files_are_bad_and_a_reader_dies(cluster, clips, bundle):
    seen: list = []
    killer = threading.Thread(target=_kill_a_reader, args=(30, seen), daemon=True)
    killer.start()
    loading = Loading(str(bundle), device="cpu")
    batching = Batching(2)
    windows = windows_of(clips, batching, Process())
    for row in score_on_ray(loading, windows, batching=batching):
        seen.append(row)
    found = [row for row in seen if isinstance(row, dict)]
    assert found == list(score_clips(load_pipeline(loading), windows, batching=batching))
    assert summary(iter(found)).failed == 6
    assert any(row[0] == "killed" and row[1] for row in seen if isinstance(row, tuple))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"), [("bundle", []), ("two_bundle", ["--interval", "0.9"]), ("tiny_backbone", [])]
)
def test_the_command_makes_the_same_file_with_it(cluster, clips, model, options, tmp_path, monkeypatch, request):
    bundle = request.getfixturevalue(model)
    for engine in ("local", "ray"):
        files = [clip.id for clip in clips[:10]]
        command = ["omnisent", "score", *files, "--model", str(bundle), "--device", "cpu", "--engine", engine, *options]
        monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / f"{engine}.parquet")])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 1
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "local.parquet").read_bytes()
