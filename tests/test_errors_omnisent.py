"""The errors that a caller may want to catch."""

import pickle

import pytest

from media_files import tone, write_clip, write_ordinary_clip, write_without_frames
from omnisent.errors_omnisent import MediaError, MediaFault
from omnisent.long_media_omnisent import LongMedia
from omnisent.media_omnisent import read_media


def test_media_error_survives_pickling_from_a_worker():
    again = pickle.loads(pickle.dumps(MediaError("a.mp4", "0 bytes", MediaFault.EMPTY)))
    assert (again.path, again.reason, str(again)) == ("a.mp4", "0 bytes", "a.mp4: 0 bytes")
    assert again.kind is MediaFault.EMPTY


def test_each_refusal_has_its_kind(tmp_path):
    data = write_ordinary_clip(tmp_path / "clip.mp4").read_bytes()
    start = data.index(b"mdat") + 4
    write_without_frames(tmp_path / "no frames.mkv")
    write_clip(tmp_path / "audio.mp3", 0, wave=tone(1, 44_100), rate=44_100, audio_codec="libmp3lame")
    for name, content in {
        "empty.mp4": b"",
        "text.mp4": b"hello world\n" * 50,
        "cut.mp4": data[: len(data) // 2],
        "noise.mp4": data[:start] + bytes(byte ^ 0x5A for byte in data[start:]),
        "codec.mp4": data.replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"),
    }.items():
        (tmp_path / name).write_bytes(content)
    kinds = {
        "none.mp4": MediaFault.MISSING,
        "": MediaFault.NO_FILE,
        "empty.mp4": MediaFault.EMPTY,
        "text.mp4": MediaFault.NOT_MEDIA,
        "cut.mp4": MediaFault.TRUNCATED,
        "noise.mp4": MediaFault.DAMAGED,
        "audio.mp3": MediaFault.NO_VIDEO,
        "no frames.mkv": MediaFault.NO_FRAMES,
        "codec.mp4": MediaFault.UNSUPPORTED,
    }
    for name, kind in kinds.items():
        with pytest.raises(MediaError) as caught:
            read_media(tmp_path / name)
        assert caught.value.kind is kind, caught.value
    with LongMedia(tmp_path / "clip.mp4") as media, pytest.raises(MediaError) as caught:
        media.read(9, 10)
    assert caught.value.kind is MediaFault.PAST_END
    assert {*kinds.values(), caught.value.kind} == set(MediaFault)
