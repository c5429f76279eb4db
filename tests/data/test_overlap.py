"""What stands in two splits is found and counted, and a split by video shares no video."""

from collections import Counter

import pytest

from omnisent.data.clip import Clip
from omnisent.data.overlap import Overlap, overlap_lines, overlaps, split_by_video

SAID = "I really did not expect that"


def _clip(name, split, video="v", text=None):
    return Clip(name, text, split=split, video_id=video, label=0.0)


def test_videos_in_two_splits_are_counted_with_their_clips_of_both():
    clips = [
        *(_clip(f"a{number}", "train", "both") for number in range(3)),
        *(_clip(f"b{number}", "test", "both") for number in range(2)),
        _clip("c", "train", "own"),
        _clip("d", None, "own"),
        _clip("e", "test", None),
    ]
    found = overlaps(clips)
    assert found["train-test"] == Overlap(("both",), 5)
    assert found["train-valid"].is_empty
    assert found["valid-test"].is_empty
    assert overlap_lines(found, "videos") == ["train and test share 1 video (5 clips)"]


@pytest.mark.parametrize(
    ("ours", "theirs", "shared"),
    [
        (SAID, SAID.upper() + "!", True),
        (SAID, SAID + " at all", False),
        ("thank you very much", "Thank you very much.", False),  # a stock phrase
        ("这部电影真的非常好看啊", "这部电影真的非常好看啊。", True),
        ("我不喜欢这个电影、因为它太长了。", "我不喜欢这个电影, 因为它太长了", True),
        ("我不喜欢这个电影、因为它太长了。", "我不喜欢这个电影, 因为它太短了", False),
        ("好看", "好看", False),
    ],
)
def test_transcripts_in_two_splits_are_compared_by_their_words(ours, theirs, shared):
    found = overlaps([_clip("a", "train", "v", ours), _clip("b", "valid", "w", theirs)])
    assert found["train-valid"] == (Overlap((), 0, 1, 2) if shared else Overlap((), 0))
    assert overlap_lines(found, "documents") == (["train and valid share 1 transcript (2 clips)"] if shared else [])


def test_both_are_said_in_one_line():
    clips = [_clip("a", "train", "v", SAID), _clip("b", "test", "v", SAID), _clip("c", "test", "v", SAID)]
    assert overlap_lines(overlaps(clips), "videos") == [
        "train and test share 1 video (3 clips) and 1 transcript (3 clips)"
    ]


def _set(videos=60):
    splits = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2
    return [
        _clip(f"{video}_{number}", splits[(video + number) % 10], f"v{video}")
        for video in range(videos)
        for number in range(1 + video % 7)
    ]


def test_a_split_by_video_shares_no_video_and_keeps_the_shares():
    clips = _set()
    assert not overlaps(clips)["train-test"].is_empty
    found = split_by_video(clips, seed=0)
    assert all(overlap.is_empty for overlap in overlaps(found).values())
    assert [clip.id for clip in found] == [clip.id for clip in clips]
    before, after = (Counter(clip.split for clip in some) for some in (clips, found))
    assert all(abs(before[split] - after[split]) <= 7 for split in before)
    assert found == split_by_video(clips, seed=0) != split_by_video(clips, seed=1)


def test_clips_without_a_split_stay_out_and_unknown_videos_are_refused():
    extra = Clip("x", label=0.0)
    assert split_by_video([*_set(), extra], seed=0)[-1] == extra
    with pytest.raises(ValueError, match="group_split: 1 clips have no video_id, first y"):
        split_by_video([*_set(), _clip("y", "train", None)], seed=0)
    with pytest.raises(ValueError, match="group_split: 2 videos; a split by video needs at least 3"):
        split_by_video(_set(2), seed=0)


def test_speakers_in_two_splits_are_counted_where_they_are_known():
    clips = [
        Clip("a", split="train", speaker="S", video_id="v"),
        Clip("b", split="test", speaker="S", video_id="v", text=SAID),
        Clip("c", split="train", speaker="T", text=SAID),
        Clip("d", split="valid"),
    ]
    found = overlaps(clips)
    assert found["train-test"] == Overlap(("v",), 2, 1, 2, 1, 2)
    assert overlap_lines(found, "videos") == [
        "train and test share 1 video (2 clips), 1 transcript (2 clips) and 1 speaker (2 clips)"
    ]
    alone = overlaps([Clip("a", split="train", speaker="S"), Clip("b", split="test", speaker="S")])
    assert overlap_lines(alone, "videos") == ["train and test share 1 speaker (2 clips)"]
