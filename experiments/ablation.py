"""What does each modality add? Every non-empty subset of text, audio and video, at training time and at test time.

    omnisent ablate configs/tiny.yaml --seeds 0 1 2 --out runs/ablation

At training time a model is trained and tested on the subset; at test time the model that was trained on all three is given the
subset alone. All subsets use the same clips: those that have text, sound and picture, so that no clip is empty in any of them.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.catalog import dataset_facts
from ..data.clip import MODALITIES
from ..evaluation.statistics import bootstrap_estimates, paired_test, shown
from ..training import run_folder
from ..training.arguments import parse_arguments
from .comparison import check_comparable
from .runs import PlannedRun, carry_out
from .tables import markdown_table, seeds_said, shared_settings

TIMES = ("train", "test")
SUBSETS = tuple(subset for size in (3, 2, 1) for subset in combinations(MODALITIES, size))
COLOURS = {"train": "#0072B2", "test": "#E69F00"}


def ablate(argv: Sequence[str], seeds: Sequence[int], out: str | Path) -> dict:
    """Carry out what is left of an ablation and write ablation.json, .md and .png.

    Args:
        argv: what train.py takes: a config file and fields that override it; either readout.
        seeds: of the trained models.
        out: folder of the ablation; each run lies in `<train or test>/<subset>/seed-<seed>`.

    Returns:
        What ablation.json holds.

    Raises:
        ValueError: for settings that no ablation can have, or runs in the folder with other settings, naming the field.
    """
    out = Path(out)
    seeds = list(dict.fromkeys(seeds))
    model_args, data_args, args = parse_arguments(list(argv))
    if not seeds:
        raise ValueError("seeds: an ablation needs at least one")
    if model_args.adapter or args.evaluate_only:
        raise ValueError(
            "adapter, evaluate_only: an ablation trains its own models from the base; leave the fields out"
        )
    runs = planned_runs(argv, seeds, out)
    carry_out(runs)
    check_comparable([run.folder for run in runs], ("modalities", "context_clips", "evaluate_only", "seed"))
    found = summarise(out, seeds, dataset_facts(data_args.dataset).convention)
    run_folder.write_json(out / "ablation.json", found)
    (out / "ablation.md").write_text(_markdown(found), encoding="utf-8")
    _plot(found, out / "ablation.png")
    return found


def planned_runs(argv: Sequence[str], seeds: Sequence[int], out: Path) -> list[PlannedRun]:
    """Every run of an ablation; the model of all modalities is trained first."""
    runs = []
    for time in TIMES:
        for subset in SUBSETS if time == "train" else SUBSETS[1:]:
            for seed in seeds:
                settings = (*argv, "--complete_clips", "true", "--modalities", *subset, "--seed", str(seed))
                if time == "test":
                    whole = _folder(out, "train", SUBSETS[0], seed) / "model"
                    settings += ("--evaluate_only", "true", "--adapter", str(whole))
                if "text" not in subset:  # what was said before is text too
                    settings += ("--context_clips", "0")
                name = f"{'trained and tested' if time == 'train' else 'tested'} on {_name(subset)}, seed {seed}"
                runs.append(PlannedRun(name, _folder(out, time, subset, seed), settings))
    return runs


def summarise(out: Path, seeds: Sequence[int], convention: str) -> dict:
    """What ablation.json holds, read from the run folders."""
    whole = _folder(out, "train", SUBSETS[0], seeds[0])
    labels = run_folder.read_predictions(whole)["label"].to_numpy()
    scores = {(time, subset): _scores(out, time, subset, seeds) for time in TIMES for subset in SUBSETS}
    first = run_folder.read_metrics(whole)
    subsets = [
        {
            "time": time,
            "modalities": list(subset),
            "metrics": {
                key: estimate.to_dict() for key, estimate in bootstrap_estimates(values, labels, convention).items()
            },
        }
        for (time, subset), values in scores.items()
    ]
    errors = {key: np.abs(values - labels) for key, values in scores.items()}
    drops = [
        {"time": time, "modality": left_out, **_drop(errors, time, left_out)}
        for time in TIMES
        for left_out in MODALITIES
    ]
    return {
        **{key: first[key] for key in ("dataset", "split", "readout", "decoding", "n", "denoise", "bad_clips")},
        "seeds": list(seeds),
        "convention": convention,
        "constant_mae": run_folder.constant_mae(whole),
        "subsets": subsets,
        "drops": drops,
        "settings": shared_settings(whole),
        "environment": run_folder.read_environment(whole),
    }


def _drop(errors: dict, time: str, left_out: str) -> dict:
    """How much the MAE rises without a modality."""
    rest = tuple(name for name in MODALITIES if name != left_out)
    return paired_test(errors[time, rest], errors[time, SUBSETS[0]]).to_dict()


def _scores(out: Path, time: str, subset: tuple[str, ...], seeds: Sequence[int]) -> np.ndarray:
    """Scores (S, n); on all modalities, training and test time are the same."""
    time = "train" if subset == SUBSETS[0] else time
    return np.stack([run_folder.read_predictions(_folder(out, time, subset, seed))["score"] for seed in seeds])


def _folder(out: Path, time: str, subset: tuple[str, ...], seed: int) -> Path:
    return out / time / "-".join(subset) / f"seed-{seed}"


def _name(subset: Sequence[str]) -> str:
    return " + ".join(subset)


def conclusion(found: dict) -> str:
    """How much the MAE rises without each modality, the largest rise first; computed from the figures."""
    parts = []
    for time, when in (("train", "left out of training and test"), ("test", "left out at test time alone")):
        drops = sorted((d for d in found["drops"] if d["time"] == time), key=lambda d: -d["difference"])
        rises = ", ".join(
            f"{d['modality']} {d['difference']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f})" for d in drops
        )
        parts.append(f"MAE when a modality is {when}: {rises}.")
    return " ".join(parts)


def _markdown(found: dict) -> str:
    rows = {}
    for time in TIMES:
        for entry in (entry for entry in found["subsets"] if entry["time"] == time):
            mae = entry["metrics"]["mae"]
            shown_at = "training and test" if time == "train" else "test alone"
            rows[f"{_name(entry['modalities'])}, {shown_at}"] = {
                "MAE": shown(mae),
                "MAE 95 %": f"{mae['low']:.3f} to {mae['high']:.3f}",
                "Corr": shown(entry["metrics"]["corr"]),
                "of constant": f"{mae['mean'] / found['constant_mae']:.2f}",
            }
    return (
        "\n\n".join(
            (
                f"# Modalities on {found['dataset']}, {found['readout']} readout",
                f"{found['n']} {found['split']} clips that have text, sound and picture;"
                f" seeds {', '.join(map(str, found['seeds']))}; base model {found['settings']['base_model']}; the constant's MAE"
                f" {found['constant_mae']:.3f}. Means over seeds, plus or minus one standard deviation; intervals by bootstrap"
                " over clips and seeds.",
                conclusion(found),
                markdown_table(pd.DataFrame.from_dict(rows, orient="index")),
            )
        )
        + "\n"
    )


def _plot(found: dict, path: Path) -> None:
    """MAE of every subset, and how much it rises without each modality."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names = [_name(subset) for subset in SUBSETS][::-1]
    for time, shift in (("train", 0.2), ("test", -0.2)):
        entries = [entry for entry in found["subsets"] if entry["time"] == time][::-1]
        maes = [entry["metrics"]["mae"] for entry in entries]
        label = "trained and tested on it" if time == "train" else "trained on all, tested on it"
        _bars(
            left,
            [row + shift for row in range(len(maes))],
            [(m["mean"], m["low"], m["high"]) for m in maes],
            time,
            label,
        )
        drops = [d for d in found["drops"] if d["time"] == time][::-1]
        figures = [(d["difference"], d["low"], d["high"]) for d in drops]
        _bars(right, [row + shift for row in range(len(drops))], figures, time, None)
    left.axvline(found["constant_mae"], color="0.4", linestyle="--", linewidth=1, label="constant (train median)")
    left.set_yticks(range(len(names)), names, fontsize=9)
    left.set_xlabel("MAE, lower is better")
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=3, frameon=False)
    right.set_yticks(range(len(MODALITIES)), [f"without {name}" for name in MODALITIES[::-1]], fontsize=9)
    right.set_xlabel("rise of the MAE")
    right.axvline(0, color="black", linewidth=0.8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{found['dataset']}, {found['n']} clips, {found['readout']}, {seeds_said(found)}; lines: bootstrap 95 %",
        fontsize=10,
    )
    figure.savefig(path, dpi=150)


def _bars(axes, rows: list[float], figures: list[tuple[float, float, float]], time: str, label: str | None) -> None:
    values = [value for value, _, _ in figures]
    reach = [[value - low for value, low, _ in figures], [high - value for value, _, high in figures]]
    axes.barh(rows, values, height=0.36, color=COLOURS[time], label=label)
    axes.errorbar(values, rows, xerr=np.maximum(reach, 0), fmt="none", color="black", capsize=3, linewidth=1)
