"""Reading a whole file: frames, audio and warning together."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from media_files import B_FRAMES, read_barcodes, tone, write_clip, write_ordinary_clip
from omnisent.errors_omnisent import MediaError
from omnisent.frames_omnisent import VideoSampling
from omnisent.media_omnisent import ClipMedia, read_media


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_ordinary_clip(tmp_path_factory.mktemp("media") / "clip.mp4")


def test_frames_times_and_audio_of_an_ordinary_clip(clip):
    media = read_media(clip)
    assert media.warning is None
    assert read_barcodes(media.frames) == [0, 16, 33, 49]
    assert media.frames.dtype == torch.uint8
    assert media.frames.shape == (4, 3, 280, 392)
    assert media.duration == 2.0
    assert media.seconds_per_frame_pair == 1.0
    assert media.audio.dtype == np.float32
    assert len(media.audio) == pytest.approx(32_000, abs=1024)
    steady = media.audio[8000:24_000]
    assert np.abs(np.fft.rfft(steady)).argmax() == 440
    assert np.sqrt(np.mean(steady**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_sound_can_be_kept_at_its_own_rate(tmp_path, rate):
    sound = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    soundfile.write(tmp_path / "a.wav", sound, rate, subtype="PCM_16")
    own, usual = read_media(tmp_path / "a.wav", video=False, own_rate=True), read_media(tmp_path / "a.wav", video=False)
    assert (own.audio_rate, usual.audio_rate) == (rate, 16_000)
    assert own.audio == pytest.approx(sound, abs=1e-4)
    assert own.duration == usual.duration == 2.0
    cut = read_media(tmp_path / "a.wav", video=False, own_rate=True, max_sound_seconds=0.5)
    assert len(cut.audio) == rate // 2


def test_a_clip_without_audio_is_valid_and_either_stream_can_be_skipped(tmp_path, clip):
    silent = write_clip(tmp_path / "a.mp4", 8, 8)
    assert read_media(silent).audio is None
    assert read_media(silent, video=False) == ClipMedia(None, None, None, pytest.approx(1.0))
    assert read_media(clip, audio=False).audio is None
    assert read_media(clip, video=False).frames is None


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_a_corrupted_clip_is_read_or_named_and_nothing_else(tmp_path, capfd, suffix):
    wave = tone(2, 44_100, channels=2)
    good = write_clip(tmp_path / f"good.{suffix}", 50, size=(64, 64), wave=wave, rate=44_100, codec_options=B_FRAMES)
    data, broken = good.read_bytes(), tmp_path / f"broken.{suffix}"
    outcomes = {"read": 0, "named": 0}
    sampling = VideoSampling(min_pixels=28 * 28)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        bad = bytearray(data)
        for at in rng.integers(0, len(data), 1 << rng.integers(0, 10)):
            bad[at] = rng.integers(0, 256)
        broken.write_bytes(bad if seed % 4 else bad[: rng.integers(1, len(data))])
        try:
            media = read_media(broken, sampling=sampling)
            assert len(media.frames) % 2 == 0
            outcomes["read"] += 1
        except MediaError as caught:
            outcomes["named"] += str(broken) in str(caught)
    assert sum(outcomes.values()) == 200
    assert min(outcomes.values()) > 10
    assert capfd.readouterr().err == ""


def test_a_file_with_a_name_that_is_not_utf8_is_read_and_its_errors_can_be_encoded(tmp_path, clip):
    odd = os.fsencode(tmp_path) + b"/odd\xff\xe9.mp4"
    Path(os.fsdecode(odd)).write_bytes(clip.read_bytes())
    for name in (odd, os.fsdecode(odd)):
        media = read_media(name)
        assert read_barcodes(media.frames) == [0, 16, 33, 49]
        assert len(media.audio) == pytest.approx(32_000, abs=1024)
    Path(os.fsdecode(odd)).write_bytes(clip.read_bytes()[:3000])
    for name in (odd, os.fsdecode(odd) + "x", f"http://{os.fsdecode(odd)}"):
        with pytest.raises(MediaError) as caught:
            read_media(name)
        again = pickle.loads(pickle.dumps(caught.value))
        for text in (caught.value.path, caught.value.reason, str(caught.value), str(again)):
            assert text.encode("utf-8").decode() == text
        assert r"odd\udcff\udce9.mp4" in str(caught.value)
