"""Noise reduction: the choice, its results beside the data set, and the external program, which a script stands for."""

import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from omnisent.audio_omnisent import SAMPLE_RATE
from omnisent.data.denoise import check_denoiser, denoise_files
from omnisent.data.planted import write_video
from omnisent.media_omnisent import read_media

FAKE_PROGRAM = """#!{python}
import os, sys, wave
arguments = sys.argv[1:]
out = arguments[arguments.index("--output-dir") + 1]
open(os.path.join({folder!r}, "calls"), "a").write("call\\n")
for name in arguments[: arguments.index("--output-dir")]:
    with wave.open(name) as file:
        rate, sound = file.getframerate(), file.readframes(file.getnframes())
    if len(sound) < 2 * 16000 * 0.6:
        sys.exit("too short for me")
    stem = os.path.splitext(os.path.basename(name))[0]
    with wave.open(os.path.join(out, stem + "_DeepFilterNet3.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(rate)
        file.writeframes(bytes(len(sound)))
"""


def make_clip(path: Path, *, seconds: float = 1.5, silent: bool = False, seed: int = 0) -> str:
    """A video of a buzzing voice in its middle third, with noise throughout."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).normal(0, 0.05, len(time))
    voice = (
        sum(np.sin(2 * np.pi * 120 * k * time) for k in range(1, 30)) * 0.1 * (abs(time - seconds / 2) < seconds / 6)
    )
    frames = np.zeros((round(8 * seconds), 32, 32, 3), np.uint8)
    write_video(path, frames, 8, None if silent else (voice + noise).astype(np.float32))
    return str(path)


@pytest.fixture
def deepfilter(tmp_path, monkeypatch) -> Path:
    """Puts a stand-in for deepFilter on PATH that answers with silence; returns the folder that counts its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "deepFilter"
    program.write_text(FAKE_PROGRAM.format(python=sys.executable, folder=str(folder)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def test_no_method_gives_no_results(tmp_path):
    assert denoise_files([str(tmp_path / "a.mp4")], tmp_path / "out", "none") == ({}, {})
    assert not (tmp_path / "out").exists()


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="expected none, deepfilternet, spectral, found 'loud'"):
        check_denoiser("loud")


def test_a_missing_program_is_an_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match=r"venv .*pip install deepfilternet"):
        check_denoiser("deepfilternet")


def test_a_missing_library_is_an_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'omnisent\[denoise\]'"):
        check_denoiser("spectral")


def test_spectral_gating_reduces_noise_and_keeps_speech(tmp_path):
    pytest.importorskip("noisereduce")
    clip = make_clip(tmp_path / "a.mp4")
    silent = make_clip(tmp_path / "silent.mp4", silent=True)
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    done, failures = denoise_files(
        [clip, silent, str(tmp_path / "broken.mp4")], tmp_path / "out", "spectral", workers=1
    )
    assert done.keys() == {clip}
    assert list(failures) == [str(tmp_path / "broken.mp4")]
    before, after = (read_media(path, video=False).audio for path in (clip, done[clip]))
    assert len(after) == len(before)
    third = len(before) // 3
    assert after[:third].std() < 0.5 * before[:third].std()
    middle = slice(third + 2000, 2 * third - 2000)
    assert after[middle].std() > 0.7 * before[middle].std()


@pytest.mark.parametrize(
    "rate", [pytest.param(8_000, marks=pytest.mark.slow), pytest.param(44_100, marks=pytest.mark.slow), 48_000]
)
def test_sound_is_denoised_at_its_own_rate(tmp_path, rate):
    pytest.importorskip("noisereduce")
    time = np.arange(round(1.5 * rate)) / rate
    voice = sum(np.sin(2 * np.pi * 120 * k * time) for k in range(1, 30)) * 0.1 * (abs(time - 0.75) < 0.25)
    noisy = (0.3 * (voice + np.random.default_rng(0).normal(0, 0.05, len(time)))).astype(
        np.float32
    )  # within full scale
    soundfile.write(tmp_path / "a.wav", noisy, rate, subtype="PCM_16")
    done, _ = denoise_files([str(tmp_path / "a.wav")], tmp_path / "out", "spectral", workers=1)
    quieter, found_rate = soundfile.read(done[str(tmp_path / "a.wav")], dtype="float32")
    assert (found_rate, len(quieter)) == (rate, len(noisy))
    third = len(noisy) // 3
    assert quieter[:third].std() < 0.5 * noisy[:third].std()
    middle = slice(third + rate // 8, 2 * third - rate // 8)
    assert quieter[middle].std() > 0.7 * noisy[middle].std()


def test_results_are_stored_by_content_and_computed_once(tmp_path, deepfilter):
    one, other = make_clip(tmp_path / "a.mp4"), make_clip(tmp_path / "b.mp4", seed=1)
    (tmp_path / "copy.mp4").write_bytes(Path(one).read_bytes())
    copy = str(tmp_path / "copy.mp4")
    done, failures = denoise_files([one, other, copy], tmp_path / "out", "deepfilternet", workers=1)
    assert failures == {}
    assert done[copy] == done[one] != done[other]
    assert np.abs(read_media(done[one], video=False).audio).max() == 0
    assert sorted(p.name for p in (tmp_path / "out/deepfilternet").iterdir()) == sorted(
        Path(p).name for p in {*done.values()}
    )
    assert denoise_files([one, other, copy], tmp_path / "out", "deepfilternet") == (done, {})
    assert (deepfilter / "calls").read_text().count("call") == 1


def test_an_error_of_the_program_is_a_failure_with_its_message(tmp_path, deepfilter):
    short = make_clip(tmp_path / "short.mp4", seconds=0.5)
    done, failures = denoise_files([short], tmp_path / "out", "deepfilternet", workers=1)
    assert done == {}
    assert failures[short] == "deepFilter wrote no result: exit code 1: too short for me"
    assert list((tmp_path / "out/deepfilternet").iterdir()) == []
