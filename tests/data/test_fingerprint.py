"""Fingerprints of clips: each part changes with what it covers, and with nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from omnisent.data.clip import Clip, Rating
from omnisent.data.fingerprint import PIECE, differing_part, fingerprints


@pytest.fixture
def clips(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(bytes([number]) * (5 * PIECE))
    return [
        Clip(f"c{number}", "said", str(tmp_path / f"{number}.mp4"), None, float(number), "train", "v", number)
        for number in range(3)
    ]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"id": "other"}, "ids and splits"),
        ({"split": "test"}, "ids and splits"),
        ({"label": 0.5}, "labels"),
        ({"further": (Rating(1.0),)}, "labels"),
        ({"weight": 2.0}, "labels"),
        ({"text": "SAID"}, "transcripts"),
        ({"video_id": "w"}, "videos"),
        ({"clip_index": 7}, "videos"),
        ({"video": None}, "media"),
        ({"genre": "tweets"}, None),
    ],
)
def test_a_change_is_found_in_its_part(clips, change, part):
    changed = [clips[0], replace(clips[1], **change), clips[2]]
    first, second = (fingerprints(some, with_media=True) for some in (clips, changed))
    assert differing_part(first, second) == part
    assert sum(first[name] != second[name] for name in first) == (part is not None)


def test_the_order_of_clips_counts(clips):
    assert differing_part(*(fingerprints(some, with_media=False) for some in (clips, clips[::-1]))) == "ids and splits"


@pytest.mark.parametrize("where", [0, PIECE - 1, int(2.5 * PIECE), 5 * PIECE - 1])
def test_a_file_of_the_same_size_with_other_content_is_another(clips, tmp_path, where):
    before = fingerprints(clips, with_media=True)
    with open(clips[1].video, "r+b") as file:
        file.seek(where)
        file.write(b"\xff")
    assert differing_part(before, fingerprints(clips, with_media=True)) == "media"


def test_a_file_that_was_cut_or_removed_is_another(clips):
    before = fingerprints(clips, with_media=True)
    with open(clips[1].video, "r+b") as file:
        file.truncate(5 * PIECE - 1)
    cut = fingerprints(clips, with_media=True)
    assert differing_part(before, cut) == "media"
    Path(clips[2].video).unlink()
    assert differing_part(cut, fingerprints(clips, with_media=True)) == "media"


def test_what_was_not_read_is_not_compared(clips):
    with_media, without = (fingerprints(clips, with_media=media) for media in (True, False))
    assert without["media"] is None
    assert differing_part(with_media, without) is None
    assert differing_part({}, with_media) is None  # of a folder from before
    copied = [replace(clip, video=clip.video) for clip in clips]
    assert fingerprints(copied, with_media=True) == with_media


def test_small_and_empty_files_have_a_fingerprint(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "b.wav").write_bytes(b"x")
    found = [
        fingerprints([Clip("a", audio=str(tmp_path / name))], with_media=True)["media"] for name in ("a.wav", "b.wav")
    ]
    assert found[0] != found[1]
