"""A new split: no video or speaker in two splits, every split its share of the clips and of the labels, always the same."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisent.data.auto_split import auto_split, parse_shares
from omnisent.data.clip import SPLITS, Clip
from omnisent.data.overlap import overlaps
from properties import examples

GROUPS = st.none() | st.integers(0, 12).map(str)
CLIPS = st.lists(st.tuples(GROUPS, GROUPS, st.none() | st.floats(1, 9)), min_size=3, max_size=60).map(
    lambda rows: [
        Clip(f"c{at}", label=label, video_id=video, speaker=speaker) for at, (video, speaker, label) in enumerate(rows)
    ]
)


def many(videos: int, speakers: int | None = None, each: int = 3) -> list[Clip]:
    rng = np.random.default_rng(0)
    return [
        Clip(
            f"{video}_{at}",
            label=float(np.clip(rng.normal(5 + video % 5 - 2, 1), 1, 9)),
            video_id=f"v{video}",
            speaker=None if speakers is None else f"s{video % speakers}",
        )
        for video in range(videos)
        for at in range(each)
    ]


@examples(150)
@given(CLIPS, st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_split_shares_nothing_is_complete_and_does_not_depend_on_the_order(clips, seed, random):
    refusal, found = "", []
    try:
        found = auto_split(clips, "60/20/20", seed=seed)
    except ValueError as error:
        refusal = str(error)
    assert bool(found) != ("need at least one each" in refusal)
    if not found:
        return
    assert [replace(clip, split=None) for clip in found] == clips
    assert {clip.split for clip in found if clip.label is not None} == set(SPLITS)
    assert all((clip.split is None) == (clip.label is None) for clip in found)
    shared = overlaps(found).values()
    assert not any(overlap.videos for overlap in shared)
    if all(clip.speaker is not None for clip in clips):
        assert not any(overlap.speakers for overlap in shared)
    other = random.sample(clips, len(clips))
    split_of = {clip.id: clip.split for clip in auto_split(other, "60/20/20", seed=seed)}
    assert split_of == {clip.id: clip.split for clip in found}


@pytest.mark.parametrize("shares", ["80/10/10", "70/15/15", "8 / 1 / 1", "1/1/1", "0.5/0.25/.25"])
@pytest.mark.parametrize("seed", range(3))
def test_every_split_has_its_share_of_clips_and_labels(shares, seed):
    clips = many(300)
    found = auto_split(clips, shares, seed=seed)
    counts = Counter(clip.split for clip in found)
    labels = defaultdict(list)
    for clip in found:
        labels[clip.split].append(clip.label)
    for split, share in zip(SPLITS, parse_shares(shares), strict=True):
        assert abs(counts[split] - share * len(clips)) <= 6
        assert abs(np.mean(labels[split]) - np.mean([clip.label for clip in clips])) < 0.12


def test_a_split_by_chance_alone_would_not_have_such_labels():
    """So the test above fails without strata."""
    clips = many(300)
    rng = np.random.default_rng(0)
    tests = [{f"v{at}" for at in rng.permutation(300)[:30]} for _ in range(50)]
    whole = np.mean([clip.label for clip in clips])
    gaps = [abs(np.mean([clip.label for clip in clips if clip.video_id in test]) - whole) for test in tests]
    assert np.mean(np.array(gaps) > 0.12) > 0.5


def test_another_seed_gives_another_split():
    clips = many(60)
    assert auto_split(clips, "80/10/10", seed=0) == auto_split(clips, "80/10/10", seed=0)
    assert auto_split(clips, "80/10/10", seed=0) != auto_split(clips, "80/10/10", seed=1)


def test_speakers_stay_together_only_if_all_are_known():
    clips = many(60, speakers=20)
    found = auto_split(clips, "80/10/10", seed=0)
    assert not any(overlap.speakers for overlap in overlaps(found).values())
    some = [replace(clip, speaker=None) if clip.video_id == "v0" else clip for clip in clips]
    assert any(overlap.speakers for overlap in overlaps(auto_split(some, "80/10/10", seed=0)).values())


def test_few_groups_are_enough_for_three_splits_and_two_are_not():
    assert Counter(clip.split for clip in auto_split(many(4, each=2), "80/10/10", seed=0)) == {
        "train": 4,
        "valid": 2,
        "test": 2,
    }
    with pytest.raises(ValueError, match="auto_split: 2 groups of clips of the same video_id; train, valid, test need"):
        auto_split(many(2), "80/10/10", seed=0)


@pytest.mark.parametrize(
    "shares", ["80/20", "80/10/0", "80/10/ten", "80,10,10", "", "80/10/-10", "80/10/10/10", "1e9/1/1", "nan/1/1"]
)
def test_other_shares_are_refused(shares):
    with pytest.raises(
        ValueError, match="auto_split: expected shares of train, valid, test above 0, such as 80/10/10, found"
    ):
        auto_split(many(5), shares, seed=0)


def test_a_table_with_splits_keeps_them():
    clips = [*many(5), Clip("x", split="test")]
    with pytest.raises(
        ValueError, match="auto_split: clip x is in the test split; leave auto_split out, or give group_split"
    ):
        auto_split(clips, "80/10/10", seed=0)
