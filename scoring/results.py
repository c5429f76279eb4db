"""Writes rows of scores so that an interrupted command resumes: appended to NAME.part, and converted to a table at the end.

What is appended at once is a batch of rows: those of a window of clips, which may take several forward passes.

NAME.part has one line per batch, with a digest of what each row depends on. An interrupted command resumes from it, even after a
power cut: only batches that are missing, or that have a changed clip, are scored. Each of several processes writes its own file,
NAME.part-RANK. Before results are written under their final names, a last line names these files: those that are then there may be
the command's own, and resuming replaces them.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from ..data.catalog import LABEL
from ..data.tables import check_ending, write_table
from .part_file import PartFile
from .processes import Process

VERSION = 5  # raise when the format of lines changes
WRITTEN = "written"  # key of a line with the files that are about to be written


def row_columns(
    interval: float | None = None,
    targets: Sequence[str] = (LABEL,),
    *,
    zero_shot: bool = False,
    about: bool = False,
    explained: bool = False,
) -> dict[str, type]:
    """Columns of the rows of a file, with their types; see `score_columns`.

    Zero-shot scores have two more: `readout`, which says so in every row, and `legal_mass`, the probability of all answers. With
    `about`, there is what a model says of itself, and with `explained`, an explanation of each score, which only JSON can hold.
    """
    rest: dict[str, type] = {"seconds": float, "text": str, "warning": str, "error": str}
    if zero_shot:
        rest = {"readout": str, "legal_mass": float, **rest}
    rest |= {"about": str} if about else {}
    rest |= {"explanation": dict} if explained else {}
    return score_columns(targets, {"id": str}, rest, interval)


def score_columns(
    targets: Sequence[str], before: Mapping[str, type], after: Mapping[str, type], interval: float | None = None
) -> dict[str, type]:
    """Columns of a table with scores, with their types.

    The scores of one target have the columns `score` and `label`, with an interval also `low` and `high`; those of several one
    column each, with the name of the target, and with an interval also `NAME_low` and `NAME_high`.

    Args:
        targets: their names.
        before: the columns to the left of the scores.
        after: the columns to their right.
        interval: a level such as 0.9.

    Raises:
        ValueError: for a target with the name of another column.
    """
    ends = () if interval is None else ("low", "high")
    if len(targets) == 1:
        return {**before, "score": float, **dict.fromkeys(ends, float), "label": str, **after}
    names = [column for name in targets for column in (name, *(f"{name}_{end}" for end in ends))]
    for name in names:
        if name in before or name in after or names.count(name) > 1:
            raise ValueError(
                f"the bundle's targets are {', '.join(targets)}, but the table has another column {name!r}; rename the target"
                " in the bundle's config.json"
            )
    return {**before, **dict.fromkeys(names, float), **after}


def score_names(targets: Sequence[str]) -> list[str]:
    """The columns of the scores themselves, one for each target."""
    return ["score"] if len(targets) == 1 else list(targets)


def label_of(row: Mapping[str, Any], targets: Sequence[str]) -> str | None:
    """The label of a row's score; `None` with several targets, of which one may be called `label`."""
    return row.get("label") if len(targets) == 1 else None


def interval_of(row: Mapping[str, Any], targets: Sequence[str], place: int) -> tuple[float, float] | None:
    """The ends of the interval of a target's score, if the row has one."""
    prefix = "" if len(targets) == 1 else f"{targets[place]}_"
    low, high = row.get(f"{prefix}low"), row.get(f"{prefix}high")
    return None if low is None or high is None else (low, high)


def score_cells(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result of the pipeline by the names of `score_columns`."""
    if "scores" not in result:
        return dict(result)
    ends = {f"{name}_{end}": value for end in ("low", "high") for name, value in result.get(end, {}).items()}
    rest = {name: value for name, value in result.items() if name not in ("scores", "low", "high")}
    return {**result["scores"], **ends, **rest}


def part_path(out: Path, process: Process) -> Path:
    """Where a process saves its rows of a table."""
    suffix = "" if process.world_size == 1 else f"-{process.rank}"
    return out.with_name(f"{out.name}.part{suffix}")


def own_files(out: Path, process: Process = Process()) -> frozenset[str]:  # noqa: B008 (frozen)
    """The paths of the files that an interrupted command for this table was writing: one that is there may be its own."""
    start = f'{{"{WRITTEN}":'.encode()
    try:
        with open(part_path(out, replace(process, rank=0)), "rb") as lines:
            entries = [json.loads(line) for line in lines if line.startswith(start) and line.endswith(b"\n")]
    except FileNotFoundError:
        return frozenset()
    return frozenset(path for entry in entries for path in entry[WRITTEN])


def refuse_existing(path: Path, own: Collection[str], option: str = "--out") -> None:
    """Refuse to overwrite a file of others.

    Args:
        path: where a file is to be written.
        own: see `own_files`.
        option: which says where.

    Raises:
        FileExistsError: when it is there.
    """
    if path.exists() and os.path.abspath(path) not in own:
        raise FileExistsError(f"{path} already exists; replace it with --overwrite, or give another {option}")


@dataclass(frozen=True)
class Source:
    """What a row depends on: the clip's id, and a digest of its transcript, its files and the bundle."""

    id: str
    digest: str


class ResumableWriter:
    """Saves rows batch by batch, and converts them to a table when all are there.

    Args:
        out: the table to write; its suffix selects CSV, JSONL or Parquet.
        settings: what all rows depend on; a part file with other settings is refused, naming the first that differs.
        batches: the sources of this process's rows, batch by batch.
        columns: of the rows, with their types.
        process: with world size W, rank r has the batches r, r + W, r + 2 W, ...
        overwrite: `out` may exist, and is replaced by `finish`.
        aside: further cells of rows, with text, that are saved with them, but are not in the table.

    Attributes:
        missing: numbers of the batches that are still to be scored, ascending.
        changed: how many saved rows are outdated because their clip changed.

    Raises:
        ValueError: for an unsupported suffix, or a part file of other clips or settings.
        FileExistsError: when `out` already exists, unless it may be overwritten, or may be the command's own, see `own_files`.
    """

    def __init__(
        self,
        out: str | os.PathLike,
        settings: Mapping[str, Any],
        batches: Sequence[Sequence[Source]],
        columns: Mapping[str, type],
        process: Process = Process(),  # noqa: B008 (frozen)
        *,
        overwrite: bool = False,
        aside: Sequence[str] = (),
    ) -> None:
        self.out, self.batches, self.columns, self.process = Path(out), batches, columns, process
        self.aside = tuple(aside)
        check_ending(self.out)
        if not overwrite:
            refuse_existing(self.out, own_files(self.out, process))
        self.path = self._path(process.rank)
        header = {"journal": VERSION, **settings, "processes": process.world_size}
        if process.world_size > 1:  # the first one reads the rows of all
            header["batches"] = len(batches)
        self._file = PartFile(self.path, header)
        kept = {entry["batch"]: entry["made of"] for entry in self._file.entries() if "batch" in entry}
        current = [[source.digest for source in batch] for batch in batches]
        self.missing = [number for number, digests in enumerate(current) if kept.get(number) != digests]
        self.changed = sum(
            before != now
            for number in self.missing
            for before, now in zip(kept.get(number, ()), current[number], strict=False)
        )

    @property
    def kept(self) -> int:
        """Number of saved rows that were up to date when the file was opened."""
        return sum(map(len, self.batches)) - sum(len(self.batches[number]) for number in self.missing)

    def add(self, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Save the rows of a batch; they are on disk when this returns.

        Raises:
            ValueError: for rows of other clips, or in another order.
        """
        expected, given = [source.id for source in self.batches[number]], [row["id"] for row in rows]
        if given != expected:
            raise ValueError(f"{self.out}: expected rows of the clips {expected}, got those of {given}; none is saved")
        kept = [{name: row.get(name) for name in (*self.columns, *self.aside)} for row in rows]
        digests = [source.digest for source in self.batches[number]]
        self._file.add({"batch": number, "made of": digests, "rows": kept})

    def start_finishing(self, beside: Iterable[Path] = ()) -> None:
        """Save that the table, and files beside it, are about to be written, before any is; only the first process does so."""
        self._file.add({WRITTEN: list(map(os.path.abspath, (self.out, *beside)))})

    def finish(self, *, line_end: str = "\r\n") -> None:
        """Write the table atomically from the part files of all processes, and remove these, the one that says so last; only the
        first process does so, after `start_finishing`.

        Args:
            line_end: of a CSV.
        """
        rows = ([row[name] for name in self.columns] for row in self.rows())
        write_table(self.out, self.columns, rows, line_end=line_end)
        self.close()
        for rank in reversed(range(self.process.world_size)):
            self._path(rank).unlink()

    def close(self) -> None:
        """Close the part file."""
        self._file.close()

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of all processes, in order; of a batch that was scored twice, the later rows.

        Raises:
            ValueError: when a batch is missing.
        """
        with ExitStack() as opened:
            files = [opened.enter_context(open(self._path(rank), "rb")) for rank in range(self.process.world_size)]
            headers = [json.loads(file.readline()) for file in files]
            batches = sum(header["batches"] for header in headers) if len(files) > 1 else len(self.batches)
            offsets = [_batch_offsets(file) for file in files]
            for number in range(batches):
                rank, batch = number % len(files), number // len(files)
                if batch not in offsets[rank]:
                    raise ValueError(f"{self._path(rank)}: batch {batch} is missing; start the command again")
                files[rank].seek(offsets[rank][batch])
                yield from json.loads(files[rank].readline())["rows"]

    def _path(self, rank: int) -> Path:
        return part_path(self.out, replace(self.process, rank=rank))


def _batch_offsets(file: BinaryIO) -> dict[int, int]:
    """Offset in a part file of the last line of each batch."""
    file.seek(0)
    offsets, offset = {}, len(file.readline())
    for line in file:
        entry = json.loads(line)
        if "batch" in entry:
            offsets[entry["batch"]] = offset
        offset += len(line)
    return offsets
