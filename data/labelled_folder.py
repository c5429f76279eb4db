"""Reads any table of clips: CSV, JSONL, Parquet, a folder with one of them, or a built data set. Opens no media.

Two kinds of columns are known by their header: this project's (id, text, video, audio, label, split, video_id, clip_index) and the
MMSA layout's (video_id, clip_id, text, label, mode, ...; media in Raw/<video_id>/<clip_id>.mp4).
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, DatasetDict, load_from_disk

from .clip import Clip

TABLES = ("clips.csv", "clips.jsonl", "clips.parquet", "label.csv")
SPLIT_NAMES = {name: name for name in ("train", "valid", "test")} | {"val": "valid", "validation": "valid", "dev": "valid"}
OWN_COLUMNS = {"id"}
MMSA_COLUMNS = {"video_id", "clip_id", "text", "label"}


def read_clips(path: str | Path, *, with_media: bool = True) -> list[Clip]:
    """The clips of a table, in its order.

    Args:
        path: a table; a folder that holds clips.csv, clips.jsonl, clips.parquet or label.csv; or a folder that `datasets` saved.
        with_media: `False` leaves media paths out, for work on the text alone.

    Raises:
        FileNotFoundError: when the table, or media that it names, does not exist.
        ValueError: naming file, line and column, for what cannot be read as a clip.
    """
    table = _find_table(Path(path))
    rows = list(_rows(table))
    if not rows:
        raise ValueError(f"{table}: the table has no clips")
    columns = set(rows[0][1])
    if OWN_COLUMNS <= columns:
        read = _own_clip
    elif columns >= MMSA_COLUMNS:
        read = _mmsa_clip
    else:
        raise ValueError(
            f"{table}: unknown columns {', '.join(sorted(columns))}; expected id, text, video, audio, label, split,"
            " or video_id, clip_id, text, label, mode"
        )
    root = table if table.is_dir() else table.parent
    clips: dict[str, Clip] = {}
    for where, row in rows:
        clip = read(where, row, root, with_media)
        if clip.id in clips:
            raise ValueError(f"{where}: column id: {clip.id!r} stands there twice; ids must be unique")
        clips[clip.id] = clip
    if with_media:
        _check_media(table, clips)
    return list(clips.values())


def _find_table(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such table or folder")
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return path
    for name in TABLES:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path}: expected one of {', '.join(TABLES)} or a built data set in this folder")


def _rows(table: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with the words that say where it stands; every value a string, but for those of typed tables."""
    if table.is_dir():
        saved = load_from_disk(str(table))
        parts = saved if isinstance(saved, DatasetDict) else {None: saved}
        for split, part in parts.items():
            for number, row in enumerate(_plain(part), 1):
                yield f"{table}, row {number}", row if row.get("split") or split is None else {**row, "split": split}
        return
    try:
        if table.suffix == ".parquet":
            frame = pd.read_parquet(table)
        elif table.suffix in (".jsonl", ".json"):
            frame = pd.read_json(table, lines=True, dtype=False, convert_dates=False)
        else:
            frame = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{table} cannot be read as a table: {error}") from error
    first = 2 if table.suffix == ".csv" else 1
    for number, row in enumerate(frame.to_dict("records"), first):
        yield f"{table}, line {number}", {str(key).strip(): value for key, value in row.items()}


def _plain(part: Dataset) -> Iterator[dict[str, Any]]:
    yield from part


def _own_clip(where: str, row: Mapping[str, Any], root: Path, with_media: bool) -> Clip:
    clip_id = _text(row, "id")
    if clip_id is None:
        raise ValueError(f"{where}: column id is empty; every clip needs one")
    media = {name: _text(row, name) if with_media else None for name in ("video", "audio")}
    return Clip(
        id=clip_id,
        text=_text(row, "text"),
        label=_number(where, row, "label"),
        split=_split(where, row, "split"),
        video_id=_text(row, "video_id"),
        clip_index=_index(row, "clip_index"),
        **{name: None if path is None else str((root / path).absolute()) for name, path in media.items()},
    )


def _mmsa_clip(where: str, row: Mapping[str, Any], root: Path, with_media: bool) -> Clip:
    video_id, clip_id = _text(row, "video_id"), _text(row, "clip_id")
    if video_id is None or clip_id is None:
        raise ValueError(f"{where}: columns video_id and clip_id must not be empty")
    return Clip(
        id=f"{video_id}_{clip_id}",
        text=_text(row, "text"),
        video=str((root / "Raw" / video_id / f"{clip_id}.mp4").absolute()) if with_media else None,
        label=_number(where, row, "label"),
        split=_split(where, row, "mode"),
        video_id=video_id,
        clip_index=_index(row, "clip_id"),
    )


def _text(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).strip() or None


def _number(where: str, row: Mapping[str, Any], column: str) -> float | None:
    text = _text(row, column)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: column {column}: {text!r} is not a number")
    return value


def _index(row: Mapping[str, Any], column: str) -> int | None:
    text = _text(row, column)
    try:
        return None if text is None else int(float(text))
    except ValueError:
        return None


def _split(where: str, row: Mapping[str, Any], column: str) -> str | None:
    text = _text(row, column)
    if text is None:
        return None
    if text.lower() not in SPLIT_NAMES:
        raise ValueError(f"{where}: column {column}: {text!r} is not a split; expected train, valid or test")
    return SPLIT_NAMES[text.lower()]


def _check_media(table: Path, clips: Mapping[str, Clip]) -> None:
    missing = [p for c in clips.values() for p in (c.video, c.audio) if p is not None and not Path(p).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{table}: {len(missing)} media files do not exist, first {missing[0]}; put them there, or use the text alone"
        )
