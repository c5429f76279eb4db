"""Opens data sets of the `datasets` library as tables: folders that it saved, and data sets on the Hub.

Sounds and videos inside a data set become files in the user's cache; none is decoded.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cells import Row
from .clip import SPLIT_NAMES
from .columns import SAMPLE, Table
from .pinned_file import cache_folder
from .table_options import TableOptions

if TYPE_CHECKING:  # `datasets` takes half a second to import, which scoring files need not wait for
    from datasets import Dataset

HUB = "hf://"
_ADDRESS = re.compile(r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?/?")
_SIGNS = (
    (0, b"RIFF", ".wav"),
    (4, b"ftyp", ".mp4"),
    (0, b"OggS", ".ogg"),
    (0, b"fLaC", ".flac"),
    (0, b"ID3", ".mp3"),
    (0, b"\x1aE\xdf\xa3", ".mkv"),
)  # first bytes of media files


def saved_table(folder: Path, options: TableOptions) -> Table:
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Raises:
        ValueError: for a damaged folder, and for an encoding.
    """
    from datasets import DatasetDict, load_from_disk

    _check_encoding(str(folder), options)
    try:
        saved = load_from_disk(str(folder))
    except Exception as error:  # Arrow, JSON and the library itself raise anything
        raise ValueError(
            f"{folder}: a saved data set that cannot be read ({_first_line(error)}); save it again"
        ) from error
    parts = dict(saved) if isinstance(saved, DatasetDict) else {None: saved}
    return _table(str(folder), "folder of datasets", folder, parts, options)


def hub_table(address: str, options: TableOptions) -> Table:
    """A data set on the Hub with all its splits; a data set of one part has no splits.

    Args:
        address: `hf://datasets/OWNER/NAME`, or with `@REVISION`.
        options: how the table is read.

    Raises:
        ValueError: for another address, and for an encoding.
        OSError: when it cannot be loaded.
    """
    from datasets import load_dataset

    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError(f"{address}: expected hf://datasets/OWNER/NAME")
    _check_encoding(address, options)
    try:
        parts = dict(load_dataset(found["repo"], revision=found["revision"]))
    except Exception as error:  # of the connection, the Hub, or a file in the data set
        raise OSError(
            f"{address}: cannot be loaded from the Hub ({_first_line(error)}); check the name and your login"
        ) from error
    if len(parts) == 1:
        parts = {None: next(iter(parts.values()))}
    return _table(address, "data set on the Hub", Path(), parts, options)


def media_path(value: Mapping[str, Any], root: Path, kind: str) -> str | None:
    """The file of a sound or video in a data set: where it was, or a copy in the cache, named by its content.

    Args:
        value: `{"path", "bytes"}`.
        root: where a relative path starts.
        kind: `audio` or `video`, for the suffix of a file without a name.
    """
    path, content = value.get("path"), value.get("bytes")
    if path and (content is None or (root / path).is_file()):
        return str((root / path).absolute())
    if content is None:
        return None
    suffix = Path(path or "").suffix or next(
        (ending for at, sign, ending in _SIGNS if content[at : at + len(sign)] == sign),
        {"audio": ".wav"}.get(kind, ".mp4"),
    )
    folder = cache_folder() / "media"
    copy = folder / (hashlib.sha256(content).hexdigest() + suffix)
    if not copy.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".draft-", delete=False) as draft:
            draft.write(content)
        os.replace(draft.name, copy)
    return str(copy.absolute())


def _check_encoding(name: str, options: TableOptions) -> None:
    if options.encoding is not None:
        raise ValueError(f"{name}: only a CSV has an encoding; leave out encoding: {options.encoding}")


def _table(name: str, kind: str, root: Path, parts: Mapping[str | None, "Dataset"], options: TableOptions) -> Table:
    from datasets import ClassLabel

    parts = {split: _plain(part) for split, part in parts.items()}
    header = tuple(dict.fromkeys(column for part in parts.values() for column in part.column_names))
    own_splits = {options.columns.get(ours, ours).strip().casefold() for ours in ("split", "mode")}

    def rows(needed: Collection[str]) -> Iterator[tuple[str, Row, str | None]]:
        used = [column for column in header if column in needed]
        for split, part in parts.items():
            for column in used:
                if column not in part.column_names:
                    raise ValueError(
                        f"{name}: the part {split!r} has no column {column!r}, which others have; add it, or leave out the part"
                    )
        splits = [column for column in used if column.strip().casefold() in own_splits]
        for split, part in parts.items():
            is_split = split is None or split.lower() in SPLIT_NAMES
            classes = {column: one.names for column, one in part.features.items() if isinstance(one, ClassLabel)}
            for number, row in enumerate(part.select_columns(used), 1):
                named = _named(row, classes)
                if not is_split and not any(named[column] for column in splits):
                    raise ValueError(
                        f"{name}: the part {split!r} is not a split; rename it to one of {', '.join(SPLIT_NAMES)}, or leave it out"
                    )
                yield f"{name}, row {number}" if split is None else f"{name}, {split} row {number}", named, split

    first = next(iter(parts.values()))
    return Table(name, kind, root, header, lambda: list(first.select(range(min(SAMPLE, len(first))))), rows)


def _plain(part: "Dataset") -> "Dataset":
    """The data set in Python's own types, with sounds and videos as `{"path", "bytes"}`."""
    part = part.with_format(None)
    for column, feature in part.features.items():
        if hasattr(feature, "decode"):
            part = part.cast_column(column, replace(feature, decode=False))
    return part


def _named(row: Row, classes: Mapping[str, list[str]]) -> Row:
    """The row with the names of its classes in place of their numbers."""
    numbers = {column: row[column] for column in classes if row.get(column) is not None}
    return {**row, **{column: classes[column][at] if at >= 0 else None for column, at in numbers.items()}}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
