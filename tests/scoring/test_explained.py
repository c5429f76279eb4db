"""`omnisent score --explain`: rows with what each score rests on, as text, as JSON and as a picture; and when it is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import image

from omnisent.data.clip import Clip
from omnisent.errors_omnisent import MediaError, MediaFault
from omnisent.long_media_omnisent import LongMedia
from omnisent.scoring import explanation_plot
from omnisent.scoring.explained import as_text, picture_paths, windows_heading, words_heading
from omnisent.scoring.explanation_plot import plot_explanation
from omnisent.scoring.loading import Loading, load_pipeline
from omnisent.scoring.results import ResumableWriter
from omnisent.scoring.scales import scales_of
from omnisent.scoring.timeline import score_timeline

WORDS = "it was a fine day"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def rows_of(printed: str) -> list[dict]:
    return [json.loads(line) for line in printed.splitlines()]


def is_a_picture(path: Path) -> bool:
    pixels = image.imread(path)
    return min(pixels.shape[:2]) > 300 and pixels[..., :3].std() > 0.05


def test_a_score_comes_with_what_it_rests_on(score, folder, bundle):
    clip = folder / "a.mp4"
    code, printed, complained = score(clip, "--text", WORDS, "--explain")
    assert code == 0
    pipe = load_pipeline(Loading(str(bundle), device="cpu"))
    whole = pipe({"video": str(clip), "text": WORDS})["score"]
    lines = printed.splitlines()
    assert lines[0] == str(clip)
    assert lines[1].split()[:2] == ["score", f"{whole:+.2f}".replace("-", "\N{MINUS SIGN}")]
    silent = pipe({"video": str(clip), "text": WORDS}, modalities=["text", "video"])["score"]
    (audio,) = [line for line in lines if line.split()[0] == "audio"]
    assert audio.split()[1] == f"{whole - silent:+.3f}".replace("-", "\N{MINUS SIGN}")
    assert [line.split()[0] for line in lines[-5:]] == WORDS.split()
    assert "explanation drawn in a.explain.png" in complained
    assert is_a_picture(Path("a.explain.png"))


def test_rows_have_it_as_json_in_order_and_a_failed_clip_has_its_error(score, folder, tmp_path):
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "s.jsonl"
    code, printed, complained = score(folder, "--explain", "--json", "--out", out)
    assert code == 1
    assert printed == out.read_text()
    first, second, third = rows_of(printed)
    assert second["explanation"] is None
    assert "b.mp4" in second["error"]
    assert list(first["explanation"]) == ["modalities", "words", "words_together", "windows", "words_spread"]
    assert list(first["explanation"]["modalities"]) == ["text", "audio", "video"]
    assert [word["text"] for word in first["explanation"]["words"]] == first["text"].split()
    assert third["text"] is None
    assert third["explanation"]["words"] == []
    assert list(third["explanation"]["modalities"]) == ["audio", "video"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.explain.png", "c.explain.png", "s.jsonl"]
    assert "2 explanations drawn" in complained
    plain = rows_of(score(folder, "--json")[1])
    for one, other in zip((first, second, third), plain, strict=True):
        assert {**one, "explanation": None, "score": None} == {**other, "explanation": None, "score": None}
        assert one["score"] == pytest.approx(other["score"], abs=2e-6)


def test_json_on_standard_output_alone_leaves_no_file(score, folder):
    (row,) = rows_of(score(folder / "a.mp4", "--explain", "--out", "-")[1])
    assert row["explanation"]["words"]
    assert not list(Path().iterdir())


def test_a_text_alone_has_words_and_a_single_word_has_nothing_to_leave_out(score, text_bundle, about):
    model = ("--model", text_bundle, "--explain", "--json")
    (row,) = rows_of(score("--text", WORDS, *model)[1])
    assert row["explanation"]["modalities"] == {}
    assert [word["text"] for word in row["explanation"]["words"]] == WORDS.split()
    (row,) = rows_of(score("--text", "fine", *model)[1])
    assert row["explanation"]["words"] == []
    code, printed, _ = score("--text", "fine", "--model", text_bundle, "--explain")
    assert (code, len(printed.splitlines())) == (0, 2)


def test_seconds_of_a_file_that_is_longer_than_a_window(score, folder, tmp_path):
    (folder / "a.txt").rename(folder / "a.srt")
    (folder / "a.srt").write_text(f"1\n00:00:00,000 --> 00:00:02,000\n{WORDS}\n")
    over = ("--windows", "1s", "--stride", "1s")
    expected = rows_of(score(folder / "a.mp4", *over, "--json", "--out", tmp_path / "over.csv")[1])
    (row,) = rows_of(score(folder / "a.mp4", "--explain", "--windows", "1s", "--json")[1])
    windows = row["explanation"]["windows"]
    assert len(windows) > 1
    for one, other in zip(windows, expected, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=2e-6)
        assert {**one, "score": 0} == {**other, "score": 0}
    (row,) = rows_of(score(folder / "a.mp4", "--explain", "--json")[1])
    assert row["explanation"]["windows"] == []
    printed = score(folder / "a.mp4", "--explain", "--windows", "1s")[1]
    assert "the score of each window alone" in printed
    assert is_a_picture(Path("a.explain.png"))


def test_several_targets_have_a_contribution_each(score, two_bundle, folder, tmp_path):
    out = tmp_path / "two.jsonl"
    command = (folder / "a.mp4", "--explain", "--model", two_bundle, "--interval", "0.9")
    code, *_ = score(*command, "--out", out)
    assert code == 0
    (row,) = rows_of(out.read_text())
    for cell in (*row["explanation"]["modalities"].values(), row["explanation"]["words"][0]["contribution"]):
        assert list(cell) == ["valence", "arousal"]
    assert row["valence_low"] < row["valence"] < row["valence_high"]
    assert is_a_picture(tmp_path / "two.png")
    printed = score(*command)[1]
    for name in ("valence", "arousal"):
        assert f"  {name} {row[name]:.2f}  {row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f}\n" in printed


def test_one_of_several_targets_may_be_called_label(score, label_bundle, two_bundle, folder, tmp_path):
    (row,), (expected,) = (
        rows_of(score(folder / "a.mp4", "--explain", "--model", model, "--json")[1])
        for model in (label_bundle, two_bundle)
    )
    assert (row["label"], row["arousal"]) == (expected["valence"], expected["arousal"])
    _, printed, _ = score(folder / "a.mp4", "--explain", "--model", label_bundle)
    assert f"  label {row['label']:.2f}\n" in printed
    over = ("--windows", "1s", "--stride", "1s", "--model", label_bundle)
    assert score(folder / "a.mp4", *over, "--out", tmp_path / "over.csv")[0] == 0
    table = pd.read_csv(tmp_path / "over.csv")
    assert len(table) > 1
    pipe = load_pipeline(Loading(str(label_bundle), device="cpu"))
    for one in score_timeline(pipe, folder / "a.mp4", window=1.0, stride=1.0):
        (found,) = table[table["start"] == one.start].to_dict("records")
        assert (found["label"], found["arousal"]) == pytest.approx(one.scores, abs=2e-6)


def test_a_base_model_is_explained_too_and_says_what_it_is(score, tiny_backbone, folder):
    _, printed, _ = score(folder / "a.mp4", "--text", "so fine", "--explain", "--json", "--model", tiny_backbone)
    (row,) = rows_of(printed)
    assert row["about"].startswith("zero-shot: no training on sentiment")
    assert row["legal_mass"] > 0
    pipe = load_pipeline(Loading(str(tiny_backbone), device="cpu"))
    clip = {"video": str(folder / "a.mp4"), "text": "so fine"}
    whole = pipe(clip)["score"]
    assert row["score"] == pytest.approx(whole, abs=1e-5)
    words = [word["contribution"] for word in row["explanation"]["words"]]
    expected = [whole - pipe({**clip, "text": text})["score"] for text in ("fine", "so")]
    assert words == pytest.approx(expected, abs=1e-5)
    silent = pipe(clip, modalities=["text", "video"])["score"]
    assert row["explanation"]["modalities"]["audio"] == pytest.approx(whole - silent, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "s.csv"], "--explain: s.csv cannot hold explanations; give an --out that ends in .jsonl"),
        (["--workers", "2", "--stats", "s.json"], "--stats, --workers cannot be combined with --explain"),
        (["--engine", "ray"], "--engine ray cannot be combined with --explain"),
        (["--embed", "s.npz"], "--embed cannot be combined with --explain"),
        (["--windows", "8 parsecs"], "'8 parsecs' is not a duration"),
    ],
)
def test_what_cannot_be_meant_is_refused(score, folder, arguments, message):
    code, _, complained = score(folder / "a.mp4", "--explain", *arguments)
    assert code == 1
    assert message in complained
    assert not list(Path().iterdir())


def test_pictures_of_files_with_one_name_have_a_number():
    clips = [Clip(str(number), video=f"{number}/talk.mp4") for number in range(3)]
    names = ["talk.explain.png", "talk-2.explain.png", "talk-3.explain.png"]
    assert picture_paths(clips, Path("out/s.jsonl")) == [Path("out", name) for name in names]
    assert picture_paths(clips[:1], Path("out/s.jsonl")) == [Path("out/s.png")]
    assert picture_paths(clips[:1], None) == [Path("talk.explain.png")]


def test_words_that_are_left_out_together_are_said_to_be(pipe):
    together = {"modalities": {}, "words": [], "words_together": 3, "words_spread": False}
    assert words_heading(together) == "without each group of 3 neighbouring words"
    words = [{"text": f"w{n}", "contribution": 0.01 * n} for n in range(20)]
    row = {"id": "a", "score": 0.5, "label": "positive", "explanation": {**together, "words": words, "windows": []}}
    text = as_text(row, scales_of(pipe))
    assert "without each group of 3 neighbouring words (the 12 strongest of 20)" in text
    assert [line.split()[0] for line in text.splitlines()[3:]] == [f"w{n}" for n in range(8, 20)]


def test_the_strongest_words_are_shown_although_equal_ones_come_before(pipe):
    words = [{"text": "the", "contribution": 0.5}] * 14 + [{"text": "fine", "contribution": 2.0}]
    explanation = {"modalities": {}, "words": words, "words_together": 1, "windows": [], "words_spread": False}
    text = as_text({"id": "a", "score": 0.5, "label": "positive", "explanation": explanation}, scales_of(pipe))
    assert [line.split()[0] for line in text.splitlines()[3:]] == ["the"] * 11 + ["fine"]


def test_windows_without_a_score_are_said_and_counted(pipe, tmp_path):
    scored = {"start": 0.0, "end": 1.0, "score": 0.5, "error": None}
    failed = {"start": 1.0, "end": 2.0, "score": None, "error": "damaged"}
    explanation = {"modalities": {}, "words": [], "words_together": 1, "words_spread": True}
    row = {"id": "a", "score": 0.5, "explanation": {**explanation, "windows": [scored, failed]}}
    text = as_text(row, scales_of(pipe))
    heading = "the score of each window alone (1 of 2 without; words spread evenly over the file)"
    assert text.splitlines()[2].strip() == heading
    assert text.splitlines()[-1] == "  1.0 to 2.0 s  no score: damaged"
    assert windows_heading(row["explanation"]) == heading
    for number, windows in enumerate(([scored, failed], [failed])):
        row["explanation"]["windows"] = windows
        plot_explanation(row, tmp_path / f"{number}.png", scales=scales_of(pipe))
        assert is_a_picture(tmp_path / f"{number}.png")


def test_pictures_that_are_there_are_replaced_with_overwrite_alone(score, folder, tmp_path):
    picture = Path("a.explain.png")
    picture.write_text("mine")
    code, _, complained = score(folder / "a.mp4", "--explain")
    assert (code, picture.read_text()) == (1, "mine")
    assert "a.explain.png already exists; replace it with --overwrite" in complained
    assert score(folder / "a.mp4", "--explain", "--json")[0] == 0
    assert score(folder / "a.mp4", "--explain", "--overwrite")[0] == 0
    assert is_a_picture(picture)


def test_an_explanation_that_was_stopped_while_it_drew_resumes(score, folder, tmp_path, monkeypatch):
    out, draw = tmp_path / "out" / "s.jsonl", explanation_plot.plot_explanation

    def stop(row, path, **how):
        draw(row, path, **how)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(explanation_plot, "plot_explanation", stop)
        assert score(folder, "--explain", "--out", out)[0] == 130
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.explain.png", "s.jsonl.part"]
    _, _, complained = score(folder, "--explain", "--out", out)
    assert "2 explanations drawn" in complained
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.explain.png", "c.explain.png", "s.jsonl"]


@pytest.mark.parametrize("kind", ["subtitles", "media"])
def test_a_file_without_windows_keeps_its_score(score, folder, kind, monkeypatch):
    if kind == "subtitles":
        (folder / "a.srt").write_text("no times here\n")
        message = "a.srt, line 1: expected a cue"
    else:
        message = "a.mp4: the video has no display times"
        error = MediaError("a.mp4", "the video has no display times", MediaFault.DAMAGED)
        monkeypatch.setattr(LongMedia, "_list_packets", lambda media: (_ for _ in ()).throw(error))
    command = (folder / "c.mp4", folder / "a.mp4", "--explain", "--windows", "1s", "--json")
    code, printed, _ = score(*command)
    assert code == 0
    first, second = rows_of(printed)
    assert "no scores of windows: " in second["warning"]
    assert message in second["warning"]
    assert second["score"] is not None
    assert second["explanation"]["windows"] == []
    assert bool(first["explanation"]["windows"]) is (kind == "subtitles")


def test_windows_are_scored_again_when_their_subtitles_changed(score, folder, tmp_path, monkeypatch):
    out, add = tmp_path / "s.jsonl", ResumableWriter.add
    command = (folder / "a.mp4", "--explain", "--windows", "1s", "--out", out)

    def stop(writer, *entry):
        add(writer, *entry)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResumableWriter, "add", stop)
        assert score(*command)[0] == 130
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nsaid at once\n")
    _, _, complained = score(*command)
    assert "1 clips changed" in complained
    (row,) = rows_of(out.read_text())
    assert row["explanation"]["windows"][0]["text"] == "said at once"
    assert row["explanation"]["words_spread"] is False
