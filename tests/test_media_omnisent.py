"""Tests of media_omnisent on small clips made here; each frame carries its own index as black and white bars."""

import io
import os
import pickle
import resource
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import torch
from qwen_omni_utils.v2_5 import vision_process

from omnisent import media_omnisent
from omnisent.media_omnisent import ClipMedia, MediaError, OmniSentError, VideoSampling, read_media

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
    inner = media_omnisent._decode_by_time

    def spy(*args):
        answers.append(inner(*args))
        return answers[-1]

    monkeypatch.setattr(media_omnisent, "_decode_by_time", spy)
    return answers


@pytest.fixture
def conversions(monkeypatch) -> list[int]:
    """The pts of each frame that was converted to RGB."""
    seen: list[int] = []
    inner = media_omnisent._upright_rgb

    def spy(frame):
        seen.append(frame.pts)
        return inner(frame)

    monkeypatch.setattr(media_omnisent, "_upright_rgb", spy)
    return seen


def test_frames_times_and_sound_of_an_ordinary_clip(clip):
    media = read_media(clip)
    assert read_barcodes(media.frames) == [0, 16, 33, 49]
    assert media.frames.dtype == torch.uint8
    assert media.frames.shape == (4, 3, 280, 392)
    assert media.duration == 2.0
    assert media.seconds_per_frame_pair == 1.0
    assert media.sound.dtype == np.float32
    assert len(media.sound) == pytest.approx(32_000, abs=1024)
    steady = media.sound[8000:24_000]
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
    monkeypatch.setattr(media_omnisent, "_frame_indices", lambda *_: wanted)
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
    assert media.sound.shape == expected.shape
    assert np.abs(media.sound - expected).max() < 1e-4
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
    steady = media.sound[4000:12_000]
    assert np.sqrt(np.mean(steady**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.06)
    assert abs(steady.mean()) < 0.005
    assert len(media.sound) == pytest.approx(16_000, abs=1300)


def test_the_sound_of_a_video_is_its_decoded_samples_resampled(clip):
    wave, rate = decode_sound(clip)
    expected = librosa.resample(wave.mean(axis=0), orig_sr=rate, target_sr=16_000)
    got = read_media(clip, video=False).sound
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
    half, none = (read_media(path, video=False).sound for path in paths)
    np.testing.assert_allclose(half, left[0] / 2, atol=1e-6)
    np.testing.assert_allclose(none, 0, atol=1e-6)


def test_a_clip_without_sound_is_normal_and_either_part_can_be_left_out(tmp_path, clip):
    silent = write_clip(tmp_path / "a.mp4", 8, 8)
    assert read_media(silent).sound is None
    assert read_media(silent, video=False) == ClipMedia(None, None, None, pytest.approx(1.0))
    assert read_media(clip, sound=False).sound is None
    assert read_media(clip, video=False).frames is None


def test_sound_past_the_limit_is_cut_and_not_decoded(tmp_path):
    wave = tone(4.0, 48_000)
    path = write_clip(tmp_path / "a.mp4", 100, 25, (64, 64), wave=wave)
    whole, cut = read_media(path), read_media(path, max_sound_seconds=1.5)
    assert len(cut.sound) == 24_000
    np.testing.assert_allclose(cut.sound, whole.sound[:24_000], atol=1e-6)
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
    assert len(media.sound) == 300 * 16_000
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
    np.testing.assert_array_equal(read_media(covered, video=False).sound, read_media(song, video=False).sound)


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
    assert len(read_media(whole, video=not sound_only).sound) == pytest.approx(64_000, abs=1600)
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    assert fault(whole, video=not sound_only).startswith("truncated")


def test_a_codec_that_cannot_be_read_is_named(tmp_path, clip):
    odd = tmp_path / "odd.mp4"
    odd.write_bytes(clip.read_bytes().replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))
    assert "codec that FFmpeg cannot read" in fault(odd)
    assert read_media(odd, video=False).sound is not None


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
    assert len(read_media(path, video=False).sound) >= 16_000


def test_a_stream_of_garbage_is_damaged(tmp_path, clip):
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = np.random.default_rng(0).integers(0, 256, len(data) - start, dtype=np.uint8).tobytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    assert fault(broken).startswith("damaged")
    assert fault(broken, sound=False).startswith("damaged")


def test_frames_too_long_or_too_large_are_refused(tmp_path, clip, monkeypatch):
    long = write_clip(tmp_path / "long.mkv", 2, size=(2, 512), codec="ffv1", pix_fmt="bgr0")
    assert "aspect ratio" in fault(long)
    monkeypatch.setattr(media_omnisent, "MAX_FRAME_PIXELS", 96 * 128 - 1)
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


def test_media_error_survives_the_way_back_from_a_worker():
    again = pickle.loads(pickle.dumps(MediaError("a.mp4", "empty")))
    assert (again.path, again.reason, str(again)) == ("a.mp4", "empty", "a.mp4: empty")


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"max_frames": 1}, {"min_frames": 20}, {"min_pixels": 10**9}])
def test_sampling_that_no_video_can_meet_is_refused(wrong):
    with pytest.raises(ValueError, match="VideoSampling"):
        VideoSampling(**wrong)
