"""Label tables in every form that people have them, the errors that say where one is wrong, and where media may lie."""

import os
from pathlib import Path

import pytest

from omnisent.data.mmsa import Defect, MediaFiles, read_table, read_transcript

HEADER = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode"
MOSEI_HEADER = "video_id,clip_id,text,label,annotation,mode,label_T,label_A,label_V"
ROW = "v,0001,fine,0.5,0.1,-0.2,0.3,Positive,train"
MOSEI_ROW = "v,0001,fine,0.5,Positive,train,0.1,-0.2,0.3"


def root_with(folder: Path, table: str | bytes, name: str = "label.csv") -> Path:
    content = table.encode() if isinstance(table, str) else table
    (folder / name).write_bytes(content)
    return folder


def read(root: Path, **options):
    return read_table(root, label_range=(-3.0, 3.0), **options)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


@pytest.mark.parametrize(
    "table",
    [
        f"{HEADER}\n{ROW}\n",
        f"{MOSEI_HEADER}\n{MOSEI_ROW}\n",
        f"{ROW}\n",
        f"{MOSEI_ROW}\n",
        f"{HEADER}\r\n{ROW}\r\n",
        f"{HEADER}\r{ROW}\r",
        f"{HEADER}\n\n{ROW}\n\n",
        f"{HEADER}\n{ROW}",
        b"\xef\xbb\xbf" + f"{HEADER}\n{ROW}\n".encode(),
        b"\xef\xbb\xbf" + f"{ROW}\r\n".encode(),
        f"{HEADER.upper()}\n{ROW}\n",
        f"{HEADER.replace('mode', 'split')}\n{ROW}\n",
        f'{HEADER}\n"v","0001"," fine ","0.5",0.1,-0.2,0.3,Positive,train\n',
    ],
    ids=range(13),
)
def test_every_form_of_a_table_gives_the_same_row(tmp_path, table):
    (row,) = read(root_with(tmp_path, table))
    assert row.to_dict() == {
        **{"id": "v_0001", "text": "fine", "video": None, "audio": None, "label": 0.5, "split": "train"},
        **{"video_id": "v", "clip_index": 1, "label_T": 0.1, "label_A": -0.2, "label_V": 0.3},
    }
    assert row.clip_id == "0001"


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("train", "train"),
        ("valid", "valid"),
        ("val", "valid"),
        ("validation", "valid"),
        ("Val", "valid"),
        ("test", "test"),
    ],
)
@pytest.mark.parametrize("header", [HEADER + "\n", ""])
def test_split_names_of_every_toolkit_are_understood(tmp_path, word, split, header):
    (row,) = read(root_with(tmp_path, f"{header}v,1,fine,0,,,,Neutral,{word}\n"))
    assert row.clip.split == split
    assert row.unimodal == (None, None, None)


def test_quoted_commas_line_breaks_quotes_and_chinese_are_read_as_written(tmp_path):
    table = f'{HEADER}\nv,1,"well, ""so""\nto say",1,,,,P,train\nv,2,我不想嫁给李茶\uff0c真的\u2028啊,-1,,,,N,test\n'
    first, second = read(root_with(tmp_path, table))
    assert first.clip.text == 'well, "so"\nto say'
    assert (second.clip.text, second.line) == ("我不想嫁给李茶\uff0c真的\u2028啊", 4)


def test_clips_of_a_video_come_together_in_the_order_of_their_numbers(tmp_path):
    rows = [f"{video},{clip},t,0,,,,N,train" for video, clip in (("b", "10"), ("a", "1"), ("b", "9"), ("b", "2"))]
    assert [row.clip.id for row in read(root_with(tmp_path, "\n".join([HEADER, *rows])))] == [
        "b_2",
        "b_9",
        "b_10",
        "a_1",
    ]


@pytest.mark.parametrize(
    ("table", "where", "what"),
    [
        ("", "line 1, column 1", "empty file"),
        ("video_id,clip_id,text,label\nv,1,a,0\n", "line 1, column mode", "missing"),
        ("video_id,clip_id,text,lable,mode\n", "line 1, column 4", "unknown column 'lable'"),
        ("video_id,clip_id,label,label,mode\n", "line 1, column 4", "twice"),
        ("video_id|clip_id|label|mode\n", "line 1, column 1", "neither a header"),
        ("v,1,a,0,,,,P,holdout\n", "line 1, column 1", "neither a header"),
        (f"{HEADER}\nv,1,well, so,0,,,,P,train\n", "line 2, column 10", "is a separator unquoted?"),
        (f"{HEADER}\nv,1,a,0,,,\n", "line 2, column 8", "expected 9 columns, found 7"),
        (f"{HEADER}\n{ROW}\nv,2,a,0,,,,P,holdout\n", "line 3, column mode", "'holdout' is not a split"),
        (f"{HEADER}\n,2,a,0,,,,P,train\n", "line 2, column video_id", "empty"),
        (f"{HEADER}\n,,,,,,,,\n", "line 2, column video_id", "empty"),
        (f'{HEADER}\nv,1,"a" b,0,,,,P,train\n', "line 2, column 3", "not CSV"),
        (f'{HEADER}\n{ROW}\nv,2,"a,0,,,,P,train\n', "line 3, column 3", "not CSV"),
        (f"{HEADER}\nv,1,".encode() + "好".encode("gbk") + b",0,,,,P,train\n", "line 2, column 5", "not UTF-8"),
        (f"{HEADER}\nv,1,a\0b,0,,,,P,train\n", "line 2, column text", "NUL"),
        (f"{HEADER}\nv,1,a,x,,,,P,train\n", "line 2, column label", "found 'x'"),
        (f"{HEADER}\nv,1,a,nan,,,,P,train\n", "line 2, column label", "expected a number"),
        (f"{HEADER}\nv,1,a,3.5,,,,P,train\n", "line 2, column label", "expected -3 to 3, found 3.5"),
        (f"{HEADER}\nv,1,a,0,,x,,P,train\n", "line 2, column label_A", "found 'x'"),
        (f"{HEADER}\n{ROW}\n{ROW}\n", "line 3: columns video_id and clip_id", "is already in line 2"),
    ],
)
def test_anything_else_is_an_error_that_names_file_line_and_column(tmp_path, table, where, what):
    with pytest.raises(ValueError, match=r"label\.csv") as caught:
        read(root_with(tmp_path, table))
    assert f"{tmp_path / 'label.csv'}, {where}" in str(caught.value)
    assert what in str(caught.value)


def test_defective_rows_are_handed_over_and_the_others_read(tmp_path):
    bad = ["v,1,a,x,,,,P,train", "v,2,a,9,,,,P,test", "v,3,a,0,,,,P,", "v,4,a,0,x,,,P,train", ROW, ROW]
    defects: list[Defect] = []
    rows = read(root_with(tmp_path, "\n".join([HEADER, *bad])), on_defect=defects.append)
    assert [row.clip.id for row in rows] == ["v_0001", "v_4"]
    assert rows[1].unimodal == (None, None, None)
    assert [(d.id, d.kind, d.outcome, d.split) for d in defects] == [
        ("v_1", "label not a number", "left out", "train"),
        ("v_2", "label out of range", "left out", "test"),
        ("v_3", "no split", "left out", None),
        ("v_4", "label not a number", "repaired", "train"),
        ("v_0001", "duplicate id", "left out", "train"),
    ]


@pytest.mark.parametrize("bad", ["..", "../../etc", "/etc/passwd", "a/b", "a\\b", "C:x"])
@pytest.mark.parametrize("column", ["video_id", "clip_id"])
def test_an_id_that_leads_outside_the_root_is_refused(tmp_path, bad, column):
    row = f"{bad},1" if column == "video_id" else f"v,{bad}"
    with pytest.raises(ValueError, match=f"line 2, column {column}") as caught:
        read(root_with(tmp_path, f"{HEADER}\n{row},a,0,,,,P,train\n"), on_defect=lambda defect: None)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize("link", ["Raw", "Raw/v", "Raw/v/0001.mp4"])
def test_a_link_outside_the_root_is_refused(tmp_path, link):
    root, outside = tmp_path / "root", tmp_path / "outside"
    touch(outside, "Raw/v/0001.mp4")
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(outside / link)
    with pytest.raises(ValueError, match="leads outside the root") as caught:
        read(root_with(root, f"{HEADER}\n{ROW}\n"))
    assert str(root / link) in str(caught.value)


def test_a_link_within_the_root_is_followed(tmp_path):
    touch(tmp_path, "store/0001.mp4")
    (tmp_path / "Raw").mkdir()
    (tmp_path / "Raw/v").symlink_to(tmp_path / "store")
    (row,) = read(root_with(tmp_path, f"{HEADER}\n{ROW}\n"))
    assert row.clip.video == str(tmp_path / "Raw/v/0001.mp4")


@pytest.mark.parametrize("folder", ["Raw/Video/Segmented", "Raw/Videos/Segmented", "Raw/Videos/Segmented/Combined"])
def test_media_in_the_layout_of_cmu_are_found(tmp_path, folder):
    touch(tmp_path, f"{folder}/a_b_c_12.mp4", f"{folder}/-x_3.mp4")
    table = f"{HEADER}\na_b_c,12,t,0,,,,N,train\n-x,3,t,0,,,,N,train\n-x,4,t,0,,,,N,train\n"
    rows = read(root_with(tmp_path, table))
    assert [row.clip.video for row in rows] == [
        str(tmp_path / folder / "a_b_c_12.mp4"),
        str(tmp_path / folder / "-x_3.mp4"),
        None,
    ]
    assert MediaFiles(tmp_path).expected_path("-x", "4") == f"{folder.removesuffix('/Combined')}/-x_4.mp4"


def test_texts_that_the_table_lacks_come_from_the_transcripts(tmp_path):
    folder = tmp_path / "Raw/Transcript/Segmented/Combined"
    folder.mkdir(parents=True)
    (folder / "a__b_.txt").write_text(
        "a__b____0___0.0___5.2___well ___ so\na__b____1___5.2___7___and\n", encoding="utf-8"
    )
    (folder / "m.annotprocessed").write_text("1_DELIM_FINE\n2_DELIM_BAD\n", encoding="utf-8")
    table = "video_id,clip_id,label,mode\na__b_,0,0,train\na__b_,7,0,train\nm,2,0,train\n"
    assert [row.clip.text for row in read(root_with(tmp_path, table))] == ["well ___ so", None, "BAD"]


def test_an_invalid_transcript_line_is_an_error(tmp_path):
    (tmp_path / "v.txt").write_text("v___0___0.0___1.0___fine\nnonsense\n")
    with pytest.raises(ValueError, match=r"v\.txt, line 2, column 1"):
        list(read_transcript(tmp_path / "v.txt"))
    (tmp_path / "w.txt").write_text("v___0___0.0___1.0___fine\n")
    with pytest.raises(ValueError, match="expected video 'w', found 'v'"):
        list(read_transcript(tmp_path / "w.txt"))


def test_a_root_without_a_table_says_what_belongs_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"label\.csv or meta\.csv"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read(tmp_path / os.urandom(4).hex())
    assert len(read(root_with(tmp_path, f"{ROW}\n", "meta.csv"))) == 1
