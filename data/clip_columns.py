"""Any column of a table of clips, by clip id: of a data set's own table, or of another one with ids. Opens no media."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .catalog import DATASETS
from .cells import Row, text_of
from .columns import Table, find_columns, shown
from .labelled_folder import open_table
from .load import load_clips
from .sources import PLANTED_ROOT
from .table_options import TableOptions

CLIP_COLUMNS = ("genre", "speaker", "video_id", "split")  # of a data set that has no table of its own
Cells = dict[str, dict[str, str | None]]  # by clip id and column; `None` for an empty cell
_NO_LABELS = TableOptions(())


def columns_of_dataset(
    name_or_path: str, columns: Sequence[str], *, root: str | Path | None = None, options: TableOptions = _NO_LABELS
) -> Cells:
    """Columns of a data set's own table.

    Args:
        name_or_path, root, options: as `load_clips` takes them.
        columns: headers, without regard to case; or names that `options` give to them.

    Raises: as `columns_of_table`; a FileNotFoundError too for a named data set whose root is not known.
    """
    facts = DATASETS.get(name_or_path)
    if facts is not None and facts.source == "rated_sentences":
        _check_known(name_or_path, columns, CLIP_COLUMNS)
        clips = load_clips(name_or_path, root=root, with_media=False)
        return {clip.id: {column: getattr(clip, column.strip().casefold()) for column in columns} for clip in clips}
    where = name_or_path if facts is None else root or (PLANTED_ROOT if facts.synthetic else None)
    if where is None:
        raise FileNotFoundError(f"{name_or_path}: the folder of its table is not known")
    table = open_table(where, options)
    found = find_columns(table, options)
    ids = ("video_id", "clip_id") if found.is_mmsa else ("id",) if "id" in found.used else ()
    return _cells(table, [found.used[one] for one in ids], columns, options)


def columns_of_table(path: str | Path, columns: Sequence[str]) -> Cells:
    """Columns of a table with a column id, or video_id and clip_id, of which an id is made as `VIDEO_CLIP`.

    Args:
        path: as `read_clips` takes it.
        columns: headers, without regard to case.

    Raises:
        FileNotFoundError: when there is no such table.
        ValueError: for a column that is missing, with those that there are; an id that is empty or appears twice; a cell that is
            neither text nor a number nor true or false.
    """
    table = open_table(path, _NO_LABELS)
    known = {one.strip().casefold() for one in table.header}
    ids = next((ids for ids in (("id",), ("video_id", "clip_id")) if known.issuperset(ids)), None)
    if ids is None:
        raise ValueError(f"{table.name}: no column id; {shown(table.header)}")
    return _cells(table, [_header(table, one) for one in ids], columns, _NO_LABELS)


def _cells(table: Table, ids: Sequence[str], columns: Sequence[str], options: TableOptions) -> Cells:
    headers = {column: _header(table, options.columns.get(column, column)) for column in columns}
    cells: Cells = {}
    for number, (where, row, _) in enumerate(table.rows({*ids, *headers.values()}), 1):
        parts = [text_of(where, row, one) for one in ids] if ids else [str(number)]
        clip_id = "_".join(part for part in parts if part is not None)
        if None in parts:
            raise ValueError(f"{where}: column {' or '.join(ids)} is empty; every clip needs an id")
        if clip_id in cells:
            raise ValueError(f"{where}: {clip_id!r} appears twice; ids must be unique")
        cells[clip_id] = {column: _text(where, row, header) for column, header in headers.items()}
    return cells


def _text(where: str, row: Row, header: str) -> str | None:
    value: Any = row.get(header)
    return str(value) if isinstance(value, bool) else text_of(where, row, header)


def _header(table: Table, column: str) -> str:
    _check_known(table.name, [column], table.header)
    return next(one for one in sorted(table.header, key=lambda one: one != column) if _alike(one, column))


def _check_known(name: str, columns: Sequence[str], header: Sequence[str]) -> None:
    for column in columns:
        if not any(_alike(one, column) for one in header):
            raise ValueError(f"{name}: there is no column {column!r}; {shown(header)}")


def _alike(first: str, second: str) -> bool:
    return first.strip().casefold() == second.strip().casefold()
