"""The audio of small files: its samples, its limits, and silence in place of what cannot be decoded."""

import re
from fractions import Fraction
from pathlib import Path

import av
import librosa
import numpy as np
import pytest

from media_files import fault, hiss, marks_of_damage, ruin, tone, write_clip, write_ordinary_clip
from omnisent import audio_omnisent
from omnisent.media_omnisent import read_media


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_ordinary_clip(tmp_path_factory.mktemp("media") / "clip.mp4")


def decode_audio(path) -> tuple[np.ndarray, int]:
    """(channels, samples) float32 as decoded, and its rate."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        return np.concatenate([frame.to_ndarray() for frame in frames], axis=1), frames[0].sample_rate


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_is_that_of_librosa(tmp_path, rate, channels):
    rng = np.random.default_rng(0)
    wave = (rng.standard_normal((channels, 2 * rate + 123)) * 0.2).clip(-1, 1)
    path = tmp_path / "a.wav"
    samples = (wave * 32767).astype(np.int16)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=rate, layout={1: "mono", 2: "stereo"}[channels])
        frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), "s16", stream.layout.name)
        frame.sample_rate = rate
        out.mux(stream.encode(frame))
    media = read_media(path, video=False)
    expected, _ = librosa.load(path, sr=16_000)
    assert media.audio.shape == expected.shape
    assert np.abs(media.audio - expected).max() < 1e-4
    assert media.duration == pytest.approx(len(expected) / 16_000)
    assert media.frames is None


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("wav", "pcm_u8"), ("wav", "pcm_s24le"), ("wav", "pcm_s32le"), ("wav", "pcm_f32le"), ("wav", "pcm_f64le"),
     ("flac", "flac"), ("mp3", "libmp3lame"), ("m4a", "aac"), ("ogg", "libopus")],
)  # fmt: skip
def test_every_sample_format_keeps_its_level(tmp_path, suffix, codec):
    wave = tone(1.0, 48_000, channels=2)
    media = read_media(write_clip(tmp_path / f"a.{suffix}", 0, wave=wave, audio_codec=codec), video=False)
    steady = media.audio[4000:12_000]
    assert np.sqrt(np.mean(steady**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.06)
    assert abs(steady.mean()) < 0.005
    assert len(media.audio) == pytest.approx(16_000, abs=1300)


def test_the_audio_of_a_video_is_its_decoded_samples_resampled(clip):
    wave, rate = decode_audio(clip)
    expected = librosa.resample(wave.mean(axis=0), orig_sr=rate, target_sr=16_000)
    got = read_media(clip, video=False).audio
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("suffix", "codec"), [("m4a", "aac"), ("wav", "pcm_u8"), ("wav", "pcm_f64le"), ("flac", "flac")]
)
def test_audio_does_not_depend_on_how_many_frames_are_converted_together(tmp_path, monkeypatch, suffix, codec):
    path = write_clip(tmp_path / f"a.{suffix}", 0, wave=hiss(2.3, 44_100, 2), rate=44_100, audio_codec=codec)
    for limit in (300.0, 1.5):
        usual = read_media(path, video=False, max_sound_seconds=limit).audio
        for samples in (1, 3000, 1_000_000):
            monkeypatch.setattr(audio_omnisent, "_SAMPLES_AT_ONCE", samples)
            other = read_media(path, video=False, max_sound_seconds=limit).audio
            np.testing.assert_array_equal(other, usual)
        monkeypatch.undo()


def test_opposite_channels_cancel_and_one_sided_audio_halves(tmp_path):
    left = tone(1.0, 16_000)
    silent_right = np.concatenate([left, 0 * left])
    opposite = np.concatenate([left, -left])
    paths = [
        write_clip(tmp_path / f"{i}.wav", 0, wave=w, rate=16_000, audio_codec="pcm_f32le")
        for i, w in enumerate((silent_right, opposite))
    ]
    half, none = (read_media(path, video=False).audio for path in paths)
    np.testing.assert_allclose(half, left[0] / 2, atol=1e-6)
    np.testing.assert_allclose(none, 0, atol=1e-6)


def test_audio_beyond_the_limit_is_cut_and_not_decoded(tmp_path):
    wave = tone(4.0, 48_000)
    path = write_clip(tmp_path / "a.mp4", 100, 25, (64, 64), wave=wave)
    whole, cut = read_media(path), read_media(path, max_sound_seconds=1.5)
    assert len(cut.audio) == 24_000
    np.testing.assert_allclose(cut.audio, whole.audio[:24_000], atol=1e-6)
    assert cut.duration == whole.duration == 4.0
    assert read_media(path, video=False, max_sound_seconds=1.5).duration == pytest.approx(4.0, abs=0.1)


def test_audio_that_is_not_a_number_is_damaged(tmp_path):
    wave = tone(1, 48_000)
    wave[0, 100] = np.nan
    path = write_clip(tmp_path / "a.wav", 0, wave=wave, audio_codec="pcm_f32le")
    assert fault(path, video=False).startswith("damaged")


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
@pytest.mark.parametrize("rate", [16_000, 48_000])
@pytest.mark.parametrize(("bad", "named"), [((3e38, 3e38), "3e+38"), ((3e38, -3e38), "3e+38"), ((np.inf, 0), "inf"),
    ((np.nan, np.nan), "nan"), ((0, -101), "101"), ((120, -120), "120")])  # fmt: skip
def test_a_sample_that_no_audio_can_have_is_refused(tmp_path, codec, rate, bad, named):
    wave = tone(1, rate, 2)
    wave[:, 100] = bad
    path = write_clip(tmp_path / "a.wav", 0, wave=wave, rate=rate, audio_codec=codec)
    reason = fault(path, video=False)
    assert reason.startswith(f"damaged: its audio has a sample of {named}, expected finite samples of at most 100")


def test_loud_float_audio_is_unchanged(tmp_path):
    for level in (8.0, 99.9):
        wave = tone(1, 16_000, level=level)
        path = write_clip(tmp_path / f"{level}.wav", 0, wave=wave, rate=16_000, audio_codec="pcm_f32le")
        media = read_media(path, video=False)
        np.testing.assert_array_equal(media.audio, wave[0])
        assert media.warning is None


def test_resampling_cannot_carry_audio_over_the_bound(tmp_path):
    wave = 99.9 * np.sign(tone(1, 48_000))  # a square wave overshoots when it is resampled
    path = write_clip(tmp_path / "a.wav", 0, wave=wave, audio_codec="pcm_f32le")
    assert "a sample of 1" in fault(path, video=False)


def test_a_sample_rate_that_no_audio_has_is_refused(tmp_path):
    path = write_clip(tmp_path / "a.wav", 0, wave=tone(0.1, 48_000), audio_codec="pcm_s16le")
    data = bytearray(path.read_bytes())
    data[24:28] = (3).to_bytes(4, "little")
    path.write_bytes(data)
    assert fault(path, video=False).startswith("its audio has a sample rate of 3 Hz, expected 1000 to 1000000")


@pytest.mark.parametrize(("layout", "codec"), [("5.1", "aac"), ("7.1", "aac"), ("7.1", "flac")])
def test_audio_of_many_channels_is_their_mean(tmp_path, layout, codec):
    path, rate = tmp_path / "a.mkv", 48_000
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        wave = tone(1, rate, stream.layout.nb_channels)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T.reshape(1, -1)), "flt", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(stream.format.name, layout, rate, frame_size=1024)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    steady = read_media(path, video=False).audio[4000:12_000]
    assert np.sqrt(np.mean(steady**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.2)
    assert np.abs(np.fft.rfft(steady)).argmax() == 220


def longest_silence(samples: np.ndarray) -> tuple[float, float]:
    """Where the longest run of almost nothing begins, and how long it is, in seconds."""
    loud = np.flatnonzero(np.abs(np.concatenate([[1], samples, [1]])) > 3e-3)
    run = np.diff(loud).argmax()
    return loud[run] / 16_000, (loud[run + 1] - loud[run] - 1) / 16_000


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "aac"), ("mkv", "aac"), ("m4a", "aac"), ("mkv", "flac"), ("mp4", "libmp3lame")]
)
def test_audio_that_cannot_be_decoded_is_silence_of_the_same_length_and_a_warning(tmp_path, suffix, codec):
    count = 0 if suffix == "m4a" else 100
    path = write_clip(tmp_path / f"a.{suffix}", count, wave=hiss(8.0, 48_000), audio_codec=codec)
    whole = read_media(path, video=count > 0)
    assert whole.warning is None
    with av.open(str(path)) as container:
        packets = [(packet.pts, packet.duration) for packet in container.demux(audio=0) if packet.size]
        tick = float(container.streams.audio[0].time_base)
    for first, length in ((0, 1), (30, 2), (30, 6), (len(packets) - 1, 1)):
        broken = ruin(path, "audio", range(first, first + length))
        assert 0 < marks_of_damage(broken, "audio")[0] <= length
        media = read_media(broken, video=count > 0)
        stated = re.fullmatch(r"(less than )?(\d+) % of its audio cannot be decoded", media.warning)
        assert float(stated[2]) == pytest.approx(100 * length / len(packets), abs=1)
        lasts = packets[0][1] * tick * 16_000  # the last packet may be a part of one
        assert len(media.audio) == pytest.approx(len(whole.audio), abs=20 if first <= 30 else lasts)
        for part in (slice(3000, 8000), slice(60_000, len(whole.audio) - 4000)):
            alike = np.correlate(np.pad(whole.audio[part], 20), media.audio[part])
            assert alike.argmax() - 20 == pytest.approx(0, abs=16)  # a millisecond
            assert alike.max() > 0.95 * np.square(whole.audio[part]).sum()
        if first == 30:
            begin, seconds = longest_silence(media.audio)
            assert begin == pytest.approx(packets[30][0] * tick, abs=0.05)
            assert seconds == pytest.approx(length * packets[30][1] * tick, abs=0.03)
    broken = ruin(path, "audio", range(20, 20 + len(packets) // 5))
    assert re.match(
        r"damaged: [12]\d % of its audio cannot be decoded, at most 10 % may", fault(broken, video=count > 0)
    )
    if count:
        assert read_media(broken, audio=False).warning is None


def test_losing_all_audio_is_an_error_and_not_silence(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 8, 8, wave=hiss(1.0, 48_000))
    with av.open(str(path)) as container:
        packets = sum(packet.size > 0 for packet in container.demux(audio=0))
    broken = ruin(path, "audio", range(packets))
    assert fault(broken).startswith("damaged: 100 % of its audio cannot be decoded")
    assert read_media(broken, audio=False).audio is None


def test_audio_that_is_marked_as_corrupt_is_missing(tmp_path):
    path = write_clip(tmp_path / "a.eac3", 0, wave=hiss(2.0, 48_000), audio_codec="eac3")
    good, rng, marked = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        data = bytearray(good)
        data[rng.integers(2000, len(data) - 2000)] ^= 1 << rng.integers(0, 8)
        path.write_bytes(data)
        if marks_of_damage(path, "audio")[1]:
            marked += 1
            assert "of its audio cannot be decoded" in read_media(path, video=False).warning
    assert marked > 1
