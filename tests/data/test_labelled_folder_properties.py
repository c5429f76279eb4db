"""What holds of tables for any clips, and for any bytes in their place."""

import csv
import io
import json
import re
import tempfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

from omnisent.data.clip import SPLITS, Clip
from omnisent.data.labelled_folder import read_clips
from properties import examples

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": TEXT.filter(str.strip),
            "text": st.none() | TEXT,
            "video": st.none() | st.text("abc/é好. ", min_size=1, max_size=8).filter(str.strip),
            "audio": st.none(),
            "label": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "split": st.none() | st.sampled_from(SPLITS),
            "video_id": st.none() | TEXT,
            "clip_index": st.none() | st.integers(0, 10**9),
        }
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row["id"].strip(),
)
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "text", "video", "audio", "split", "video_id")]
    + [("label", pa.float64()), ("clip_index", pa.int64())]
)
CELLS = st.sampled_from(
    [
        *("id", "text", "label", "video", "clip_index", "split", "Text", "a", "b", "1", "1_0", "-0.5", "nan", "inf", "1e400"),
        *(",", ",", ",", "\n", "\n", "\r\n", '"', '""', "\x00", "\ufeff", " ", "train", "\u0661", "é"),
        *("{", "}", ":", "[", '"id": "a"', '"text": "x"', '"\\ud800"', "NaN", "Infinity", "true", "null", "9" * 5000),
    ]
)  # fmt: skip


def write(rows: list[dict], path: Path) -> None:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, SCHEMA.names)
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def clips(rows: list[dict], folder: Path) -> list[Clip]:
    """What the rows say: words without the blanks around them, and `None` for an empty cell."""
    stripped = [
        {name: (cell.strip() or None) if isinstance(cell, str) else cell for name, cell in row.items()} for row in rows
    ]
    return [Clip(**{**row, "video": row["video"] and str((folder / row["video"]).absolute())}) for row in stripped]


@examples(60)
@given(ROWS)
def test_every_kind_of_table_gives_the_clips_that_were_written(rows):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for suffix in (".csv", ".jsonl", ".parquet"):
            write(rows, folder / f"clips{suffix}")
            assert read_clips(folder / f"clips{suffix}", missing_ok=True) == clips(rows, folder), suffix


@examples(40)
@given(ROWS, st.data())
def test_a_duplicate_id_is_refused(rows, data):
    twice = data.draw(st.sampled_from(rows))
    again = {**twice, "id": f" {twice['id']}\t"}
    with tempfile.TemporaryDirectory() as name:
        for suffix in (".csv", ".jsonl", ".parquet"):
            path = Path(name, f"clips{suffix}")
            write([*rows, again], path)
            with pytest.raises(ValueError, match=re.escape(f"column id: {twice['id'].strip()!r} appears twice")):
                read_clips(path, missing_ok=True)


def refused_or_read(data: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, f"clips{suffix}")
        path.write_bytes(data)
        found, refusal = [], ""
        try:
            found = read_clips(path, missing_ok=True)
        except ValueError as error:
            refusal = str(error)
    assert found or f"clips{suffix}" in refusal
    for clip in found:
        assert clip.id.strip() == clip.id != ""
        assert clip.label is None or abs(clip.label) < float("inf")
        for text in (clip.id, clip.text, clip.video, clip.audio, clip.video_id):
            assert text is None or "\0" not in text
            (text or "").encode()


@examples(200)
@given(
    st.one_of(
        st.binary(max_size=100),
        st.lists(CELLS, max_size=30).map("".join).map(str.encode),
        st.lists(CELLS, max_size=20).map(lambda cells: b"id,text,label\n" + "".join(cells).encode()),
        st.lists(CELLS, max_size=8).map(lambda cells: ('{"id": "a", "text":' + " ".join(cells) + "}\n").encode()),
    ),
    st.sampled_from([".csv", ".jsonl"]),
)
@example(b"[" * 100_000, ".jsonl")
@example(b"id,text\na,x\0y\n", ".csv")
@example(b'{"id": "a", "text": "\xed\xa0\x80"}', ".jsonl")
def test_any_bytes_are_clips_or_an_error_that_names_the_table(data, suffix):
    refused_or_read(data, suffix)


@examples(60)
@given(ROWS, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_parquet_table_with_other_bytes_is_clips_or_an_error(rows, changes):
    with tempfile.TemporaryDirectory() as name:
        write(rows, Path(name, "a.parquet"))
        data = bytearray(Path(name, "a.parquet").read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    refused_or_read(bytes(data), ".parquet")


@examples(60)
@given(ROWS, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4))
def test_a_workbook_with_other_bytes_is_clips_or_an_error(rows, changes):
    book, content = openpyxl.Workbook(), io.BytesIO()
    for row in ([*SCHEMA.names], *([row[name] for name in SCHEMA.names] for row in rows)):
        book.active.append([ILLEGAL_CHARACTERS_RE.sub("", cell) if isinstance(cell, str) else cell for cell in row])
    book.save(content)
    data = bytearray(content.getvalue())
    for at, value in changes:
        data[at % len(data)] = value
    refused_or_read(bytes(data), ".xlsx")
