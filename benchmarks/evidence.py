"""Collects finished comparisons with a trained language model into benchmarks/results/evidence.json and evidence.png.

    omnisent sweep small_mosi --root /data/CMU-MOSI --num_train_epochs 3 --arms benchmarks/mosi_arms.yaml --trials 6 \
        --out runs/sweep
    omnisent compare small_mosi --root /data/CMU-MOSI --num_train_epochs 5 --arms benchmarks/mosi_arms.yaml \
        --settings runs/sweep/sweep.json --out runs/lab
    make real
    python benchmarks/evidence.py "CMU-MOSI, text, tuned=runs/lab" "tweets and film reviews=runs/real" \
        --arms benchmarks/mosi_arms.yaml --model runs/real/model

Single runs that differ in one setting, and probes of the untrained model:

    omnisent train small_mosi --root /data/CMU-MOSI --quantization nf4 --output_dir runs/nf4
    python benchmarks/evidence.py --pair "NF4 against unquantised=runs/nf4,runs/small_mosi/discriminative/seed-0"
    omnisent probe small_mosi --root /data/CMU-MOSI --text_case as_is --out runs/probe
    python benchmarks/evidence.py --probe "capitals=runs/probe"

MAE by layer before and after training, and prediction intervals of a head with bins:

    omnisent probe small_mosi --root /data/CMU-MOSI --readouts --adapter runs/lab/head/seed-0/model --out runs/after
    python benchmarks/evidence.py --layers "after training=runs/after" --root /data/CMU-MOSI
    python benchmarks/evidence.py --intervals "head=runs/lab/head-mix-ordinal/seed-0/model" --root /data/CMU-MOSI

What is not given keeps its place in the file, so that each may be run when there is time. docs/EVIDENCE.md says what the figures
mean.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, machine
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm.auto import tqdm

from omnisent.data.catalog import LABEL, dataset_facts
from omnisent.data.clip import SPLITS, labels_of
from omnisent.data.load import load_clips
from omnisent.evaluation.comparison_result import Comparison, read_comparison
from omnisent.evaluation.metrics import METRICS
from omnisent.evaluation.statistics import paired_test
from omnisent.experiments.arms import Arm, default_arms, read_arms
from omnisent.experiments.comparison_report import plot_metric, style_of
from omnisent.experiments.probe import fit_layers
from omnisent.figure_style import MEDIUM, SMALL, line, panel, save_figure
from omnisent.training import run_folder

FLOOR = "tfidf-ridge"
MAES = ("valid_mae", "test_mae")
SENTENCES = Path(__file__).parent / "sentences.csv"


def collected(folder: Path, arms: Sequence[Arm]) -> dict[str, Any]:
    """A comparison, with validation MAE by epoch of each training, and paired tests of the trained readouts against TF-IDF."""
    comparison = read_comparison(folder / "comparison.json")
    floor = run_folder.read_predictions(folder / FLOOR)
    trained = [arm for arm in arms if arm.name in comparison.arms and (arm.trains or arm.adapter_of)]
    tests, curves = {}, {}
    for arm in trained:
        runs = [folder / arm.name / f"seed-{seed}" for seed in arm.own_seeds(comparison.seeds)]
        errors = np.stack([absolute_errors(run_folder.read_predictions(run)) for run in runs])
        tests[arm.name] = paired_test(errors, absolute_errors(floor), groups=run_folder.videos_of(floor)).to_dict()
        if arm.trains:
            curves[arm.name] = {run.name: validation_curve(run) for run in runs}
    return {
        **comparison.to_dict(),
        "against_tfidf": tests,
        "by_genre": by_genre(folder, comparison, arms),
        "validation_mae": curves,
        "machine": machine(),
    }


def by_genre(folder: Path, comparison: Comparison, arms: Sequence[Arm]) -> dict[str, dict[str, float]]:
    """Test MAE of every way to score on the clips of each genre, mean over seeds; empty if the data set has none."""
    maes: dict[str, dict[str, float]] = {}
    own_seeds = {arm.name: arm.own_seeds(comparison.seeds) for arm in arms}
    for name in comparison.arms:
        runs = [folder / name / f"seed-{seed}" for seed in own_seeds[name]] if name in own_seeds else [folder / name]
        for table in map(run_folder.read_predictions, runs):
            genre_of = table["id"].str.rpartition("_")[0]
            for genre in dataset_facts(comparison.dataset).genres:
                errors = absolute_errors(table)[genre_of == genre]
                if len(errors):
                    clips = maes.setdefault(genre, {"n": len(errors)})
                    clips[name] = clips.get(name, 0.0) + float(errors.mean()) / len(runs)
    return maes


def absolute_errors(predictions: pd.DataFrame) -> np.ndarray:
    """Absolute errors (n,) of a run's predictions, label units."""
    return np.abs(predictions["score"] - predictions["label"]).to_numpy()


def validation_curve(run: Path) -> list[tuple[float, float]]:
    """Epoch and validation MAE of each evaluation during training; none for a run that was kept by its small files."""
    if not (run / "trainer_state.json").is_file():
        return []
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [(entry["epoch"], entry["eval_mae"]) for entry in log if "eval_mae" in entry]


def pair(first: Path, second: Path) -> dict[str, Any]:
    """Test metrics of two runs on the same clips, and a paired test: below 0, the first has the lower error."""
    tables = [run_folder.read_predictions(run) for run in (first, second)]
    if list(tables[0]["id"]) != list(tables[1]["id"]):
        raise SystemExit(f"{first} and {second} have different test clips; give two runs on the same data")
    metrics = [run_folder.read_metrics(run) for run in (first, second)]
    for one in metrics:
        del one["seconds_per_clip"]  # the runs may have shared the machine with others
    return {
        "first": metrics[0],
        "second": metrics[1],
        "first_minus_second": paired_test(
            *map(absolute_errors, tables), groups=run_folder.videos_of(tables[0])
        ).to_dict(),
        "commit": run_folder.read_environment(first)["commit"],
        "machine": machine(),
    }


def probe(folder: Path) -> dict[str, Any]:
    """Ridge regression on the untrained model's last layer, and on the layer with the lowest validation error."""
    found = json.loads((folder / "probe.json").read_text())
    return {
        "last_layer": found["layers"][-1],
        "best_layer_on_validation": found["layers"][found["chosen_layer"]],
        "commit": found["environment"]["commit"],
    }


def intervals(bundle: str, dataset: str, root: str | None) -> dict[str, Any]:
    """90 % intervals of a bundle of texts with and without its distribution, calibrated on all validation clips and tested."""
    from omnisent.readouts.discriminative import DiscriminativeReadout
    from omnisent.scoring.loading import Loading, load_pipeline
    from omnisent.training.outcome import calibrate, interval_figures

    pipeline, facts = load_pipeline(Loading(bundle, device="cpu", dtype="float32")), dataset_facts(dataset)
    readout, clips = DiscriminativeReadout(facts.score_range), load_clips(dataset, root=root, with_media=False)
    rows, of_split = {}, {split: [clip for clip in clips if clip.split == split] for split in ("valid", "test")}
    for split, own in of_split.items():
        outputs = []
        for clip in tqdm(own, desc=split):
            with torch.no_grad():
                batch = pipeline.processor([{"text": clip.text}])
                outputs.append(readout.predict(pipeline.model, batch)[1].numpy())
        rows[split] = readout.rows(readout.decode(np.concatenate(outputs)))
    found: dict[str, Any] = {}
    for name, columns in (("distribution", rows["valid"].shape[1]), ("half-width", 1)):
        target = facts.targets[LABEL]
        calibrated = calibrate([rows["valid"][:, :columns]], of_split["valid"], "mae", [target])[LABEL]
        figures = interval_figures(calibrated, rows["test"][:, :columns], of_split["test"], facts.score_range)
        found[name] = {**figures, "calibration": calibrated}
    spread = np.ptp(rows["test"][:, 1:].reshape(len(rows["test"]), -1, 2)[:, 2], axis=1)  # of its 90 %
    errors, order = np.abs(rows["test"][:, 0] - labels_of(of_split["test"])), np.argsort(spread)
    found["mae_by_third_of_spread"] = [float(errors[part].mean()) for part in np.array_split(order, 3)]
    return {**found, "machine": machine()}


def layers(folder: Path, dataset: str, root: str | None) -> list[dict[str, float]]:
    """MAE of ridge regression on each layer's state of the last token, from the states of a probe of readouts or from a probe."""
    if not (folder / "states").is_dir():
        return [{key: row[key] for key in MAES} for row in json.loads((folder / "probe.json").read_text())["layers"]]
    clips, facts = load_clips(dataset, root=root, with_media=False), dataset_facts(dataset)
    labels = {split: labels_of(clip for clip in clips if clip.split == split) for split in SPLITS}
    files = {split: np.load(folder / "states" / f"{split}.npz")["last"][:, :-1] for split in SPLITS}
    states = {split: np.moveaxis(array, 1, 0) for split, array in files.items()}
    return [{key: getattr(fit, key) for key in MAES} for fit in fit_layers(states, labels, facts.score_range)]


def plot_layers(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Test MAE by layer, a line for each set of states."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, (name, rows) in enumerate(found.items()):
        axes.plot(range(len(rows)), [row["test_mae"] for row in rows], **line(place), label=name, markersize=4)
    axes.set_xlabel("layer (0: token embeddings)")
    axes.set_ylabel("test MAE of ridge regression")
    axes.set_ylim(bottom=0)
    panel(axes)
    axes.legend(frameon=False)
    save_figure(figure, path)


def scored_sentences(model: str) -> list[dict[str, Any]]:
    """The scores of a bundle for twenty plain sentences, none of them from a data set."""
    from omnisent.scoring.loading import Loading, load_pipeline

    with SENTENCES.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pipeline = load_pipeline(Loading(model, None, None, None))
    scores = [pipeline({"text": row["text"]})["score"] for row in rows]
    return [{**row, "score": score} for row, score in zip(rows, scores, strict=True)]


def plot(results: dict[str, Any], path: Path) -> None:
    """A row for each comparison: test MAE of every way to score; beside it validation MAE during training, or MAE by genre."""
    figure = Figure(figsize=(12, 3.6 * len(results)), layout="constrained")
    for (name, values), (left, right) in zip(
        results.items(), figure.subplots(len(results), 2, squeeze=False), strict=True
    ):
        comparison = Comparison.from_dict({k: v for k, v in values.items() if k in Comparison.__dataclass_fields__})
        plot_metric(left, comparison, METRICS["mae"])
        left.set_title(f"{name}: test MAE, {comparison.n} clips, 95 % interval", fontsize=MEDIUM)
        if values["by_genre"]:
            plot_genres(right, comparison, values["by_genre"])
        else:
            plot_curves(right, comparison, values["validation_mae"])
        panel(right)
    save_figure(figure, path)


def plot_curves(axes: Axes, comparison: Comparison, by_arm: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    """Validation MAE by epoch of each way to train, mean over its seeds."""
    for place, (name, curves) in enumerate(by_arm.items()):
        known = [curve for curve in curves.values() if curve]
        if known:
            means = pd.DataFrame([pair for curve in known for pair in curve]).groupby(0)[1].mean()
            label = f"{comparison.arms[name].label} ({len(known)})"
            axes.plot(means.index, means, **line(place), label=label, markersize=4)
    axes.set_title("validation MAE during training, mean over seeds", fontsize=MEDIUM)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=SMALL)


def plot_genres(axes: Axes, comparison: Comparison, maes: dict[str, dict[str, float]]) -> None:
    """A row of points for each way to score, one for each genre."""
    arms = list(comparison.arms.items())[::-1]
    for (genre, by_arm), marker in zip(maes.items(), "osD^", strict=False):
        values = [by_arm[name] for name, _ in arms]
        label = f"{genre.replace('_', ' ')} ({by_arm['n']})"
        axes.scatter(
            values, range(len(arms)), marker=marker, c=[style_of(arm)["color"] for _, arm in arms], label=label
        )
    axes.set_yticks(range(len(arms)), [arm.label for _, arm in arms], fontsize=SMALL)
    axes.set_title("test MAE by genre (sentences)", fontsize=MEDIUM)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=SMALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "comparisons", nargs="*", metavar="NAME=FOLDER", help="a title, and the folder of a finished comparison"
    )
    parser.add_argument("--arms", help="a file of arms of the comparisons, beside the default ones")
    parser.add_argument("--pair", metavar="NAME=RUN,RUN", help="a title, and the folders of two runs on the same clips")
    parser.add_argument("--probe", metavar="NAME=FOLDER", help="a title, and the folder of a probe")
    parser.add_argument("--layers", metavar="NAME=FOLDER", help="a title, and the folder of a probe, for MAE by layer")
    parser.add_argument("--intervals", metavar="NAME=BUNDLE", help="a title, and a bundle of texts whose head has bins")
    parser.add_argument("--dataset", default="cmu_mosi", help="of --layers and --intervals")
    parser.add_argument("--root", help="its folder")
    parser.add_argument("--model", help="a bundle that scores the sentences of sentences.csv")
    arguments = parser.parse_args()
    path = RESULTS / "evidence.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    evidence = {"comparisons": {}, "pairs": {}, "probes": {}, "layers": {}, "intervals": {}, "sentences": [], **kept}
    arms = [*default_arms(), *(read_arms(arguments.arms) if arguments.arms else [])]
    for given in arguments.comparisons:
        name, _, folder = given.rpartition("=")
        evidence["comparisons"][name] = collected(Path(folder), arms)
    if arguments.pair:
        name, _, runs = arguments.pair.rpartition("=")
        evidence["pairs"][name] = pair(*map(Path, runs.split(",")))
    if arguments.probe:
        name, _, folder = arguments.probe.rpartition("=")
        evidence["probes"][name] = probe(Path(folder))
    if arguments.layers:
        name, _, folder = arguments.layers.rpartition("=")
        evidence["layers"][name] = layers(Path(folder), arguments.dataset, arguments.root)
        plot_layers(evidence["layers"], RESULTS / "evidence_layers.png")
    if arguments.intervals:
        name, _, bundle = arguments.intervals.rpartition("=")
        evidence["intervals"][name] = intervals(bundle, arguments.dataset, arguments.root)
    if arguments.model:
        evidence["sentences"] = scored_sentences(arguments.model)
    path.write_text(json.dumps(evidence, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if evidence["comparisons"]:
        plot(evidence["comparisons"], RESULTS / "evidence.png")
    for sentence in evidence["sentences"]:
        print(f"{float(sentence['score']):+.2f}  {sentence['text']}")


if __name__ == "__main__":
    main()
