"""Swapped clips: what is swapped comes from another video, everything else stays."""

import pytest

from omnisent.data.clip import Clip
from omnisent.data.swap import swapped_clips

SIZES = (5, 1, 3, 4, 2)


def _clips(sizes=SIZES):
    return [
        Clip(
            f"{video}_{number}",
            f"words {video}_{number}",
            f"{video}_{number}.mp4",
            None,
            number - 1.0,
            "test",
            str(video),
        )
        for video, size in enumerate(sizes)
        for number in range(size)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_every_clip_has_the_words_of_one_clip_of_another_video(seed):
    clips = _clips()
    found = swapped_clips(clips, ["text"], seed=seed)
    assert sorted(clip.text for clip in found) == sorted(clip.text for clip in clips)
    for before, after in zip(clips, found, strict=True):
        assert after.text.split()[1].split("_")[0] != before.video_id
        assert (after.id, after.label, after.video, after.video_id) == (
            before.id,
            before.label,
            before.video,
            before.video_id,
        )
        assert after.audio == before.video


def test_sound_and_picture_are_swapped_apart_or_together():
    clips = _clips()
    sound, picture, both = (swapped_clips(clips, names, seed=0) for names in (["audio"], ["video"], ["video", "audio"]))
    for before, one, two, three in zip(clips, sound, picture, both, strict=True):
        assert (one.video, two.audio) == (before.video, before.video)
        assert one.audio == two.video == three.video == three.audio != before.video
        assert one.text == before.text


def test_a_separate_sound_file_is_what_is_swapped():
    clips = [Clip(name, "said", f"{name}.mp4", f"{name}.wav", 0.0, "test", name) for name in "abc"]
    found = {clip.id: clip.audio for clip in swapped_clips(clips, ["audio"], seed=1)}
    assert sorted(found.values()) == ["a.wav", "b.wav", "c.wav"]
    assert all(audio != f"{name}.wav" for name, audio in found.items())


def test_pairs_depend_on_the_seed_alone():
    texts = [[clip.text for clip in swapped_clips(_clips(), ["text"], seed=seed)] for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


def test_a_video_with_most_of_the_clips_still_gives_each_clip_another():
    clips = _clips((6, 1))
    found = swapped_clips(clips, ["text"], seed=0)
    assert all(before.text != after.text for before, after in zip(clips, found, strict=True))
    with pytest.raises(ValueError, match="takes at least two to swap audio"):
        swapped_clips(clips[:1], ["audio"], seed=0)
