"""Scores over time: which windows there are, what each is scored from, and the table and plot that come of it."""

import json
from pathlib import Path

import av
import matplotlib.colors
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from transformers import pipeline

from omnisent.data.planted import write_audio, write_video
from omnisent.errors_omnisent import MediaError
from omnisent.figure_style import BLUE, NEGATIVE, POSITIVE
from omnisent.long_media_omnisent import LongMedia
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.scoring.results import Source
from omnisent.scoring.scales import Scale
from omnisent.scoring.subtitles import Cue, read_cues, subtitles_beside
from omnisent.scoring.timeline import Timeline, TimelineFiles, score_timeline, timeline_windows
from omnisent.scoring.timeline_plot import clock, plot_timeline, strongest
from omnisent.scoring.windows import WindowScore, parse_seconds, windows_of

SENTIMENT = Scale("score", -3, 3, 0.5)
CUES = [Cue(0.0, 4.0, "the acting was wonderful"), Cue(12.0, 16.0, "the ending was awful")]
SRT = "1\n00:00:00,000 --> 00:00:04,000\nthe acting was wonderful\n\n2\n00:00:12,000 --> 00:00:16,000\nthe ending was awful\n"


def sound_of(seconds: int) -> np.ndarray:
    place = np.arange(seconds * 16_000)
    return (0.4 * np.sin(2 * np.pi * (200 + 25 * (place // 16_000)) * place / 16_000)).astype(np.float32)


def write_timeline(path: Path, pipe, out: Path, *, window, stride, cues=None, batch_size=1) -> list[WindowScore]:
    """A table and a plot, with the transcript beside the file."""
    beside = subtitles_beside(path) if cues is None else None
    with LongMedia(path) as media:
        windows = timeline_windows(media.duration, window, stride, cues or (read_cues(beside) if beside else []))
        sources = [Source(str(number), "") for number in range(len(windows))]
        timeline = Timeline(media, windows, TimelineFiles(out), pipe.model.config, {}, sources, batch_size)
        timeline.score(pipe)
        return timeline.finish(pipe)


def damaged_from_12(talk: Path, folder: Path) -> Path:
    """The talk with zeros for its pictures from second 12 on."""
    with av.open(str(talk)) as container:
        spots = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pts * p.time_base >= 12]
    data = bytearray(talk.read_bytes())
    for at, size in spots:
        data[at : at + size] = bytes(size)
    (folder / "broken.mp4").write_bytes(data)
    return folder / "broken.mp4"


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """Twenty seconds; the picture grows brighter with each, and the sound higher."""
    path = tmp_path_factory.mktemp("timeline") / "talk.mp4"
    levels = (np.arange(200) // 10 * 12).astype(np.uint8)[:, None, None, None]
    write_video(path, np.broadcast_to(levels, (200, 56, 56, 3)), 10, sound_of(20))
    return path


@pytest.mark.parametrize(
    ("duration", "window", "stride", "expected"),
    [
        (20.0, 8.0, 8.0, [(0, 8), (8, 16), (16, 20)]),
        (19.9, 8.0, 8.0, [(0, 8), (8, 16), (11.9, 19.9)]),
        (16.0, 8.0, 8.0, [(0, 8), (8, 16)]),
        (16.0, 8.0, 4.0, [(0, 8), (4, 12), (8, 16)]),
        (17.0, 8.0, 4.0, [(0, 8), (4, 12), (8, 16), (12, 17)]),
        (5.0, 8.0, 4.0, [(0, 5)]),
        (8.0, 8.0, 4.0, [(0, 8)]),
        (30.0, 4.0, 20.0, [(0, 4), (20, 24)]),
        (23.0, 4.0, 20.0, [(0, 4), (20, 23)]),
        (21.0, 4.0, 20.0, [(0, 4), (17, 21)]),
        (0.9, 0.3, 0.1, [(k / 10, k / 10 + 0.3) for k in range(7)]),
    ],
)
def test_windows_cover_the_file_and_end_with_it(duration, window, stride, expected):
    assert windows_of(duration, window, stride) == [pytest.approx(span) for span in expected]


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1), (1, float("inf"))])
def test_a_window_without_length_is_refused(pipe, talk, window, stride):
    with pytest.raises(ValueError, match="window and stride must be above 0 s"):
        score_timeline(pipe, talk, window=window, stride=stride)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8s", 8), ("1.5", 1.5), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200), (" 1h1m1s1ms ", 3661.001), ("90M", 5400)],
)
def test_durations_are_parsed(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "8x", "s", "-3s", "1.2.3s", "30s1m", "nan", "1e3"])
def test_an_invalid_duration_is_an_error(text):
    with pytest.raises(ValueError, match=r"is not a duration; expected e\.g\. 8s, 1\.5, 1m30s or 500ms"):
        parse_seconds(text)


def test_each_window_is_scored_from_its_own_video_audio_and_words(pipe, talk):
    windows = list(score_timeline(pipe, talk, window=8, stride=4, cues=CUES, batch_size=3))
    assert [(m.start, m.end) for m in windows] == [(0, 8), (4, 12), (8, 16), (12, 20)]
    assert [m.text for m in windows] == [CUES[0].text, None, CUES[1].text, CUES[1].text]
    for window in windows:
        clip = {"video": str(talk), "start": window.start, "end": window.end, "text": window.text}
        alone = pipe(clip)
        assert window.scores == pytest.approx((alone["score"],), abs=1e-4)
        assert window.label == alone["label"]
        assert window.error is None
    assert len({round(m.scores[0], 5) for m in windows}) == 4


def test_the_last_window_has_the_words_beyond_the_end_of_cues_that_start_before_it():
    cues = [Cue(0, 4, "It was fine"), Cue(9, 13, "I hated it so"), Cue(10, 10, "much"), Cue(10.5, 12, "really")]
    heard = [one.text for one in timeline_windows(10.0, 4, 4, cues)]
    assert heard == ["It was fine", None, "I hated it so much"]
    assert [one.text for one in timeline_windows(10.0005, 5, 5, cues)] == ["It was fine", "I hated it so much"]
    assert timeline_windows(9.5, 20, 10, cues)[0].text == "It was fine I hated it so"
    assert [one.text for one in timeline_windows(10.0, 2, 7, cues)] == ["It", None]  # a gap is no window


def test_windows_are_returned_as_they_are_scored(pipe, talk, monkeypatch):
    read = []
    inner = pipe.processor.encode
    monkeypatch.setattr(pipe.processor, "encode", lambda *args, **kwargs: read.append(1) or inner(*args, **kwargs))
    windows = score_timeline(pipe, talk, window=2, stride=2, batch_size=2)
    assert read == []
    assert next(windows).end == 2
    assert len(read) <= 4
    windows.close()


def test_a_bad_window_has_an_error_and_does_not_stop_the_others(pipe, talk, tmp_path):
    broken = damaged_from_12(talk, tmp_path)
    good = list(score_timeline(pipe, talk, window=4, stride=4))
    found = list(score_timeline(pipe, broken, window=4, stride=4, batch_size=2))
    assert [m.scores[0] for m in found[:3]] == pytest.approx([m.scores[0] for m in good[:3]], abs=1e-3)
    for bad in found[3:]:
        assert (bad.scores, bad.label) == ((), None)
        assert f"clip broken.mp4 {clock(bad.start)} to {clock(bad.end)}: {broken}: damaged" in bad.error


def test_audio_alone_has_a_timeline_and_an_unreadable_file_is_an_error(pipe, tmp_path):
    write_audio(tmp_path / "a.m4a", sound_of(6))
    windows = list(score_timeline(pipe, tmp_path / "a.m4a", window=2, stride=2))
    assert len({m.scores for m in windows[:3]}) == 3
    with pytest.raises(MediaError, match="missing"):
        list(score_timeline(pipe, tmp_path / "none.mp4", window=2, stride=2))


def test_the_pipelines_modalities_are_used(model, processor, talk):
    pipe = MultimodalSentimentPipeline(model=model, processor=processor, device="cpu", modalities=["text"])
    first, second, *_ = score_timeline(pipe, talk, window=4, stride=4, cues=CUES)
    assert first.scores == pytest.approx((pipe({"text": CUES[0].text})["score"],), abs=1e-5)
    assert "nothing to score" in second.error


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_timeline_is_a_table_and_a_plot(pipe, talk, tmp_path, suffix):
    video, out = tmp_path / "talk.mp4", tmp_path / "new" / f"scores{suffix}"
    video.write_bytes(talk.read_bytes())
    (tmp_path / "talk.srt").write_text(SRT)
    windows = write_timeline(video, pipe, out, window=4, stride=4, batch_size=2)
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".jsonl": lambda path: pd.read_json(path, lines=True)}
    table = read[suffix](out)
    assert list(table.columns) == ["start", "end", "score", "label", "text", "error", "warning"]
    assert table.start.tolist() == [0, 4, 8, 12, 16]
    assert table.score.tolist() == pytest.approx([m.scores[0] for m in windows], abs=1e-12)
    assert table.label.tolist() == [m.label for m in windows]
    assert table.text[0] == CUES[0].text
    assert table.text[3] == CUES[1].text
    assert table.text.isna().tolist() == [False, True, True, False, True]
    assert table.error.isna().all()
    picture = matplotlib.image.imread(out.with_suffix(".png"))[..., :3]
    assert picture.shape[1] > 1200
    assert 0.01 < (picture < 0.95).any(axis=2).mean() < 0.9
    assert {path.suffix for path in out.parent.iterdir()} == {".png", suffix}


def test_an_unsupported_suffix_is_refused_before_anything_is_scored(pipe, talk, tmp_path):
    with pytest.raises(ValueError, match=r"scores\.txt: expected a table that ends in \.csv, \.jsonl, \.parquet"):
        write_timeline(talk, pipe, tmp_path / "scores.txt", window=4, stride=4)


def test_the_strongest_windows_are_apart_and_outside_the_neutral_band():
    scores = [0.1, 2.0, 2.9, 2.8, 0.0, -0.3, 1.0, None, 0.7, 0.4, -0.2]
    timed = [(WindowScore(8.0 * k, 8.0 * k + 16, (), None, None, None), score) for k, score in enumerate(scores)]
    scored = [(window, score) for window, score in timed if score is not None]
    assert [score for _, score in strongest(scored, 1, 0.0, 0.5)] == [2.9, 1.0, 0.7]
    assert [score for _, score in strongest(scored, -1, 0.0, 0.5)] == [-0.3]
    assert strongest(scored[:5], -1, 0.0, 0.5) == strongest([], 1, 0.0, 0.5) == []
    assert [score for _, score in strongest(scored, -1, 0.7, 0.0)] == [0.1, -0.3, -0.2]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0:00"), (65, "1:05"), (3599.96, "1:00:00"), (7325, "2:02:05"), (2.5, "0:02.5")]
)
def test_times_are_formatted_as_on_a_clock(seconds, said):
    assert clock(seconds) == said


@pytest.mark.parametrize("count", [0, 1, 5, 1800])
@pytest.mark.parametrize("text", ["cheap at $5 and $6", "我不喜欢 🙂", None])
@pytest.mark.parametrize(
    "scales", [[SENTIMENT], [Scale("a $5 name 电", 1, 9)], [Scale("valence", 1, 9), Scale("tone", -1, 1)]]
)
def test_any_timeline_can_be_drawn(tmp_path, count, text, scales, recwarn):
    scores = [() if k % 7 == 3 else (float(np.sin(k / 9)),) * len(scales) for k in range(count)]
    windows = [WindowScore(4.0 * k, 4.0 * k + 8, own, None, text, None) for k, own in enumerate(scores)]
    plot_timeline(windows, tmp_path / "a.png", title="a $5 film 电影.mp4", scales=scales)
    assert (matplotlib.image.imread(tmp_path / "a.png") < 0.5).any()
    assert [str(warning) for warning in recwarn if issubclass(warning.category, UserWarning)] == []


def drawn(folder: Path, scales: list[Scale], scores: list[tuple[float, ...]]) -> np.ndarray:
    """The picture, (rows, columns, 3)."""
    windows = [WindowScore(8.0 * k, 8.0 * k + 8, own, None, None, None) for k, own in enumerate(scores)]
    plot_timeline(windows, folder / "a.png", title="a", scales=scales)
    return matplotlib.image.imread(folder / "a.png")[..., :3]


def test_windows_of_different_lengths_are_drawn_from_their_start_to_their_end(tmp_path):
    spans = [(0, 10), (10, 12), (60, 90), (99.5, 100)]
    windows = [WindowScore(*span, (2.0,), None, None, None) for span in spans]
    plot_timeline(windows, tmp_path / "a.png", title="a", scales=[SENTIMENT])
    picture = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    filled = (np.abs(picture - (1 - 0.18 * (1 - np.array(matplotlib.colors.to_rgb(POSITIVE))))) < 0.01).all(axis=2)
    columns = filled.sum(axis=0) > 50
    left, right = np.flatnonzero(columns)[[0, -1]]
    assert columns[left : right + 1].mean() == pytest.approx(sum(end - start for start, end in spans) / 100, abs=0.03)
    plot_timeline([*windows, *windows], tmp_path / "b.png", title="a", scales=[Scale("valence", 1, 9)])


def share(picture: np.ndarray, colour: str) -> float:
    return float((np.abs(picture - matplotlib.colors.to_rgb(colour)) < 0.01).all(axis=2).mean())


def test_a_scale_without_two_sides_has_neither_band_nor_colours_of_negative_and_positive(tmp_path):
    picture = drawn(tmp_path, [SENTIMENT], [(-2.0,), (0.5,), (2.0,)])
    assert [share(picture, colour) > 0 for colour in (NEGATIVE, POSITIVE, BLUE)] == [True, True, False]
    assert share(picture, "0.93") > 0.05
    picture = drawn(tmp_path, [Scale("valence", 1, 9)], [(2.0,), (5.5,), (8.0,)])
    assert [share(picture, colour) > 0 for colour in (NEGATIVE, POSITIVE, BLUE)] == [False, False, True]
    assert share(picture, "0.93") < 0.02


def test_every_target_has_a_panel_of_the_same_size_with_its_own_scores(tmp_path):
    scales = [Scale("valence", 1, 9), Scale("arousal", 1, 9)]
    one = drawn(tmp_path, scales[:1], [(2.0,), (8.0,)])
    two = drawn(tmp_path, scales, [(2.0, 3.0), (8.0, 7.0)])
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] == pytest.approx(2 * one.shape[0], abs=200)
    middle = len(two) // 2
    assert share(two[:middle], BLUE) > 0
    assert share(two[middle:], BLUE) > 0
    level, other = (drawn(tmp_path, scales, [(2.0, arousal)] * 3) for arousal in (8.0, 7.0))  # without quotes
    assert (other[: middle - 50] == level[: middle - 50]).all()
    assert (other[middle:] != level[middle:]).any()


def test_several_targets_have_a_column_each(two_pipe, talk, tmp_path):
    windows = write_timeline(talk, two_pipe, tmp_path / "over.csv", window=8, stride=8, cues=CUES)
    table = pd.read_csv(tmp_path / "over.csv")
    assert list(table.columns) == ["start", "end", "valence", "arousal", "text", "error", "warning"]
    assert table[["valence", "arousal"]].to_numpy().tolist() == [list(window.scores) for window in windows]
    first = two_pipe({"video": str(talk), "start": 0.0, "end": 8.0, "text": CUES[0].text})
    assert windows[0].scores == pytest.approx(tuple(first["scores"].values()), abs=1e-4)
    assert windows[0].label is None
    assert (tmp_path / "over.png").stat().st_size > 5000


def test_a_bundle_that_is_loaded_as_remote_code_gives_the_same_timeline(pipe, talk, tmp_path):
    pipe.model.save_pretrained(tmp_path / "bundle")
    pipe.processor.save_pretrained(tmp_path / "bundle")
    remote = pipeline("multimodal-sentiment", model=tmp_path / "bundle", trust_remote_code=True, device="cpu")
    assert not isinstance(remote, MultimodalSentimentPipeline)
    expected = list(score_timeline(pipe, talk, window=4, stride=4, cues=CUES))
    found = list(score_timeline(remote, talk, window=4, stride=4, cues=CUES))
    assert [m.scores[0] for m in found] == pytest.approx([m.scores[0] for m in expected], abs=1e-4)
    assert "damaged" in list(score_timeline(remote, damaged_from_12(talk, tmp_path), window=4, stride=4))[-1].error


def test_a_window_whose_score_is_not_finite_is_an_error(broken_pipe, talk, tmp_path):
    windows = write_timeline(talk, broken_pipe, tmp_path / "over.jsonl", window=8, stride=8)
    assert len(windows) == 3
    assert all(window.scores == () and "no score: the model computes NaN" in window.error for window in windows)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "over.jsonl").read_text().splitlines()]
    assert [row["score"] for row in rows] == [None] * 3


def test_a_partly_readable_window_has_a_warning(pipe, half_read, tmp_path):
    windows = write_timeline(half_read, pipe, tmp_path / "over.csv", window=1, stride=1)
    warned = [window for window in windows if window.warning or window.error]
    assert 0 < len(warned) < len(windows)
    table = pd.read_csv(tmp_path / "over.csv", keep_default_na=False)
    assert table["warning"].tolist() == [window.warning or "" for window in windows]
