"""What a user takes along: the CSV has every number of the page, and the picture is made from the same ones."""

import base64
import csv
import io
import re
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from omnisent.scoring.analysis import ClipAnalysis
from omnisent.scoring.analysis_export import COLUMNS, downloads_html, write_csv, write_picture
from omnisent.scoring.analysis_page import ShownClip
from omnisent.scoring.scales import Scale
from omnisent.scoring.windows import WindowScore

WINDOWS = [WindowScore(2.0 * k, 2.0 * k + 4, (0.5 * k - 1,), "neutral", "well", None) for k in range(3)]
WINDOWS.append(WindowScore(6.0, 10.0, (), None, None, "no audio here"))
LONG = ShownClip(
    ClipAnalysis(
        (1.5,), "positive", 10.0, ("text", "video"), {"text": (0.25,), "video": (1.75,)}, WINDOWS, None, (0.5,), (2.5,)
    ),
    "a talk.mp4",
    [Scale("score", -3.0, 3.0, 0.5)],
    0.9,
)
WORDS = ShownClip(ClipAnalysis((-0.5,), "neutral", None, ("text",), {}, ()), None, LONG.scales)


def rows_of(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def picture_of(path) -> np.ndarray:
    return matplotlib.image.imread(path)[..., :3]


def test_the_csv_has_a_row_for_each_number(tmp_path):
    write_csv([LONG, WORDS], ['it was "fine", really', "bad"], tmp_path / "a.csv")
    rows = rows_of((tmp_path / "a.csv").read_text(encoding="utf-8-sig"))
    assert list(rows[0]) == list(COLUMNS)
    parts = [(row["clip"], row["part"], row["name"], row["score"], row["contribution"]) for row in rows]
    assert parts == [
        ("A: a talk.mp4", "clip", "", "1.5", ""),
        ("A: a talk.mp4", "modality", "text", "0.25", "1.25"),
        ("A: a talk.mp4", "modality", "video", "1.75", "-0.25"),
        *(("A: a talk.mp4", "window", "", score, "") for score in ("-1.0", "-0.5", "0.0", "")),
        ("B: text", "clip", "", "-0.5", ""),
    ]
    assert (rows[0]["low"], rows[0]["high"], rows[0]["label"]) == ("0.5", "2.5", "positive")
    assert rows[0]["text"] == 'it was "fine", really'
    assert (rows[4]["start"], rows[4]["end"], rows[4]["text"]) == ("2.0", "6.0", "well")
    write_csv([WORDS, WORDS], ["bad", "bad"], tmp_path / "a.csv")
    assert [row["clip"] for row in rows_of((tmp_path / "a.csv").read_text(encoding="utf-8-sig"))] == [
        "A: text",
        "B: text",
    ]
    write_csv([WORDS], ["bad"], tmp_path / "a.csv")
    assert [row["clip"] for row in rows_of((tmp_path / "a.csv").read_text(encoding="utf-8-sig"))] == ["text"]


def test_each_target_has_rows_of_its_own(tmp_path):
    two = ClipAnalysis((7.0, 2.0), None, 4.0, ("text", "video"), {"text": (5.0, 2.5), "video": (7.0, 2.0)}, ())
    scales = [Scale("valence", 1.0, 9.0), Scale("arousal", 1.0, 9.0)]
    shown = ShownClip(two, "a.mp4", scales)
    write_csv([shown], [""], tmp_path / "a.csv")
    rows = rows_of((tmp_path / "a.csv").read_text(encoding="utf-8-sig"))
    assert [(row["target"], row["part"], row["score"]) for row in rows][3:] == [
        ("arousal", "clip", "2.0"),
        ("arousal", "modality", "2.5"),
        ("arousal", "modality", "2.0"),
    ]
    write_picture([shown], tmp_path / "a.png")
    assert picture_of(tmp_path / "a.png").shape[1] == 1650


def test_the_picture_changes_with_each_number_that_it_shows(tmp_path):
    write_picture([LONG], tmp_path / "a.png")
    first = picture_of(tmp_path / "a.png")
    changes = (
        {"scores": (1.0,)},
        {"low": (0.0,)},
        {"without": {"text": (0.25,), "video": (1.0,)}},
        {"windows": [replace(WINDOWS[0], scores=(2.0,)), *WINDOWS[1:]]},
    )
    for change in changes:
        write_picture([replace(LONG, analysis=replace(LONG.analysis, **change))], tmp_path / "b.png")
        other = picture_of(tmp_path / "b.png")
        assert other.shape != first.shape or (other != first).any(), change
    write_picture([LONG, WORDS], tmp_path / "both.png")
    assert picture_of(tmp_path / "both.png").shape[1] == first.shape[1]


@pytest.mark.parametrize(("clips", "stem"), [([LONG], "a-talk"), ([LONG, WORDS], "a-talk_text")])
def test_links_hold_their_files(clips, stem, tmp_path):
    html = downloads_html(clips, ["fine"] * len(clips))
    links = re.findall(r'download="(.*?)" href="data:(.*?);base64,(.*?)"', html)
    assert [(name, kind) for name, kind, _ in links] == [(f"{stem}.csv", "text/csv"), (f"{stem}.png", "image/png")]
    assert "a talk.mp4" in base64.b64decode(links[0][2]).decode()
    (tmp_path / "a.png").write_bytes(base64.b64decode(links[1][2]))
    assert (picture_of(tmp_path / "a.png") < 0.5).any()
