"""Rows of scores on their way to a file: kept in a journal as they come, and turned into JSONL, CSV or Parquet at the end.

The journal lies beside the file as NAME.part. Stopped at any moment, even by a power cut, it is gone on from: at most the rows of
the last batches are missing, and none is there twice. Several processes that share the work keep one journal each.
"""

import csv
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FORMATS = (".jsonl", ".csv", ".parquet")
_ROWS_AT_ONCE = 4096


def row_schema(interval: float | None = None) -> pa.Schema:
    """Columns of the rows of a file; with an interval also `low` and `high`."""
    bounds = [] if interval is None else [("low", pa.float64()), ("high", pa.float64())]
    names = ("label", "seconds", "text", "error")
    rest = [(name, pa.float64() if name == "seconds" else pa.string()) for name in names]
    return pa.schema([("id", pa.string()), ("score", pa.float64()), *bounds, *rest])


class Journal:
    """The rows of a file that is being made.

    Args:
        out: the file to make; its ending says which of JSONL, CSV and Parquet.
        about: what the rows depend on; a journal of something else is refused by the name of the first field that differs.
        batch: rows are kept in whole batches of so many, so that going on later repeats no batch in part.
        schema: of the rows.
        share: which process of how many this is; process p of P has the batches p, p + P, p + 2 P, ...

    Attributes:
        done: rows that were there when it was opened.

    Raises:
        ValueError: for another ending, or a journal of other clips or settings.
        FileExistsError: when the file is there already.
    """

    def __init__(
        self,
        out: str | os.PathLike,
        about: Mapping[str, Any],
        batch: int,
        schema: pa.Schema,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.out, self.batch, self.schema, self.share = Path(out), batch, schema, share
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
        about = json.loads(json.dumps({**about, "processes": share[1]}))
        self.done = self._resume(about)
        if not self.done:
            self._file.truncate(0)
            self._write([about])

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep rows: they are on the disk when this returns."""
        self._write([{name: row.get(name) for name in self.schema.names} for row in rows])

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
        """All rows that are kept, by every process, in order."""
        with ExitStack() as opened:
            files = [opened.enter_context(open(self._path(process), "rb")) for process in range(self.share[1])]
            for file in files:
                file.readline()
            for file in cycle(files):
                lines = list(islice(file, self.batch))
                if not lines:
                    return
                yield from map(json.loads, lines)

    def _path(self, process: int) -> Path:
        which = "" if self.share[1] == 1 else f"-{process}"
        return self.out.with_name(f"{self.out.name}.part{which}")

    def _write(self, values: Sequence[Mapping[str, Any]]) -> None:
        self._file.write("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _resume(self, about: Mapping[str, Any]) -> int:
        """Cut off what is not a whole line or not of a whole batch; returns the rows that are left."""
        self._file.seek(0)
        first = self._file.readline()
        if not first.endswith(b"\n"):
            return 0
        try:
            before = json.loads(first)
        except ValueError as error:
            raise ValueError(f"{self.path} is not a journal of scores; remove it or give another --out") from error
        for name, value in about.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{self.path} was begun with other {name} ({before.get(name)}, now {value}); remove it or give another --out"
                )
        rows, end, kept = 0, self._file.tell(), self._file.tell()
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            rows, end = rows + 1, end + len(line)
            if rows % self.batch == 0:
                kept = end
        self._file.truncate(kept)
        return rows - rows % self.batch

    def _write_jsonl(self, draft: Path) -> None:
        with open(draft, "w", encoding="utf-8") as file:
            for row in self.rows():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

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
