"""Reads any table of clips: CSV, JSONL, Parquet, xlsx, a folder with one of them, a data set of `datasets`. Opens no media.

Two kinds of tables are recognised by their header: this project's (any of id, text, video, audio, label, split, ...) and the MMSA
layout's (video_id, clip_id, text, label, mode, ...; media in Raw/<video_id>/<clip_id>.mp4). `TableOptions` says how another
table is read; `columns` finds which column is used for what.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .catalog import LABEL
from .cells import WHOLE, Row, index_of, number_of, split_of, text_of, weight_of
from .clip import Clip, Rating, rater_mae
from .columns import SAMPLE, Columns, Table, find_columns
from .saved_sets import HUB, hub_table, media_path, saved_table
from .table_options import FIELDS, TableOptions
from .tables import WrongEncoding, encoding_of, read_rows, readable_endings, separator_of

_SEPARATOR_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


def read_clips(
    path: str | Path,
    *,
    options: TableOptions = TableOptions(),  # noqa: B008 (frozen)
    with_media: bool = True,
    missing_ok: bool = False,
    needs_labels: bool = False,
) -> list[Clip]:
    """The clips of a table, in its order.

    Ids are strings as they are written, leading zeros included; without a column of ids they are the numbers of the rows, from 1.
    Empty cells are `None`, and unknown columns are ignored.

    Args:
        path: a table; a folder that holds clips.csv, clips.jsonl, clips.parquet, clips.xlsx or label.csv; a folder that
            `datasets` saved; or `hf://datasets/OWNER/NAME` on the Hub.
        options: how the table is read.
        with_media: `False` leaves media paths out, for work on the text alone.
        missing_ok: `True` keeps paths of missing files, for a caller that reports them itself.
        needs_labels: `True` refuses a table without a column for the target `label`; other targets are always needed.

    Returns:
        Clips with absolute media paths; relative paths in the table start at its folder.

    Raises:
        FileNotFoundError: when the table, or media that it names, does not exist.
        OSError: when a data set of the Hub cannot be loaded.
        ValueError: naming file, line and column, for an invalid cell or row; for a table that cannot be used, with a proposal.
    """
    table = open_table(path, options)
    return clips_of(table, find_columns(table, options, needs_labels=needs_labels), options, with_media, missing_ok)


def open_table(path: str | Path, options: TableOptions) -> Table:
    """A table, with its header.

    Raises: as `read_clips`.
    """
    if str(path).startswith(HUB):
        return hub_table(str(path), options)
    found = _find_table(Path(path))
    return saved_table(found, options) if found.is_dir() else _file(found, options)


def clips_of(table: Table, columns: Columns, options: TableOptions, with_media: bool, missing_ok: bool) -> list[Clip]:
    """The clips of a table whose columns are known; see `read_clips`."""
    ids = "video_id and clip_id" if columns.is_mmsa else columns.used.get("id", "id")
    unused = set() if with_media else {columns.used.get(name) for name in ("video", "audio")}
    clips: dict[str, Clip] = {}
    for number, (where, row, part) in enumerate(table.rows(columns.headers - unused), 1):
        cells = _Cells(where, row, columns, options)
        read = _mmsa_clip if columns.is_mmsa else _own_clip
        clip = read(cells, number, part, table.root if with_media else None)
        if clip.id in clips:
            raise ValueError(f"{where}: column {ids}: {clip.id!r} appears twice; ids must be unique")
        clips[clip.id] = clip
    if not clips:
        raise ValueError(f"{table.name}: the table has no clips")
    if with_media and not missing_ok:
        check_media(table.name, clips.values())
    return list(clips.values())


def _find_table(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such table or folder")
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return path
    names = [*(f"clips{ending}" for ending in readable_endings()), "label.csv"]
    for name in names:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path}: expected one of {', '.join(names)} or a built data set in this folder")


def _file(path: Path, options: TableOptions) -> Table:
    unique = (
        None if options.raters else {*FIELDS, *options.targets, *(name.strip() for name in options.columns.values())}
    )
    try:
        rows = list(read_rows(path, unique, encoding=options.encoding))
    except WrongEncoding as error:
        hint = "another encoding, such as cp1252" if options.encoding else "its encoding, such as encoding: latin-1"
        raise ValueError(f"{error}, or give {hint}") from error
    if not rows:
        raise ValueError(f"{path}: the table has no clips; expected a header and a row for each clip")
    header = tuple(dict.fromkeys(name for _, row in rows for name in row))
    return Table(
        str(path),
        _kind(path, options),
        path.parent,
        header,
        sample=lambda: [row for _, row in rows[:SAMPLE]],
        rows=lambda _: ((*row, None) for row in rows),
    )


def _kind(path: Path, options: TableOptions) -> str:
    """The format of a file, in words."""
    ending = path.suffix.lower()
    if ending != ".csv":
        return {".jsonl": "JSONL", ".parquet": "Parquet", ".xlsx": "Excel workbook, first sheet"}.get(ending, ending)
    with path.open("rb") as file:
        encoding = encoding_of(file.read(3), options.encoding)
    with path.open(encoding=encoding, newline="") as text:
        separator = separator_of(text)
    name = encoding.removesuffix("-sig")
    return f"CSV, {name.upper() if name.startswith('utf') else name}, separated by {_SEPARATOR_NAMES[separator]}s"


@dataclass(frozen=True)
class _Cells:
    """The cells of a row by our names."""

    where: str
    row: Row
    columns: Columns
    options: TableOptions

    def text(self, name: str) -> str | None:
        return text_of(self.where, self.row, self.columns.used.get(name))

    def number(self, name: str) -> float | None:
        return number_of(self.where, self.row, self.columns.used.get(name), self.options.decimal)

    def weight(self) -> float | None:
        return weight_of(self.where, self.row, self.columns.used.get("sample_weight"), self.options.decimal)

    def index(self, name: str) -> int | None:
        return index_of(self.where, self.row, self.columns.used.get(name))

    def split(self, name: str, part: str | None) -> str | None:
        """The split of the cell, or else of the part of a data set that the row is in."""
        cell = split_of(self.where, self.row, self.columns.used.get(name))
        return cell or split_of(self.where, {"split": part}, "split")

    def media(self, name: str, root: Path | None) -> str | None:
        """The absolute path of a file; `None` without a root."""
        if root is None:
            return None
        value = self.row.get(self.columns.used.get(name, ""))
        if isinstance(value, dict) and value.keys() == {"path", "bytes"}:
            return media_path(value, root, name)
        path = self.text(name)
        return None if path is None else str((root / path).absolute())

    def ratings(self) -> tuple[Rating, ...]:
        """Those of all targets, in their order; one without a label if there is no target."""
        return tuple(self._rating(at, target) for at, target in enumerate(self.options.targets)) or (Rating(),)

    def _rating(self, at: int, target: str) -> Rating:
        headers = self.columns.raters.get(target)
        if headers:
            single = [number_of(self.where, self.row, header, self.options.decimal) for header in headers]
            ratings = np.array([one for one in single if one is not None])
            if len(ratings) < 2:
                return Rating(float(ratings[0]) if len(ratings) else None)
            return Rating(float(ratings.mean()), rater_mae(ratings), float(ratings.std()))
        # One column for all targets says nothing of those after the first.
        is_its_own = at == 0 and (len(self.options.targets) == 1 or target == LABEL)
        agreement = [self.number(name) if is_its_own else None for name in ("rater_mae", "label_sd")]
        return Rating(self.number(target), *agreement)


def _own_clip(cells: _Cells, number: int, part: str | None, root: Path | None) -> Clip:
    clip_id = cells.text("id") if "id" in cells.columns.used else str(number)
    if clip_id is None:
        raise ValueError(f"{cells.where}: column {cells.columns.used['id']} is empty; every clip needs one")
    first, *further = cells.ratings()
    return Clip(
        id=clip_id,
        text=cells.text("text"),
        video=cells.media("video", root),
        audio=cells.media("audio", root),
        split=cells.split("split", part),
        video_id=cells.text("video_id"),
        clip_index=cells.index("clip_index"),
        genre=cells.text("genre"),
        speaker=cells.text("speaker"),
        weight=cells.weight(),
        further=tuple(further),
        **asdict(first),
    )


def _mmsa_clip(cells: _Cells, number: int, part: str | None, root: Path | None) -> Clip:
    video_id, clip_id = cells.text("video_id"), cells.text("clip_id")
    if video_id is None or clip_id is None:
        raise ValueError(f"{cells.where}: columns video_id and clip_id must not be empty")
    first, *further = cells.ratings()
    return Clip(
        id=f"{video_id}_{clip_id}",
        text=cells.text("text"),
        video=None if root is None else str((root / "Raw" / video_id / f"{clip_id}.mp4").absolute()),
        split=cells.split("mode" if "mode" in cells.columns.used else "split", part),
        video_id=video_id,
        clip_index=int(clip_id) if WHOLE.fullmatch(clip_id) else None,
        speaker=cells.text("speaker"),
        weight=cells.weight(),
        further=tuple(further),
        **asdict(first),
    )


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
