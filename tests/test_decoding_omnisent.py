"""Opening files: what is refused and why, files that are cut off, and damage that FFmpeg only logs."""

import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from media_files import (
    B_FRAMES,
    barcode,
    fault,
    hiss,
    marks_of_damage,
    noisy,
    read_barcodes,
    tone,
    write_clip,
    write_ordinary_clip,
)
from omnisent.data.planted import write_audio
from omnisent.errors_omnisent import MediaError
from omnisent.long_media_omnisent import LongMedia
from omnisent.media_omnisent import read_media
from spoken import spoken


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_ordinary_clip(tmp_path_factory.mktemp("media") / "clip.mp4")


def test_a_file_that_is_not_media_gets_a_specific_error(tmp_path):
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
def test_a_url_is_refused(address):
    assert "found a URL" in fault(address)


def test_a_path_may_hold_a_colon_or_a_pattern(tmp_path, clip, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("take:1.mp4", "img%03d.mp4", "ünï côdé.mp4"):
        Path(name).write_bytes(clip.read_bytes())
        assert read_barcodes(read_media(name).frames) == [0, 16, 33, 49]


def test_audio_files_and_cover_art_have_no_video_stream(tmp_path):
    song = write_clip(tmp_path / "a.mp3", 0, wave=tone(1, 44_100), rate=44_100, audio_codec="libmp3lame")
    assert fault(song) == "no video stream: the file holds audio; give it as audio"
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
    audio_only = suffix in ("wav", "flac")
    codec = {"wav": "pcm_s16le", "flac": "flac", "avi": "libmp3lame"}.get(suffix, "aac")
    whole = write_clip(
        tmp_path / f"a.{suffix}", 0 if audio_only else 100, wave=tone(4, 44_100), rate=44_100, audio_codec=codec
    )
    assert len(read_media(whole, video=not audio_only).audio) == pytest.approx(64_000, abs=1600)
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    assert fault(whole, video=not audio_only).startswith("truncated")


def test_a_codec_that_cannot_be_read_is_named(tmp_path, clip):
    odd = tmp_path / "odd.mp4"
    odd.write_bytes(clip.read_bytes().replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))
    assert "codec that FFmpeg cannot read" in fault(odd)
    assert read_media(odd, video=False).audio is not None


def test_a_stream_of_garbage_is_damaged(tmp_path, clip):
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = np.random.default_rng(0).integers(0, 256, len(data) - start, dtype=np.uint8).tobytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    assert fault(broken).startswith("damaged")
    assert fault(broken, audio=False).startswith("damaged")


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


def test_damage_that_only_the_decoders_log_reports_is_reported(quietly_damaged, capfd):
    for _ in range(2):
        reason = fault(quietly_damaged)
        assert reason.startswith("damaged: ")
        assert "frames cannot be decoded" in reason
    with av.open(str(quietly_damaged)) as container:
        list(container.decode(video=0))
    assert capfd.readouterr().err == ""
    assert av.logging.get_level() is None


def test_readers_in_threads_get_only_the_errors_of_their_own_file(quietly_damaged, clip):
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


def test_the_log_level_of_the_caller_is_restored(clip):
    av.logging.set_level(av.logging.VERBOSE)
    try:
        assert read_media(clip).warning is None
        assert av.logging.get_level() == av.logging.VERBOSE
    finally:
        av.logging.set_level(None)


def test_damage_to_the_container_is_reported(tmp_path):
    path = write_clip(tmp_path / "a.mkv", 50, codec="mpeg4", codec_options={"g": "1"}, wave=tone(2, 48_000))
    assert read_media(path).warning is None
    with av.open(str(path)) as container:
        spots = [packet.pos for packet in container.demux() if packet.size]
    data = bytearray(path.read_bytes())
    data[spots[60] - 10 : spots[60]] = bytes(10)
    path.write_bytes(data)
    assert re.fullmatch(r"\d % of its audio cannot be decoded", read_media(path).warning)


@pytest.mark.parametrize("suffix", ["aac", "amr"])
def test_audio_that_is_cut_off_within_its_last_packet_is_truncated(tmp_path, suffix):
    codec, rate = ("libopencore_amrnb", 8000) if suffix == "amr" else ("aac", 48_000)
    path = write_clip(tmp_path / f"a.{suffix}", 0, wave=hiss(2.0, rate), rate=rate, audio_codec=codec)
    assert read_media(path, video=False).warning is None
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert fault(path, video=False).startswith("truncated: its last packet")


@pytest.mark.parametrize(("suffix", "codec"), [("wav", "pcm_s16le"), ("w64", "pcm_s16le"), ("au", "pcm_s16be")])
def test_an_audio_file_shorter_than_it_says_is_truncated(tmp_path, suffix, codec):
    path = write_clip(tmp_path / f"a.{suffix}", 0, wave=tone(2, 48_000), audio_codec=codec)
    assert read_media(path, video=False).warning is None
    path.write_bytes(path.read_bytes()[:100_000])
    assert fault(path, video=False).startswith("truncated")


def test_a_truncated_index_does_not_silently_drop_a_track(tmp_path):
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


def test_audio_of_a_segment_does_not_depend_on_those_read_before(tmp_path):
    write_audio(tmp_path / "a.m4a", spoken(12))  # for such sound, the decoder of AAC adds noise
    with LongMedia(tmp_path / "a.m4a") as media:
        in_order = {start: media.read(start, start + 2.0, video=False).audio for start in range(0, 12, 2)}
        for start in (6, 10, 0):
            assert np.array_equal(media.read(start, start + 2.0, video=False).audio, in_order[start])
    with LongMedia(tmp_path / "a.m4a") as media:
        assert np.array_equal(media.read(8, 10.0, video=False).audio, in_order[8])
