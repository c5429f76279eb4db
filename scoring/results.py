"""Rows of scores on their way to a file: kept in a journal as they come, and turned into JSONL, CSV or Parquet at the end.

The journal lies beside the file as NAME.part, one line a batch, with what each row was made of. An interrupted command resumes from
it, even after a power cut: only batches that are missing, or that have a clip which changed since, are made. Several processes that
share the work keep one journal each.
"""

import csv
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

VERSION = 2  # raise when lines are written in another way
FORMATS = (".jsonl", ".csv", ".parquet")
_ROWS_AT_ONCE = 4096


def row_schema(interval: float | None = None) -> pa.Schema:
    """Columns of the rows of a file; with an interval also `low` and `high`."""
    bounds = [] if interval is None else [("low", pa.float64()), ("high", pa.float64())]
    names = ("label", "seconds", "text", "warning", "error")
    rest = [(name, pa.float64() if name == "seconds" else pa.string()) for name in names]
    return pa.schema([("id", pa.string()), ("score", pa.float64()), *bounds, *rest])


@dataclass(frozen=True)
class Source:
    """What a row is made of: the clip's id, and a digest of its words, its files and the bundle that scores it."""

    id: str
    digest: str


class Journal:
    """The rows of a file that is being made.

    Args:
        out: the file to make; its ending says which of JSONL, CSV and Parquet.
        about: what all rows depend on; a journal of something else is refused by the name of the first field that differs.
        batches: the sources of this process's rows, batch by batch.
        schema: of the rows.
        share: which process of how many this is; process p of P has the batches p, p + P, p + 2 P, ...

    Attributes:
        missing: numbers of the batches that are still to be made, ascending.
        changed: how many clips have a row that was made of something else.

    Raises:
        ValueError: for another ending, or a journal of other clips or settings.
        FileExistsError: when the file is there already.
    """

    def __init__(
        self,
        out: str | os.PathLike,
        about: Mapping[str, Any],
        batches: Sequence[Sequence[Source]],
        schema: pa.Schema,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.out, self.batches, self.schema, self.share = Path(out), batches, schema, share
        if self.out.suffix.lower() not in FORMATS:
            raise ValueError(f"{out}: expected a file that ends in {', '.join(FORMATS)}")
        if self.out.exists():
            raise FileExistsError(f"{out} is there already; remove it or give another --out")
        self.path = self._path(share[0])
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")  # noqa: SIM115 (open as long as rows come)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this kind, workers that outlive us hold none
        except BlockingIOError as error:
            raise ValueError(
                f"{self.path} is being written by another process; wait for it or give another --out"
            ) from error
        about = json.loads(json.dumps({"journal": VERSION, **about, "processes": share[1], "batches": len(batches)}))
        kept = self._resume(about)
        wanted = [[source.digest for source in batch] for batch in batches]
        self.missing = [number for number, digests in enumerate(wanted) if kept.get(number) != digests]
        self.changed = sum(
            before != now
            for number in self.missing
            for before, now in zip(kept.get(number, ()), wanted[number], strict=False)
        )

    @property
    def kept(self) -> int:
        """Rows that were there when it was opened, and are up to date."""
        return sum(map(len, self.batches)) - sum(len(self.batches[number]) for number in self.missing)

    def add(self, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rows of a batch: they are on the disk when this returns.

        Raises:
            ValueError: for rows that are not those of the batch's clips, in their order.
        """
        expected, found = [source.id for source in self.batches[number]], [row["id"] for row in rows]
        if found != expected:
            raise ValueError(
                f"{self.out}: rows of the clips {expected} were expected, those of {found} came; nothing is kept of them"
            )
        shown = [{name: row.get(name) for name in self.schema.names} for row in rows]
        digests = [source.digest for source in self.batches[number]]
        self._write({"batch": number, "made of": digests, "rows": shown})

    def finish(self) -> None:
        """Make the file, whole or not at all, of the journals of all processes, and remove them; one process does it for all."""
        draft = self.path.with_name(f"{self.path.name}-{self.out.suffix[1:]}")
        write = {".jsonl": self._write_jsonl, ".csv": self._write_csv, ".parquet": self._write_parquet}
        write[self.out.suffix.lower()](draft)
        draft.replace(self.out)
        self.close()
        for process in range(self.share[1]):
            self._path(process).unlink()

    def close(self) -> None:
        """Leave the journal as it is."""
        self._file.close()

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows, by every process, in order; of a batch that was made twice, the later ones.

        Raises:
            ValueError: when a batch is missing.
        """
        with ExitStack() as opened:
            files = [opened.enter_context(open(self._path(process), "rb")) for process in range(self.share[1])]
            batches = sum(json.loads(file.readline())["batches"] for file in files)
            places = [_places(file) for file in files]
            for number in range(batches):
                which, batch = number % len(files), number // len(files)
                if batch not in places[which]:
                    raise ValueError(f"{self._path(which)}: batch {batch} is missing; start the command again")
                files[which].seek(places[which][batch])
                yield from json.loads(files[which].readline())["rows"]

    def _path(self, process: int) -> Path:
        which = "" if self.share[1] == 1 else f"-{process}"
        return self.out.with_name(f"{self.out.name}.part{which}")

    def _write(self, value: Mapping[str, Any]) -> None:
        self._file.write((json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _resume(self, about: Mapping[str, Any]) -> dict[int, list[str]]:
        """Cut off what is not a whole line; returns what the rows of each batch that is left were made of."""
        self._file.seek(0)
        first = self._file.readline()
        if not first.endswith(b"\n"):
            self._file.truncate(0)
            self._write(about)
            return {}
        try:
            before = json.loads(first)
        except ValueError:
            before = None
        if not isinstance(before, dict):
            raise ValueError(f"{self.path} is not a journal of scores; remove it or give another --out")
        for name, value in about.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{self.path} was begun with other {name} ({before.get(name)}, now {value}); remove it or give another --out"
                )
        kept, end = {}, self._file.tell()
        for line in self._file:
            try:
                found = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                found = None
            if found is None:  # cut off, here or by a power cut
                break
            kept[found["batch"]] = found["made of"]
            end += len(line)
        self._file.truncate(end)
        return kept

    def _write_jsonl(self, draft: Path) -> None:
        with open(draft, "w", encoding="utf-8") as file:
            for row in self.rows():
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def _write_csv(self, draft: Path) -> None:
        with open(draft, "w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, self.schema.names)
            table.writeheader()
            table.writerows(self.rows())

    def _write_parquet(self, draft: Path) -> None:
        rows = self.rows()
        with pq.ParquetWriter(draft, self.schema) as file:
            while some := list(islice(rows, _ROWS_AT_ONCE)):
                file.write_table(pa.Table.from_pylist(some, schema=self.schema))


def _places(file: BinaryIO) -> dict[int, int]:
    """Where in a journal the last line of each batch begins."""
    file.seek(0)
    places, place = {}, len(file.readline())
    for line in file:
        places[json.loads(line)["batch"]] = place
        place += len(line)
    return places
