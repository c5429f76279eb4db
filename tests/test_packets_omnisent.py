"""The list of a video's packets."""

import re

import av
import pytest

from media_files import EVERY, read_barcodes, write_clip
from omnisent.media_omnisent import read_media


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
