"""Is the discriminative readout really better? Every readout on the same backbone, data, prompt, adapter and budget, over seeds.

    omnisent compare configs/tiny.yaml --seeds 0 1 2 --out runs/compare

Each run lies in a folder of its own; comparison.json, .md and .png are read from those folders alone, and a comparison that was
killed goes on where it was. What a run costs is measured apart from training, in one process a readout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.catalog import dataset_facts
from ..evaluation.metrics import METRICS
from ..evaluation.statistics import bootstrap_estimates, holm, paired_test, shown
from ..training import run_folder
from ..training.arguments import parse_arguments
from .baselines import BASELINES, run_baseline
from .runs import PlannedRun, carry_out, differing_field
from .tables import markdown_table, seeds_said, shared_settings

ARM_FIELDS = (
    *(
        "readout",
        "decoding",
        "max_new_tokens",
        "head",
        "head_hidden_size",
        "head_dropout",
        "head_learning_rate",
        "loss",
    ),
    *("evaluate_only", "seed"),
)
RATES = ("unparsable_rate", "mae_parsable", "out_of_range_rate")
SIZES = ("trainable_parameters", "trainable_percent", "head_parameters")


@dataclass(frozen=True)
class Arm:
    """One way to score; `trained_by` names the arm whose adapter it scores with, where it does not train its own."""

    name: str
    label: str
    argv: tuple[str, ...]
    trains: bool = False
    trained_by: str | None = None

    @property
    def seeded(self) -> bool:
        """Whether a seed changes anything: the base model's own answers do not depend on it."""
        return self.trains or self.trained_by is not None


def _generative(decoding: str, *argv: str) -> tuple[str, ...]:
    return ("--readout", "generative", "--decoding", decoding, *argv)


ARMS = (
    Arm("discriminative", "discriminative", ("--readout", "discriminative"), trains=True),
    Arm("generative-trained-greedy", "generative, trained, greedy", _generative("greedy"), trains=True),
    Arm(
        "generative-trained-expected",
        "generative, trained, expected",
        _generative("expected", "--evaluate_only", "true"),
        trained_by="generative-trained-greedy",
    ),
    Arm(
        "generative-zero-shot-greedy",
        "generative, zero-shot, greedy",
        _generative("greedy", "--evaluate_only", "true"),
    ),
    Arm(
        "generative-zero-shot-expected",
        "generative, zero-shot, expected",
        _generative("expected", "--evaluate_only", "true"),
    ),
)
FLOOR_LABELS = {"constant": "constant (train median)", "tfidf-ridge": "TF-IDF + ridge, text"}


def compare(argv: Sequence[str], seeds: Sequence[int], out: str | Path) -> dict:
    """Carry out what is left of a comparison and write comparison.json, .md and .png.

    Args:
        argv: what train.py takes: a config file and fields that override it.
        seeds: of the trained readouts.
        out: folder of the comparison; each run lies in `<arm>/seed-<seed>`.

    Returns:
        What comparison.json holds.

    Raises:
        ValueError: for settings that no comparison can have, or when runs in the folder differ in data, prompt, adapter or
            budget, naming the field.
    """
    out = Path(out)
    seeds = list(dict.fromkeys(seeds))
    if not seeds:
        raise ValueError("seeds: a comparison needs at least one")
    model_args, data_args, _ = parse_arguments(list(argv))
    if model_args.adapter:
        raise ValueError("adapter: every readout of a comparison starts from the base model; leave the field out")
    runs = planned_runs(argv, seeds, out)
    carry_out(runs)
    for name in BASELINES:
        if not (out / name / "metrics.json").is_file():
            run_baseline(name, *parse_arguments([*argv, "--output_dir", str(out / name)]))
    check_comparable([run.folder for run in runs] + [out / name for name in BASELINES])
    found = summarise(out, seeds, dataset_facts(data_args.dataset).convention)
    run_folder.write_json(out / "comparison.json", found)
    (out / "comparison.md").write_text(_markdown(found), encoding="utf-8")
    _plot(found, out / "comparison.png")
    return found


def planned_runs(argv: Sequence[str], seeds: Sequence[int], out: Path) -> list[PlannedRun]:
    """Every run of a comparison, those that others need first; the runs that costs are measured on last."""
    runs = []
    for arm in ARMS:
        for seed in seeds if arm.seeded else seeds[:1]:
            trained = ("--adapter", str(_folder(out, arm.trained_by, seed) / "model")) if arm.trained_by else ()
            settings = (*argv, *arm.argv, *trained, "--seed", str(seed))
            runs.append(PlannedRun(f"{arm.label}, seed {seed}", _folder(out, arm.name, seed), settings))
    for arm in ARMS:
        if arm.trains:
            trained = ("--adapter", str(_folder(out, arm.name, seeds[0]) / "model"), "--evaluate_only", "true")
            settings = (*argv, *arm.argv, *trained, "--seed", str(seeds[0]))
            runs.append(PlannedRun(f"{arm.label}, cost of scoring", _cost_folder(out, arm, seeds), settings))
    return runs


def check_comparable(folders: Sequence[Path], may_differ: Sequence[str] = ARM_FIELDS) -> None:
    """Runs that may stand in one table: same clips and labels, and same settings but for the fields that may differ.

    Raises:
        ValueError: naming the field and the two folders.
    """
    first = folders[0]
    config, clips = run_folder.read_config(first), _clips(first)
    for folder in folders[1:]:
        other = run_folder.read_config(folder)
        field = differing_field(config, other, may_differ)
        if field:
            raise ValueError(
                f"{folder} and {first} cannot be compared: {field} is {other.get(field)!r} in one and"
                f" {config.get(field)!r} in the other; give a new --out to run all with the same settings"
            )
        if _clips(folder) != clips:
            raise ValueError(
                f"{folder} and {first} cannot be compared: their clips differ (clips_sha256 in environment.json,"
                " or ids and labels in predictions.csv); give a new --out to run all on the same clips"
            )


def summarise(out: Path, seeds: Sequence[int], convention: str) -> dict:
    """What comparison.json holds, read from the run folders."""
    folders = {
        arm.name: [_folder(out, arm.name, seed) for seed in (seeds if arm.seeded else seeds[:1])] for arm in ARMS
    }
    folders |= {name: [out / name] for name in BASELINES}
    labels_by_name = {arm.name: arm.label for arm in ARMS} | FLOOR_LABELS
    predictions = {name: [run_folder.read_predictions(folder) for folder in found] for name, found in folders.items()}
    labels = predictions["constant"][0]["label"].to_numpy()
    scores = {name: np.stack([table["score"].to_numpy() for table in tables]) for name, tables in predictions.items()}
    constant = float(np.mean(np.abs(scores["constant"] - labels)))
    arms = {}
    for name, found in folders.items():
        metrics = [run_folder.read_metrics(folder) for folder in found]
        estimates = bootstrap_estimates(scores[name], labels, convention)
        arms[name] = {
            "label": labels_by_name[name],
            "readout": metrics[0]["readout"],
            "decoding": metrics[0]["decoding"],
            "floor": name in BASELINES,
            "seeds": [one["seed"] for one in metrics],
            "metrics": {key: estimate.to_dict() for key, estimate in estimates.items()},
            "mae_over_constant": estimates["mae"].mean / constant,
            **{key: [one[key] for one in metrics] for key in RATES},
            **{key: metrics[0][key] for key in SIZES},
        }
    first = run_folder.read_metrics(folders["discriminative"][0])
    environment = run_folder.read_environment(folders["discriminative"][0])
    return {
        **{key: first[key] for key in ("dataset", "split", "modalities", "n", "denoise", "bad_clips")},
        "seeds": list(seeds),
        "convention": convention,
        "arms": arms,
        "tests": _tests(scores, labels),
        "costs": {arm.name: _costs(out, arm, seeds) for arm in ARMS},
        "settings": shared_settings(folders["discriminative"][0]),
        "environment": environment,
        "commits": sorted(
            {str(run_folder.read_environment(one)["commit"]) for found in folders.values() for one in found}
        ),
    }


def _tests(scores: dict[str, np.ndarray], labels: np.ndarray) -> list[dict]:
    """The discriminative readout against every other arm and floor, with p values adjusted for being several."""
    errors = {name: np.abs(values - labels) for name, values in scores.items()}
    others = [name for name in errors if name != "discriminative"]
    tests = [paired_test(errors["discriminative"], errors[name]).to_dict() for name in others]
    adjusted = holm([test["p_clips"] for test in tests])
    return [
        {"first": "discriminative", "second": name, **test, "p_clips_holm": p}
        for name, test, p in zip(others, tests, adjusted, strict=True)
    ]


def _costs(out: Path, arm: Arm, seeds: Sequence[int]) -> dict:
    metrics = run_folder.read_metrics(_cost_folder(out, arm, seeds))
    return {key: metrics[key] for key in ("seconds_per_clip", "peak_memory_bytes")}


def _folder(out: Path, arm: str, seed: int) -> Path:
    return out / arm / f"seed-{seed}"


def _cost_folder(out: Path, arm: Arm, seeds: Sequence[int]) -> Path:
    return out / "costs" / arm.name if arm.trains else _folder(out, arm.name, seeds[0])


def _clips(folder: Path) -> tuple:
    table = run_folder.read_predictions(folder)
    fingerprint = run_folder.read_environment(folder)["clips_sha256"]
    return fingerprint, tuple(table["id"]), tuple(table["label"])


def metric_table(found: dict) -> pd.DataFrame:
    """The arms and floors as rows, for people: means, with standard deviations where there are several seeds."""
    columns = [metric for key, metric in METRICS.items() if found["convention"] in metric.columns and key != "mae"]
    rows = {}
    for arm in found["arms"].values():
        row = {"seeds": 0 if arm["floor"] else len(arm["seeds"])}
        mae = arm["metrics"]["mae"]
        row |= {"MAE": shown(mae), "95 %": f"{mae['low']:.3f} to {mae['high']:.3f}"}
        row["of constant"] = f"{arm['mae_over_constant']:.2f}"
        row |= {metric.title: shown(arm["metrics"][metric.key]) for metric in columns}
        rows[arm["label"]] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def answer_table(found: dict) -> pd.DataFrame:
    """What became of the answers of the generative arms: means over seeds; rates are fractions of the clips."""
    rows = {}
    for arm in found["arms"].values():
        if arm["decoding"] is not None:
            unparsable, mae_parsable, out_of_range = (_mean(arm[key]) for key in RATES)
            rows[arm["label"]] = {
                "unparsable": f"{100 * unparsable:.1f} %",
                "MAE, unparsable as 0": shown(arm["metrics"]["mae"]),
                "MAE of the parsable": "" if mae_parsable is None else f"{mae_parsable:.3f}",
                "out of range": f"{100 * out_of_range:.1f} %",
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def conclusion(found: dict) -> str:
    """Which trained readout has the lower error, by how much, and how sure that is; computed from the figures."""
    arms = found["arms"]
    rivals = [name for name, arm in arms.items() if name.startswith("generative-trained")]
    best = min(rivals, key=lambda name: arms[name]["metrics"]["mae"]["mean"])
    test = next(test for test in found["tests"] if test["second"] == best)
    first, second = arms["discriminative"]["metrics"]["mae"]["mean"], arms[best]["metrics"]["mae"]["mean"]
    sure = test["low"] > 0 or test["high"] < 0
    winner = "discriminative" if first < second else arms[best]["label"]
    verdict = f"the {winner} readout has the lower MAE" if sure else "neither readout is clearly better"
    weak = [arms[name]["label"] for name in rivals if arms[name]["mae_over_constant"] > 0.7]
    note = (
        f" MAE above 0.7 of the constant's: {'; '.join(weak)}; read a comparison with a weak baseline with care."
        if weak
        else ""
    )
    over_seeds = "" if test["p_seeds"] is None else f", over seeds {test['p_seeds']:.2g}"
    return (
        f"Discriminative {first:.3f} against {second:.3f} of the best trained generative one ({arms[best]['label']}): {verdict}"
        f" (difference {test['difference']:+.3f}, 95 % interval {test['low']:+.3f} to {test['high']:+.3f}, p over clips"
        f" {test['p_clips']:.2g}{over_seeds}).{note}"
    )


def _markdown(found: dict) -> str:
    tests = pd.DataFrame.from_dict(
        {
            found["arms"][test["second"]]["label"]: {
                "difference in MAE": f"{test['difference']:+.3f}",
                "95 %": f"{test['low']:+.3f} to {test['high']:+.3f}",
                "p over clips (Holm)": f"{test['p_clips_holm']:.2g}",
                "p over seeds": "" if test["p_seeds"] is None else f"{test['p_seeds']:.2g}",
            }
            for test in found["tests"]
        },
        orient="index",
    )
    costs = pd.DataFrame.from_dict(
        {
            found["arms"][name]["label"]: {
                "seconds a clip": f"{cost['seconds_per_clip']:.4f}",
                "peak memory": f"{cost['peak_memory_bytes'] / 1e9:.2f} GB",
                "trainable": f"{found['arms'][name]['trainable_parameters']:,}",
                "head": f"{found['arms'][name]['head_parameters']:,}",
            }
            for name, cost in found["costs"].items()
        },
        orient="index",
    )
    return (
        "\n\n".join(
            (
                f"# Readouts on {found['dataset']}",
                f"{found['n']} {found['split']} clips, {', '.join(found['modalities'])};"
                f" seeds {', '.join(map(str, found['seeds']))}; base model {found['settings']['base_model']}."
                " Means over seeds, plus or minus one standard deviation; intervals"
                " by bootstrap over clips and seeds. A zero-shot answer depends on no seed.",
                conclusion(found),
                markdown_table(metric_table(found)),
                "What became of the written answers:",
                markdown_table(answer_table(found)),
                "The discriminative readout against each other one; below 0, it is better:",
                markdown_table(tests),
                "What scoring costs, from file to score, each measured once in a process of its own at the same batch size:",
                markdown_table(costs),
            )
        )
        + "\n"
    )


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def _plot(found: dict, path: Path) -> None:
    """Bars with intervals, a panel for each metric that asks for one."""
    panels = [metric for metric in METRICS.values() if metric.panel and found["convention"] in metric.formulas]
    arms = list(found["arms"].values())[::-1]
    figure = Figure(figsize=(11, 0.9 + 0.42 * len(arms)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        for row, arm in enumerate(arms):
            estimate = arm["metrics"][metric.key]
            if estimate["mean"] is None:
                axes.text(0, row, " undefined", va="center", color="0.4", fontsize=8)
                continue
            colour = "0.65" if arm["floor"] else "#0072B2" if arm["readout"] == "discriminative" else "#E69F00"
            axes.barh(row, estimate["mean"], color=colour, height=0.7)
            reach = [[max(0.0, estimate["mean"] - estimate["low"])], [max(0.0, estimate["high"] - estimate["mean"])]]
            axes.errorbar(estimate["mean"], row, xerr=reach, color="black", capsize=3, linewidth=1)
        axes.set_title(metric.name + (", lower is better" if metric.better == "lower" else ""), fontsize=10)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks(range(len(arms)), [arm["label"] for arm in arms], fontsize=9)
    unit = f"{found['dataset']}, {found['n']} clips, {seeds_said(found)}; bars: mean over seeds, lines: bootstrap 95 %"
    figure.suptitle(unit, fontsize=10)
    figure.savefig(path, dpi=150)
