"""The one reader and writer of tables: CSV, JSONL and Parquet, selected by suffix; Excel workbooks are read only.

`FORMATS` lists what is read and written, `READ_ONLY` what is read.

It knows cells, lines and columns, not their meaning: see `labelled_folder` for tables of clips and `mmsa` for label tables. Only
the standard library and pyarrow are imported, and openpyxl for a workbook, so that the builder files next to this one also work as
loading scripts.
"""

import codecs
import csv
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_ARROW_TYPES = {str: pa.string(), float: pa.float64(), int: pa.int64()}
_KINDS = {float: "a finite number", int: "a whole number"}
_ROWS_AT_ONCE = 4096
SEPARATORS = (",", ";", "\t")
Rows = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class TableFormat:
    """The reader and writer of a table format.

    Attributes:
        read: a path, and columns that must be unique (`None`: all that have a name), to the position of each row (for messages)
            and its cells.
        write: takes a path, columns with their types, rows, and the line end of a text format.
    """

    read: Callable[[Path, Collection[str] | None], Rows]
    write: Callable[[Path, Mapping[str, type], Iterable[Sequence[Any]], str], None]


@dataclass(frozen=True)
class Unreadable:
    """A cell of a workbook that has no value: a formula that was never computed, or an error; `what` describes it."""

    what: str


class WrongEncoding(ValueError):
    """A text that is not in the encoding that it is read in."""


def readable_endings() -> list[str]:
    """The suffixes of all tables that `read_rows` reads."""
    return [*FORMATS, *READ_ONLY]


def check_ending(path: str | Path) -> str:
    """The suffix of the name of a table that is written, in lower case.

    Raises:
        ValueError: for an unsupported suffix.
    """
    return _ending(path, list(FORMATS))


def _ending(path: str | Path, expected: Sequence[str]) -> str:
    ending = Path(path).suffix.lower()
    if ending not in expected:
        raise ValueError(f"{path}: expected a table that ends in {', '.join(expected)}")
    return ending


def read_rows(path: str | Path, unique: Collection[str] | None = (), *, encoding: str | None = None) -> Rows:
    """Each row of a table as its position, for messages, and its cells by column name; blank lines are skipped.

    The cells of a CSV, separated by commas, semicolons or tabs, are unconverted strings; those of JSONL and Parquet have their own
    types, and those of a workbook's first sheet too (`Unreadable` where there is no value).

    Args:
        path: the table.
        unique: columns that must not appear twice; `None`: all that have a name.
        encoding: of a CSV without a byte order mark; by default UTF-8.

    Raises:
        FileNotFoundError: when there is no such file.
        WrongEncoding, ValueError: for an invalid table, naming file and line.
    """
    path, ending = Path(path), _ending(path, readable_endings())
    if encoding is not None:
        if ending != ".csv":
            raise ValueError(f"{path}: only a CSV has an encoding; leave out encoding: {encoding}")
        return _csv_rows(path, unique, encoding)
    return (FORMATS[ending].read if ending in FORMATS else READ_ONLY[ending])(path, unique)


def read_columns(
    path: str | Path,
    columns: Mapping[str, type],
    empty: Mapping[str, Any] = MappingProxyType({}),
    *,
    absent: Mapping[str, Any] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """The rows of a CSV that this package wrote: the given columns, with their types.

    Args:
        path: the table.
        columns: names and types; further columns are ignored.
        empty: the value of an empty cell, by column; without one, only text may be empty.
        absent: the value of a column that the table may lack, by column.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a missing column or a cell that cannot be read, naming file, line and column.
    """
    rows = []
    for place, cells in read_rows(path, columns):
        for name in columns:
            if name not in cells and name not in absent:
                raise ValueError(f"{path}, line 1: no column {name}; found {', '.join(cells)}")
        row = {}
        for name, kind in columns.items():
            if name not in cells:
                row[name] = absent[name]
            elif name in empty and not cells[name]:
                row[name] = empty[name]
            else:
                row[name] = _converted(place, name, cells[name], kind)
        rows.append(row)
    return rows


def write_table(
    path: str | Path, columns: Mapping[str, type], rows: Iterable[Sequence[Any]], *, line_end: str = "\r\n"
) -> None:
    """Write a table atomically; the rows are consumed one by one.

    Args:
        path: its suffix selects the format; missing folders are created.
        columns: names and types (`str`, `float` or `int`), in their order.
        rows: their cells in the order of the columns; `None` is an empty cell.
        line_end: of a CSV.

    Raises:
        ValueError: for an unsupported suffix, and for NaN or infinity in JSONL.
    """
    path = Path(path)
    write = FORMATS[check_ending(path)].write
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    try:
        write(draft, columns, rows, line_end)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_text(path: str | Path, encoding: str | None = None) -> str:
    """A text file in UTF-8, with or without a byte order mark, or in UTF-16 with one, or in the given encoding without one.

    Raises:
        WrongEncoding: naming the first byte that is in none of them, of UTF-8 by its line and column.
    """
    content = Path(path).read_bytes()
    encoding = encoding_of(content[:3], encoding)
    try:
        return content.decode(encoding)
    except UnicodeError as error:
        if encoding != "utf-8-sig" or not isinstance(error, UnicodeDecodeError):
            at = f", byte {error.start + 1}" if isinstance(error, UnicodeDecodeError) else ""
            name = encoding.upper() if encoding == "utf-16" else encoding
            raise WrongEncoding(f"{path}{at}: not {name}; save the file as UTF-8") from error
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise WrongEncoding(
            f"{path}, line {line}, column {column}: byte 0x{content[error.start]:02x} is not UTF-8; save the"
            " file as UTF-8"
        ) from error


def encoding_of(first_bytes: bytes, declared: str | None = None) -> str:
    """The encoding that a text with these first three bytes is read in: that of its byte order mark, or the declared one."""
    if first_bytes[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    return "utf-8-sig" if declared is None or first_bytes == codecs.BOM_UTF8 else declared


def separator_of(header: str) -> str:
    """What separates the cells of a header: the most frequent of comma, semicolon and tab outside quotes."""
    plain = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=plain.count)  # a comma if there is none


def read_csv_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """The line where each row of a CSV starts, counted from 1, and its cells; blank lines are skipped.

    Raises:
        WrongEncoding: for text that is neither UTF-8 nor UTF-16 nor in the given encoding, naming file, line and column.
        ValueError: for text that is not CSV.
    """
    line = 1
    with path.open("rb") as binary:
        chosen = encoding_of(binary.read(3), encoding)
    with path.open(encoding=chosen, newline="") as file:
        try:
            separator = separator_of(file.readline())
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=separator)
            for cells in reader:
                start, line = line, reader.line_num + 1
                if cells:
                    yield start, cells
            return
        except UnicodeError:
            read_text(path, encoding)  # raises with line and column
            raise
        except csv.Error as error:
            wrong, fault = re.split(r"\r\n|\r|\n", read_text(path, encoding))[reader.line_num - 1], error
    column = wrong.split('"')[0].count(separator) + 1
    raise ValueError(f"{path}, line {reader.line_num}, column {column}: not CSV: {fault}") from fault


def by_column(path: Path, line: int, names: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """The cells of a CSV row by column name.

    Raises:
        ValueError: when there are more or fewer cells than columns.
    """
    if len(cells) != len(names):
        column = min(len(cells), len(names)) + 1
        raise ValueError(
            f"{path}, line {line}, column {column}: expected {len(names)} columns, found {len(cells)};"
            " is a separator unquoted?"
        )
    return dict(zip(names, cells, strict=True))


def _converted(place: str, name: str, cell: str, kind: type) -> Any:
    try:
        value = kind(cell)
        if kind is float and not math.isfinite(value):
            raise ValueError
        return value
    except ValueError:
        raise ValueError(f"{place}: column {name}: expected {_KINDS[kind]}, found {cell!r}") from None


def _check_unique(place: str, names: Sequence[str], unique: Collection[str] | None) -> None:
    for name in names:
        if name and (unique is None or name in unique) and names.count(name) > 1:
            raise ValueError(f"{place}column {name!r} appears twice; rename or remove one")


def _csv_rows(path: Path, unique: Collection[str] | None, encoding: str | None = None) -> Rows:
    lines = read_csv_lines(path, encoding)
    header, cells = next(lines, (1, []))
    names = [name.strip() for name in cells]
    _check_unique(f"{path}, line {header}: ", names, unique)
    for line, cells in lines:
        yield f"{path}, line {line}", by_column(path, line, names, cells)


def _jsonl_rows(path: Path, unique: Collection[str] | None) -> Rows:
    def columns(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _check_unique("", [name for name, _ in pairs], unique)
        return dict(pairs)

    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            try:
                row = json.loads(line, object_pairs_hook=columns)
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
                raise ValueError(f"{place}: not JSON: {error}") from error
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{place}: expected an object with the columns as keys")
            yield place, row


def _parquet_rows(path: Path, unique: Collection[str] | None) -> Rows:
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # a damaged page is an OSError
        raise ValueError(f"{path}: not Parquet: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def _xlsx_rows(path: Path, unique: Collection[str] | None) -> Rows:
    names: list[str] | None = None
    for number, cells in enumerate(_sheet(path), 1):
        if all(cell is None for cell in cells):
            continue
        if names is None:
            names = ["" if cell is None else str(cell).strip() for cell in cells]
            _check_unique(f"{path}, row {number}: ", names, unique)
        else:
            full = [*cells, *[None] * len(names)]
            yield f"{path}, row {number}", dict(zip(names, full, strict=False))


def _sheet(path: Path) -> list[list[Any]]:
    """The cells of a workbook's first sheet, row by row, without the blanks around a text."""
    import openpyxl

    def opened(values: bool) -> Iterator[Sequence[Any]]:
        sheet = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=values).worksheets[0]
        sheet.reset_dimensions()  # some programs write a wrong size
        return sheet.iter_rows()

    content = path.read_bytes()
    try:
        with warnings.catch_warnings(action="ignore"):
            return [
                [_cell(*pair) for pair in zip(values, formulas, strict=True)]
                for values, formulas in zip(opened(True), opened(False), strict=True)
            ]
    except Exception as error:  # a damaged archive or XML raises anything
        raise ValueError(
            f"{path}: not an Excel workbook, or it is damaged or has a password ({type(error).__name__}); save it again, as"
            " .xlsx or as CSV"
        ) from error


def _cell(cell: Any, formula: Any) -> Any:
    if cell.value is None and formula.data_type == "f":
        return Unreadable("a formula without a value (open the workbook in a spreadsheet program and save it)")
    if cell.data_type == "e":
        return Unreadable(f"the error {cell.value}")
    if not isinstance(cell.value, str | int | float | None):
        return Unreadable("a date or time (format the column as text or as numbers)")
    return (cell.value.strip() or None) if isinstance(cell.value, str) else cell.value


def _write_csv(draft: Path, columns: Mapping[str, type], rows: Iterable[Sequence[Any]], line_end: str) -> None:
    with draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator=line_end)
        writer.writerow(columns)
        writer.writerows(rows)


def _write_jsonl(draft: Path, columns: Mapping[str, type], rows: Iterable[Sequence[Any]], line_end: str) -> None:
    with draft.open("w", encoding="utf-8") as file:
        for row in rows:
            cells = dict(zip(columns, row, strict=True))
            file.write(json.dumps(cells, ensure_ascii=False, allow_nan=False) + "\n")


def _write_parquet(draft: Path, columns: Mapping[str, type], rows: Iterable[Sequence[Any]], line_end: str) -> None:
    schema = pa.schema([(name, _ARROW_TYPES[kind]) for name, kind in columns.items()])
    rows = iter(rows)
    with pq.ParquetWriter(draft, schema) as file:
        while chunk := list(islice(rows, _ROWS_AT_ONCE)):
            file.write_table(
                pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in chunk], schema=schema)
            )


FORMATS = {
    ".csv": TableFormat(_csv_rows, _write_csv),
    ".jsonl": TableFormat(_jsonl_rows, _write_jsonl),
    ".parquet": TableFormat(_parquet_rows, _write_parquet),
}
READ_ONLY: dict[str, Callable[[Path, Collection[str] | None], Rows]] = {".xlsx": _xlsx_rows}
