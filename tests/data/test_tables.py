"""The one reader and writer of tables: what is written comes back, whole or not at all, and what is damaged is named."""

import csv
import json
from datetime import datetime

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omnisent.data.tables import (
    FORMATS,
    check_ending,
    read_columns,
    read_csv_lines,
    read_rows,
    readable_endings,
    write_table,
)

COLUMNS = {"id": str, "score": float, "place": int, "text": str}
ROWS = [("0001", 1.0, 3, 'so, "well"\nand 好'), ("b", None, None, None), ("c", -2.5e-7, 0, " x ")]


@pytest.mark.parametrize("ending", [*FORMATS, ".CSV"])
def test_what_is_written_is_read_back(ending, tmp_path):
    path = tmp_path / "new" / "folder" / f"table{ending}"
    write_table(path, COLUMNS, iter(ROWS))
    rows = [cells for _, cells in read_rows(path)]
    if ending.lower() == ".csv":
        expected = [["" if cell is None else str(cell) for cell in row] for row in ROWS]
    else:
        expected = [list(row) for row in ROWS]
    assert [list(cells.values()) for cells in rows] == expected
    assert all(list(cells) == list(COLUMNS) for cells in rows)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_bytes_of_each_kind(tmp_path):
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        write_table(tmp_path / name, {"id": str, "score": float}, [("ä", 1.0), ("b", None)])
    assert (tmp_path / "a.csv").read_bytes() == "id,score\r\nä,1.0\r\nb,\r\n".encode()
    assert (tmp_path / "a.jsonl").read_bytes() == '{"id": "ä", "score": 1.0}\n{"id": "b", "score": null}\n'.encode()
    assert [str(field.type) for field in pq.read_schema(tmp_path / "a.parquet")] == ["string", "double"]
    write_table(tmp_path / "b.csv", {"id": str}, [("b",)], line_end="\n")
    assert (tmp_path / "b.csv").read_bytes() == b"id\nb\n"


@pytest.mark.parametrize("ending", FORMATS)
def test_a_table_that_cannot_be_finished_leaves_the_old_one(ending, tmp_path):
    path = tmp_path / f"table{ending}"
    path.write_text("old")

    def rows():
        yield ("a", 1.0)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_table(path, {"id": str, "score": float}, rows())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["scores.txt", "scores", "scores.csv.gz"])
def test_an_unsupported_suffix_is_refused(name, tmp_path):
    for refuse in (check_ending, read_rows, lambda path: write_table(path, {"id": str}, [])):
        with pytest.raises(ValueError, match=rf"{name}: expected a table that ends in \.csv, \.jsonl, \.parquet"):
            refuse(tmp_path / name)


def test_a_workbook_is_read_and_never_written(tmp_path):
    book = openpyxl.Workbook()
    for row in (["id", None, "x "], [1, "unnamed", " a "], [None], [2.5, "", True]):
        book.active.append(row)
    book.save(tmp_path / "a.XLSX")
    assert list(read_rows(tmp_path / "a.XLSX")) == [
        (f"{tmp_path / 'a.XLSX'}, row 2", {"id": 1, "": "unnamed", "x": "a"}),
        (f"{tmp_path / 'a.XLSX'}, row 4", {"id": 2.5, "": None, "x": True}),
    ]
    assert readable_endings() == [*FORMATS, ".xlsx"]
    for refuse in (check_ending, lambda path: write_table(path, {"id": str}, [])):
        with pytest.raises(ValueError, match=r"b\.xlsx: expected a table that ends in \.csv, \.jsonl, \.parquet$"):
            refuse(tmp_path / "b.xlsx")
    with pytest.raises(FileNotFoundError):
        list(read_rows(tmp_path / "none.xlsx"))


def test_cells_of_a_workbook_without_a_value_say_why(tmp_path):
    book = openpyxl.Workbook()
    for row in (["a", "b", "c"], ["=1+1", "#N/A", datetime(2026, 5, 3, 12)]):
        book.active.append(row)
    book.active["B2"].data_type = "e"
    book.save(tmp_path / "a.xlsx")
    ((_, cells),) = read_rows(tmp_path / "a.xlsx")
    assert [cell.what.split(" (")[0] for cell in cells.values()] == [
        *("a formula without a value", "the error #N/A", "a date or time"),
    ]


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.95])
def test_a_damaged_workbook_is_one_error(cut, tmp_path):
    openpyxl.Workbook().save(tmp_path / "a.xlsx")
    whole = (tmp_path / "a.xlsx").read_bytes()
    (tmp_path / "a.xlsx").write_bytes(whole[: int(cut if cut > 1 else cut * len(whole))])
    with pytest.raises(ValueError, match=r"a\.xlsx: not an Excel workbook, or it is damaged or has a password"):
        list(read_rows(tmp_path / "a.xlsx"))


def test_each_row_says_where_it_starts(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n\na,"one\ntwo"\nb,x\n')
    assert [place for place, _ in read_rows(tmp_path / "a.csv")] == [
        f"{tmp_path / 'a.csv'}, line {line}" for line in (3, 5)
    ]
    (tmp_path / "a.jsonl").write_text('\ufeff{"id": "a"}\n\n{"id": "b"}\n', encoding="utf-8")
    assert [place.rsplit(", ", 1)[1] for place, _ in read_rows(tmp_path / "a.jsonl")] == ["line 1", "line 3"]
    write_table(tmp_path / "a.parquet", {"id": str}, [("a",), ("b",)])
    assert [place.rsplit(", ", 1)[1] for place, _ in read_rows(tmp_path / "a.parquet")] == ["row 1", "row 2"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_is_read_as_spreadsheets_write_it(encoding, separator, tmp_path):
    """Whatever its separator; in UTF-16 with its byte order mark."""
    rows = [["id", "text", "a; b, c"], ["ä", f'one{separator} "two"', ""], ["b", "x\ny", "3,5"]]
    with (tmp_path / "a.csv").open("w", encoding=encoding, newline="") as file:
        file.write("\ufeff" if encoding in ("utf-16-le", "utf-16-be") else "")
        csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL).writerows(rows)
    found = list(read_rows(tmp_path / "a.csv"))
    assert [place.rsplit(", ", 1)[1] for place, _ in found] == ["line 2", "line 3"]
    assert [cells for _, cells in found] == [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def test_a_table_of_one_column_may_have_semicolons_in_its_cells(tmp_path):
    (tmp_path / "a.csv").write_text("text\none; two\n")
    assert [cells for _, cells in read_rows(tmp_path / "a.csv")] == [{"text": "one; two"}]


@pytest.mark.parametrize(
    ("content", "header", "line"),
    [
        ("\n \r\nid;text\na;x, y\n", ["id", "text"], 4),
        (";;\nid;text;label\na;x, y;1\n", ["id", "text", "label"], 3),
        ("sep=;\r\nid;a, b, c\r\na;x\r\n", ["id", "a, b, c"], 3),
        ('"SEP=,"\nid;x,text\na,b\n', ["id;x", "text"], 3),
        ("sep=\t\n\nid\ttext;a\nb\tc;d\n", ["id", "text;a"], 4),
        ("id;Valenz, 1 bis 9, von tief, bis hoch\na;3\nb;4,5\n", ["id", "Valenz, 1 bis 9, von tief, bis hoch"], 2),
        ("id;Valenz, tief\na;3,5\nb;4,5\n", ["id", "Valenz, tief"], 2),
        ('id,"a; b\n; c",d\n1,2,3\n', ["id", "a; b\n; c", "d"], 3),
        ("a,b;c;d\n1,2\n3,4;5\n", ["a", "b;c;d"], 2),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_first_rows_show_what_separates_cells(encoding, content, header, line, tmp_path):
    (tmp_path / "a.csv").write_bytes(content.encode(encoding))
    (place, cells), *_ = read_rows(tmp_path / "a.csv")
    assert (place.rsplit(", ", 1)[1], list(cells)) == (f"line {line}", header)


def test_rows_after_the_first_ten_do_not_change_the_separator(tmp_path):
    (tmp_path / "a.csv").write_text("a;b, c, d\n" + "1;2\n" * 9 + "1;2;3\n")
    with pytest.raises(ValueError, match=r"a\.csv, line 11, column 3: expected 2 columns, found 3"):
        list(read_rows(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("text", "written", "declared"),
    [
        ("Müller", "latin-1", "latin-1"),
        ("plain", "utf-8", "latin-1"),
        ("好的", "gbk", "gbk"),
        ("Müller", "utf-8", "utf8"),
        ("Müller", "utf-8-sig", "latin-1"),
    ],
)
def test_a_declared_encoding_that_fits_is_used(text, written, declared, tmp_path):
    (tmp_path / "a.csv").write_bytes(f"text\n{text}\n".encode(written))
    assert [cells for _, cells in read_rows(tmp_path / "a.csv", encoding=declared)] == [{"text": text}]


def test_a_column_that_stands_twice_is_refused_in_every_format(tmp_path):
    """Whatever the case of the names that must be unique; one that is not used may stand twice, but not in Parquet."""
    book = openpyxl.Workbook()
    book.active.append(["Text", "more", "more", "Text"])
    book.active.append(["a", "b", "c", "d"])
    book.save(tmp_path / "a.xlsx")
    (tmp_path / "a.csv").write_text("Text,more,more, Text\na,b,c,d\n")
    (tmp_path / "a.jsonl").write_text('{"Text": "a", "more": "b", "more": "c", "Text": "d"}\n')
    pq.write_table(pa.table([["a"], ["b"]], ["Text", "Text"]), tmp_path / "a.parquet")
    for name, place in (("a.csv", ", line 1"), ("a.xlsx", ", row 1"), ("a.jsonl", ", line 1"), ("a.parquet", "")):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (compared whole)
            list(read_rows(tmp_path / name, ["text "]))
        assert str(caught.value) == f"{tmp_path / name}{place}: column 'Text' appears twice; rename or remove one"
        if name != "a.parquet":
            assert len(list(read_rows(tmp_path / name, ["label"]))) == 1


def test_damaged_parquet_is_one_line(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(ValueError, match=r"a\.parquet: not Parquet: .+") as caught:
        list(read_rows(tmp_path / "a.parquet"))
    assert "\n" not in str(caught.value)


def test_half_of_a_utf_16_file_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes("id;text\na;b\n".encode("utf-16")[:-1])
    with pytest.raises(ValueError, match=r"a\.csv, byte \d+: not UTF-16; save the file as UTF-8"):
        list(read_rows(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id;text\na;b;c\n", "line 2, column 3: expected 2 columns, found 3; is a separator"),
        (b'id;text\na;"never closed\n', "line 2, column 2: not CSV"),
        (b"id,text\na,M\xfcller\n", "line 2, column 4: byte 0xfc is not UTF-8; save the file as UTF-8"),
        (b'id,text\na,"never closed\n', "line 2, column 2: not CSV"),
        (b"id,text\na,b,c\n", "line 2, column 3: expected 2 columns, found 3; is a separator"),
        (b"id,text\na\n", "line 2, column 2: expected 2 columns, found 1"),
        (b"id,id\na,b\n", "line 1: column 'id' appears twice"),
    ],
)
def test_invalid_csv_is_named_by_line_and_column(content, message, tmp_path):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.csv, {message}"):
        list(read_rows(tmp_path / "a.csv", ["id"]))


def test_lines_of_every_ending_are_counted(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "a.csv").write_bytes(end.join(["a,b", "", '"c', 'd",e', "f,g"]).encode())
        assert [line for line, _ in read_csv_lines(tmp_path / "a.csv")] == [1, 3, 5]


def test_columns_of_a_result_file_are_read_with_their_types(tmp_path):
    path = tmp_path / "predictions.csv"
    write_table(path, {"id": str, "score": float, "more": str}, [("0001", 0.1, "x")])
    assert read_columns(path, {"score": float, "id": str}) == [{"score": 0.1, "id": "0001"}]
    with pytest.raises(ValueError, match=r"predictions\.csv, line 1: no column label; found id, score, more"):
        read_columns(path, {"id": str, "label": float})
    path.write_text("id,score\na,1\nb,good\n")
    with pytest.raises(
        ValueError, match=r"predictions\.csv, line 3: column score: expected a finite number, found 'good'"
    ):
        read_columns(path, {"id": str, "score": float})
    path.write_text("id,score\na,\n")
    assert read_columns(path, {"score": float}, empty={"score": None}) == [{"score": None}]
    assert read_columns(path, {"score": str, "video": str}, absent={"video": ""})[0]["video"] == ""
    with pytest.raises(ValueError, match=r"line 2: column score: expected a finite number, found ''"):
        read_columns(path, {"score": float})
    with pytest.raises(FileNotFoundError):
        read_columns(tmp_path / "none.csv", {"id": str})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_jsonl_refuses_numbers_that_are_not_finite(bad, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_table(tmp_path / "a.jsonl", {"score": float}, [(bad,)])
    assert list(tmp_path.iterdir()) == []
    write_table(tmp_path / "a.jsonl", {"score": float}, [(1.0,)])
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"score": 1.0}
