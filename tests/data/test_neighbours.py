"""Context for a clip comes from before it, from its own video and from its own split."""

import pytest

from omnisent.data.clip import Clip
from omnisent.data.neighbours import preceding_texts


def clip(video: str, index: int, split: str = "train", text: str | None = "") -> Clip:
    return Clip(
        f"{video}_{index}", f"{video}{index}" if text == "" else text, split=split, video_id=video, clip_index=index
    )


def test_the_clips_just_before_are_given_in_order_whatever_the_order_of_the_table():
    clips = [clip("v", 10), clip("v", 2), clip("v", 1), clip("w", 3), clip("v", 9)]
    assert preceding_texts(clips, 2) == {
        "v_1": (),
        "v_2": ("v1",),
        "v_9": ("v1", "v2"),
        "v_10": ("v2", "v9"),
        "w_3": (),
    }
    assert set(preceding_texts(clips, 0).values()) == {()}


def test_clips_of_another_split_are_ignored():
    clips = [clip("v", 1, "test"), clip("v", 2), clip("v", 3, "test"), clip("v", 4)]
    assert preceding_texts(clips, 5) == {"v_1": (), "v_2": (), "v_3": ("v1",), "v_4": ("v2",)}


def test_clips_without_text_or_index_are_skipped():
    clips = [clip("v", 1), clip("v", 2, text=None), clip("v", 3), Clip("alone", "x", split="train")]
    assert preceding_texts(clips, 1) == {"v_1": (), "v_2": ("v1",), "v_3": ("v1",), "alone": ()}


def test_a_count_below_zero_is_refused():
    with pytest.raises(ValueError, match="context_clips: expected 0 or more, found -1"):
        preceding_texts([], -1)
