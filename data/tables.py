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
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from .draft import draft_of

_ARROW_TYPES = {str: pa.string(), float: pa.float64(), int: pa.int64()}
_KINDS = {float: "a finite number", int: "a whole number"}
_ROWS_AT_ONCE = 4096
SEPARATORS = (",", ";", "\t")
_FIRST_ROWS = 10  # show what separates the cells of a CSV
Rows = Iterator[tuple[str, dict[str, Any]]]
_T = TypeVar("_T")


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
        unique: columns that must not appear twice, in whatever case; `None`: all that have a name.
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
    """The rows of a table: the given columns, with their types.

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
                row[name] = _converted(place, name, "" if cells[name] is None else cells[name], kind)
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
    with draft_of(path) as draft:
        write(draft, columns, rows, line_end)


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


def separator_of(file: TextIO) -> str:
    """What separates the cells of a CSV that is open at its start: comma, semicolon or tab.

    A first line such as `sep=;` says so; else it is what gives the first rows the same number of cells, more than one and the most
    (of two, not the comma, which stands in names and numbers); or else the most frequent outside quotes in the header.
    """
    header = next((line for line in file if line.strip()), "")
    if declared := re.fullmatch(r'"?sep=([,;\t])"?[\r\n]*', header, re.IGNORECASE):
        return declared[1]
    widths = {separator: _width(file, separator) for separator in SEPARATORS}
    if max(widths.values()) > 1:
        return max(reversed(SEPARATORS), key=widths.__getitem__)
    plain = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=plain.count)  # a comma if there is none


def _width(file: TextIO, separator: str) -> int:
    """How many cells each of the first rows of a CSV has with this separator; 0 if they differ or are not CSV."""
    file.seek(0)
    rows = (cells for cells in csv.reader(file, strict=True, delimiter=separator) if any(map(str.strip, cells)))
    try:
        widths = {len(cells) for cells in islice(rows, _FIRST_ROWS)}
    except csv.Error:
        return 0
    return widths.pop() if len(widths) == 1 else 0


def read_csv_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """The line where each row of a CSV starts, counted from 1, and its cells.

    Blank lines are skipped, and so are rows of blank cells and a line such as `sep=;` before the header.

    Raises:
        WrongEncoding: for text that is neither UTF-8 nor UTF-16 nor in the given encoding, naming file, line and column.
        ValueError: for text that is not CSV, and for UTF-8 that is declared to be in another encoding.
    """
    line, in_table = 1, False
    with path.open("rb") as binary:
        chosen = encoding_of(binary.read(3), encoding)
    if chosen == encoding:
        _check_declared(path, encoding)
    with path.open(encoding=chosen, newline="") as file:
        try:
            separator = separator_of(file)
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=separator)
            for cells in reader:
                start, line = line, reader.line_num + 1
                blank = not any(map(str.strip, cells)) or separator.join(cells).lower() == f"sep={separator}"
                in_table = in_table or not blank
                if cells and in_table:
                    yield start, cells
            return
        except UnicodeError:
            read_text(path, encoding)  # raises with line and column
            raise
        except csv.Error as error:
            wrong, fault = re.split(r"\r\n|\r|\n", read_text(path, encoding))[reader.line_num - 1], error
    column = wrong.split('"')[0].count(separator) + 1
    raise ValueError(f"{path}, line {reader.line_num}, column {column}: not CSV: {fault}") from fault


def _check_declared(path: Path, encoding: str) -> None:
    """Refuse an encoding that turns each byte of a file in UTF-8 into a character."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return
    if len(text) < len(content) == len(content.decode(encoding, "replace")):
        raise ValueError(f"{path}: this file is UTF-8; leave out encoding: {encoding}")


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
    for name, times in Counter(map(str.strip, names)).items():
        if name and times > 1 and (unique is None or name.casefold() in {one.strip().casefold() for one in unique}):
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
    _check_unique(f"{path}: ", _parquet(path, lambda: pq.read_schema(path).names), None)  # pyarrow refuses any
    for number, row in enumerate(_parquet(path, lambda: pq.read_table(path).to_pylist()), 1):
        yield f"{path}, row {number}", row


def _parquet(path: Path, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # a damaged page is an OSError
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path}: not Parquet: {reason}") from error


@dataclass(frozen=True)
class _Sheet:
    """A workbook's first sheet, the names of the others, and the last row and name (A2:A4) of each range of merged cells."""

    name: str
    others: list[str]
    rows: list[list[Any]]
    merged: list[tuple[int, str]]


def _xlsx_rows(path: Path, unique: Collection[str] | None) -> Rows:
    sheet = _sheet(path)
    names: list[str] = []
    for number, cells in enumerate(sheet.rows, 1):
        if all(cell is None for cell in cells):
            continue
        if not names:
            while cells[-1] is None:
                cells.pop()
            names = ["" if cell is None else str(cell).strip() for cell in cells]
            _check_unique(f"{path}, row {number}: ", names, unique)
            for last_row, merged in sheet.merged:
                if last_row > number:
                    raise ValueError(f"{path}: the cells {merged} are merged; unmerge them and fill in each one")
            continue
        further = [column for column, cell in enumerate(cells, 1) if column > len(names) and cell is not None]
        if further:
            raise ValueError(
                f"{path}, row {number}, column {further[0]}: expected {len(names)} columns, found {further[-1]}; give the"
                " column a header, or empty the cell"
            )
        yield f"{path}, row {number}", dict(zip(names, [*cells, *[None] * len(names)], strict=False))
    if not names and sheet.others:
        raise ValueError(
            f"{path}: the first sheet, {sheet.name!r}, is empty, and only the first is read; put the clips on it; the others are"
            f" {', '.join(map(repr, sheet.others))}"
        )


def _sheet(path: Path) -> _Sheet:
    """A workbook's first sheet, without the blanks around a text."""
    import openpyxl

    content = path.read_bytes()
    try:
        with warnings.catch_warnings(action="ignore"):
            values = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True).worksheets[0]
            values.reset_dimensions()  # some programs write a wrong size
            formulas, *others = openpyxl.load_workbook(io.BytesIO(content)).worksheets
            return _Sheet(
                formulas.title,
                [sheet.title for sheet in others],
                [[_cell(cell, formulas) for cell in row] for row in values.iter_rows()],
                sorted((merged.max_row, merged.coord) for merged in formulas.merged_cells.ranges),
            )
    except Exception as error:  # a damaged archive or XML raises anything
        raise ValueError(
            f"{path}: not an Excel workbook, or it is damaged or has a password ({type(error).__name__}); save it again, as"
            " .xlsx or as CSV"
        ) from error


def _cell(cell: Any, formulas: Any) -> Any:
    """The value of a cell; `formulas` is the same sheet with its formulas."""
    if cell.value is None and hasattr(cell, "row") and formulas.cell(cell.row, cell.column).data_type == "f":
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
