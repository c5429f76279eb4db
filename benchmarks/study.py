"""Keeps the small files of finished runs, so that a long comparison goes on from a fresh clone.

    python benchmarks/study.py keep mosi runs/lab                            # into benchmarks/results/study/mosi
    python benchmarks/study.py restore mosi runs/lab --root /data/CMU-MOSI   # back; `omnisent compare --out runs/lab` then goes on

Kept are metrics, settings, environment, and the scores of the test and validation clips by their ids; of a sweep, its trials; and
the tables and figure of the whole. The labels stay in the data set and come back from there; models are not kept.
"""

import argparse
import json
import re
from pathlib import Path

import yaml
from common import RESULTS

from omnisent.data.load import load_clips
from omnisent.data.tables import read_columns, write_table
from omnisent.training import run_folder
from omnisent.training.arguments import parse_arguments

FILES = ("metrics.json", "environment.json")
SUMMARIES = tuple(f"{name}.{kind}" for name in ("comparison", "sweep", "probe") for kind in ("json", "md", "png"))
OF_THE_MACHINE = ("root", "output_dir", "adapter", "feature_cache", "run_name")
TRIALS = "trials.log"  # of a sweep
SCORES = {"split": str, "id": str, "score": float}


def keep(folder: Path, kept: Path) -> list[Path]:
    """Copy what is small of every finished run below a folder; returns the runs."""
    runs = sorted(path.parent for path in folder.rglob("metrics.json"))
    if (folder / TRIALS).is_file():
        kept.mkdir(parents=True, exist_ok=True)
        paths = "|".join(OF_THE_MACHINE)
        text = re.sub(rf'"({paths})": ?"[^"]*"', r'"\1":null', (folder / TRIALS).read_text(encoding="utf-8"))
        (kept / TRIALS).write_text(text, encoding="utf-8")
    for name in SUMMARIES:
        if (folder / name).is_file():
            kept.mkdir(parents=True, exist_ok=True)
            (kept / name).write_bytes((folder / name).read_bytes())
    for run in runs:
        target = kept / run.relative_to(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (target / name).write_bytes((run / name).read_bytes())
        config = {name: value for name, value in run_folder.read_config(run).items() if name not in OF_THE_MACHINE}
        (target / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        rows = []
        for split, name in run_folder.PREDICTIONS.items():
            if (run / name).is_file():
                table = run_folder.read_predictions(run, split=split)
                rows += [(split, row.id, row.score) for row in table.itertuples()]
        write_table(target / "scores.csv", SCORES, rows)
    return runs


def restore(kept: Path, folder: Path, root: str | None) -> list[Path]:
    """Write the run folders of kept runs, with the labels of the data set; a folder that is there is left alone."""
    runs = sorted(path.parent for path in kept.rglob("metrics.json"))
    defaults = run_folder.config_dict(*parse_arguments(["--output_dir", str(folder)]))  # of fields newer than the runs
    if (kept / TRIALS).is_file() and not (folder / TRIALS).exists():
        folder.mkdir(parents=True, exist_ok=True)
        lines = (kept / TRIALS).read_text(encoding="utf-8").splitlines()
        (folder / TRIALS).write_text(
            "".join(_restored(line, defaults, root) + "\n" for line in lines), encoding="utf-8"
        )
    labels: dict[str, float | None] = {}
    videos: dict[str, str] = {}
    for run in runs:
        target = folder / run.relative_to(kept)
        if target.exists():
            continue
        config = {**defaults, **yaml.safe_load((run / "config.yaml").read_text()), "root": root}
        if not labels:
            clips = load_clips(config["dataset"], root=root, genres=config["genres"], with_media=False)
            labels = {clip.id: clip.label for clip in clips}
            videos = {clip.id: clip.video_id or "" for clip in clips}
        rows = read_columns(run / "scores.csv", SCORES)
        unknown = [row["id"] for row in rows if row["id"] not in labels]
        if unknown:
            raise SystemExit(
                f"{run}: the data set has no clip {unknown[0]}; is --root the one that the run was made with?"
            )
        target.mkdir(parents=True)
        (target / "config.yaml").write_text(yaml.safe_dump({**config, "output_dir": str(target)}, sort_keys=False))
        for split in {row["split"] for row in rows}:
            own = [
                (one["id"], videos[one["id"]], labels[one["id"]], one["score"], None)
                for one in rows
                if one["split"] == split
            ]
            write_table(target / run_folder.PREDICTIONS[split], run_folder.PREDICTION_COLUMNS, own)
        for name in reversed(FILES):  # metrics.json last: it says that the run is finished
            (target / name).write_bytes((run / name).read_bytes())
    return runs


def _restored(line: str, defaults: dict, root: str | None) -> str:
    """A line of a sweep's trials.log, with the values of fields newer than the sweep."""
    entry = json.loads(line)
    tuned = entry.get("user_attr", {}).get("tuned")
    if tuned is None:
        return line
    tuned["config"] = {**json.loads(json.dumps(defaults, default=str)), **tuned["config"], "root": root}
    return json.dumps(entry)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["keep", "restore"])
    parser.add_argument("name", help="of the study")
    parser.add_argument("folder", type=Path, help="of the comparison")
    parser.add_argument("--root", help="folder of the data set")
    given = parser.parse_args()
    kept = RESULTS / "study" / given.name
    runs = keep(given.folder, kept) if given.action == "keep" else restore(kept, given.folder, given.root)
    print(json.dumps({"runs": len(runs), "in": str(kept if given.action == "keep" else given.folder)}))


if __name__ == "__main__":
    main()
