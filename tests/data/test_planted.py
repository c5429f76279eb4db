"""Planted clips: every modality carries its share of the label, and can be read back out of the decoded files."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from omnisent.data.clip import MODALITIES, SPLITS, Clip
from omnisent.data.labelled_folder import read_clips
from omnisent.data.planted import (
    FPS,
    LABEL_FRACTIONS,
    SAMPLE_RATE,
    WORDS,
    make_planted_clips,
    read_latents,
    write_video,
)

SIZES = {"n_train": 60, "n_valid": 50, "n_test": 60, "seed": 5}
GRADES = {word: grade for grade, words in enumerate(WORDS) for word in words}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("many") / "planted"


@pytest.fixture(scope="module")
def clips(root) -> list[Clip]:
    return make_planted_clips(root, **SIZES)


@pytest.fixture(scope="module")
def latents(clips, root) -> dict:
    return read_latents(root)


def frames_of(path: str) -> np.ndarray:
    with av.open(path) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def sound_of(path: str) -> np.ndarray:
    with av.open(path) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


def streams_of(path: str) -> tuple[str, ...]:
    with av.open(path) as file:
        return tuple(stream.codec_context.name for stream in file.streams)


def pitch(sound: np.ndarray) -> float:
    """Octaves of the strongest frequency."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(np.log2(np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)[spectrum.argmax()]))


def warmth(frames: np.ndarray) -> float:
    return float(frames[..., 0].mean() - frames[..., 2].mean())


def test_the_label_is_the_weighted_sum_of_the_latents_present(clips, latents):
    assert LABEL_FRACTIONS == {"text": 0.5, "audio": 0.3, "video": 0.2}
    for clip in clips:
        values = vars(latents[clip.id])
        assert clip.label == pytest.approx(
            3 * sum(LABEL_FRACTIONS[name] * (values[name] or 0) for name in MODALITIES), abs=0.0501
        )
        assert all(value is None or -1 <= value <= 1 for value in values.values())


def test_ridge_on_the_latents_recovers_what_a_constant_cannot(clips, latents):
    parts = {split: [clip for clip in clips if clip.split == split] for split in SPLITS}
    given = {
        s: np.array([[vars(latents[c.id])[m] or 0 for m in MODALITIES] for c in part]) for s, part in parts.items()
    }
    labels = {split: np.array([clip.label for clip in part]) for split, part in parts.items()}
    constant = np.abs(labels["test"] - np.median(labels["train"])).mean()
    ridge = Ridge(1e-3).fit(given["train"], labels["train"])
    assert 0.8 < constant < 1.3
    assert np.abs(labels["test"] - ridge.predict(given["test"])).mean() < 0.05


def test_each_latent_can_be_read_out_of_its_own_modality(clips, latents):
    read = {name: [] for name in MODALITIES}
    for clip in clips:
        values = latents[clip.id]
        if values.text is not None:
            words = clip.text.rstrip(".").replace(",", "").split()
            read["text"].append((values.text, np.mean([GRADES[word] for word in words if word in GRADES])))
        if values.audio is not None:
            read["audio"].append((values.audio, pitch(sound_of(clip.audio or clip.video))))
        if values.video is not None:
            read["video"].append((values.video, warmth(frames_of(clip.video))))
    correlations = {name: np.corrcoef(np.array(pairs).T)[0, 1] for name, pairs in read.items()}
    assert correlations == {name: pytest.approx(1, abs=0.05) for name in MODALITIES}


def test_no_single_word_tells_the_text_latent(clips, latents):
    for clip in clips:
        if clip.text is not None:
            assert sum(word in GRADES for word in clip.text.rstrip(".").replace(",", "").split()) == 3


def test_some_clips_of_every_split_lack_text_audio_or_video(clips, latents):
    for split in SPLITS:
        part = [clip for clip in clips if clip.split == split]
        for name in MODALITIES:
            assert sum(vars(latents[clip.id])[name] is None for clip in part) == pytest.approx(0.06 * len(part), abs=1)
    for clip in clips:
        values = latents[clip.id]
        assert (clip.text is None) == (values.text is None)
        if values.video is None:
            assert clip.video is None
            assert streams_of(clip.audio) == ("aac",)
        else:
            assert clip.audio is None
            assert streams_of(clip.video) == (("h264",) if values.audio is None else ("h264", "aac"))


def test_files_last_as_long_as_speech_and_come_in_several_shapes(clips):
    shapes, seconds = set(), []
    for clip in clips[:60]:
        if clip.video is not None:
            frames = frames_of(clip.video)
            shapes.add(frames.shape[1:3])
            seconds.append(len(frames) / FPS)
    assert {(112, 112), (140, 112), (112, 140)} == shapes
    assert 0.9 < min(seconds) < 1.3
    assert 2.1 < max(seconds) < 2.5


def test_clips_of_a_video_are_in_order_and_in_one_split(clips):
    videos: dict[str, list[Clip]] = {}
    for clip in clips:
        videos.setdefault(clip.video_id, []).append(clip)
    for video_id, cut in videos.items():
        assert [clip.clip_index for clip in cut] == list(range(len(cut)))
        assert len({clip.split for clip in cut}) == 1
        assert [clip.id for clip in cut] == [f"{video_id}_{clip.clip_index}" for clip in cut]
        assert len(cut) <= 5
    assert [sum(clip.split == split for clip in clips) for split in SPLITS] == [60, 50, 60]


def test_the_same_seed_gives_the_same_labels_texts_frames_and_audio(tmp_path):
    sizes = {"n_train": 4, "n_valid": 2, "n_test": 2}
    first, second = (make_planted_clips(tmp_path / name, **sizes, seed=1) for name in ("a", "b"))
    other = make_planted_clips(tmp_path / "c", **sizes, seed=2)
    for one, two in zip(first, second, strict=True):
        assert (one.id, one.text, one.label, one.split) == (two.id, two.text, two.label, two.split)
        if one.video is not None:
            np.testing.assert_array_equal(frames_of(one.video), frames_of(two.video))
        if "aac" in streams_of(one.video or one.audio):
            np.testing.assert_array_equal(sound_of(one.video or one.audio), sound_of(two.video or two.audio))
    assert [clip.label for clip in other] != [clip.label for clip in first]


def test_existing_clips_are_reused_and_damaged_ones_created_again(tmp_path):
    sizes = {"n_train": 4, "n_valid": 2, "n_test": 2}
    made = make_planted_clips(tmp_path / "p", **sizes)
    file = Path(next(clip.video for clip in made if clip.video))
    before = file.stat().st_mtime_ns
    assert make_planted_clips(tmp_path / "p", **sizes) == made == read_clips(tmp_path / "p")
    assert file.stat().st_mtime_ns == before
    file.unlink()
    assert make_planted_clips(tmp_path / "p", **sizes) == made
    assert file.is_file()
    (tmp_path / "p/planted.json").write_text("{")
    assert make_planted_clips(tmp_path / "p", **sizes) == made
    assert len(make_planted_clips(tmp_path / "p", **sizes | {"n_train": 5})) == 9
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not planted clips"):
        make_planted_clips(tmp_path, n_train=1, n_valid=1, n_test=1)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_nothing_is_left_after_an_interruption(tmp_path, monkeypatch):
    sizes = {"n_train": 6, "n_valid": 1, "n_test": 1}
    old = make_planted_clips(tmp_path / "old", **sizes)
    written = []

    def breaks_at_the_third(path, *content):
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt
        write_video(path, *content)

    with monkeypatch.context() as patch:
        patch.setattr("omnisent.data.planted.write_video", breaks_at_the_third)
        for name in ("new", "old"):
            written.clear()
            with pytest.raises(KeyboardInterrupt):
                make_planted_clips(tmp_path / name, **sizes, seed=1)
            assert len(written) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert read_clips(tmp_path / "old") == old
    assert len(make_planted_clips(tmp_path / "new", **sizes, seed=1)) == 8


def test_the_table_says_nothing_of_the_latents_and_moves_with_its_folder(root, clips, tmp_path):
    header = (root / "clips.csv").read_text().splitlines()[0]
    assert header == "id,text,video,audio,label,split,video_id,clip_index"
    assert json.loads((root / "planted.json").read_text())["shares"] == LABEL_FRACTIONS
    moved = Path(shutil.copytree(root, tmp_path / "moved"))
    assert [clip.id for clip in read_clips(moved)] == [clip.id for clip in clips]


def test_write_video_keeps_frames_rate_and_audio(tmp_path):
    levels = np.linspace(30, 220, 10).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (10, 48, 64, 3))
    tone = 0.4 * np.sin(2 * np.pi * 250 * np.arange(8000) / SAMPLE_RATE).astype(np.float32)
    write_video(tmp_path / "tone.mp4", frames, 25, tone)
    write_video(tmp_path / "mute.mp4", frames, 25)
    decoded = frames_of(str(tmp_path / "tone.mp4"))
    assert decoded.shape == (10, 48, 64, 3)
    assert np.abs(decoded.mean((1, 2, 3)) - levels).max() < 3
    assert 2 ** pitch(sound_of(str(tmp_path / "tone.mp4"))) == pytest.approx(250, abs=4)
    assert streams_of(str(tmp_path / "mute.mp4")) == ("h264",)
    with av.open(str(tmp_path / "mute.mp4")) as file:
        assert file.streams.video[0].average_rate == 25
