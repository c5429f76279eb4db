"""A fixed sample of the fuzz run, and what the run makes of a reader that crashes, hangs or says nothing."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fuzz import run as fuzz
from fuzz.damaged import KINDS, RECIPES, damaged_file, damaged_files, make_good_files, read_good_files
from omnisent.errors_omnisent import MediaError, MediaFault
from omnisent.media_omnisent import ClipMedia, read_media

SAMPLE = [number * 17 % 1000 for number in range(60)]  # with each container and each kind of damage


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The good files."""
    path = tmp_path_factory.mktemp("good")
    make_good_files(path)
    return path


@pytest.fixture(scope="module")
def good(folder) -> dict[str, bytes]:
    return read_good_files(folder)


def test_every_good_file_is_read_without_a_warning_and_is_the_same_each_time(folder, good, tmp_path):
    for name, recipe in RECIPES.items():
        path = folder / f"{name.replace(' ', '_')}.{recipe.suffix}"
        media = read_media(path, video=recipe.video is not None, sampling=fuzz.ALL_FRAMES)
        assert media.warning is None, name
        assert fuzz.decoder_report(path, recipe.video is not None) == "", name
        assert (media.frames is not None, media.audio is not None) == (bool(recipe.video), bool(recipe.audio)), name
        if recipe.video:
            assert len(media.frames) == recipe.count // 2 * 2, name
    make_good_files(tmp_path)
    assert read_good_files(tmp_path) == good


def test_a_number_is_one_damaged_file_and_a_thousand_hold_each_container_and_kind(good):
    files = list(damaged_files(good, SAMPLE))
    assert [damaged_file(good, seed) for seed in SAMPLE] == files
    assert sum(file.data != good[file.container] for file in files) > 55
    named = [fuzz.with_names({"seed": seed}) for seed in range(1000)]
    assert {(one["container"], one["kind"]) for one in named} == {(name, kind) for name in RECIPES for kind in KINDS}
    for file in files:
        assert (file.container, file.kind) == (named[file.seed]["container"], named[file.seed]["kind"])


def test_no_damaged_file_of_the_sample_is_read_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fuzz", "--out", str(tmp_path), "--seeds", *map(str, SAMPLE)])
    code = fuzz.main()
    found = json.loads((tmp_path / "fuzz.json").read_text())
    assert (code, found["broken"]) == (0, [])
    assert [result["seed"] for result in found["results"]] == sorted(SAMPLE)
    assert min(found["outcomes"][name] for name in ("read", "warned", "refused")) >= 5
    assert {result["kind"] for result in found["results"]} == set(KINDS)
    assert {result["container"] for result in found["results"]} == set(RECIPES)
    assert (tmp_path / "fuzz.md").read_text() in capsys.readouterr().out


def test_warnings_match_the_decoders_reports(good, tmp_path):
    warned = []
    for file in damaged_files(good, range(195, 312)):  # flipped, of three seeds a container
        result = fuzz.read_one(file, tmp_path)
        if result["outcome"] == "warned":
            (tmp_path / "a").write_bytes(file.data)
            warned.append(bool(fuzz.decoder_report(tmp_path / "a", file.has_video)))
    assert len(warned) > 10
    assert np.mean(warned) > 0.9


def test_impossible_values_are_detected():
    frames, sound = torch.zeros(4, 3, 28, 28, dtype=torch.uint8), np.zeros(16_000, np.float32)
    clip = ClipMedia(frames, 0.5, sound, 1.0)
    assert fuzz.what_is_not_finite(clip) == ""
    assert fuzz.what_is_not_finite(ClipMedia(None, None, None, 0.0)) == ""
    for wrong in (
        {"audio": np.full(9, np.nan, np.float32)},
        {"audio": np.full(9, np.inf, np.float32)},
        {"audio": np.full(9, -101, np.float32)},
        {"duration": float("nan")},
        {"duration": 1e17},
        {"frames": frames[:3]},
        {"frames": frames.float()},
        {"seconds_per_frame_pair": 0.0},
        {"seconds_per_frame_pair": float("nan")},
    ):
        assert fuzz.what_is_not_finite(replace(clip, **wrong)), wrong


@pytest.mark.slow
def test_a_crash_or_hang_affects_only_its_file_and_is_reported(folder, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, signal, sys, time\nfrom pathlib import Path\nfrom fuzz import run\n"
        "def read(damaged, folder):\n"
        "    if damaged.seed == 1: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if damaged.seed == 2: time.sleep(60)\n"
        "    if damaged.seed == 3: bytearray(4 << 30)\n"
        "    if damaged.seed == 4: raise KeyError('odd')\n"
        "    return {'outcome': 'read', 'cause': ''}\n"
        "run.read_one, run.TIME_LIMIT = read, 1.0\n"
        f"run.work(Path({str(folder)!r}))\n"
    )
    results = list(fuzz.run_seeds([3, 4, 5, 2, 1, 0], folder, command=[sys.executable, str(script)]))
    found = fuzz.summary([fuzz.with_names(result) for result in results])
    assert {result["seed"]: result["outcome"] for result in found["broken"]} == {
        1: "crashed",
        2: "hung",
        3: "crashed",
        4: "crashed",
    }
    causes = {result["seed"]: result["cause"] for result in found["broken"]}
    assert causes[1].startswith("SIGSEGV")
    assert causes[2].startswith("SIGALRM")
    assert causes[3].startswith("MemoryError")
    assert causes[4] == "KeyError: 'odd'"
    assert found["outcomes"]["read"] == 2
    assert "1 crashed" in fuzz.as_table(found)


def test_an_error_that_does_not_name_the_file_counts_as_wrong(tmp_path):
    path, reason = str(tmp_path / "a.mp4"), "damaged: zero frames can be decoded"
    named = fuzz.refusal(tmp_path / "a.mp4", MediaError(path, reason, MediaFault.DAMAGED))
    assert (named["outcome"], named["cause"]) == ("refused", "damaged")
    for path, reason in (
        (str(tmp_path / "b.mp4"), "damaged: zero frames can be decoded"),
        (str(tmp_path / "a.mp4"), "bad"),
    ):
        assert fuzz.refusal(tmp_path / "a.mp4", MediaError(path, reason, MediaFault.DAMAGED))["outcome"] == "unnamed"
