"""Segments of a long file: each frame carries its own index as bars, and each second sounds at its own frequency."""

import os
import resource
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from omnisent.data.planted import write_audio, write_video
from omnisent.decoding_omnisent import MediaFile
from omnisent.errors_omnisent import MediaError
from omnisent.frames_omnisent import VideoSampling
from omnisent.long_media_omnisent import LongMedia
from omnisent.media_omnisent import read_media

BARS, FPS, RATE = 14, 10, 44_100
SMALL = VideoSampling(min_pixels=28 * 28)


def barcodes(indices: range, height: int = 56, width: int = 56) -> np.ndarray:
    """(F, height, width, 3) uint8: vertical bars, the bits of each index, lowest bit first."""
    bits = np.array([[(index >> bit) & 1 for bit in range(BARS)] for index in indices])
    rows = bits[:, np.arange(width) * BARS // width] * 255
    return np.broadcast_to(rows[:, None, :, None], (len(indices), height, width, 3)).astype(np.uint8)


def indices_in(frames: torch.Tensor) -> list[int]:
    columns = ((torch.arange(BARS) + 0.5) / BARS * frames.shape[-1]).long()
    bits = frames[:, 1, frames.shape[2] // 2][:, columns] > 127
    return [sum(int(bit) << at for at, bit in enumerate(row)) for row in bits]


def tones(start: float, end: float, rate: int = RATE) -> np.ndarray:
    """(samples,) float32; second s sounds at hertz_of(s)."""
    place = np.arange(round(start * rate), round(end * rate))
    return (0.4 * np.sin(2 * np.pi * hertz_of(place // rate) * place / rate)).astype(np.float32)


def hertz_of(second):
    return 300 + 20 * (second % 60)


def hertz_in(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return spectrum.argmax() * 16_000 / len(samples)


def write_exact(path: Path, first: int, last: int) -> Path:
    """Frames [first, last) of a talk and their sound, without loss, so that a cut file holds the same pixels and samples."""
    options = {"qp": "0", "preset": "ultrafast", "x264-params": "keyint=30:bframes=2"}
    wave = (tones(first / FPS, last / FPS) * 32767).astype(np.int16)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=FPS, options=options)
        video.height, video.width, video.pix_fmt, video.codec_context.thread_count = 56, 56, "yuv444p", 1
        audio = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for place, picture in enumerate(barcodes(range(first, last))):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
            block = wave[place * RATE // FPS : (place + 1) * RATE // FPS]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block[None]), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, place * RATE // FPS, Fraction(1, RATE)
            out.mux(audio.encode(frame))
        for stream in (video, audio):
            out.mux(stream.encode(None))
    return path


def in_order(source: Path, out: Path) -> Path:
    """The same packets in another container, in order of time."""
    with av.open(str(source)) as given, av.open(str(out), "w") as made:
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        for packet in sorted((p for p in given.demux() if p.size), key=lambda p: p.dts * p.time_base):
            packet.stream = streams[packet.stream.index]
            made.mux(packet)
    return out


@pytest.fixture(scope="module")
def talk(tmp_path_factory) -> Path:
    """A minute, with B-frames, and sound at 44.1 kHz."""
    path = tmp_path_factory.mktemp("long") / "talk.mp4"
    write_video(path, barcodes(range(60 * FPS)), FPS, tones(0, 60), RATE, preset="veryfast")
    return path


@pytest.fixture(scope="module")
def ten_minutes(tmp_path_factory) -> Path:
    """Ten minutes, 3,000 frames."""
    path = tmp_path_factory.mktemp("long") / "ten.mp4"
    write_video(path, barcodes(range(3000), 28, 28), 5, tones(0, 600, 16_000), 16_000)
    return path


@pytest.fixture
def packets(monkeypatch) -> list[int]:
    """How many packets were read in all, as a list of one number."""
    count = [0]
    inner = MediaFile.packets

    def counted(*args):
        for packet in inner(*args):
            count[0] += 1
            yield packet

    monkeypatch.setattr(MediaFile, "packets", counted)
    return count


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts", "flv"])
def test_a_whole_file_equals_that_of_read_media(talk, tmp_path, suffix):
    path = in_order(talk, tmp_path / f"talk.{suffix}")
    expected = read_media(path, sampling=SMALL)
    with LongMedia(path) as media:
        whole = media.read(0, sampling=SMALL)
        assert media.duration == pytest.approx(60, abs=0.03)
    assert torch.equal(whole.frames, expected.frames)
    assert (whole.duration, whole.seconds_per_frame_pair) == (expected.duration, expected.seconds_per_frame_pair)
    assert len(expected.audio) - len(whole.audio) in range(12)
    np.testing.assert_allclose(whole.audio[:950_000], expected.audio[:950_000], atol=1e-6)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("start", [0, 13, 28, 52])
def test_a_segment_contains_only_its_own_seconds(talk, tmp_path, suffix, start):
    path = in_order(talk, tmp_path / f"talk.{suffix}")
    with LongMedia(path) as media:
        read = media.read(start, start + 8, sampling=SMALL)
    first = start * FPS
    assert indices_in(read.frames) == [first + at for at in torch.linspace(0, 79, 16).round().long().tolist()]
    assert read.duration == pytest.approx(8)
    assert read.seconds_per_frame_pair == pytest.approx(1)
    assert len(read.audio) == pytest.approx(8 * 16_000, abs=600)
    for second in range(8):
        within = read.audio[second * 16_000 + 1600 : (second + 1) * 16_000 - 1600]
        assert hertz_in(within) == pytest.approx(hertz_of(start + second), abs=2)


@pytest.mark.parametrize(("first", "last"), [(0, 80), (37, 117), (301, 302), (295, 450), (590, 600)])
def test_a_segment_equals_the_file_that_is_cut_to_it(tmp_path, first, last):
    whole = write_exact(tmp_path / "whole.mov", 0, 600)
    expected = read_media(write_exact(tmp_path / "cut.mov", first, last), sampling=SMALL)
    with LongMedia(whole) as media:
        read = media.read(first / FPS, last / FPS, sampling=SMALL)
    assert torch.equal(read.frames, expected.frames)
    np.testing.assert_array_equal(read.audio, expected.audio)
    assert read.duration == pytest.approx(expected.duration)
    assert read.seconds_per_frame_pair == pytest.approx(expected.seconds_per_frame_pair)


@pytest.mark.parametrize("options", ["bframes=4:keyint=10:open-gop=1:scenecut=0", "bframes=3:keyint=600", "bframes=0"])
def test_frames_are_exact_whatever_the_groups_of_pictures(tmp_path, options):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=FPS, options={"x264-params": options})
        video.height, video.width, video.pix_fmt, video.codec_context.thread_count = 56, 56, "yuv420p", 1
        for index, picture in enumerate(barcodes(range(200))):
            noise = np.random.default_rng(index).integers(0, 60, picture.shape, dtype=np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture // 2 + noise, "rgb24")))
        out.mux(video.encode(None))
    with av.open(str(path)) as container:
        plain = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    plain = torch.from_numpy(plain).permute(0, 3, 1, 2)
    with LongMedia(path) as media:
        for first in range(0, 190, 7):
            read = media.read(first / FPS, (first + 9) / FPS, sampling=SMALL)
            assert torch.equal(read.frames, plain[[first, first + 3, first + 5, first + 8]]), first


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp3", "libmp3lame"), ("ogg", "libopus"), ("flac", "flac"), ("wav", "pcm_s16le")]
)
def test_a_segment_of_an_audio_file_is_that_part_of_it(tmp_path, suffix, codec):
    path, rate = tmp_path / f"a.{suffix}", 48_000
    wave = tones(0, 30, rate)
    with av.open(str(path), "w") as out:
        audio = out.add_stream(codec, rate=rate, layout="mono")
        for at in range(0, len(wave), 960):
            frame = av.AudioFrame.from_ndarray(wave[None, at : at + 960], "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
            out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    whole = read_media(path, video=False).audio
    with LongMedia(path) as media:
        assert (media.has_video, media.has_audio) == (False, True)
        assert media.duration == pytest.approx(30, abs=0.1)
        for start in (0, 9.5, 27):
            read = media.read(start, start + 2, video=False)
            assert read.frames is None
            assert read.duration == 2
            assert len(read.audio) == 32_000
            expected = whole[round(start * 16_000) :][:32_000]
            lag = np.correlate(expected[7975:9025], read.audio[8000:9000]).argmax() - 25
            assert abs(lag) <= 8  # half a millisecond, as coarse as some containers' clocks are
            assert hertz_in(read.audio[16_000 + 9000 :]) == pytest.approx(hertz_of(int(start + 1.8)), abs=12)
        with pytest.raises(MediaError, match="no video stream: the file holds audio; give it as audio"):
            media.read(0, 2)


def test_a_segment_costs_the_same_anywhere_and_the_file_is_listed_once(ten_minutes, packets):
    with LongMedia(ten_minutes) as media:
        listed, packets[0] = packets[0], 0
        costs = []
        for start in (16, 300, 584):
            media.read(start, start + 8, sampling=SMALL)
            costs.append(packets[0])
            packets[0] = 0
    assert listed > 3000 + 600 * 15
    assert max(costs) < listed / 10
    assert max(costs) < 2.5 * min(costs)


def test_memory_stays_flat_over_a_long_file(ten_minutes):
    with LongMedia(ten_minutes) as media:
        for start in (0, 4):
            media.read(start, start + 8, sampling=SMALL)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tracemalloc.start()
        held = []
        for start in range(0, 592, 8):
            media.read(start, start + 8, sampling=SMALL)
            held.append(tracemalloc.get_traced_memory()[0])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * 2**20
    assert held[-1] - held[5] < 2**18
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024


def test_the_displayed_frame_is_used_if_none_starts_in_the_segment(tmp_path):
    path = tmp_path / "slides.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=FPS, options={"bf": "0"})
        video.height, video.width, video.pix_fmt = 56, 56, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        for slide, picture in enumerate(barcodes(range(4))):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = slide * 10_000, Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    with LongMedia(path) as media:
        assert indices_in(media.read(13, 17, sampling=SMALL).frames) == [1, 1]
        assert indices_in(media.read(18, 26, sampling=SMALL).frames) == [2, 2]
        assert indices_in(media.read(9, 31, sampling=SMALL).frames) == [1, 3]


def test_audio_after_the_last_frame_is_read_alone(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, barcodes(range(50)), FPS, tones(0, 20), RATE)
    with LongMedia(path) as media:
        assert media.duration == pytest.approx(20, abs=0.05)
        assert indices_in(media.read(4, 12, sampling=SMALL).frames)[-1] == 49
        late = media.read(10, 18, sampling=SMALL)
    assert late.frames is None
    assert late.seconds_per_frame_pair is None
    assert len(late.audio) == 8 * 16_000


def test_parts_can_be_left_out_and_audio_is_limited(talk):
    with LongMedia(talk) as media:
        assert media.read(5, 7, audio=False).audio is None
        assert media.read(5, 7, video=False).frames is None
        whole, cut = (media.read(5, 13, video=False, max_sound_seconds=most).audio for most in (300, 1.5))
    assert len(cut) == 24_000
    np.testing.assert_allclose(cut, whole[:24_000], atol=1e-2)  # AAC fills up with noise


def test_unreadable_files_give_specific_errors(talk, tmp_path):
    with LongMedia(talk) as media:
        with pytest.raises(MediaError, match=r"nothing at 60\.00 s: the file is 60\.00 s long"):
            media.read(60, 68)
        for start, end in ((-1, 2), (3, 3), (4, 2)):
            with pytest.raises(ValueError, match="expected a segment with 0 <= start < end"):
                media.read(start, end)
        assert indices_in(media.read(59, 70, sampling=SMALL).frames)[-1] == 599
    with pytest.raises(MediaError, match="missing"):
        LongMedia(tmp_path / "none.mp4")
    data = talk.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="truncated"):
        LongMedia(tmp_path / "cut.mp4")
    write_video(tmp_path / "a.avi", barcodes(range(40)), FPS, preset="medium")
    with LongMedia(tmp_path / "a.avi") as media, pytest.raises(MediaError, match="without display times"):
        media.read(1, 3)


def test_a_damaged_segment_leaves_the_others(talk, tmp_path):
    with av.open(str(talk)) as container:
        spots = [(p.pos, p.size) for p in container.demux(video=0) if p.size and 20 <= p.pts * p.time_base < 30]
    data = bytearray(talk.read_bytes())
    for at, size in spots:
        data[at : at + size] = bytes(size)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    with LongMedia(broken) as media, LongMedia(talk) as whole:
        with pytest.raises(MediaError, match="damaged") as caught:
            media.read(21, 29, sampling=SMALL)
        assert caught.value.path == str(broken)
        for start in (0, 52, 8):
            read, expected = (one.read(start, start + 8, sampling=SMALL) for one in (media, whole))
            assert torch.equal(read.frames, expected.frames)
            np.testing.assert_allclose(read.audio, expected.audio, atol=1e-2)  # AAC fills up with noise


@pytest.fixture(scope="module")
def half_read(talk, tmp_path_factory) -> Path:
    """The talk with its audio from 20.5 to 21.0 s and from 40 to 44 s, and the frame at 30.5 s, overwritten."""
    path = tmp_path_factory.mktemp("long") / "half_read.mp4"
    data = bytearray(talk.read_bytes())
    with av.open(str(talk)) as container:
        for packet in container.demux():
            if not packet.size:
                continue
            second = packet.pts * packet.time_base
            is_audio = packet.stream.type == "audio"
            bad = (20.5 <= second < 21 or 40 <= second < 44) if is_audio else 30.5 <= second < 30.6
            if bad:
                data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    return path


def test_missing_audio_is_silence_and_only_its_segment_has_a_warning(half_read, talk):
    with LongMedia(half_read) as media, LongMedia(talk) as whole:
        for start in (16, 18.3, 20.6):
            read, true = (one.read(start, start + 8, video=False) for one in (media, whole))
            share = 100 * (21 - max(start, 20.5)) / 8
            assert float(read.warning.removesuffix(" % of its audio cannot be decoded")) == pytest.approx(share, abs=1)
            assert len(read.audio) == pytest.approx(len(true.audio), abs=2)
            bad = slice(max(0, round((20.55 - start) * 16_000)), round((20.95 - start) * 16_000))
            assert np.abs(read.audio[bad]).max() < 0.02
            after = slice(bad.stop + 4000, -1000)
            assert np.corrcoef(read.audio[after], true.audio[after])[0, 1] > 0.95
        for start in (0, 12.4, 21.1, 30, 45):
            read, true = (one.read(start, start + 8, video=False) for one in (media, whole))
            assert read.warning is None
            np.testing.assert_allclose(read.audio[2000:], true.audio[2000:], atol=2e-2)
        assert media.read(20, 28, sampling=SMALL).warning.startswith("6 % of its audio cannot be decoded")
        assert "frames" in media.read(28, 36, sampling=SMALL).warning
        assert media.read(45, 53, sampling=SMALL).warning is None
        for start in (38, 43):
            with pytest.raises(MediaError, match=r"damaged: \d\d % of its audio cannot be decoded"):
                media.read(start, start + 4)


def test_only_the_segment_of_missing_frames_has_a_warning(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=FPS, options={"g": "1", "b": "2000000"})
        video.height, video.width, video.pix_fmt = 56, 56, "yuv420p"
        for picture in barcodes(range(300)):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
        out.mux(video.encode(None))
    with av.open(str(path)) as container:
        spots = [(packet.pos, packet.size) for packet in container.demux(video=0)]
    data = bytearray(path.read_bytes())
    for place in (100, 211, 216, 221):
        at, size = spots[place]
        data[at : at + size] = b"\xff" * size
    path.write_bytes(data)
    with LongMedia(path) as media:
        read = media.read(10, 18, sampling=SMALL)
        assert indices_in(read.frames) == [105, 105, *[100 + at for at in torch.linspace(0, 79, 16).round().int()[2:]]]
        assert read.warning == "1 of 16 frames cannot be decoded"
        assert media.read(10.1, 18.1, sampling=SMALL).warning is None
        with pytest.raises(MediaError, match="damaged: 2 of 4 frames cannot be decoded, at most 1") as caught:
            media.read(21.1, 22.6, sampling=VideoSampling(min_pixels=28 * 28, fps=2))
        assert caught.value.path == str(path)


@pytest.mark.parametrize(
    "options", ["bframes=4:keyint=10:open-gop=1:scenecut=0:b-pyramid=normal", "bframes=5:ref=5:keyint=12:open-gop=1"]
)
def test_no_segment_of_a_good_file_has_a_warning(tmp_path, options):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=FPS, options={"x264-params": options})
        video.height, video.width, video.pix_fmt, video.codec_context.thread_count = 56, 56, "yuv420p", 1
        for index, picture in enumerate(barcodes(range(200))):
            noise = np.random.default_rng(index).integers(0, 60, picture.shape, dtype=np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.roll(picture // 2, index, 0) + noise, "rgb24")))
        out.mux(video.encode(None))
    with LongMedia(path) as media:
        for first in range(0, 190, 3):
            assert media.read(first / FPS, (first + 9) / FPS, sampling=SMALL).warning is None, first


def test_the_first_audio_is_read_if_the_index_does_not_list_it(talk, tmp_path):
    path = tmp_path / "a.flv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=FPS)
        video.height, video.width, video.pix_fmt = 56, 56, "yuv420p"
        audio = out.add_stream("libmp3lame", rate=RATE, layout="mono")
        wave = tones(0, 4)
        for picture in barcodes(range(40)):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
        for at in range(0, len(wave), 1152):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None, at : at + 1152]), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, at, Fraction(1, RATE)
            out.mux(audio.encode(frame))
        for stream in (video, audio):
            out.mux(stream.encode(None))
    with LongMedia(path) as media:
        for start in (0, 0.3):
            read = media.read(start, start + 2, sampling=SMALL)
            assert len(read.audio) == pytest.approx(32_000, abs=600)
            assert hertz_in(read.audio[18_000:28_000]) == pytest.approx(hertz_of(1), abs=4)


def test_a_corrupt_sample_affects_only_its_own_segment(tmp_path):
    path, wave = tmp_path / "a.wav", tones(0, 20, 16_000)
    wave[5 * 16_000] = 3e38
    with av.open(str(path), "w") as out:
        audio = out.add_stream("pcm_f32le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None], "flt", "mono")
        frame.sample_rate = 16_000
        out.mux(audio.encode(frame))
    with LongMedia(path) as media:
        with pytest.raises(MediaError, match=r"a sample of 3e\+38, expected finite samples of at most 100"):
            media.read(4, 6, video=False)
        np.testing.assert_array_equal(media.read(10, 12, video=False).audio, wave[160_000:192_000])


def test_a_name_that_is_not_utf8_is_read(talk, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.mp4"))
    odd.write_bytes(talk.read_bytes())
    with LongMedia(odd) as media:
        assert indices_in(media.read(59, 70, sampling=SMALL).frames)[-1] == 599
        with pytest.raises(MediaError) as caught:
            media.read(60, 68)
    assert r"odd\udcff.mp4: nothing at 60.00 s" in str(caught.value).encode("utf-8").decode()


def test_opening_leaves_no_file_open_when_it_fails(tmp_path):
    write_audio(tmp_path / "a.m4a", tones(0, 1, 16_000))
    media = LongMedia(tmp_path / "a.m4a")
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    media.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == open_now - 1
    data = (tmp_path / "a.m4a").read_bytes()
    (tmp_path / "cut.m4a").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError):
        LongMedia(tmp_path / "cut.m4a")
    assert len(list(Path("/proc/self/fd").iterdir())) == open_now - 1
