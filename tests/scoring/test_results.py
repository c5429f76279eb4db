"""The resumable writer of scores: what it refuses by name, what it keeps, and what it leaves on the disk."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from omnisent.data.tables import FORMATS
from omnisent.scoring.processes import Process
from omnisent.scoring.results import (
    VERSION,
    ResumableWriter,
    Source,
    own_files,
    refuse_existing,
    row_columns,
    score_cells,
)

BATCHES = [[Source("a", "1"), Source("b", "2")], [Source("c", "3")]]
ROWS = [[{"id": "a", "score": 1.0}, {"id": "b", "error": "no sound"}], [{"id": "c", "score": -0.5, "text": "naïve"}]]


def writer(out: Path, batches=BATCHES, process=Process()) -> ResumableWriter:  # noqa: B008
    return ResumableWriter(out, {"model": "m"}, batches, row_columns(), process)


def test_the_columns_of_a_file():
    columns = row_columns()
    assert list(columns) == ["id", "score", "label", "seconds", "text", "warning", "error"]
    assert {name for name, kind in columns.items() if kind is float} == {"score", "seconds"}
    assert {kind for name, kind in columns.items() if name not in ("score", "seconds")} == {str}
    columns = row_columns(0.9)
    assert list(columns) == ["id", "score", "low", "high", "label", "seconds", "text", "warning", "error"]
    assert (columns["low"], columns["high"]) == (float, float)


def test_several_targets_have_columns_by_name_and_no_label():
    columns = row_columns(targets=("valence", "arousal"))
    assert list(columns) == ["id", "valence", "arousal", "seconds", "text", "warning", "error"]
    columns = row_columns(0.9, ("valence", "arousal"))
    ends = ["valence", "valence_low", "valence_high", "arousal", "arousal_low", "arousal_high"]
    assert list(columns) == ["id", *ends, "seconds", "text", "warning", "error"]
    assert {columns[name] for name in ends} == {float}
    assert row_columns(0.9, ("valence",)) == row_columns(0.9)


@pytest.mark.parametrize(
    ("targets", "interval", "name"),
    [(("a", "text"), None, "text"), (("id", "b"), None, "id"), (("a", "a_low"), 0.9, "a_low")],
)
def test_a_target_with_the_name_of_another_column_is_refused(targets, interval, name):
    with pytest.raises(
        ValueError, match=f"targets are {', '.join(targets)}, but the table has another column '{name}'"
    ):
        row_columns(interval, targets)


def test_results_become_cells_by_the_names_of_the_columns():
    one = {"score": 1.5, "label": "positive", "low": 1.0, "high": 2.0}
    assert score_cells(one) == one
    assert score_cells({"error": "damaged"}) == {"error": "damaged"}
    several = {
        "scores": {"a": 1.0, "b": 2.0},
        "low": {"a": 0.0, "b": 1.0},
        "high": {"a": 3.0, "b": 4.0},
        "warning": "cut",
    }
    assert score_cells(several) == {
        **{"a": 1.0, "b": 2.0, "a_low": 0.0, "b_low": 1.0, "a_high": 3.0, "b_high": 4.0},
        "warning": "cut",
    }
    assert score_cells(several).keys() <= row_columns(0.9, ("a", "b")).keys()


def test_files_that_are_being_written_may_have_any_name(tmp_path):
    beside = tmp_path / os.fsdecode(b"talk\xff.png")
    made = writer(tmp_path / "over.csv")
    made.start_finishing([beside])
    made.close()
    assert own_files(tmp_path / "over.csv") == {str(tmp_path / "over.csv"), str(beside)}
    refuse_existing(beside, own_files(tmp_path / "over.csv"))


@pytest.mark.parametrize("suffix", [*FORMATS, ".JSONL"])
def test_the_finished_file_is_complete_and_the_part_file_removed(suffix, tmp_path):
    out = tmp_path / "new" / "folder" / f"scores{suffix}"
    made = writer(out)
    assert made.path == out.with_name(f"scores{suffix}.part")
    assert (made.missing, made.changed, made.kept) == ([0, 1], 0, 0)
    for number, rows in enumerate(ROWS):
        made.add(number, rows)
        assert not out.exists()
    made.finish()
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".jsonl": lambda path: pd.read_json(path, lines=True)}
    found = read[suffix.lower()](out)
    assert list(found) == list(row_columns())
    assert found["id"].tolist() == ["a", "b", "c"]
    assert found["score"].fillna(9).tolist() == [1.0, 9, -0.5]
    assert found["text"][2] == "naïve"
    assert found["error"][1] == "no sound"


def test_a_jsonl_file_is_written_without_escapes(tmp_path):
    made = writer(tmp_path / "scores.jsonl")
    for number, rows in enumerate(ROWS):
        made.add(number, rows)
    assert [json.loads(json.dumps(row)) for row in made.rows()] == list(made.rows())
    made.finish()
    lines = (tmp_path / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines[2] == (
        '{"id": "c", "score": -0.5, "label": null, "seconds": null, "text": "naïve", "warning": null, "error": null}'
    )


def test_added_rows_are_on_disk_immediately_and_not_missing_again(tmp_path):
    first = writer(tmp_path / "scores.csv")
    first.add(1, ROWS[1])
    assert b"na\xc3\xafve" in first.path.read_bytes()
    first.close()
    again = writer(tmp_path / "scores.csv")
    assert (again.missing, again.changed, again.kept) == ([0], 0, 1)
    again.close()
    changed = writer(tmp_path / "scores.csv", batches=[BATCHES[0], [Source("c", "4")]])
    assert (changed.missing, changed.changed, changed.kept) == ([0, 1], 1, 0)
    changed.add(1, [{"id": "c", "score": 2.0}])
    changed.add(0, ROWS[0])
    changed.finish()
    assert pd.read_csv(tmp_path / "scores.csv")["score"].fillna(9).tolist() == [1.0, 9, 2.0]


def test_only_clips_that_had_a_row_count_as_changed(tmp_path):
    first = writer(tmp_path / "scores.csv")
    first.add(0, ROWS[0])
    first.close()
    again = writer(tmp_path / "scores.csv", batches=[[Source("a", "1"), Source("b", "9")], [Source("c", "9")]])
    assert (again.missing, again.changed, again.kept) == ([0, 1], 1, 0)


def test_each_process_writes_its_own_part_file_and_rows_are_in_order(tmp_path):
    out = tmp_path / "scores.csv"
    second = writer(out, batches=[[Source("b", "2")]], process=Process(1, 2))
    first = writer(out, batches=[[Source("a", "1")], [Source("c", "3")]], process=Process(0, 2))
    assert [one.path.name for one in (first, second)] == ["scores.csv.part-0", "scores.csv.part-1"]
    second.add(0, [{"id": "b"}])
    first.add(1, [{"id": "c"}])
    first.add(0, [{"id": "a"}])
    assert [row["id"] for row in first.rows()] == ["a", "b", "c"]
    second.close()
    first.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_rows_of_other_clips_are_refused(tmp_path):
    made = writer(tmp_path / "scores.csv")
    before = made.path.read_bytes()
    for wrong in ([{"id": "b"}, {"id": "a"}], [{"id": "a"}], [{"id": "a"}, {"id": "c"}]):
        said = re.escape(f"expected rows of the clips ['a', 'b'], got those of {[row['id'] for row in wrong]}")
        with pytest.raises(ValueError, match=said):
            made.add(0, wrong)
    assert made.path.read_bytes() == before


@pytest.mark.parametrize("name", ["scores.txt", "scores", "scores.csv.gz"])
def test_an_unsupported_suffix_is_refused_before_anything_is_written(name, tmp_path):
    with pytest.raises(ValueError, match=rf"{name}: expected a table that ends in \.csv, \.jsonl, \.parquet"):
        writer(tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "scores.csv").write_text("mine")
    with pytest.raises(
        FileExistsError, match=r"scores\.csv already exists; replace it with --overwrite, or give another --out"
    ):
        writer(tmp_path / "scores.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


@pytest.mark.parametrize(
    ("before", "process", "said"),
    [
        ({"model": "other"}, Process(0, 1), r"started with model other, now it is m"),
        ({}, Process(0, 1), r"started with model None, now it is m"),
        (
            {"model": "m", "journal": VERSION - 1},
            Process(0, 1),
            rf"started with journal {VERSION - 1}, now it is {VERSION}",
        ),
        ({"model": "m", "processes": 2}, Process(0, 1), r"started with processes 2, now it is 1"),
        ({"model": "m", "processes": 1}, Process(0, 2), r"started with processes 1, now it is 2"),
    ],
)
def test_rows_of_other_settings_are_refused_by_the_field_that_differs(before, process, said, tmp_path):
    part = tmp_path / f"scores.csv.part{'' if process.world_size == 1 else '-0'}"
    text = json.dumps({"journal": VERSION, "processes": process.world_size, **before}) + "\n"
    part.write_text(text)
    with pytest.raises(ValueError, match=rf"{part.name} was {said}; remove it or give another --out"):
        writer(tmp_path / "scores.csv", process=process)
    assert part.read_text() == text


def test_a_file_that_is_not_a_part_file_is_refused_and_unchanged(tmp_path):
    part = tmp_path / "scores.csv.part"
    part.write_text("something else\n")
    with pytest.raises(ValueError, match=r"scores\.csv\.part is not an unfinished file of scores; remove it"):
        writer(tmp_path / "scores.csv")
    assert part.read_text() == "something else\n"


def test_a_line_that_a_power_cut_damaged_is_written_again(tmp_path):
    made = writer(tmp_path / "scores.csv")
    made.add(0, ROWS[0])
    whole = made.path.read_bytes()
    made.add(1, ROWS[1])
    made.close()
    made.path.write_bytes(whole + b"\0" * 40 + b"\n")
    again = writer(tmp_path / "scores.csv")
    assert (again.missing, again.kept) == ([1], 2)
    assert again.path.read_bytes() == whole
    again.add(1, ROWS[1])
    again.finish()
    assert pd.read_csv(tmp_path / "scores.csv")["id"].tolist() == ["a", "b", "c"]


def test_two_writers_do_not_write_one_part_file(tmp_path):
    code = (
        "import sys; from omnisent.scoring.results import *\n"
        "held = ResumableWriter(sys.argv[1], {'model': 'm'}, [], row_columns())\n"
        "print('opened', flush=True); sys.stdin.read()"
    )
    out = tmp_path / "scores.csv"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "opened\n"
        with pytest.raises(ValueError, match=r"scores\.csv\.part is being written by another process; wait for it"):
            writer(out)
    ResumableWriter(out, {"model": "m"}, [], row_columns()).close()


@pytest.mark.parametrize("missing", [0, 1])
def test_no_file_is_written_while_a_batch_is_missing(tmp_path, missing):
    made = writer(tmp_path / "scores.csv")
    made.add(1 - missing, ROWS[1 - missing])
    with pytest.raises(ValueError, match=rf"scores\.csv\.part: batch {missing} is missing; start the command again"):
        made.finish()
    assert not (tmp_path / "scores.csv").exists()
    assert made.path.exists()


def test_a_part_file_may_be_truncated_at_any_byte_repeatedly(tmp_path):
    made = writer(tmp_path / "whole.csv")
    for number, rows in enumerate(ROWS):
        made.add(number, rows)
    whole = made.path.read_bytes()
    made.finish()
    ends = [at for at, byte in enumerate(whole, 1) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        out = tmp_path / "cut.csv"
        out.with_name("cut.csv.part").write_bytes(whole[:cut])
        again = writer(out)
        kept = max(sum(end <= cut for end in ends) - 1, 0)
        assert again.missing == [0, 1][kept:], cut
        if again.missing:
            again.add(again.missing[0], ROWS[again.missing[0]])
        again.close()
        last = writer(out)
        assert last.missing == [0, 1][kept + 1 :], cut
        for number in last.missing:
            last.add(number, ROWS[number])
        last.finish()
        assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes(), cut
        out.unlink()
