"""Reads any table of clips: CSV, JSONL, Parquet, a folder with one of them, or a built data set. Opens no media.

Two kinds of tables are recognised by their header: this project's (id, text, video, audio, label, split, video_id, clip_index,
genre, rater_mae) and the MMSA layout's (video_id, clip_id, text, label, mode, ...; media in Raw/<video_id>/<clip_id>.mp4).
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets import DatasetDict, load_from_disk

from .clip import MODALITIES, SPLIT_NAMES, Clip
from .tables import FORMATS, read_rows

MMSA_COLUMNS = {"video_id", "clip_id", "text", "label"}
KNOWN_COLUMNS = MMSA_COLUMNS | {"mode"} | {field.name for field in fields(Clip)}
EXPECTED = (
    "id with any of text, video, audio, label, split, video_id, clip_index, genre, rater_mae; or video_id, clip_id, text, label,"
    " mode"
)
_NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
)  # float() also takes 1_0 and other scripts' digits
_NOT_FINITE = re.compile(r"[+-]?(inf|infinity|nan)", re.IGNORECASE)
_WHOLE = re.compile(r"[0-9]{1,18}")  # what 64 bits hold

Row = Mapping[str, Any]


def read_clips(path: str | Path, *, with_media: bool = True, missing_ok: bool = False) -> list[Clip]:
    """The clips of a table, in its order.

    Ids are strings as they are written, leading zeros included; empty cells are `None`; unknown columns are ignored, unless one
    differs only by case or blanks from a known column that is missing.

    Args:
        path: a table; a folder that holds clips.csv, clips.jsonl, clips.parquet or label.csv; or a folder that
            `datasets` saved.
        with_media: `False` leaves media paths out, for work on the text alone.
        missing_ok: `True` keeps paths of missing files, for a caller that reports them itself.

    Returns:
        Clips with absolute media paths; relative paths in the table start at its folder.

    Raises:
        FileNotFoundError: when the table, or media that it names, does not exist.
        ValueError: naming file, line and column, for an invalid cell or row.
    """
    table = _find_table(Path(path))
    root = table if table.is_dir() else table.parent
    read: Callable[[str, Row, Path, bool], Clip] | None = None
    clips: dict[str, Clip] = {}
    for where, row in _rows(table):
        _check_names(where, row)
        read = read or _reader(where, row)
        clip = read(where, row, root, with_media)
        if clip.id in clips:
            raise ValueError(f"{where}: column {_id_columns(read)}: {clip.id!r} appears twice; ids must be unique")
        clips[clip.id] = clip
    if not clips:
        raise ValueError(f"{table}: the table has no clips")
    if with_media and not missing_ok:
        check_media(table, clips.values())
    return list(clips.values())


def _find_table(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such table or folder")
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return path
    names = [*(f"clips{ending}" for ending in FORMATS), "label.csv"]
    for name in names:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path}: expected one of {', '.join(names)} or a built data set in this folder")


def _rows(table: Path) -> Iterator[tuple[str, Row]]:
    """Each row with its place, for messages."""
    return _built_rows(table) if table.is_dir() else read_rows(table, KNOWN_COLUMNS)


def _built_rows(folder: Path) -> Iterator[tuple[str, Row]]:
    saved = load_from_disk(str(folder)).with_format(None)
    if not isinstance(saved, DatasetDict):
        for number, row in enumerate(saved, 1):
            yield f"{folder}, row {number}", row
        return
    for split, part in saved.items():
        for number, row in enumerate(part, 1):
            where = f"{folder}, {split} row {number}"
            yield where, row if _text(where, row, "split") else {**row, "split": split}


def _check_names(where: str, row: Row) -> None:
    for name in row.keys() - KNOWN_COLUMNS:
        meant = name.strip().lower()
        if meant in KNOWN_COLUMNS and meant not in row:
            raise ValueError(f"{where}: unknown column {name!r}; write {meant!r}")


def _reader(where: str, row: Row) -> Callable[[str, Row, Path, bool], Clip]:
    columns = set(row)
    if "id" in columns and columns & set(MODALITIES):
        return _own_clip
    if columns >= MMSA_COLUMNS:
        return _mmsa_clip
    lacking = "" if "id" in columns else "no column id; "
    table = where.rsplit(", ", 1)[0]
    raise ValueError(f"{table}, header: {lacking}found {', '.join(sorted(columns))}; expected {EXPECTED}")


def _id_columns(read: Callable) -> str:
    return "id" if read is _own_clip else "video_id and clip_id"


def _own_clip(where: str, row: Row, root: Path, with_media: bool) -> Clip:
    clip_id = _text(where, row, "id")
    if clip_id is None:
        raise ValueError(f"{where}: column id is empty; every clip needs one")
    media = {name: _text(where, row, name) if with_media else None for name in ("video", "audio")}
    return Clip(
        id=clip_id,
        text=_text(where, row, "text"),
        label=_number(where, row, "label"),
        split=_split(where, row, "split"),
        video_id=_text(where, row, "video_id"),
        clip_index=_index(where, row, "clip_index"),
        genre=_text(where, row, "genre"),
        rater_mae=_number(where, row, "rater_mae"),
        **{name: None if path is None else str((root / path).absolute()) for name, path in media.items()},
    )


def _mmsa_clip(where: str, row: Row, root: Path, with_media: bool) -> Clip:
    video_id, clip_id = _text(where, row, "video_id"), _text(where, row, "clip_id")
    if video_id is None or clip_id is None:
        raise ValueError(f"{where}: columns video_id and clip_id must not be empty")
    return Clip(
        id=f"{video_id}_{clip_id}",
        text=_text(where, row, "text"),
        video=str((root / "Raw" / video_id / f"{clip_id}.mp4").absolute()) if with_media else None,
        label=_number(where, row, "label"),
        split=_split(where, row, "mode" if "mode" in row else "split"),
        video_id=video_id,
        clip_index=int(clip_id) if _WHOLE.fullmatch(clip_id) else None,
    )


def _text(where: str, row: Row, column: str) -> str | None:
    value = row.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list | tuple | dict | bytes | bool):
        raise ValueError(f"{where}: column {column}: expected text or a number, found {type(value).__name__}")
    if isinstance(value, float) and math.isinf(value):
        raise ValueError(f"{where}: column {column}: {value} is not finite")
    # Integers become floats in a column with gaps, and an id of 7 must not turn into 7.0.
    whole = isinstance(value, float) and value.is_integer()
    text = str(int(value) if whole else value)
    if "\0" in text:
        raise ValueError(f"{where}: column {column}: a NUL character; the file is damaged")
    if half := re.search("[\ud800-\udfff]", text):
        raise ValueError(
            f"{where}: column {column}: half a character (the surrogate U+{ord(half.group()):X}), which is not valid in UTF-8"
        )
    return text.strip() or None


def _number(where: str, row: Row, column: str) -> float | None:
    # In other columns NaN is an empty cell; as a label it is more likely a failed computation.
    value = row.get(column)
    text = str(value) if isinstance(value, float) else _text(where, row, column)
    if text is None:
        return None
    if not (_NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text)):
        raise ValueError(f"{where}: column {column}: {text!r} is not a number")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{where}: column {column}: {text!r} is not finite; leave the cell empty if there is no label")
    return number


def _index(where: str, row: Row, column: str) -> int | None:
    text = _text(where, row, column)
    if text is None:
        return None
    if not _WHOLE.fullmatch(text.removesuffix(".0")):
        raise ValueError(f"{where}: column {column}: {text!r} is not a whole number from 0 on")
    return int(text.removesuffix(".0"))


def _split(where: str, row: Row, column: str) -> str | None:
    text = _text(where, row, column)
    if text is None:
        return None
    if text.lower() not in SPLIT_NAMES:
        raise ValueError(f"{where}: column {column}: {text!r} is not a split; expected {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[text.lower()]


def check_media(where: str | Path, clips: Iterable[Clip]) -> None:
    """Check that the media files of clips exist.

    Raises:
        FileNotFoundError: with the number of missing files, and the first three with their clips.
    """
    named = [(clip.id, path) for clip in clips for path in (clip.video, clip.audio) if path is not None]
    missing = [f"{path} (clip {clip_id})" for clip_id, path in named if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{where}: {len(missing)} of {len(named)} media files do not exist: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}; add them, or use the text alone"
        )
