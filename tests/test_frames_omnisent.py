"""The frames of small videos: which are taken, how they are decoded, and what stands in place of damaged ones."""

import resource
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from qwen_omni_utils.v2_5 import vision_process

from media_files import (
    B_FRAMES,
    EVERY,
    barcode,
    decode_all,
    fault,
    indices_of_reference,
    marks_of_damage,
    noisy,
    read_barcodes,
    ruin,
    tone,
    write_clip,
    write_ordinary_clip,
    write_without_frames,
)
from omnisent import decoding_omnisent, frames_omnisent
from omnisent.frames_omnisent import VideoSampling
from omnisent.media_omnisent import read_media


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_ordinary_clip(tmp_path_factory.mktemp("media") / "clip.mp4")


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


def test_the_frame_of_a_one_frame_clip_is_repeated(tmp_path):
    media = read_media(write_clip(tmp_path / "a.mp4", 1, 10, draw=lambda i, h, w: barcode(5, h, w)))
    assert read_barcodes(media.frames) == [5, 5]
    assert media.duration == pytest.approx(0.1)
    assert media.seconds_per_frame_pair == pytest.approx(0.1)


def test_a_clip_shorter_than_the_sampling_step_gives_no_warning(tmp_path, caplog, capfd):
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


def test_frames_whose_size_changes_have_the_size_of_the_first(tmp_path):
    options = {"codec_options": {"bf": "0"}}
    wide = write_clip(tmp_path / "a.ts", 10, size=(96, 128), ticks=list(range(0, 400, 40)), **options)
    tall = write_clip(tmp_path / "b.ts", 10, size=(192, 160), ticks=list(range(400, 800, 40)), **options)
    both = tmp_path / "both.ts"
    both.write_bytes(wide.read_bytes() + tall.read_bytes())
    for exact in (True, False):
        media = read_media(both, sampling=VideoSampling(fps=100, max_frames=60, exact_resize=exact))
        assert read_barcodes(media.frames[:8]) == [*range(8)]  # FFmpeg reports damage where the files were joined
        assert read_barcodes(media.frames[10:]) == [*range(10)]


def test_a_portrait_phone_video_is_rotated(tmp_path):
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


@pytest.fixture(scope="module")
def all_keys(tmp_path_factory) -> Path:
    """50 frames of which none needs another."""
    path = tmp_path_factory.mktemp("media") / "keys.mp4"
    return write_clip(path, 50, codec="mpeg4", codec_options={"g": "1", "b": "4000000"})


def test_a_frame_that_cannot_be_decoded_is_replaced_by_the_nearest(all_keys):
    broken = ruin(all_keys, "video", [16])
    assert marks_of_damage(broken, "video") == (1, 0)
    media = read_media(broken)
    assert read_barcodes(media.frames) == [0, 0, 33, 49]
    assert media.warning == "1 of 4 frames cannot be decoded"
    assert (media.duration, media.seconds_per_frame_pair) == (2.0, 1.0)
    media = read_media(ruin(all_keys, "video", [0, 20, 21, 49]), sampling=EVERY)
    assert read_barcodes(media.frames) == [1, *range(1, 20), 19, 22, *range(22, 49), 48]
    assert media.warning == "4 of 50 frames cannot be decoded"


def test_frames_that_are_not_sampled_may_be_missing(all_keys):
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
    assert later.warning == "1 of 50 frames cannot be decoded; 6 of 50 frames depend on damaged ones"


def test_a_corrupt_flag_belongs_to_its_frame_despite_reordering(tmp_path):
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
    said = f"1 of 48 frames cannot be decoded; {after} of 48 frames depend on damaged ones"
    assert read_media(path, sampling=EVERY).warning == said


def test_frames_that_depend_on_a_lost_key_frame_are_missing(tmp_path):
    options = {"g": "6", "b": "4000000", "sc_threshold": "1000000000"}
    path = write_clip(tmp_path / "a.mp4", 60, codec="mpeg4", codec_options=options)
    media = read_media(ruin(path, "video", [30]), sampling=EVERY)
    assert read_barcodes(media.frames) == [*range(30), 29, 29, 29, 36, 36, 36, *range(36, 60)]
    assert media.warning == "6 of 60 frames cannot be decoded"
    assert "7 of 60" in fault(ruin(path, "video", [30, 50]), sampling=EVERY)


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


def test_frames_too_long_or_too_large_are_refused(tmp_path, clip, monkeypatch):
    long = write_clip(tmp_path / "long.mkv", 2, size=(2, 512), codec="ffv1", pix_fmt="bgr0")
    assert "aspect ratio" in fault(long)
    monkeypatch.setattr(decoding_omnisent, "MAX_FRAME_PIXELS", 96 * 128 - 1)
    assert fault(clip).startswith("frames too large: 128x96")


def test_a_video_stream_without_frames_is_an_error(tmp_path):
    path = write_without_frames(tmp_path / "a.mkv")
    assert fault(path).startswith("zero frames")
    assert len(read_media(path, video=False).audio) >= 16_000


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"max_frames": 1}, {"min_frames": 20}, {"min_pixels": 10**9}])
def test_sampling_that_no_video_can_meet_is_refused(wrong):
    with pytest.raises(ValueError, match="VideoSampling"):
        VideoSampling(**wrong)


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
