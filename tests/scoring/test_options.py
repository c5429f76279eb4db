"""Options of `omnisent score` that cannot be meant are refused before anything is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from omnisent.data.table_options import TableOptions
from omnisent.scoring.options import REAL_MODEL, Engine, ScoreOptions, TimelineFormat, given_or_real


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": "8s", "files": ("a.mp4",), "text": "fine"}, "--text cannot be combined with --windows"),
        (
            {"windows": "8s", "files": (), "table": "a.csv", "transcribe": "m", "interval": 0.9},
            "--table, --interval cannot be combined with --windows",
        ),
        ({"windows": "8s", "files": ("a.mp4", "b.mp4")}, "--windows scores one file over time, but 2 are given"),
        ({"windows": "8 parsecs", "files": ("a.mp4",)}, "'8 parsecs' is not a duration"),
        (
            {"windows": "sentences", "stride": "4s", "files": ("a.mp4",)},
            "--stride cannot be combined with --windows sent",
        ),
        ({"windows": "8s", "stride": "x", "files": ("a.mp4",)}, "'x' is not a duration"),
        ({"dtype": "float8"}, "--dtype must be one of bfloat16, float16, float32, not 'float8'"),
        ({"quantize": "int3"}, "--quantize must be one of nf4, none, not 'int3'"),
        ({"columns": "text=a", "decimal": ","}, "--columns, --decimal says how a table is read; give one with --table"),
        ({"table": "a.csv", "columns": "text=a,text=b"}, "--columns: expected text=HEADER"),
        ({"table": "a.csv", "encoding": "latein"}, "--encoding: 'latein' is unknown"),
        ({"windows": "0s", "files": ("a.mp4",)}, "window and stride must be above 0 s"),
        ({"files": ("a.mp4",), "timeline_format": TimelineFormat.SRT}, "--timeline-format needs --windows"),
        ({"files": ("a.mp4",), "stride": "2s"}, "--stride needs --windows"),
        (
            {"files": ("a.mp4",), "windows": "8s", "engine": Engine.RAY, "workers": "2"},
            "--engine ray, --workers cannot be combined with --windows",
        ),
        ({"files": ("a.mp4",), "stats": Path("a.mp4")}, r"--stats a\.mp4: expected a file that ends in \.json"),
        (
            {"windows": "8s", "files": ("a.mp4",), "timeline_format": TimelineFormat.CSV, "out": Path("a.jsonl")},
            "--timeline-format csv is a table in CSV, but --out is a.jsonl",
        ),
        ({"files": ("a.mp4",), "overwrite": True}, "--overwrite replaces the file of --out; give one"),
        (
            {"files": ("a.mp4",), "overwrite": True, "out": Path("-")},
            "--overwrite replaces the file of --out; give one",
        ),
        ({"files": ("a.mp4",), "overwrite": True, "explain": True, "as_json": True}, "--overwrite replaces the file"),
        (
            {"files": ("a.mp4",), "out": Path("a.parquet"), "embed": Path("x/../a.parquet")},
            r"--embed and --out are the same file, x/\.\./a\.parquet; give each its own",
        ),
        ({"files": ("a.mp4",), "windows": "8s", "out": Path("-")}, "--out - cannot be combined with --windows"),
        (
            {"windows": "8s", "files": ("x/../a.mp4",), "timeline_format": TimelineFormat.SRT, "out": Path("a.csv")},
            r"a\.srt would be read as the transcript of x/\.\./a\.mp4; give another --out, such as a\.timeline\.srt",
        ),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ScoreOptions("model", **options).check()


def test_other_options_are_fine():
    ScoreOptions("model").check()
    ScoreOptions("model", ("a.mp4", "b.mp4"), text="x", interval=0.9).check()
    ScoreOptions("model", ("a.mp4",), windows="sentences", transcribe="m").check()
    ScoreOptions("model", ("a.mp4",), explain=True, overwrite=True).check()
    options = ScoreOptions("model", ("a.mp4",), windows="8s")
    options.check()
    assert options.window_and_stride() == (8.0, 4.0)
    assert ScoreOptions("model", ("a.mp4",), windows="8s", stride="2s").window_and_stride() == (8.0, 2.0)


@pytest.mark.parametrize(
    ("kind", "out", "table", "other"),
    [
        (None, None, "talk.timeline.csv", None),
        (TimelineFormat.CSV, None, "talk.timeline.csv", None),
        (TimelineFormat.SRT, None, "talk.timeline.csv", "talk.timeline.srt"),
        (TimelineFormat.TEXTGRID, "x/over.parquet", "x/over.parquet", "x/over.TextGrid"),
        (TimelineFormat.TEXTGRID, "x/over.textgrid", "x/over.csv", "x/over.textgrid"),
        (TimelineFormat.EAF, "talk.eaf", "talk.csv", "talk.eaf"),
        (TimelineFormat.VTT, "talk.csv", "talk.csv", "talk.vtt"),
    ],
)
def test_a_timeline_is_a_table_and_a_file_for_another_program_beside_it(kind, out, table, other):
    options = ScoreOptions("m", ("videos/talk.mp4",), windows="8s", timeline_format=kind, out=out and Path(out))
    options.check()
    assert options.timeline_paths() == (Path(table), other and Path(other))


def test_columns_may_name_the_targets_of_the_bundle_and_nothing_else():
    options = ScoreOptions("model", table="a.csv", columns="text=Satz,valence=Valenz", decimal=",")
    options.check()
    assert options.table_options(["valence"]) == TableOptions((), {"text": "Satz"}, decimal=",")
    with pytest.raises(ValueError, match=r"^--columns: unknown name 'valence'; expected one of id, text, .*, arousal$"):
        options.table_options(["arousal"])
    assert ScoreOptions("model").table_options(["label"]) == TableOptions(())


def test_the_bundle_of_make_real_is_the_default_where_it_is_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert given_or_real("org/name") == "org/name"
    (tmp_path / REAL_MODEL).mkdir(parents=True)
    with pytest.raises(ValueError, match="make runs/real/model with `make real`"):
        given_or_real(None)
    (tmp_path / REAL_MODEL / "config.json").touch()
    assert given_or_real(None) == "runs/real/model"


@pytest.mark.parametrize("module", ["scoring.options", "data.catalog", "data.built"])
def test_modules_needed_for_help_import_nothing_large(module):
    large = ["torch", "transformers", "datasets", "pandas", "pyarrow", "numpy", "av", "matplotlib", "tqdm"]
    code = f"import sys, omnisent.{module}; print([name for name in {large} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
