"""What holds of a file of scores for any rows: they come back equal, and an interrupted command resumes wherever it was cut."""

import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisent.data.tables import FORMATS
from omnisent.scoring.processes import Process
from omnisent.scoring.results import ResumableWriter, Source, row_columns
from properties import examples

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": TEXT,
            "score": st.none() | NUMBER,
            "low": st.none() | NUMBER,
            "high": st.none() | NUMBER,
            "label": st.none() | st.sampled_from(["negative", "positive"]),
            "seconds": st.none() | NUMBER,
            "text": st.none() | TEXT.filter(bool),
            "warning": st.none() | TEXT.filter(bool),
            "error": st.none() | TEXT.filter(bool),
        }
    ),
    min_size=1,
    max_size=8,
)
COLUMNS = row_columns(0.9)
SETTINGS = {"model": "org/omnisent", "interval": 0.9}


def batches_of(rows: Sequence[dict], size: int, processes: int, changed: Sequence[int] = ()) -> list[list]:
    """The batches of each process: lists of (source, row)."""
    made = [(Source(row["id"], f"{place}{' again' * (place in changed)}"), row) for place, row in enumerate(rows)]
    whole = [made[at : at + size] for at in range(0, len(made), size)]
    return [whole[process::processes] for process in range(processes)]


def opened(out: Path, parts: Sequence[Sequence], settings=SETTINGS) -> list[ResumableWriter]:
    """One for each process, the first last: it is the one that finishes."""
    return [
        ResumableWriter(
            out,
            settings,
            [[source for source, _ in batch] for batch in parts[rank]],
            COLUMNS,
            Process(rank, len(parts)),
        )
        for rank in reversed(range(len(parts)))
    ]


def written(out: Path, parts: Sequence[Sequence], changed: Sequence[int] = ()) -> list[ResumableWriter]:
    """Adds what is missing, of `changed` rows as well as of new ones."""
    writers = opened(out, parts)
    for writer in writers:
        for number in writer.missing:
            writer.add(number, [row for _, row in parts[writer.process.rank][number]])
    return writers


def finished(writers: Sequence[ResumableWriter]) -> Path:
    for writer in writers[:-1]:
        writer.close()
    writers[-1].finish()
    return writers[-1].out


def read(out: Path) -> list[dict]:
    if out.suffix == ".parquet":
        return pq.read_table(out).to_pylist()
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n")[:-1]]
    with out.open(encoding="utf-8", newline="") as file:
        return [
            {name: float(cell) if cell and COLUMNS[name] is float else cell for name, cell in row.items()}
            for row in csv.DictReader(file)
        ]


@examples(60)
@given(ROWS, st.integers(1, 3), st.integers(1, 3), st.sampled_from(sorted(FORMATS)))
def test_rows_are_read_back_unchanged(rows, size, processes, suffix):
    with tempfile.TemporaryDirectory() as folder:
        out = finished(written(Path(folder, f"scores{suffix}"), batches_of(rows, size, processes)))
        expected = [{name: row[name] for name in COLUMNS} for row in rows]
        if suffix == ".csv":
            expected = [{name: "" if cell is None else cell for name, cell in row.items()} for row in expected]
        assert read(out) == expected
        assert [path.name for path in Path(folder).iterdir()] == [out.name]


@examples(60)
@given(ROWS, st.integers(1, 3), st.integers(1, 2), st.floats(0, 1), st.sampled_from(sorted(FORMATS)))
def test_a_truncated_part_file_gives_the_same_result(rows, size, processes, at, suffix):
    parts = batches_of(rows, size, processes)
    with tempfile.TemporaryDirectory() as folder:
        whole = finished(written(Path(folder, f"whole{suffix}"), parts)).read_bytes()
        out = Path(folder, f"cut{suffix}")
        writers = written(out, parts)
        for writer in writers:
            writer.close()
        path, before = writers[-1].path, writers[-1].path.read_bytes()
        path.write_bytes(before[: round(at * len(before))])
        again = opened(out, parts)
        left = before[: round(at * len(before))].count(b"\n") - 1
        assert again[-1].missing == list(range(max(left, 0), len(parts[0])))
        assert [writer.missing for writer in again[:-1]] == [[]] * (processes - 1)
        for number in again[-1].missing:
            again[-1].add(number, [row for _, row in parts[0][number]])
        assert finished(again).read_bytes() == whole


@examples(60)
@given(ROWS, st.integers(1, 3), st.integers(1, 2), st.sampled_from(sorted(FORMATS)), st.data())
def test_only_rows_of_changed_clips_are_computed_again(rows, size, processes, suffix, data):
    changed = data.draw(st.sets(st.integers(0, len(rows) - 1)))
    now = [{**row, "score": 7.0, "text": "new"} if place in changed else row for place, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        fresh = finished(written(Path(folder, f"fresh{suffix}"), batches_of(now, size, processes))).read_bytes()
        out = Path(folder, f"scores{suffix}")
        for writer in written(out, batches_of(rows, size, processes)):
            writer.close()
        parts = batches_of(now, size, processes, changed)
        again = opened(out, parts)
        assert sum(writer.changed for writer in again) == len(changed)
        for writer in again:
            touched = {
                place // size // processes for place in changed if place // size % processes == writer.process.rank
            }
            assert set(writer.missing) == touched
            writer.close()
        assert finished(written(out, parts)).read_bytes() == fresh


@examples(20)
@given(ROWS, st.sampled_from(["score", "low", "high", "seconds"]), st.sampled_from([float("nan"), float("inf")]))
def test_rows_with_numbers_that_are_not_finite_are_refused(rows, column, bad):
    with tempfile.TemporaryDirectory() as folder:
        (writer,) = opened(Path(folder, "scores.jsonl"), batches_of(rows, len(rows), 1))
        before = writer.path.read_bytes()
        with pytest.raises(ValueError, match=r"not JSON|finite"):
            writer.add(0, [{**row, column: bad} for row in rows])
        assert writer.path.read_bytes() == before
        writer.add(0, rows)
        assert len(read(finished([writer]))) == len(rows)
