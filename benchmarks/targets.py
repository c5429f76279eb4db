"""One model for three targets against three models for one each, on planted clips with the tiny backbone.

    python benchmarks/targets.py [--out runs/targets] [--max_steps 400]

The targets are the label and the parts of it that the words and the voice carry, in label units; a clip without words or voice
has no label for that part, and the model for it has not that clip. One more model has the label three times, as targets that do not
compete. Settings, prompt and seed are the same (a longer prompt alone changes what the tiny backbone reaches). MAE on the labelled
test clips.
"""

import argparse
from pathlib import Path

from common import save, table

from omnisent import train
from omnisent.data.clip import Clip
from omnisent.data.planted import make_planted_clips, read_latents
from omnisent.data.tables import write_table
from omnisent.training.arguments import parse_arguments
from omnisent.training.run_folder import constant_mae, read_metrics

TARGETS = {"sentiment": "label", "words": "text", "voice": "audio"}
COPIES = {"sentiment": "label", "second": "label", "third": "label"}
SOURCES = {**TARGETS, **COPIES}
INSTRUCTION = "Rate what the speaker expresses."  # to all models, so that their prompts have one length
CONFIG = Path(__file__).parent.parent / "configs" / "tiny.yaml"
COLUMNS = {
    "id": str,
    "text": str,
    "video": str,
    "audio": str,
    "split": str,
    "video_id": str,
    **dict.fromkeys(SOURCES, float),
}


def write_clips(out: Path, names: list[str]) -> Path:
    """The planted clips that have a label for any of some targets, as a table with a column for each."""
    clips, latents = make_planted_clips(out / "clips"), read_latents(out / "clips")

    def cells(clip: Clip) -> list:
        parts = {"label": clip.label}
        parts |= {name: None if value is None else 3 * value for name, value in vars(latents[clip.id]).items()}
        return [
            *(getattr(clip, name) for name in COLUMNS if name not in SOURCES),
            *(parts[one] for one in SOURCES.values()),
        ]

    places = [list(COLUMNS).index(name) for name in names]
    rows = [row for row in map(cells, clips) if any(row[place] is not None for place in places)]
    file = out / f"{'-'.join(names)}.csv"
    write_table(file, COLUMNS, rows)
    return file


def trained(out: Path, names: list[str], steps: int) -> dict[str, float]:
    """Test MAE by target of one run."""
    folder = out / str(steps) / "-".join(names)
    if not (folder / "metrics.json").is_file():
        given = ["--dataset", str(write_clips(out, names)), "--targets", *names, "--score_range", "-3", "3"]
        given += ["--instruction", INSTRUCTION]
        train.run(*parse_arguments([str(CONFIG), *given, "--max_steps", str(steps), "--output_dir", str(folder)]))
    return {name: read_metrics(folder, name)["mae"] for name in names}


def compared(out: Path, steps: int) -> list[dict]:
    """A row for each target."""
    together, copies = trained(out, list(TARGETS), steps), trained(out, list(COPIES), steps)
    rows = []
    for name in TARGETS:
        row = {
            "steps": steps,
            "target": name,
            "one model": together[name],
            "own model": trained(out, [name], steps)[name],
        }
        row["three copies"] = copies.get(name, "")
        rows.append({**row, "constant": constant_mae(out / str(steps) / "-".join(TARGETS), target=name)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/targets"))
    parser.add_argument("--max_steps", type=int, nargs="+", default=[400])
    options = parser.parse_args()
    rows = [row for steps in options.max_steps for row in compared(options.out, steps)]
    save("targets", {"mae": rows})
    print(table([list(rows[0]), *(list(row.values()) for row in rows)]))


if __name__ == "__main__":
    main()
