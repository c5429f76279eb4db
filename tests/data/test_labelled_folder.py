"""Tables of clips in every shape that they come in, and the errors that say where one is wrong."""

import json
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from omnisent.data.clip import Clip
from omnisent.data.labelled_folder import read_clips

ROWS = [
    {
        **{"id": "0001", "text": "fine, really", "video": "m/a.mp4", "audio": None, "label": 1.5, "split": "train"},
        **{"video_id": "007", "clip_index": 0, "genre": "talk", "rater_mae": 0.75},
    },
    {
        **{"id": "0002", "text": None, "video": None, "audio": "m/b.wav", "label": None, "split": "valid"},
        **{"video_id": None, "clip_index": None, "genre": None, "rater_mae": None},
    },
]
MMSA = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
MOSEI = "video_id,clip_id,text,label,annotation,mode,label_T,label_A,label_V\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/a.mp4").touch()
    (tmp_path / "m/b.wav").touch()
    return tmp_path


def expected(folder: Path) -> list[Clip]:
    return [
        Clip("0001", "fine, really", str(folder / "m/a.mp4"), None, 1.5, "train", "007", 0, "talk", 0.75),
        Clip("0002", None, None, str(folder / "m/b.wav"), None, "valid", None, None),
    ]


def as_csv(folder: Path) -> Path:
    pd.DataFrame(ROWS).to_csv(folder / "clips.csv", index=False)
    return folder / "clips.csv"


def as_jsonl(folder: Path) -> Path:
    (folder / "clips.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    return folder / "clips.jsonl"


def as_parquet(folder: Path) -> Path:
    pd.DataFrame(ROWS).to_parquet(folder / "clips.parquet")
    return folder / "clips.parquet"


def as_dataset(folder: Path) -> Path:
    Dataset.from_list(ROWS).save_to_disk(folder)
    return folder


def as_splits(folder: Path) -> Path:
    bare = [{name: value for name, value in row.items() if name != "split"} for row in ROWS]
    DatasetDict(train=Dataset.from_list(bare[:1]), validation=Dataset.from_list(bare[1:])).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("write", [as_csv, as_jsonl, as_parquet, as_dataset, as_splits])
def test_every_kind_of_table_gives_the_same_clips(write, folder):
    assert read_clips(write(folder)) == expected(folder)
    assert read_clips(folder) == expected(folder)


def test_ids_that_a_writer_made_numbers_are_whole(tmp_path):
    rows = [{"id": 7, "text": "a", "video_id": 12.0, "clip_index": 3.0}, {"id": 8, "text": "b", "video_id": None}]
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for name in ("t.parquet", "t.jsonl"):
        first, second = read_clips(tmp_path / name)
        assert (first.id, first.video_id, first.clip_index) == ("7", "12", 3)
        assert (second.id, second.video_id, second.clip_index) == ("8", None, None)
    assert read_clips(tmp_path / "t.csv")[0].clip_index == 3


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "saved"])
def test_ids_and_texts_that_look_like_other_types_are_unchanged(kind, tmp_path):
    cells = [("0001", "NA", "007"), ("1e5", "null", "1.0"), ("1.0", "nan", "00"), ("True", "None", "1e3")]
    rows = [dict(zip(("id", "text", "video_id"), row, strict=True)) for row in cells]
    path = tmp_path / f"clips.{kind}"
    if kind == "csv":
        path.write_text("".join(",".join(row) + "\n" for row in (rows[0].keys(), *cells)))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        Dataset.from_list(rows).save_to_disk(path)
    assert [(clip.id, clip.text, clip.video_id) for clip in read_clips(path)] == cells


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas"])
def test_a_saved_dataset_is_read_whatever_format_it_was_saved_in(kind, folder):
    Dataset.from_list(ROWS).with_format(kind).save_to_disk(folder)
    assert read_clips(folder) == expected(folder)


def test_a_split_column_outranks_the_name_of_the_part(tmp_path):
    rows = [{"id": "a", "text": "x", "split": "test"}, {"id": "b", "text": "y", "split": None}]
    DatasetDict(train=Dataset.from_list(rows)).save_to_disk(tmp_path)
    assert [clip.split for clip in read_clips(tmp_path)] == ["test", "train"]


def test_nan_is_an_empty_cell_but_never_a_label(tmp_path):
    nan = float("nan")
    row = {"id": "a", "text": nan, "video": nan, "audio": nan, "split": nan, "video_id": nan, "clip_index": nan}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    assert read_clips(tmp_path / "t.jsonl") == [Clip("a")]
    (tmp_path / "t.jsonl").write_text(json.dumps(row | {"label": nan}))
    with pytest.raises(ValueError, match="line 1: column label: 'nan' is not finite"):
        read_clips(tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *((name, name) for name in ("train", "valid", "test")),
        *((n, "valid") for n in ("val", "validation", "dev", "VAL")),
    ],
)
def test_every_name_of_a_split_is_known(written, read, tmp_path):
    (tmp_path / "clips.csv").write_text(f"id,text,split\na,x,{written}\n")
    assert read_clips(tmp_path)[0].split == read


def test_unknown_columns_are_ignored_even_without_a_name(tmp_path):
    (tmp_path / "clips.csv").write_text("mood,label,text,,id,\ngrim,-1,no,,a,\n")
    assert read_clips(tmp_path) == [Clip("a", "no", label=-1.0)]


@pytest.mark.parametrize("header", [MMSA, MOSEI])
def test_the_mmsa_layout_is_read_by_column_name(header, tmp_path):
    cells = {
        **{"video_id": "video_0001", "clip_id": "0012", "text": '"好, 很好"', "label": "-0.6", "label_T": "0.2"},
        **{"label_A": "", "label_V": "", "annotation": "Negative", "mode": "val"},
    }
    row = ",".join(cells[name] for name in header.strip().split(","))
    (tmp_path / "label.csv").write_bytes(b"\xef\xbb\xbf" + (header + row + "\n").replace("\n", "\r\n").encode())
    media = tmp_path / "Raw/video_0001/0012.mp4"
    media.parent.mkdir(parents=True)
    media.touch()
    assert read_clips(tmp_path) == [
        Clip("video_0001_0012", "好, 很好", str(media), None, -0.6, "valid", video_id="video_0001", clip_index=12)
    ]


def test_a_clip_id_that_is_not_a_number_gives_no_clip_index(tmp_path):
    (tmp_path / "label.csv").write_text(MMSA + "v,intro,hi,1,,,,,test\n")
    (clip,) = read_clips(tmp_path, with_media=False)
    assert (clip.id, clip.clip_index, clip.video) == ("v_intro", None, None)


def test_absolute_media_paths_stay_and_media_can_be_left_out(folder):
    path = folder / "elsewhere.csv"
    path.write_text(f"id,video\na,{folder / 'm/a.mp4'}\n")
    assert read_clips(path)[0].video == str(folder / "m/a.mp4")
    assert read_clips(path, with_media=False)[0].video is None


def test_missing_media_are_counted_and_the_first_named(folder):
    path = folder / "clips.csv"
    path.write_text("id,video,audio\n" + "".join(f"c{i},m/{i}.mp4,\n" for i in range(5)) + "ok,m/a.mp4,m/b.wav\n")
    with pytest.raises(
        FileNotFoundError, match=r"clips.csv: 5 of 7 media files .*0.mp4 \(clip c0\).*2.mp4 \(clip c2\), \.\.\."
    ):
        read_clips(path)
    assert len(read_clips(path, with_media=False)) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,text,label\na,x,1\nb,y,good\n", r"line 3: column label: 'good' is not a number"),
        ("id,text,label\na,x,nan\n", r"line 2: column label: 'nan' is not finite"),
        ("id,text,label\na,x,-inf\n", r"line 2: column label: '-inf' is not finite"),
        ("id,text,split\na,x,dev\nb,y,eval\n", r"line 3: column split: 'eval' is not a split"),
        ("id,text\na,x\nb,y\na,z\n", r"line 4: column id: 'a' appears twice"),
        ("id,text\na,x\n ,y\n", r"line 3: column id is empty"),
        (
            'id,text\na,"one\ntwo"\nb,y,z\n',
            r"line 4, column 3: expected 2 columns, found 3; is a separator unquoted\?",
        ),
        (
            "id,text,label\na,x\n",
            r"line 2, column 3: expected 3 columns, found 2; is a separator unquoted\?",
        ),
        ('id,text\na,"never closed\n', r"line 2, column 2: not CSV"),
        ("id,text,text\na,x,y\n", r"line 1: column 'text' appears twice"),
        ("id,text,clip_index\na,x,first\n", r"line 2: column clip_index: 'first'"),
        (
            "ab,0001,0.2,0.3\nab,0002,1,1\n",
            r"no column text, video or audio; its first row is ab, 0001, 0.2, 0.3; put a header",
        ),
        (
            "id,score\na,1\n",
            r"no column text, video or audio; its header is id, score; try --columns label=score$",
        ),
        ("id,text,label\n", r"the table has no clips"),
        ("", r"the table has no clips"),
        (
            MMSA + "v,1,a,1,,,,,train\nv,1,b,1,,,,,train\n",
            r"line 3: column video_id and clip_id: 'v_1' appears twice",
        ),
        (MMSA + "v,,a,1,,,,,train\n", r"line 2: columns video_id and clip_id must not be empty"),
        (MMSA + "v,1,a,1,,,,,trains\n", r"line 2: column mode: 'trains' is not a split"),
        (MMSA + "v,1,a,1_0,,,,,train\n", r"line 2: column label: '1_0' is not a number"),
        *(
            (f'id,text,label\na,x,1\nb,y,"{cell}"\n', rf"line 3: column label: '{re.escape(cell)}' is not a number")
            for cell in ("1_0", "\u0661", "\uff11.5", "True", "0x10", "1,5", "\u22121.5", "1 2", "1e", ".")
        ),
        ("id,text,label\na,x,1e400\n", r"line 2: column label: '1e400' is not finite"),
        ("id,text,label\na,x,infinity\n", r"line 2: column label: 'infinity' is not finite"),
        ("id,text,clip_index\na,x,\u0661\n", r"line 2: column clip_index: '\u0661' is not a whole number"),
        ("id,text,clip_index\na,x,1_0\n", r"line 2: column clip_index: '1_0' is not a whole number"),
        ("id,text,clip_index\na,x,-1\n", r"line 2: column clip_index: '-1' is not a whole number"),
        (f"id,text,clip_index\na,x,{'1' * 19}\n", r"line 2: column clip_index: '1+' is not a whole number"),
        ("id,text\na,x\n a ,y\n", r"line 3: column id: 'a' appears twice"),
        ("id,text\na\0,x\n", r"line 2: column id: a NUL character"),
        ("id,text\na,x\nb,y\0z\n", r"line 3: column text: a NUL character"),
        ("id,text,Text\na,b.mp4,x\n", r"columns 'text' and 'Text' could both be text; rename one"),
    ],
)
def test_errors_name_file_line_and_column(text, message, tmp_path):
    (tmp_path / "clips.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"clips\.csv(, |: ){message}"):
        read_clips(tmp_path, with_media=False)


def test_a_table_that_is_not_what_its_name_says_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("id,text\na,Müller\n".encode("latin-1"))
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": \n')
    (tmp_path / "b.jsonl").write_text('["a"]\n')
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "x", "label": NaN}\n')
    (tmp_path / "d.jsonl").write_text('{"id": "a", "text": ["x"]}\n')
    (tmp_path / "e.jsonl").write_text('{"id": "a", "video": {"path": "a.mp4"}}\n')
    (tmp_path / "a.parquet").write_text("id,text\n")
    pd.DataFrame(ROWS).to_parquet(tmp_path / "b.parquet")
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[:4] + bytes(len(whole) - 12) + whole[-8:])
    pq.write_table(pa.table({"id": ["a"], "text": ["x"], "split": ["??"]}), tmp_path / "c.parquet")
    (tmp_path / "a.xlsx").write_text("id,text\n")
    (tmp_path / "a.tsv").write_text("id\ttext\n")
    (tmp_path / "f.jsonl").write_text("[" * 100_000)
    not_utf8 = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")]
    )
    pq.write_table(pa.table({"id": ["a"], "text": not_utf8}), tmp_path / "d.parquet")
    for name, message in {
        "a.csv": "line 2, column 4: byte 0xfc is not UTF-8; save the file as UTF-8",
        "a.jsonl": "line 2: not JSON",
        "b.jsonl": "line 1: expected an object",
        "c.jsonl": "line 1: column label: 'nan' is not finite",
        "d.jsonl": "line 1: column text: expected text or a number, found list",
        "e.jsonl": "line 1: column video: expected text or a number, found dict",
        "a.parquet": "not Parquet",
        "b.parquet": "not Parquet",
        "c.parquet": r"row 1: column split: '\?\?' is not a split",
        "f.jsonl": "line 1: not JSON",
        "d.parquet": "not Parquet: 'utf-8' codec can't decode",
        "a.xlsx": "not an Excel workbook",
        "a.tsv": r"ends in \.csv, \.jsonl, \.parquet, \.xlsx$",
    }.items():
        with pytest.raises(ValueError, match=rf"{name}.*{message}"):
            read_clips(tmp_path / name)


def test_a_path_without_a_table_says_what_was_expected(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"expected one of clips.csv, clips.jsonl, clips.parquet, clips.xlsx, label.csv"
    ):
        read_clips(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such table or folder"):
        read_clips(tmp_path / "none.csv")


@pytest.mark.parametrize("column", ["id", "text", "video", "audio", "split", "video_id"])
@pytest.mark.parametrize("written", [b"\\ud800", b"x\\udcff", b"\xed\xa0\x80"])
def test_half_a_character_is_refused_with_its_position(column, written, tmp_path):
    """Python's JSON reads it without a word; nothing can write it again as UTF-8."""
    row = {"id": "b", "text": "y", column: "@"}
    first = {"id": "a", "text": "x \U0001f642"}
    lines = json.dumps(first).encode() + b"\n" + json.dumps(row).encode().replace(b"@", written) + b"\n"
    (tmp_path / "clips.jsonl").write_bytes(lines)
    with pytest.raises(
        ValueError, match=rf"clips\.jsonl, line 2: column {column}: half a character .*U\+D[8C]"
    ) as caught:
        read_clips(tmp_path)
    str(caught.value).encode()
    (tmp_path / "clips.jsonl").write_bytes(lines.split(b"\n")[0])
    assert read_clips(tmp_path)[0].text == "x \U0001f642"  # both halves of a pair are one character


def test_half_a_character_of_the_mmsa_layout_is_refused_too(tmp_path):
    row = {"video_id": "v", "clip_id": "\ud800", "text": "x", "label": 1}
    (tmp_path / "label.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match="line 1: column clip_id: half a character"):
        read_clips(tmp_path / "label.jsonl")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"id": "a", "text": "x", "label": true}', "column label: expected text or a number, found bool"),
        ('{"id": true, "text": "x"}', "column id: expected text or a number, found bool"),
        ('{"id": "a", "text": false}', "column text: expected text or a number, found bool"),
        ('{"id": Infinity, "text": "x"}', "column id: inf is not finite"),
        ('{"id": "a", "text": -Infinity}', "column text: -inf is not finite"),
        ('{"id": "a", "text": "\\u0000"}', "column text: a NUL character"),
        ('{"id": "a", "text": "x", "label": 1, "label": 2}', "column 'label' appears twice"),
        ('{"id": "a", "text": "x", "label": 1, "text": "y"}', "column 'text' appears twice"),
        ('{"id": "a", "text": "x", "label": [1]}', "column label: expected text or a number, found list"),
    ],
)
def test_json_values_that_a_clip_cannot_have_are_refused(row, said, tmp_path):
    (tmp_path / "clips.jsonl").write_text('{"id": "first", "text": "x"}\n' + row + "\n")
    with pytest.raises(ValueError, match=rf"clips\.jsonl, line 2: {said}"):
        read_clips(tmp_path, with_media=False)


def test_parquet_booleans_are_no_labels(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "text": ["x"], "label": [True]}), tmp_path / "clips.parquet")
    with pytest.raises(ValueError, match="row 1: column label: expected text or a number, found bool"):
        read_clips(tmp_path)
    pq.write_table(pa.table([["a"], ["x"], [1.0], [2.0]], ["id", "text", "label", "label"]), tmp_path / "clips.parquet")
    with pytest.raises(ValueError, match=r"column 'label' appears twice; rename or remove one$"):
        read_clips(tmp_path)


@pytest.mark.parametrize("cell", ["1", "-1.0", "+.5", "1.", " 2e-1 ", "1E2", "-0"])
def test_a_label_is_a_decimal_number(cell, tmp_path):
    (tmp_path / "clips.csv").write_text(f"id,text,label\na,x,{cell}\n")
    assert read_clips(tmp_path)[0].label == float(cell)


def test_quoted_lines_and_blank_lines_move_no_row(tmp_path):
    text = '\ufeffid,text,label,remark\r\n\r\n a ,"one\r\ntwo, ""three""",1,\r\n\r\nb,"\ty ",,"x\0 " \n'
    (tmp_path / "clips.csv").write_bytes(text.replace('"x\0 " ', "x\0").encode())
    assert read_clips(tmp_path) == [Clip("a", 'one\r\ntwo, "three"', label=1.0), Clip("b", "y")]
