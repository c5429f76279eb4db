"""Compares the readouts over seeds, with the same backbone, data, prompt, adapter and budget.

    omnisent compare configs/tiny.yaml --seeds 0 1 2 --out runs/compare

Each run has its own folder. comparison.json, .md and .png are computed only from these folders, and an interrupted comparison
resumes. The cost of scoring is measured separately from training, in one process per readout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from ..data.catalog import DatasetFacts, dataset_facts
from ..evaluation.comparison_result import ArmResult, ArmTest, Comparison, Cost
from ..evaluation.statistics import bootstrap_estimates, holm, paired_test
from ..readouts.catalog import READOUTS
from ..readouts.generative import DECODINGS
from ..training import run_folder
from ..training.arguments import parse_arguments
from .baseline_run import run_baseline
from .baselines import BASELINES, Baseline
from .comparison_report import write_comparison
from .runs import PlannedRun, differing_field, run_all
from .tables import shared_settings


@dataclass(frozen=True)
class Arm:
    """One way to score; `trained_by` names the arm whose adapter it uses, if it does not train its own."""

    name: str
    label: str
    argv: tuple[str, ...]
    trains: bool = False
    trained_by: str | None = None

    def own_seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        """The seeds of its runs; only the first if it does not depend on the seed, such as zero-shot answers."""
        return seeds if self.trains or self.trained_by else seeds[:1]


def arms() -> list[Arm]:
    """Every way to score that a comparison runs, from `READOUTS`.

    A readout is trained once, with its first decoding; its other decodings score with that adapter. One that
    works without training is also run zero-shot.
    """
    all_arms = []
    for name, readout in READOUTS.items():
        decodings = tuple(DECODINGS) if "decoding" in readout.decoding_fields else (None,)
        stages = ("trained", "zero-shot") if readout.uses_lm_head else ("trained",)
        trained_by = None
        for stage, decoding in product(stages, decodings):
            parts = [name, *([stage] if len(stages) > 1 else []), *([decoding] if decoding else [])]
            trains = stage == "trained" and decoding == decodings[0]
            argv = ("--readout", name, *(("--decoding", decoding) if decoding else ()))
            argv += () if trains else ("--evaluate_only", "true")
            arm = Arm("-".join(parts), ", ".join(parts), argv, trains, trained_by if stage == "trained" else None)
            trained_by = arm.name if trains else trained_by
            all_arms.append(arm)
    return all_arms


def arm_fields() -> list[str]:
    """The settings in which the runs of a comparison may differ."""
    readout_fields = [
        field for readout in READOUTS.values() for field in (*readout.model_fields, *readout.decoding_fields)
    ]
    return ["readout", "head_learning_rate", "evaluate_only", "seed", *readout_fields]


def compare(argv: Sequence[str], seeds: Sequence[int], out: str | Path) -> Comparison:
    """Run the unfinished runs of a comparison, and write comparison.json, .md and .png.

    Args:
        argv: arguments of train.py: a config file and fields that override it.
        seeds: of the trained readouts.
        out: folder of the comparison; each run is in `<arm>/seed-<seed>`.

    Raises:
        ValueError: for settings that a comparison does not support, or when runs in the folder differ in data, prompt, adapter or
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
    run_all(runs)
    facts = dataset_facts(data_args.dataset)
    baselines, _ = _baselines(out, facts)
    for name in baselines:
        if not _is_finished(out / name):
            run_baseline(name, *parse_arguments([*argv, "--output_dir", str(out / name)]))
    check_comparable([run.folder for run in runs] + [out / name for name in baselines], arm_fields())
    comparison = summarise(out, seeds, facts)
    write_comparison(comparison, out)
    return comparison


def planned_runs(argv: Sequence[str], seeds: Sequence[int], out: Path) -> list[PlannedRun]:
    """Every run of a comparison: those that others depend on first, those that measure the cost of scoring last."""
    runs = []
    for arm in arms():
        for seed in arm.own_seeds(seeds):
            trained = ("--adapter", str(_folder(out, arm.trained_by, seed) / "model")) if arm.trained_by else ()
            settings = (*argv, *arm.argv, *trained, "--seed", str(seed))
            runs.append(PlannedRun(f"{arm.label}, seed {seed}", _folder(out, arm.name, seed), settings))
    for arm in arms():
        if arm.trains:
            bundle = _folder(out, arm.name, seeds[0]) / "model"
            scoring = ("--adapter", str(bundle), "--evaluate_only", "true", "--seed", str(seeds[0]))
            settings = (*argv, *arm.argv, *scoring)
            runs.append(PlannedRun(f"{arm.label}, cost of scoring", _cost_folder(out, arm, seeds), settings))
    return runs


def check_comparable(folders: Sequence[Path], may_differ: Sequence[str]) -> None:
    """Check that runs can be compared: same clips and labels, and same settings except for the fields that may differ.

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


def summarise(out: Path, seeds: Sequence[int], facts: DatasetFacts) -> Comparison:
    """The comparison of the finished runs in a folder, on the data set of the facts."""
    baselines, left_out = _baselines(out, facts)
    folders = {arm.name: [_folder(out, arm.name, seed) for seed in arm.own_seeds(seeds)] for arm in arms()}
    folders |= {name: [out / name] for name in baselines}
    arm_labels = {arm.name: arm.label for arm in arms()} | {
        name: baseline.label for name, baseline in baselines.items()
    }
    predictions = {name: [run_folder.read_predictions(run) for run in runs] for name, runs in folders.items()}
    labels = predictions["constant"][0]["label"].to_numpy()
    scores = {name: np.stack([table["score"].to_numpy() for table in tables]) for name, tables in predictions.items()}
    constant = float(np.mean(np.abs(scores["constant"] - labels)))
    results = {}
    for name, runs in folders.items():
        metrics = [run_folder.read_metrics(folder) for folder in runs]
        estimates = bootstrap_estimates(scores[name], labels, facts.convention)
        results[name] = ArmResult(
            label=arm_labels[name],
            readout=metrics[0]["readout"],
            decoding=metrics[0]["decoding"],
            is_baseline=name in baselines,
            seeds=[run["seed"] for run in metrics],
            metrics=estimates,
            mae_over_constant=estimates["mae"].mean_low_high()[0] / constant,
            unparsable_rate=[run["unparsable_rate"] for run in metrics],
            mae_parsable=[run["mae_parsable"] for run in metrics],
            out_of_range_rate=[run["out_of_range_rate"] for run in metrics],
            trainable_parameters=metrics[0]["trainable_parameters"],
            trainable_percent=metrics[0]["trainable_percent"],
            head_parameters=metrics[0]["head_parameters"],
        )
    first = folders["discriminative"][0]
    measured, environment = run_folder.read_metrics(first), run_folder.read_environment(first)
    every_run = [folder for runs in folders.values() for folder in runs]
    return Comparison(
        **{key: measured[key] for key in ("dataset", "split", "modalities", "n", "denoise", "bad_clips")},
        seeds=list(seeds),
        convention=facts.convention,
        arms=results,
        tests=_tests(scores, labels),
        costs={arm.name: _cost(out, arm, seeds) for arm in arms()},
        settings=shared_settings(first),
        environment=environment,
        commits=sorted({str(run_folder.read_environment(folder)["commit"]) for folder in every_run}),
        human_mae=run_folder.one_person_mae(first),
        left_out=left_out,
    )


def _baselines(out: Path, facts: DatasetFacts) -> tuple[dict[str, Baseline], dict[str, str]]:
    """The baselines of a comparison, and by label why others that suit the data set cannot be run here."""
    suited = {name: baseline for name, baseline in BASELINES.items() if baseline.suits(facts)}
    lacks = {name: why for name, baseline in suited.items() if not _is_finished(out / name) and (why := baseline.lacks)}
    used = {name: baseline for name, baseline in suited.items() if name not in lacks}
    return used, {suited[name].label: why for name, why in lacks.items()}


def _is_finished(folder: Path) -> bool:
    return (folder / "metrics.json").is_file()


def _tests(scores: dict[str, np.ndarray], labels: np.ndarray) -> list[ArmTest]:
    """The discriminative readout against every other arm, with p values adjusted for several tests."""
    errors = {name: np.abs(values - labels) for name, values in scores.items()}
    others = [name for name in errors if name != "discriminative"]
    tests = [paired_test(errors["discriminative"], errors[name]) for name in others]
    adjusted = holm([test.p_clips for test in tests])
    return [ArmTest("discriminative", name, test, p) for name, test, p in zip(others, tests, adjusted, strict=True)]


def _cost(out: Path, arm: Arm, seeds: Sequence[int]) -> Cost:
    metrics = run_folder.read_metrics(_cost_folder(out, arm, seeds))
    return Cost(metrics["seconds_per_clip"], metrics["peak_memory_bytes"])


def _folder(out: Path, arm: str, seed: int) -> Path:
    return out / arm / f"seed-{seed}"


def _cost_folder(out: Path, arm: Arm, seeds: Sequence[int]) -> Path:
    return out / "costs" / arm.name if arm.trains else _folder(out, arm.name, seeds[0])


def _clips(folder: Path) -> tuple:
    table = run_folder.read_predictions(folder)
    fingerprint = run_folder.read_environment(folder)["clips_sha256"]
    return fingerprint, tuple(table["id"]), tuple(table["label"])
