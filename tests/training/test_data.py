"""The clips of a run: what its splits share is said, and a split by video shares no video."""

import json
import logging

import pytest

from omnisent.data.overlap import overlaps
from omnisent.training.arguments import parse_arguments
from omnisent.training.data import prepare_data

SAID = "this is the same sentence in both"


@pytest.fixture
def table(tmp_path):
    """Texts of twelve videos, of which one is in train and test; one sentence is in train and valid."""
    rows = ["id,text,label,split,video_id,clip_index"]
    for video in range(12):
        for clip in range(4):
            split = ("train", "train", "valid", "test")[video % 4] if video or clip < 2 else "test"
            text = SAID if (video, clip) in ((1, 0), (2, 0)) else f"sentence number {clip} of the video {video}"
            rows.append(f"v{video}_{clip},{text},{clip - 1.5},{split},v{video},{clip}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "clips.csv")


def test_what_splits_share_is_said_and_kept(settings, table, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    data = prepare_data(*parse_arguments([settings(dataset=table, modalities=["text"])]))
    assert "train and test share 1 video (4 clips)" in caplog.text
    assert "train and valid share 1 transcript (2 clips)" in caplog.text
    assert "group_split true makes a split in which they share no videos" in caplog.text
    data.write_environment(tmp_path)
    stored = json.loads((tmp_path / "environment.json").read_text())["overlap"]
    assert stored == ["train and valid share 1 transcript (2 clips)", "train and test share 1 video (4 clips)"]


def test_a_split_by_video_is_made_when_asked_for(settings, table, caplog):
    caplog.set_level(logging.WARNING)
    data = prepare_data(*parse_arguments([settings(dataset=table, modalities=["text"], group_split=True)]))
    assert not any(overlap.videos for overlap in overlaps(data.clips).values())
    assert sum(len(clips) for clips in data.splits.values()) == 48
    assert "share 1 video" not in caplog.text
    assert "group_split" not in caplog.text
