"""A user's own table is read as its tool wrote it: its headers, targets, raters, encoding and decimals."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from omnisent.data.clip import Clip, Rating, labels_of, rater_mae
from omnisent.data.labelled_folder import read_clips
from omnisent.data.table_options import TableOptions

GERMAN = [
    ["Nr", "Transkript", "Datei", "Valenz", "Erregung"],
    ["1", "Müller lügt", "a.mp4", "3,5", "7"],
    ["2", "Schön", "b.mp4", "9", ""],
    ["3", "Na ja", "c.mp4", "", ""],
]
OPTIONS = TableOptions(
    targets=("valence", "arousal"),
    columns={"text": "transkript", "video": "Datei", "valence": "Valenz", "arousal": " erregung "},
    decimal=",",
)


def written(path: Path, encoding: str, separator: str = ";") -> Path:
    path.write_bytes("".join(separator.join(row) + "\r\n" for row in GERMAN).encode(encoding))
    return path


def expected(folder: Path) -> list[Clip]:
    return [
        Clip("1", "Müller lügt", str(folder / "a.mp4"), label=3.5, further=(Rating(7.0),)),
        Clip("2", "Schön", str(folder / "b.mp4"), label=9.0, further=(Rating(),)),
        Clip("3", "Na ja", str(folder / "c.mp4"), further=(Rating(),)),
    ]


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_a_table_in_any_encoding_with_its_own_headers_and_decimal_commas(encoding, separator, tmp_path):
    path = written(tmp_path / "t.csv", encoding, separator)
    declared = None if encoding.startswith("utf") else encoding
    clips = read_clips(path, options=dataclasses.replace(OPTIONS, encoding=declared), missing_ok=True)
    assert clips == expected(tmp_path)
    labels = labels_of(clips[:2])
    assert labels.shape == (2, 2)
    np.testing.assert_array_equal(labels, [[3.5, 7.0], [9.0, np.nan]])


def test_a_byte_order_mark_outranks_the_declared_encoding(tmp_path):
    path = written(tmp_path / "t.csv", "utf-8-sig")
    assert read_clips(path, options=dataclasses.replace(OPTIONS, encoding="latin-1"), missing_ok=True) == expected(
        tmp_path
    )


def test_a_workbook_is_read_by_its_first_sheet(tmp_path):
    book = openpyxl.Workbook()
    book.active.append([None])
    for row in [
        GERMAN[0],
        [1, " Müller lügt ", "a.mp4", 3.5, 7],
        [],
        [2, "Schön", "b.mp4", 9],
        [3, "Na ja", "c.mp4", "", None],
    ]:
        book.active.append(row)
    book.create_sheet("other").append(["id", "text"])
    book.save(tmp_path / "t.xlsx")
    assert read_clips(tmp_path / "t.xlsx", options=OPTIONS, missing_ok=True) == expected(tmp_path)


def test_the_first_target_is_the_label_and_their_order_is_that_of_the_options(tmp_path):
    (tmp_path / "t.csv").write_text("text,label,a,b\nx,0,1,2\n")
    (clip,) = read_clips(tmp_path / "t.csv", options=TableOptions(("b", "a")))
    assert clip == Clip("1", "x", label=2.0, further=(Rating(1.0),))
    (clip,) = read_clips(tmp_path / "t.csv", options=TableOptions(("a",)))
    assert (clip.label, clip.further) == (1.0, ())


def test_headers_in_any_case_and_with_blanks_are_known(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps({" ID": "a", "Text ": "x", "LABEL": 1, "Split": "dev"}))
    assert read_clips(tmp_path / "t.jsonl") == [Clip("a", "x", label=1.0, split="valid")]


def test_without_ids_rows_are_numbered_and_blank_lines_do_not_count(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\nx,1\n\ny,2\n")
    assert [clip.id for clip in read_clips(tmp_path / "t.csv")] == ["1", "2"]


def test_a_header_that_is_mapped_has_no_other_meaning(tmp_path):
    (tmp_path / "t.csv").write_text("id,label,text\nfine,2,a\n")
    options = TableOptions(("mood",), {"text": "id", "mood": "label"})
    assert read_clips(tmp_path / "t.csv", options=options) == [Clip("1", "fine", label=2.0)]


def test_an_exact_header_is_meant_where_two_differ_by_case(tmp_path):
    (tmp_path / "u.csv").write_text("id,text,Label,label\na,x,1,2\n")
    (clip,) = read_clips(tmp_path / "u.csv", options=TableOptions(columns={"label": "Label"}))
    assert clip.label == 1.0


def test_single_ratings_give_the_mean_and_how_far_people_differ(tmp_path):
    (tmp_path / "t.csv").write_text("text,Rater_1,rater_2,rater_3,rater_mae\nx,1,2,6,9\ny,4,,,9\nz,,,,9\n")
    first, second, third = read_clips(tmp_path / "t.csv", options=TableOptions(raters=("rater_*",)))
    ratings = np.array([1.0, 2.0, 6.0])
    assert (first.label, first.rater_mae, first.label_sd) == (3.0, rater_mae(ratings), ratings.std())
    assert rater_mae(ratings) == pytest.approx((3 + 1.5 + 4.5) / 3)
    assert (second.label, second.rater_mae, second.label_sd) == (4.0, None, None)
    assert (third.label, third.rater_mae, third.label_sd) == (None, None, None)


def test_raters_of_several_targets_are_told_apart_by_the_name_of_the_target(tmp_path):
    (tmp_path / "t.csv").write_text("text,v_anna,v_ben,a_anna,a_ben\nx,1,3,4,4\n")
    (clip,) = read_clips(tmp_path / "t.csv", options=TableOptions(("v", "a"), raters=("{target}_*",)))
    assert clip == Clip("1", "x", label=2.0, rater_mae=2.0, label_sd=1.0, further=(Rating(4.0, 0.0, 0.0),))


def test_speaker_weight_and_agreement_are_read(tmp_path):
    (tmp_path / "t.csv").write_text(
        "text,label,speaker,sample_weight,label_sd,rater_mae\nx,1,S1,0.5,0.2,0.3\ny,1,,,,\n"
    )
    assert read_clips(tmp_path / "t.csv") == [
        Clip("1", "x", label=1.0, speaker="S1", weight=0.5, label_sd=0.2, rater_mae=0.3),
        Clip("2", "y", label=1.0),
    ]


def test_one_column_of_agreement_is_of_the_label_and_of_no_other_of_several_targets(tmp_path):
    (tmp_path / "t.csv").write_text("text,label,a,rater_mae,label_sd\nx,1,2,0.3,0.2\n")
    (clip,) = read_clips(tmp_path / "t.csv", options=TableOptions(("label", "a")))
    assert clip == Clip("1", "x", label=1.0, rater_mae=0.3, label_sd=0.2, further=(Rating(2.0),))
    (clip,) = read_clips(tmp_path / "t.csv", options=TableOptions(("a", "label")))
    assert clip == Clip("1", "x", label=2.0, further=(Rating(1.0),))


def test_the_mmsa_layout_has_targets_too(tmp_path):
    (tmp_path / "label.csv").write_text("video_id,clip_id,text,label,label_T,mode,speaker\nv,01,x,1,-0.5,test,S\n")
    (clip,) = read_clips(tmp_path, options=TableOptions(("label", "label_T")), with_media=False)
    assert clip == Clip("v_01", "x", None, None, 1.0, "test", "v", 1, speaker="S", further=(Rating(-0.5),))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            TableOptions(columns={"text": "Txt"}),
            "columns: text: there is no column 'Txt'; its header is id, text, Text2",
        ),
        (TableOptions(columns={"text": "Texts"}), "did you mean text?"),
        (
            TableOptions(columns={"text": "Text2", "audio": "text2"}),
            "text and audio are both the column 'Text2'; give each a column of its own",
        ),
        (TableOptions(("Text2", "text2")), "Text2 and text2 are both the column 'Text2'; give each"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(options, message, tmp_path):
    (tmp_path / "t.csv").write_text("id,text,Text2\na,x,1\n")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 't.csv'}: ")) as caught:
        read_clips(tmp_path / "t.csv", options=options)
    assert message in str(caught.value)


def test_labels_are_needed_only_where_they_are_asked_for(tmp_path):
    (tmp_path / "t.csv").write_text("text,Punkte\nIt was very good,4\n")
    assert read_clips(tmp_path / "t.csv") == [Clip("1", "It was very good")]
    with pytest.raises(
        ValueError, match=r"no column 'label' with labels; its header is text, Punkte; try --targets Punkte$"
    ):
        read_clips(tmp_path / "t.csv", needs_labels=True)
