"""Tests of media_omnisent on small clips made here; each frame carries its own index as black and white bars."""

import io
import os
import pickle
import re
import resource
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import torch
from qwen_omni_utils.v2_5 import vision_process

from omnisent import decoding_omnisent, frames_omnisent
from omnisent.errors_omnisent import MediaError, MediaFault, OmniSentError
from omnisent.frames_omnisent import VideoSampling
from omnisent.media_omnisent import ClipMedia, read_media

BARS = 12
B_FRAMES = {"bf": "3", "g": "25", "preset": "veryfast"}


def barcode(index: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: BARS vertical bars, the bits of index, lowest bit first."""
    bits = [(index >> bit) & 1 for bit in range(BARS)]
    row = np.array(bits)[np.arange(width) * BARS // width] * 255
    return np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8)


def read_barcodes(frames: torch.Tensor) -> list[int]:
    """The index that each of (F, 3, h, w) frames carries."""
    columns = ((torch.arange(BARS) + 0.5) / BARS * frames.shape[-1]).long()
    bits = frames[:, 1, frames.shape[2] // 2][:, columns] > 127
    return [sum(int(bit) << at for at, bit in enumerate(row)) for row in bits]


def tone(seconds: float, rate: int, channels: int = 1, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    """(channels, samples) float32; every channel the same tone."""
    wave = level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


def audio_frames(wave: np.ndarray, rate: int, layout: str):
    for start in range(0, wave.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, start : start + 1024]), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield frame


def write_clip(
    path,
    count=50,
    fps=25,
    size=(96, 128),
    wave=None,
    rate=48_000,
    codec="libx264",
    pix_fmt="yuv420p",
    audio_codec="aac",
    codec_options=None,
    container_options=None,
    ticks=None,
    draw=barcode,
) -> Path:
    """Writes `count` frames, with the (channels, samples) wave beside them; ticks are each frame's pts in 1/1000 s."""
    with av.open(str(path), "w", options=container_options or {}) as out:
        video = audio = None
        if count:
            video = out.add_stream(codec, rate=fps, options=codec_options or {})
            video.height, video.width, video.pix_fmt = *size, pix_fmt
            video.codec_context.thread_count = 1
            if ticks:
                video.codec_context.time_base = Fraction(1, 1000)
        if wave is not None:
            layout = {1: "mono", 2: "stereo"}[len(wave)]
            audio = out.add_stream(audio_codec, rate=rate, layout=layout)
        sound = audio_frames(wave, rate, layout) if audio else iter(())
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(draw(index, *size), "rgb24")
            frame.pts, frame.time_base = (ticks[index], Fraction(1, 1000)) if ticks else (index, 1 / Fraction(fps))
            out.mux(video.encode(frame))
            for _ in range(round(rate / fps / 1024) if audio else 0):
                piece = next(sound, None)
                if piece is not None:
                    out.mux(audio.encode(piece))
        for piece in sound:
            out.mux(audio.encode(piece))
        for stream in (video, audio):
            if stream is not None:
                out.mux(stream.encode(None))
    return Path(path)


def decode_all(path) -> np.ndarray:
    """(N, H, W, 3) uint8: every frame, decoded plainly."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def decode_sound(path) -> tuple[np.ndarray, int]:
    """(channels, samples) float32 as decoded, and its rate."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        return np.concatenate([frame.to_ndarray() for frame in frames], axis=1), frames[0].sample_rate


def indices_of_reference(total: int, fps: float) -> list[int]:
    count = vision_process.smart_nframes({"fps": 2.0, "min_frames": 4, "max_frames": 16}, total, fps)
    return torch.linspace(0, total - 1, count).round().long().tolist()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Two seconds, B-frames, stereo AAC, index at the front."""
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    wave = tone(2.0, 48_000, channels=2)
    return write_clip(path, wave=wave, codec_options=B_FRAMES, container_options={"movflags": "faststart"})


@pytest.fixture
def sweeps(monkeypatch) -> list[bool]:
    """What each attempt to decode by timestamps answered."""
    answers: list[bool] = []
    inner = frames_omnisent.decode_by_time

    def spy(*args):
        answers.append(inner(*args))
        return answers[-1]

    monkeypatch.setattr(frames_omnisent, "decode_by_time", spy)
    return answers


@pytest.fixture
def conversions(monkeypatch) -> list[int]:
    """The pts of each frame that was converted to RGB."""
    seen: list[int] = []
    inner = frames_omnisent.upright_rgb

    def spy(frame):
        seen.append(frame.pts)
        return inner(frame)

    monkeypatch.setattr(frames_omnisent, "upright_rgb", spy)
    return seen


def test_frames_times_and_sound_of_an_ordinary_clip(clip):
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


@pytest.mark.parametrize(
    ("count", "fps"), [(2, 25), (3, 25), (5, 10), (7, 30), (50, Fraction(24000, 1001)), (200, 25), (301, 25), (24, 1)]
)
def test_frame_choice_follows_qwen_omni_utils(tmp_path, count, fps):
    media = read_media(write_clip(tmp_path / "a.mp4", count, fps, size=(64, 64), codec_options=B_FRAMES))
    assert read_barcodes(media.frames) == indices_of_reference(count, float(fps))
    assert media.duration == pytest.approx(count / fps)
    assert media.seconds_per_frame_pair == pytest.approx(2 * count / fps / len(media.frames))


def test_frames_equal_those_of_the_official_path(clip, monkeypatch):
    def read_plainly(ele):
        video = torch.from_numpy(decode_all(ele["video"])).permute(0, 3, 1, 2)
        count = vision_process.smart_nframes(ele, total_frames=len(video), video_fps=25.0)
        index = torch.linspace(0, len(video) - 1, count).round().long()
        return video[index], {}, count / len(video) * 25.0

    monkeypatch.setitem(vision_process.VIDEO_READER_BACKENDS, "plain", read_plainly)
    monkeypatch.setattr(vision_process, "get_video_reader_backend", lambda: "plain")
    request = {"video": str(clip), "fps": 2.0, "min_frames": 4, "max_frames": 16}
    expected, sample_fps = vision_process.fetch_video(request, return_video_sample_fps=True)
    media = read_media(clip)
    assert torch.equal(media.frames.float(), expected)
    assert media.seconds_per_frame_pair == pytest.approx(2 / sample_fps)
    fast = read_media(clip, sampling=VideoSampling(exact_resize=False)).frames.float()
    assert 0 < (fast - expected).abs().max() < 30
    assert (fast - expected).abs().mean() < 1


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mp4", {"x264-params": "bframes=3:keyint=300"}),
        ("mp4", {"x264-params": "bframes=4:keyint=10:open-gop=1:scenecut=0"}),
        ("mkv", {"x264-params": "bframes=4:keyint=10:open-gop=1:scenecut=0:b-pyramid=normal"}),
        ("mkv", {"x264-params": "bframes=0:keyint=12"}),
        ("ts", {"x264-params": "bframes=2:keyint=15"}),
    ],
)
def test_skipping_and_seeking_give_the_frames_of_a_full_decode(tmp_path, sweeps, suffix, options):
    def noisy(index, height, width):
        noise = np.random.default_rng(index).integers(0, 60, (height, width, 3), dtype=np.uint8)
        return np.roll(barcode(index, height, width) // 2, index, axis=0) + noise

    path = write_clip(tmp_path / f"a.{suffix}", 120, 25, (84, 112), codec_options=options, draw=noisy)
    same_size = VideoSampling(min_pixels=1, fps=2, max_frames=10)
    media = read_media(path, sampling=same_size)
    everything = torch.from_numpy(decode_all(path)).permute(0, 3, 1, 2)
    count = vision_process.smart_nframes({"fps": 2.0, "min_frames": 4, "max_frames": 10}, 120, 25.0)
    index = torch.linspace(0, 119, count).round().long()
    assert sweeps == [True]
    assert torch.equal(media.frames, everything[index])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_frame_that_needs_the_group_of_pictures_before_is_exact(tmp_path, sweeps, monkeypatch, suffix):
    options = {"x264-params": "bframes=4:keyint=10:open-gop=1:scenecut=0"}
    path = write_clip(tmp_path / f"a.{suffix}", 120, 25, (84, 112), codec_options=options)
    with av.open(str(path)) as container:
        packets = [(packet.pts, packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
    display, leading, key = sorted(pts for pts, _ in packets), [], 0
    for pts, is_key in packets:
        key = pts if is_key else key
        leading += [display.index(pts)] if pts < key else []
    wanted = [leading[0], leading[-1]]
    monkeypatch.setattr(frames_omnisent, "frame_indices", lambda *_: wanted)
    media = read_media(path, sampling=VideoSampling(min_pixels=1))
    assert sweeps == [True]
    assert torch.equal(media.frames, torch.from_numpy(decode_all(path)[wanted]).permute(0, 3, 1, 2))


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_container_without_display_times_is_decoded_in_order(tmp_path, codec):
    path = write_clip(tmp_path / "a.avi", 60, 25, (64, 64), codec=codec, codec_options={"bf": "2", "b": "400000"})
    assert read_barcodes(read_media(path).frames) == indices_of_reference(len(decode_all(path)), 25.0)


def test_only_the_chosen_frames_are_converted_and_the_file_is_opened_once(clip, conversions, monkeypatch):
    opened = []
    inner = av.open
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: opened.append(args) or inner(*args, **kwargs))
    media = read_media(clip)
    assert len(opened) == 1
    assert len(conversions) == len(media.frames) == 4


def test_a_one_frame_clip_is_its_frame_twice(tmp_path):
    media = read_media(write_clip(tmp_path / "a.mp4", 1, 10, draw=lambda i, h, w: barcode(5, h, w)))
    assert read_barcodes(media.frames) == [5, 5]
    assert media.duration == pytest.approx(0.1)
    assert media.seconds_per_frame_pair == pytest.approx(0.1)


def test_a_clip_shorter_than_the_sampling_step_is_read_quietly(tmp_path, caplog, capfd):
    media = read_media(write_clip(tmp_path / "a.mp4", 3, 30, wave=tone(0.1, 16_000), rate=16_000))
    assert read_barcodes(media.frames) == [0, 2]
    assert media.seconds_per_frame_pair == pytest.approx(0.1)
    slow = read_media(write_clip(tmp_path / "b.mp4", 7, 1))
    assert read_barcodes(slow.frames) == [0, 1, 2, 4, 5, 6]
    assert not caplog.records
    assert capfd.readouterr().err == ""


def test_odd_sizes_are_read(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 8, 8, size=(241, 321), pix_fmt="yuv444p")
    media = read_media(path)
    assert media.frames.shape == (4, 3, 280, 392)
    assert read_barcodes(media.frames) == [0, 2, 5, 7]


def test_a_portrait_phone_video_is_turned_upright(tmp_path):
    def bright_top_left(index, height, width):
        image = np.zeros((height, width, 3), np.uint8)
        image[: height // 2, : width // 2] = 250
        return image

    path = write_clip(tmp_path / "a.mp4", 4, 4, (112, 224), draw=bright_top_left)
    upright = read_media(path).frames
    data = path.read_bytes()
    unity, quarter = (b"".join(n.to_bytes(4, "big", signed=True) for n in row) for row in (
        (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30),
        (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30),
    ))  # fmt: skip
    at = data.index(unity, data.index(b"tkhd"))
    path.write_bytes(data[:at] + quarter + data[at + len(quarter) :])
    turned = read_media(path).frames
    assert turned.shape == (4, 3, upright.shape[3], upright.shape[2])
    height, width = turned.shape[2:]
    corners = turned[0, 0][[height // 4, height // 4, 3 * height // 4], [width // 4, 3 * width // 4, 3 * width // 4]]
    assert (corners > 127).tolist() == [False, True, False]  # a quarter turn clockwise brings top left to top right


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_and_a_late_start_keep_the_true_clock(tmp_path, suffix):
    ticks = [500 + 40 * i if i < 20 else 500 + 800 + 200 * (i - 20) for i in range(40)]
    media = read_media(write_clip(tmp_path / f"a.{suffix}", 40, 25, (64, 64), ticks=ticks, codec_options=B_FRAMES))
    count = len(media.frames)
    assert read_barcodes(media.frames) == torch.linspace(0, 39, count).round().long().tolist()
    assert media.duration == pytest.approx(4.8, rel=0.1)
    assert media.seconds_per_frame_pair == pytest.approx(2 * media.duration / count)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_is_that_of_librosa(tmp_path, rate, channels):
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


def test_the_sound_of_a_video_is_its_decoded_samples_resampled(clip):
    wave, rate = decode_sound(clip)
    expected = librosa.resample(wave.mean(axis=0), orig_sr=rate, target_sr=16_000)
    got = read_media(clip, video=False).audio
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-4


def test_opposite_channels_cancel_and_one_sided_sound_halves(tmp_path):
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


def test_a_clip_without_sound_is_normal_and_either_part_can_be_left_out(tmp_path, clip):
    silent = write_clip(tmp_path / "a.mp4", 8, 8)
    assert read_media(silent).audio is None
    assert read_media(silent, video=False) == ClipMedia(None, None, None, pytest.approx(1.0))
    assert read_media(clip, audio=False).audio is None
    assert read_media(clip, video=False).frames is None


def test_sound_past_the_limit_is_cut_and_not_decoded(tmp_path):
    wave = tone(4.0, 48_000)
    path = write_clip(tmp_path / "a.mp4", 100, 25, (64, 64), wave=wave)
    whole, cut = read_media(path), read_media(path, max_sound_seconds=1.5)
    assert len(cut.audio) == 24_000
    np.testing.assert_allclose(cut.audio, whole.audio[:24_000], atol=1e-6)
    assert cut.duration == whole.duration == 4.0
    assert read_media(path, video=False, max_sound_seconds=1.5).duration == pytest.approx(4.0, abs=0.1)


def test_an_hour_is_read_in_bounded_memory(tmp_path, conversions):
    wave = np.zeros((1, 3600 * 8000), np.float32)
    path = write_clip(
        tmp_path / "a.mkv", 3600, 1, (32, 48), wave=wave, rate=8000, audio_codec="flac",
        codec_options={"preset": "ultrafast", "g": "10"},
    )  # fmt: skip
    del wave
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    media = read_media(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read_barcodes(media.frames) == torch.linspace(0, 3599, 16).round().long().tolist()
    assert media.seconds_per_frame_pair == pytest.approx(450)
    assert len(conversions) == 16
    assert len(media.audio) == 300 * 16_000
    assert peak < 64 * 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 * 1024


def fault(path, **wanted) -> str:
    with pytest.raises(MediaError) as caught:
        read_media(path, **wanted)
    assert caught.value.path == os.fspath(path)
    assert os.fspath(path) in str(caught.value)
    assert isinstance(caught.value, OmniSentError)
    return caught.value.reason


def test_what_is_not_a_media_file_is_named_as_what_it_is(tmp_path):
    assert fault(tmp_path / "none.mp4").startswith("missing")
    assert "a folder" in fault(tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert fault(tmp_path / "empty.mp4").startswith("empty")
    for name, data in (("a.mp4", b"hello world\n" * 50), ("a.srt", b"1\n00:00:00,000 --> 00:00:02,000\nhi\n")):
        (tmp_path / name).write_bytes(data)
        assert fault(tmp_path / name).startswith("not media")
    playlist = tmp_path / "a.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n/etc/hostname\n#EXT-X-ENDLIST\n")
    assert fault(playlist).startswith("not media")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "a device or pipe" in fault(tmp_path / "pipe.mp4")


@pytest.mark.parametrize(
    "address", ["http://example.com/a.mp4", "https://example.com/a.mp4", "file:///a.mp4", "rtmp://x"]
)
def test_an_address_is_refused_by_name(address):
    assert "found an address" in fault(address)


def test_a_path_may_hold_a_colon_or_a_pattern(tmp_path, clip, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("take:1.mp4", "img%03d.mp4", "ünï côdé.mp4"):
        Path(name).write_bytes(clip.read_bytes())
        assert read_barcodes(read_media(name).frames) == [0, 16, 33, 49]


def test_sound_files_and_cover_art_have_no_video_stream(tmp_path):
    song = write_clip(tmp_path / "a.mp3", 0, wave=tone(1, 44_100), rate=44_100, audio_codec="libmp3lame")
    assert "no video stream" in fault(song)
    picture = io.BytesIO()
    with av.open(picture, "w", format="mjpeg") as out:
        stream = out.add_stream("mjpeg", rate=1)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuvj420p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(barcode(0, 32, 32), "rgb24")))
        out.mux(stream.encode(None))
    body = b"\0image/jpeg\0\x03\0" + picture.getvalue()
    frame = b"APIC" + len(body).to_bytes(4, "big") + b"\0\0" + body
    size = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
    covered = tmp_path / "b.mp3"
    covered.write_bytes(b"ID3\x03\0\0" + size + frame + song.read_bytes())
    with av.open(str(covered)) as container:
        assert len(container.streams.video) == 1
    assert "no video stream" in fault(covered)
    np.testing.assert_array_equal(read_media(covered, video=False).audio, read_media(song, video=False).audio)


@pytest.mark.parametrize("part", [0.3, 0.5, 0.9, 0.99])
def test_a_clip_cut_off_in_the_middle_is_truncated(tmp_path, clip, part):
    index_last = write_clip(tmp_path / "last.mp4", wave=tone(2, 48_000), codec_options=B_FRAMES)
    for source in (clip, index_last):
        data = source.read_bytes()
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(data[: int(part * len(data))])
        assert fault(cut).startswith("truncated")
        assert fault(cut, video=False).startswith("truncated")


@pytest.mark.parametrize("suffix", ["mkv", "avi", "wav", "flac", "flv"])
def test_a_header_that_promises_more_than_is_there_is_truncated(tmp_path, suffix):
    sound_only = suffix in ("wav", "flac")
    codec = {"wav": "pcm_s16le", "flac": "flac", "avi": "libmp3lame"}.get(suffix, "aac")
    whole = write_clip(
        tmp_path / f"a.{suffix}", 0 if sound_only else 100, wave=tone(4, 44_100), rate=44_100, audio_codec=codec
    )
    assert len(read_media(whole, video=not sound_only).audio) == pytest.approx(64_000, abs=1600)
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    assert fault(whole, video=not sound_only).startswith("truncated")


def test_a_codec_that_cannot_be_read_is_named(tmp_path, clip):
    odd = tmp_path / "odd.mp4"
    odd.write_bytes(clip.read_bytes().replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))
    assert "codec that FFmpeg cannot read" in fault(odd)
    assert read_media(odd, video=False).audio is not None


def test_a_stream_without_pictures_has_zero_frames(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 64, 64, "yuv420p"
        audio = out.add_stream("aac", rate=16_000, layout="mono")
        for frame in audio_frames(tone(1, 16_000), 16_000, "mono"):
            out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    assert fault(path).startswith("zero frames")
    assert len(read_media(path, video=False).audio) >= 16_000


def test_a_stream_of_garbage_is_damaged(tmp_path, clip):
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = np.random.default_rng(0).integers(0, 256, len(data) - start, dtype=np.uint8).tobytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    assert fault(broken).startswith("damaged")
    assert fault(broken, audio=False).startswith("damaged")


def test_frames_too_long_or_too_large_are_refused(tmp_path, clip, monkeypatch):
    long = write_clip(tmp_path / "long.mkv", 2, size=(2, 512), codec="ffv1", pix_fmt="bgr0")
    assert "aspect ratio" in fault(long)
    monkeypatch.setattr(decoding_omnisent, "MAX_FRAME_PIXELS", 96 * 128 - 1)
    assert fault(clip).startswith("frames too large: 128x96")


def test_sound_that_is_not_a_number_is_damaged(tmp_path):
    wave = tone(1, 48_000)
    wave[0, 100] = np.nan
    path = write_clip(tmp_path / "a.wav", 0, wave=wave, audio_codec="pcm_f32le")
    assert fault(path, video=False).startswith("damaged")


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


def ruin(path: Path, kind: str, chosen, fill=255) -> Path:
    """A copy of a file in which the data of some packets of its video or audio is overwritten, by place in the file."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, bytes(packet)) for packet in container.demux(**{kind: 0}) if packet.size]
    data = bytearray(path.read_bytes())
    for place in chosen:
        pos, packet = packets[place]
        at = data.index(packet, pos)  # after a header of its own
        data[at : at + len(packet)] = bytes([fill]) * len(packet)
    ruined = path.with_stem(f"{path.stem}-ruined-{kind}-{min(chosen)}-{len(chosen)}")
    ruined.write_bytes(data)
    return ruined


def marks_of_damage(path: Path, kind: str) -> tuple[int, int]:
    """How many packets fail to decode, and how many decoded frames are marked as corrupt."""
    failed = marked = 0
    with av.open(str(path)) as container:
        container.streams.get(**{kind: 0})[0].codec_context.thread_count = 1
        for packet in container.demux(**{kind: 0}):
            try:
                marked += sum(frame.is_corrupt for frame in packet.decode())
            except av.FFmpegError:
                failed += 1
    return failed, marked


def noisy(index: int, height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(index).integers(0, 60, (height, width, 3), dtype=np.uint8)
    return np.roll(barcode(index, height, width) // 2, index, axis=0) + noise


def hiss(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """(channels, samples) float32 that is nowhere silent."""
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, (channels, round(seconds * rate)))
    return tone(seconds, rate, channels) + noise.astype(np.float32)


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
@pytest.mark.parametrize("rate", [16_000, 48_000])
@pytest.mark.parametrize(("bad", "named"), [((3e38, 3e38), "3e+38"), ((3e38, -3e38), "3e+38"), ((np.inf, 0), "inf"),
    ((np.nan, np.nan), "nan"), ((0, -101), "101"), ((120, -120), "120")])  # fmt: skip
def test_a_sample_that_no_sound_can_have_is_refused(tmp_path, codec, rate, bad, named):
    wave = tone(1, rate, 2)
    wave[:, 100] = bad
    path = write_clip(tmp_path / "a.wav", 0, wave=wave, rate=rate, audio_codec=codec)
    reason = fault(path, video=False)
    assert reason.startswith(f"damaged: its sound has a sample of {named}, expected finite ones of at most 100")


def test_loud_float_sound_is_kept_as_it_is(tmp_path):
    for level in (8.0, 99.9):
        wave = tone(1, 16_000, level=level)
        path = write_clip(tmp_path / f"{level}.wav", 0, wave=wave, rate=16_000, audio_codec="pcm_f32le")
        media = read_media(path, video=False)
        np.testing.assert_array_equal(media.audio, wave[0])
        assert media.warning is None


def test_resampling_cannot_carry_sound_over_the_bound(tmp_path):
    wave = 99.9 * np.sign(tone(1, 48_000))  # a square wave overshoots when it is resampled
    path = write_clip(tmp_path / "a.wav", 0, wave=wave, audio_codec="pcm_f32le")
    assert "a sample of 1" in fault(path, video=False)


def test_a_sample_rate_that_no_sound_has_is_refused(tmp_path):
    path = write_clip(tmp_path / "a.wav", 0, wave=tone(0.1, 48_000), audio_codec="pcm_s16le")
    data = bytearray(path.read_bytes())
    data[24:28] = (3).to_bytes(4, "little")
    path.write_bytes(data)
    assert fault(path, video=False).startswith("its sound has a sample rate of 3 Hz, expected 1000 to 1000000")


@pytest.mark.parametrize(("layout", "codec"), [("5.1", "aac"), ("7.1", "aac"), ("7.1", "flac")])
def test_sound_of_many_channels_is_their_mean(tmp_path, layout, codec):
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


def test_a_file_name_that_is_not_utf8_is_read_and_each_error_can_be_written_down(tmp_path, clip):
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


def longest_silence(sound: np.ndarray) -> tuple[float, float]:
    """Where the longest run of almost nothing begins, and how long it is, in seconds."""
    loud = np.flatnonzero(np.abs(np.concatenate([[1], sound, [1]])) > 3e-3)
    run = np.diff(loud).argmax()
    return loud[run] / 16_000, (loud[run + 1] - loud[run] - 1) / 16_000


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "aac"), ("mkv", "aac"), ("m4a", "aac"), ("mkv", "flac"), ("mp4", "libmp3lame")]
)
def test_sound_that_cannot_be_decoded_is_silence_of_the_same_length_and_a_warning(tmp_path, suffix, codec):
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
        stated = re.fullmatch(r"(less than )?(\d+) % of its sound cannot be decoded", media.warning)
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
        r"damaged: [12]\d % of its sound cannot be decoded, at most 10 % may", fault(broken, video=count > 0)
    )
    if count:
        assert read_media(broken, audio=False).warning is None


def test_all_sound_lost_is_no_silent_clip(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 8, 8, wave=hiss(1.0, 48_000))
    with av.open(str(path)) as container:
        packets = sum(packet.size > 0 for packet in container.demux(audio=0))
    broken = ruin(path, "audio", range(packets))
    assert fault(broken).startswith("damaged: 100 % of its sound cannot be decoded")
    assert read_media(broken, audio=False).audio is None


@pytest.fixture(scope="module")
def all_keys(tmp_path_factory) -> Path:
    """50 frames of which none needs another."""
    path = tmp_path_factory.mktemp("media") / "keys.mp4"
    return write_clip(path, 50, codec="mpeg4", codec_options={"g": "1", "b": "4000000"})


EVERY = VideoSampling(fps=100, max_frames=60, min_pixels=28 * 28)


def test_a_frame_that_cannot_be_decoded_is_replaced_by_the_nearest_and_shifts_no_other(all_keys):
    broken = ruin(all_keys, "video", [16])
    assert marks_of_damage(broken, "video") == (1, 0)
    media = read_media(broken)
    assert read_barcodes(media.frames) == [0, 0, 33, 49]
    assert media.warning == "1 of 4 frames cannot be decoded"
    assert (media.duration, media.seconds_per_frame_pair) == (2.0, 1.0)
    media = read_media(ruin(all_keys, "video", [0, 20, 21, 49]), sampling=EVERY)
    assert read_barcodes(media.frames) == [1, *range(1, 20), 19, 22, *range(22, 49), 48]
    assert media.warning == "4 of 50 frames cannot be decoded"


def test_frames_that_are_not_asked_for_may_be_missing(all_keys):
    media = read_media(ruin(all_keys, "video", [1, 5, 17, 20, 48]))
    assert read_barcodes(media.frames) == [0, 16, 33, 49]
    assert media.warning is None


def test_too_many_missing_frames_are_an_error(all_keys, tmp_path):
    assert fault(ruin(all_keys, "video", [16, 33])).startswith(
        "damaged: 2 of 4 frames cannot be decoded, at most 1 may"
    )
    assert "6 of 50 frames cannot be decoded, at most 5" in fault(ruin(all_keys, "video", range(6)), sampling=EVERY)
    two = VideoSampling(min_frames=2, max_frames=2)
    assert "1 of 2 frames cannot be decoded, at most 0" in fault(ruin(all_keys, "video", [49]), sampling=two)
    one = write_clip(tmp_path / "one.mp4", 1, 10, codec="mpeg4")
    assert fault(ruin(one, "video", [0])).startswith("damaged")


def test_without_display_times_a_lost_frame_shifts_no_other(tmp_path):
    options = {"x264-params": "bframes=2:keyint=6:scenecut=0:b-adapt=0"}
    path = write_clip(tmp_path / "a.avi", 60, 25, codec_options=options)
    with av.open(str(path)) as container:
        times = [frame.pts for frame in container.decode(video=0)]
    assert times != sorted(times)
    plain, shown = read_barcodes(torch.from_numpy(decode_all(path)).permute(0, 3, 1, 2)), EVERY
    assert read_barcodes(read_media(path, sampling=shown).frames) == plain
    broken = ruin(path, "video", [31])
    assert sum(marks_of_damage(broken, "video"))
    media = read_media(broken, sampling=shown)
    different = [
        at for at, (got, true) in enumerate(zip(read_barcodes(media.frames), plain, strict=True)) if got != true
    ]
    assert set(different) <= set(range(28, 36))
    assert "of 60 frames" in media.warning


def test_frames_that_the_decoder_marks_as_corrupt_are_missing(tmp_path):
    options = {"x264-params": "bframes=0:keyint=10:scenecut=0"}
    path = write_clip(tmp_path / "a.mp4", 50, codec_options=options, draw=noisy)
    with av.open(str(path)) as container:
        at, size = [(packet.pos, packet.size) for packet in container.demux(video=0)][33]
    data = bytearray(path.read_bytes())
    data[at + size // 2 : at + size] = bytes(size - size // 2)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    assert marks_of_damage(broken, "video") == (0, 1)
    whole, media = read_media(path), read_media(broken)
    assert media.warning == "1 of 4 frames cannot be decoded"
    assert torch.equal(media.frames, whole.frames[[0, 1, 3, 3]])
    later = read_media(broken, sampling=EVERY)
    assert later.warning == "1 of 50 frames cannot be decoded; 6 of 50 frames build on damaged ones"


def test_a_mark_belongs_to_its_frame_though_others_are_decoded_before_it_is_shown(tmp_path):
    options = {"x264-params": "bframes=3:b-adapt=0:keyint=48:scenecut=0"}
    path = write_clip(tmp_path / "a.mp4", 48, codec_options=options, draw=noisy)
    with av.open(str(path)) as container:
        packets = [(packet.pts, packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    place = max(at for at in range(len(packets) - 1) if packets[at][0] > packets[at + 1][0])
    _, at, size = packets[place]
    data = bytearray(path.read_bytes())
    data[at + size // 2 : at + size] = bytes(size - size // 2)
    path.write_bytes(data)
    assert marks_of_damage(path, "video")[1] == 1
    after = len(packets) - 1 - place
    assert after > 1
    said = f"1 of 48 frames cannot be decoded; {after} of 48 frames build on damaged ones"
    assert read_media(path, sampling=EVERY).warning == said


def test_audio_that_is_marked_as_corrupt_is_missing(tmp_path):
    path = write_clip(tmp_path / "a.eac3", 0, wave=hiss(2.0, 48_000), audio_codec="eac3")
    good, rng, marked = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        data = bytearray(good)
        data[rng.integers(2000, len(data) - 2000)] ^= 1 << rng.integers(0, 8)
        path.write_bytes(data)
        if marks_of_damage(path, "audio")[1]:
            marked += 1
            assert "of its sound cannot be decoded" in read_media(path, video=False).warning
    assert marked > 1


def test_where_the_key_frame_is_lost_nothing_builds_on_it(tmp_path):
    options = {"g": "6", "b": "4000000", "sc_threshold": "1000000000"}
    path = write_clip(tmp_path / "a.mp4", 60, codec="mpeg4", codec_options=options)
    media = read_media(ruin(path, "video", [30]), sampling=EVERY)
    assert read_barcodes(media.frames) == [*range(30), 29, 29, 29, 36, 36, 36, *range(36, 60)]
    assert media.warning == "6 of 60 frames cannot be decoded"
    assert "7 of 60" in fault(ruin(path, "video", [30, 50]), sampling=EVERY)


@pytest.fixture
def quietly_damaged(tmp_path) -> Path:
    """H.265 whose decoder goes on without a reference that is lost: no exception, no mark, only lines in its log."""
    options = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=50:bframes=0"}
    path = write_clip(tmp_path / "a.mp4", 50, codec="libx265", codec_options=options, draw=noisy)
    with av.open(str(path)) as container:
        at = [packet.pos for packet in container.demux(video=0)][20]
    data = bytearray(path.read_bytes())
    data[at + 4] = 41 << 1  # a type of unit that decoders skip
    path.write_bytes(data)
    assert marks_of_damage(path, "video") == (0, 0)
    return path


def test_damage_that_is_only_in_the_decoders_log_is_no_secret(quietly_damaged, capfd):
    for _ in range(2):
        reason = fault(quietly_damaged)
        assert reason.startswith("damaged: ")
        assert "frames cannot be decoded" in reason
    with av.open(str(quietly_damaged)) as container:
        list(container.decode(video=0))
    assert capfd.readouterr().err == ""
    assert av.logging.get_level() is None


def test_readers_in_threads_hear_of_their_own_file_alone(quietly_damaged, clip):
    def outcome(path):
        try:
            return read_media(path).warning
        except MediaError as error:
            return error.reason

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(outcome, [quietly_damaged, clip] * 20))
    assert answers[1::2] == [None] * 20
    assert all("frames cannot be decoded" in answer for answer in answers[::2])
    assert av.logging.get_level() is None


def test_the_log_level_that_someone_set_stays(clip):
    av.logging.set_level(av.logging.VERBOSE)
    try:
        assert read_media(clip).warning is None
        assert av.logging.get_level() == av.logging.VERBOSE
    finally:
        av.logging.set_level(None)


def test_packets_that_a_stream_has_lost_leave_gaps_not_shifts(tmp_path):
    path = write_clip(tmp_path / "a.ts", 50, codec="mpeg2video", codec_options={"g": "1", "b": "4000000"})
    with av.open(str(path)) as container:
        spots = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    (tmp_path / "b.ts").write_bytes(data[: spots[20]] + data[spots[23] :])
    media = read_media(tmp_path / "b.ts", sampling=EVERY)
    assert media.duration == pytest.approx(2.0)
    shown = read_barcodes(media.frames)
    assert [shown[at] for at in (0, 15, 26, 49)] == [0, 15, 26, 49]
    assert re.fullmatch(r"[345] of 50 frames cannot be decoded", media.warning)


def test_damage_to_the_container_is_said(tmp_path):
    path = write_clip(tmp_path / "a.mkv", 50, codec="mpeg4", codec_options={"g": "1"}, wave=tone(2, 48_000))
    assert read_media(path).warning is None
    with av.open(str(path)) as container:
        spots = [packet.pos for packet in container.demux() if packet.size]
    data = bytearray(path.read_bytes())
    data[spots[60] - 10 : spots[60]] = bytes(10)
    path.write_bytes(data)
    assert re.fullmatch(r"\d % of its sound cannot be decoded", read_media(path).warning)


def test_a_good_file_costs_one_decoding_and_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(frames_omnisent, "decode_in_order", None)
    for options in (
        "bframes=4:keyint=10:open-gop=1:scenecut=0:b-pyramid=normal",
        "bframes=5:ref=5:keyint=12:open-gop=1",
    ):
        path = write_clip(tmp_path / "a.mp4", 60, codec_options={"x264-params": options}, draw=noisy)
        for frames in (2, 4, 8, 16):
            media = read_media(path, sampling=VideoSampling(min_frames=frames, max_frames=frames))
            assert media.warning is None


@pytest.mark.parametrize("suffix", ["aac", "amr"])
def test_sound_that_is_cut_off_within_its_last_packet_is_truncated(tmp_path, suffix):
    codec, rate = ("libopencore_amrnb", 8000) if suffix == "amr" else ("aac", 48_000)
    path = write_clip(tmp_path / f"a.{suffix}", 0, wave=hiss(2.0, rate), rate=rate, audio_codec=codec)
    assert read_media(path, video=False).warning is None
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert fault(path, video=False).startswith("truncated: its last packet")


@pytest.mark.parametrize(("suffix", "codec"), [("wav", "pcm_s16le"), ("w64", "pcm_s16le"), ("au", "pcm_s16be")])
def test_a_sound_file_shorter_than_it_says_is_truncated(tmp_path, suffix, codec):
    path = write_clip(tmp_path / f"a.{suffix}", 0, wave=tone(2, 48_000), audio_codec=codec)
    assert read_media(path, video=False).warning is None
    path.write_bytes(path.read_bytes()[:100_000])
    assert fault(path, video=False).startswith("truncated")


def test_an_index_that_is_cut_off_takes_no_track_with_it_in_silence(tmp_path):
    path = write_clip(tmp_path / "a.mp4", wave=hiss(2.0, 48_000))
    data = path.read_bytes()
    track = data.rindex(b"trak")
    for cut in (track - 4, track + 4, len(data) - 8):
        path.write_bytes(data[:cut])
        assert fault(path).startswith("truncated")


def test_a_wav_from_a_pipe_is_whole(tmp_path):
    path = write_clip(tmp_path / "a.wav", 0, wave=tone(1, 48_000), audio_codec="pcm_s16le")
    whole, data = read_media(path, video=False), bytearray(path.read_bytes())
    for at in (4, data.index(b"data") + 4):
        data[at : at + 4] = b"\xff" * 4
    path.write_bytes(data)
    media = read_media(path, video=False)
    np.testing.assert_array_equal(media.audio, whole.audio)
    assert media.warning is None


def test_a_video_without_a_container_is_named_as_such(tmp_path):
    assert "put the video into an MP4" in fault(write_clip(tmp_path / "a.h264", 10, container_options={}))


def test_media_error_survives_the_way_back_from_a_worker():
    again = pickle.loads(pickle.dumps(MediaError("a.mp4", "0 bytes", MediaFault.EMPTY)))
    assert (again.path, again.reason, str(again)) == ("a.mp4", "0 bytes", "a.mp4: 0 bytes")
    assert again.kind is MediaFault.EMPTY


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"max_frames": 1}, {"min_frames": 20}, {"min_pixels": 10**9}])
def test_sampling_that_no_video_can_meet_is_refused(wrong):
    with pytest.raises(ValueError, match="VideoSampling"):
        VideoSampling(**wrong)
