"""The one reader and writer of tables: CSV, JSONL and Parquet, selected by suffix. `FORMATS` is the one list of them.

It knows cells, lines and columns, not their meaning: see `labelled_folder` for tables of clips and `mmsa` for label tables. Only
the standard library and pyarrow are imported, so that the builder files next to this one also work as loading scripts.
"""

import codecs
import csv
import json
import math
import re
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


@dataclass(frozen=True)
class TableFormat:
    """The reader and writer of a table format.

    Attributes:
        read: a path, and columns that must be unique, to the position of each row (for messages) and its cells.
        write: takes a path, columns with their types, rows, and the line end of a text format.
    """

    read: Callable[[Path, Collection[str]], Iterator[tuple[str, dict[str, Any]]]]
    write: Callable[[Path, Mapping[str, type], Iterable[Sequence[Any]], str], None]


def check_ending(path: str | Path) -> str:
    """The suffix of a table's name, in lower case.

    Raises:
        ValueError: for an unsupported suffix.
    """
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"{path}: expected a table that ends in {', '.join(FORMATS)}")
    return ending


def read_rows(path: str | Path, unique: Collection[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a table as its position, for messages, and its cells by column name; blank lines are skipped.

    The cells of a CSV, separated by commas, semicolons or tabs, are unconverted strings; those of JSONL and Parquet have their own
    types.

    Args:
        path: the table.
        unique: columns that must not appear twice.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for an invalid table, naming file and line.
    """
    return FORMATS[check_ending(path)].read(Path(path), unique)


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


def read_text(path: str | Path) -> str:
    """A text file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises:
        ValueError: naming the first byte that is neither, of UTF-8 by its line and column.
    """
    content = Path(path).read_bytes()
    encoding = _encoding(content[:2])
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise ValueError(f"{path}, byte {error.start + 1}: not UTF-16; save the file as UTF-8") from error
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise ValueError(
            f"{path}, line {line}, column {column}: byte 0x{content[error.start]:02x} is not UTF-8; save the"
            " file as UTF-8"
        ) from error


def _encoding(first_bytes: bytes) -> str:
    return "utf-16" if first_bytes in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _separator(header: str) -> str:
    """What separates the cells of a header: the most frequent of comma, semicolon and tab outside quotes."""
    plain = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=plain.count)  # a comma if there is none


def read_csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line where each row of a CSV starts, counted from 1, and its cells; blank lines are skipped.

    Raises:
        ValueError: for text that is not UTF-8 or UTF-16, or not CSV, naming file, line and column.
    """
    line = 1
    with path.open("rb") as binary:
        encoding = _encoding(binary.read(2))
    with path.open(encoding=encoding, newline="") as file:
        try:
            separator = _separator(file.readline())
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=separator)
            for cells in reader:
                start, line = line, reader.line_num + 1
                if cells:
                    yield start, cells
            return
        except UnicodeDecodeError:
            read_text(path)  # raises with line and column
            raise
        except csv.Error as error:
            wrong, fault = re.split(r"\r\n|\r|\n", read_text(path))[reader.line_num - 1], error
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


def _csv_rows(path: Path, unique: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = read_csv_lines(path)
    header, cells = next(lines, (1, []))
    names = [name.strip() for name in cells]
    for name in names:
        if name in unique and names.count(name) > 1:
            raise ValueError(f"{path}, line {header}: column {name!r} appears twice")
    for line, cells in lines:
        yield f"{path}, line {line}", by_column(path, line, names, cells)


def _jsonl_rows(path: Path, unique: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    def columns(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        for name in names:
            if name in unique and names.count(name) > 1:
                raise ValueError(f"column {name!r} appears twice")
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


def _parquet_rows(path: Path, unique: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # a damaged page is an OSError
        raise ValueError(f"{path}: not Parquet: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


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
