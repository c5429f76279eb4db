"""Reads the label tables of CMU-MOSI, CMU-MOSEI and CH-SIMS, and finds each row's media file. Opens no media.

The table is `<root>/label.csv` (or `meta.csv`) in the format of the MMSA toolkit. Media are in
`Raw/<video_id>/<clip_id>.mp4`, or as distributed by CMU in `Raw/Video(s)/Segmented[/Combined]/<video_id>_<clip_id>.mp4`
with transcripts in `Raw/Transcript/Segmented[/Combined]`.
"""

import io
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from .clip import SPLIT_NAMES, Clip
from .tables import by_column, read_csv_lines, read_text

TABLE_NAMES = ("label.csv", "meta.csv")
UNIMODAL = ("label_T", "label_A", "label_V")
MMSA_ORDER = ("video_id", "clip_id", "text", "label", *UNIMODAL, "annotation", "mode")
MOSEI_ORDER = ("video_id", "clip_id", "text", "label", "annotation", "mode", *UNIMODAL)
REQUIRED = ("video_id", "clip_id", "label", "mode")
SYNONYMS = {"split": "mode", "happy": "happiness", "sad": "sadness"}  # of column names
NO_MORE: Mapping[str, tuple[float, float]] = MappingProxyType({})
CMU_FOLDERS = (
    "Raw/Video/Segmented",
    "Raw/Videos/Segmented",
    "Raw/Video/Segmented/Combined",
    "Raw/Videos/Segmented/Combined",
)
TRANSCRIPT_FOLDERS = ("Raw/Transcript/Segmented", "Raw/Transcript/Segmented/Combined")
COLUMNS = {
    **dict.fromkeys(("id", "text", "video", "audio"), "string"),
    "label": "float64",
    **dict.fromkeys(("split", "video_id"), "string"),
    "clip_index": "int64",
    **dict.fromkeys(UNIMODAL, "float64"),
}

_MOSEI_LINE = re.compile(r"(?P<video>.+?)___(?P<clip>\d+)___(?P<start>[\d.]+)___(?P<end>[\d.]+)___(?P<text>.*)")
_MOSI_LINE = re.compile(r"(?P<clip>\d+)_DELIM_(?P<text>.*)")


@dataclass(frozen=True)
class TableRow:
    """One row of a label table.

    Attributes:
        clip: `id` is `<video_id>_<clip_id>`; `video` is the absolute path of its file, None if there is none;
            `clip_index` is the clip id as a number, None if it is not one.
        clip_id: as in the table, leading zeros included.
        unimodal: labels of text, audio and video alone, None if the table has none.
        line: line of the table where the row starts, counted from 1.
        further: labels of the data set's other targets, by name; None if the table has none.
    """

    clip: Clip
    clip_id: str
    unimodal: tuple[float | None, float | None, float | None]
    line: int
    further: Mapping[str, float | None] = field(default_factory=dict, kw_only=True)

    @property
    def video_id(self) -> str:
        """The video id of the clip; every row of a label table has one."""
        return self.clip.video_id or ""

    @property
    def labels(self) -> dict[str, float | None]:
        """All labels by the name of their target."""
        return {"label": self.clip.label, **dict(zip(UNIMODAL, self.unimodal, strict=True)), **self.further}

    def to_dict(self) -> dict[str, str | float | int | None]:
        """The row with the keys of COLUMNS and of `further`."""
        values = {**self.clip.to_dict(), **self.labels}
        return {name: values[name] for name in (*COLUMNS, *self.further)}


@dataclass(frozen=True)
class Defect:
    """Something wrong with a row, a clip or a file.

    Attributes:
        kind: one of a few fixed words, such as `duplicate id`.
        outcome: `kept`, `repaired` or `left out`, or `not in the table` for media without a row.
        reason: what is wrong and where.
        id, split, path: the clip, its split and its file, if known.
    """

    kind: str
    outcome: str
    reason: str
    id: str | None = None
    split: str | None = None
    path: str | None = None


def refuse(defect: Defect) -> None:
    """Raise a defect as ValueError; the default of `read_table`."""
    raise ValueError(defect.reason)


def read_table(
    root: str | Path,
    *,
    label_range: tuple[float, float],
    further: Mapping[str, tuple[float, float]] = NO_MORE,
    with_media: bool = True,
    on_defect: Callable[[Defect], None] = refuse,
) -> list[TableRow]:
    """The rows of a label table, grouped by video and sorted by clip index.

    With or without a header (then in the order of MMSA or of its MOSEI file), with or without a BOM, LF or CRLF,
    quoted commas and line breaks. Ids stay strings. Missing texts are taken from the CMU transcripts, if present.

    Args:
        root: the folder with the table and Raw/.
        label_range: lowest and highest label; one outside is a defect.
        further: lowest and highest label of other targets, by the name of their columns, which the table may lack.
        with_media: `False` ignores media and leaves `video` unset.
        on_defect: called for each row with a duplicate id, a label that is missing, not a number or out of range, or no
            split. Such a row is left out; if only a unimodal or further label is defective, it is unset and the row kept. By
            default it raises.

    Raises:
        FileNotFoundError: without a root or a table.
        ValueError: naming file, line and column, for anything else that cannot be read, and for an id or a link that
            leads outside the root.
    """
    table = find_table(root)
    media = MediaFiles(root) if with_media else None
    transcripts = _Transcripts(Path(root))
    rows: dict[str, TableRow] = {}
    further = {name: bounds for name, bounds in further.items() if name not in UNIMODAL}
    for line, cells in _cells(table, further):
        row = _table_row(table, line, cells, label_range, further, on_defect)
        if row is None:
            continue
        clip = row.clip
        if clip.id in rows:
            where = f"{table}, line {line}: columns video_id and clip_id"
            reason = f"{where}: {clip.id!r} is already in line {rows[clip.id].line}; the first is used"
            on_defect(Defect("duplicate id", "left out", reason, clip.id, clip.split))
            continue
        text = clip.text or transcripts.text(row.video_id, row.clip_id)
        video = None if media is None else media.find(row.video_id, row.clip_id)
        rows[clip.id] = replace(row, clip=replace(clip, text=text, video=video))
    if not rows:
        raise ValueError(f"{table}: the table has no usable rows")
    return _in_order(list(rows.values()))


def find_table(root: str | Path) -> Path:
    """The label table of a root.

    Raises:
        FileNotFoundError: when the root or the table is missing.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected one with label.csv and Raw/")
    for name in TABLE_NAMES:
        if (Path(root) / name).is_file():
            return Path(root) / name
    raise FileNotFoundError(
        f"{root}: expected {' or '.join(TABLE_NAMES)} in this folder, with columns {', '.join(MMSA_ORDER)};"
        " it has the labels and splits"
    )


class MediaFiles:
    """The mp4 files under a root's Raw/, listed once, by (video_id, clip_id).

    Raises:
        ValueError: for a link that leads outside the root.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.is_cmu = any((self.root / name).is_dir() for name in CMU_FOLDERS)
        self.paths: dict[tuple[str, str], str] = {}
        self.folders: set[str] = set()
        self._bounds = os.path.realpath(self.root)
        if self.is_cmu:
            for name in CMU_FOLDERS:
                self._list_cmu(self.root / name)
        else:
            self._list_mmsa(self.root / "Raw")

    def find(self, video_id: str, clip_id: str) -> str | None:
        """Absolute path of a clip's file; None when there is none."""
        return self.paths.get((video_id, clip_id))

    def path(self, video_id: str, clip_id: str) -> str:
        """Absolute path of a clip's file, or of where it should be."""
        return self.find(video_id, clip_id) or str(self.root / self.expected_path(video_id, clip_id))

    def expected_path(self, video_id: str, clip_id: str) -> str:
        """Where the file of a clip should be, relative to the root."""
        if not self.is_cmu:
            return f"Raw/{video_id}/{clip_id}.mp4"
        folder = next(name for name in CMU_FOLDERS if (self.root / name).is_dir())
        return f"{folder}/{video_id}_{clip_id}.mp4"

    def _list_mmsa(self, raw: Path) -> None:
        for folder in self._entries(raw):
            if folder.is_dir():
                self.folders.add(folder.name)
                for entry in self._entries(folder.path):
                    if entry.name.endswith(".mp4"):
                        self.paths[folder.name, entry.name.removesuffix(".mp4")] = entry.path

    def _list_cmu(self, folder: Path) -> None:
        for entry in self._entries(folder):
            video_id, _, clip_id = entry.name.removesuffix(".mp4").rpartition("_")
            if entry.name.endswith(".mp4") and video_id:
                self.folders.add(video_id)
                self.paths[video_id, clip_id] = entry.path

    def _entries(self, folder: str | Path) -> list[os.DirEntry]:
        if not os.path.isdir(folder):
            return []
        self._check_inside(os.fspath(folder))
        with os.scandir(folder) as unsorted:
            entries = sorted(unsorted, key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_symlink():
                self._check_inside(entry.path)
        return entries

    def _check_inside(self, path: str) -> None:
        target = os.path.realpath(path)
        if os.path.commonpath([target, self._bounds]) != self._bounds:
            raise ValueError(
                f"{path}: leads outside the root {self.root} (to {target}); give the folder that contains the"
                " media as root"
            )


class _Transcripts:
    """Texts from CMU's transcript files, read when the first one of a video is needed."""

    def __init__(self, root: Path) -> None:
        self.folders = [root / name for name in TRANSCRIPT_FOLDERS if (root / name).is_dir()]
        self._texts: dict[str, dict[str, str]] = {}

    def text(self, video_id: str, clip_id: str) -> str | None:
        if video_id not in self._texts:
            self._texts[video_id] = {}
            for folder in self.folders:
                for path in (folder / f"{video_id}.txt", folder / f"{video_id}.annotprocessed"):
                    if path.is_file():
                        self._texts[video_id] |= dict(read_transcript(path))
        return self._texts[video_id].get(clip_id.lstrip("0") or "0")


def read_transcript(path: str | Path) -> Iterator[tuple[str, str]]:
    """Clip number (without leading zeros) and text of each line: `id___clip___start___end___text` or `clip_DELIM_text`.

    Raises:
        ValueError: naming file, line and column, for a line in neither format, or of another video.
    """
    path = Path(path)
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), 1):
        if not line.strip():
            continue
        match = _MOSEI_LINE.fullmatch(line.strip()) or _MOSI_LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(
                f"{path}, line {number}, column 1: expected id___clip___start___end___text, found {line[:60]!r}"
            )
        if match.groupdict().get("video", path.stem) != path.stem:
            raise ValueError(f"{path}, line {number}, column 1: expected video {path.stem!r}, found {match['video']!r}")
        yield match["clip"].lstrip("0") or "0", match["text"].strip()


def _cells(table: Path, further: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column name of every row."""
    order: Sequence[str] | None = None
    for line, raw in read_csv_lines(table):
        cells = [cell.strip() for cell in raw]
        if cells == [""]:
            continue
        if order is None:
            order = _header(table, line, cells, further)
            if order is not None:
                continue
            order = _headerless_order(table, line, cells)
        row = by_column(table, line, order, cells)
        for name, cell in row.items():
            if "\0" in cell:
                raise ValueError(f"{table}, line {line}, column {name}: contains a NUL byte; the file is damaged")
        yield line, row
    if order is None:
        raise ValueError(f"{table}, line 1, column 1: expected {', '.join(MMSA_ORDER)}, found an empty file")


def _header(table: Path, line: int, cells: Sequence[str], further: Collection[str]) -> list[str] | None:
    """Column names in the table's order, or None if the first row is not a header."""
    known = (*MMSA_ORDER, *further)
    columns = {name.lower(): name for name in known} | {word: name for word, name in SYNONYMS.items() if name in known}
    if not {"video_id", "clip_id"} & {cell.lower() for cell in cells}:
        return None
    names = []
    for column, cell in enumerate(cells, 1):
        name = columns.get(cell.lower())
        if name is None:
            raise ValueError(
                f"{table}, line {line}, column {column}: unknown column {cell!r}; expected {', '.join(known)}"
            )
        if name in names:
            raise ValueError(f"{table}, line {line}, column {column}: column {cell!r} appears twice")
        names.append(name)
    for name in REQUIRED:
        if name not in names:
            raise ValueError(f"{table}, line {line}, column {name}: missing; found {', '.join(names)}")
    return names


def _headerless_order(table: Path, line: int, cells: Sequence[str]) -> Sequence[str]:
    if len(cells) == len(MMSA_ORDER):
        for order in (MMSA_ORDER, MOSEI_ORDER):
            if cells[order.index("mode")].lower() in SPLIT_NAMES:
                return order
    raise ValueError(
        f"{table}, line {line}, column 1: neither a header nor a row of {len(MMSA_ORDER)} columns with train,"
        " valid or test in column 9 or 6;"
        f" expected {', '.join(MMSA_ORDER)}"
    )


def _table_row(
    table: Path,
    line: int,
    cells: Mapping[str, str],
    label_range: tuple[float, float],
    further: Mapping[str, tuple[float, float]],
    on_defect: Callable[[Defect], None],
) -> TableRow | None:
    """The row, or None if it is left out because of a defect."""
    video_id, clip_id = (_safe_id(table, line, column, cells[column]) for column in ("video_id", "clip_id"))
    row_id = f"{video_id}_{clip_id}"
    split = None
    if cells["mode"]:
        split = SPLIT_NAMES.get(cells["mode"].lower())
        if split is None:
            raise ValueError(
                f"{table}, line {line}, column mode: {cells['mode']!r} is not a split; expected"
                f" {', '.join(SPLIT_NAMES)}"
            )

    def number(column: str, outcome: str) -> float | None:
        value, wrong = _label(cells[column], further.get(column, label_range))
        if wrong is not None:
            kind, what = wrong
            on_defect(Defect(kind, outcome, f"{table}, line {line}, column {column}: {what}", row_id, split))
        return value

    label = number("label", "left out")
    text, audio, video = (number(column, "repaired") if cells.get(column) else None for column in UNIMODAL)
    others = {column: number(column, "repaired") if cells.get(column) else None for column in further}
    if label is None:
        return None
    if split is None:
        where = f"{table}, line {line}, column mode"
        on_defect(Defect("no split", "left out", f"{where}: empty; expected train, valid or test", row_id))
        return None
    index = int(clip_id) if clip_id.isascii() and clip_id.isdecimal() and len(clip_id) < 19 else None
    clip = Clip(row_id, cells.get("text") or None, None, None, label, split, video_id, index)
    return TableRow(clip, clip_id, (text, audio, video), line, further=others)


def _safe_id(table: Path, line: int, column: str, value: str) -> str:
    if not value:
        raise ValueError(f"{table}, line {line}, column {column}: empty; every clip needs one")
    if value in (".", "..") or re.search(r"[/\\:]", value):
        raise ValueError(
            f"{table}, line {line}, column {column}: {value!r} is refused: an id must be a plain file or folder name"
        )
    return value


def _label(text: str, label_range: tuple[float, float]) -> tuple[float | None, tuple[str, str] | None]:
    """A label, or None with the kind and description of the defect."""
    low, high = label_range
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        return None, ("label not a number", f"expected a number from {low:g} to {high:g}, found {text!r}")
    if not low <= value <= high:
        return None, ("label out of range", f"expected {low:g} to {high:g}, found {text}")
    return value + 0.0, None


def _in_order(rows: Sequence[TableRow]) -> list[TableRow]:
    """Videos in the order of their first row, clips by index, those without an index last."""
    first: dict[str, int] = {}
    for at, row in enumerate(rows):
        first.setdefault(row.video_id, at)

    def place(row: TableRow) -> tuple:
        index = row.clip.clip_index
        return first[row.video_id], index is None, index or 0, row.clip_id

    return sorted(rows, key=place)
