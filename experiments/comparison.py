"""Compares ways to score, the arms, over seeds; what no arm names is the same for all: backbone, data, prompt, adapter and budget.

    omnisent compare configs/tiny.yaml --seeds 0 1 2 --out runs/compare [--arms laboratory]

Each run has its own folder. comparison.json, .md and .png are computed only from these folders, of several targets one of each in
`targets/NAME`, and an interrupted comparison resumes. The cost of scoring is measured separately from training, in one process per
readout.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.catalog import DatasetFacts, dataset_facts
from ..data.tables import read_columns, read_rows, write_table
from ..evaluation.comparison_result import (
    PER_SEED,
    ArmResult,
    ArmTest,
    Comparison,
    Cost,
    Tuning,
    comparison_folder,
)
from ..evaluation.metric_tests import metric_tests
from ..evaluation.metrics import over_constant
from ..evaluation.statistics import Resampled, estimates, paired_tests, resampled
from ..training import run_folder
from ..training.arguments import parse_arguments
from ..training.targets import facts_of, targets_of
from .arms import OUTSIDE, Arm, baseline_folder, default_arms
from .baseline_run import run_baseline
from .baselines import BASELINES, Baseline
from .comparison_report import write_comparison
from .runs import PlannedRun, differing_field, run_all
from .tables import shared_settings
from .tuned import tuned_arms, tuning_of

MARGIN = 0.01  # of the label scale: the difference in MAE below which two arms are as good
OWN_FIELDS = ("readout", "decoding", "evaluate_only", "seed")  # in which runs of any comparison may differ


def compare(
    argv: Sequence[str],
    seeds: Sequence[int],
    out: str | Path,
    *,
    arms: Sequence[Arm] | None = None,
    settings: str | Path | None = None,
    predictions: Mapping[str, str | Path] | None = None,
) -> list[Comparison]:
    """Run the unfinished runs of a comparison, and write comparison.json, .md and .png; returns the comparison of each target.

    Args:
        argv: arguments of train.py: a config file and fields that override it.
        seeds: of the trained arms.
        out: folder of the comparison; each run is in `<arm>/seed-<seed>`.
        arms: the ways to score, `default_arms()` for `None`; the others are tested against the first.
        settings: the sweep.json of a sweep, whose best settings are used.
        predictions: scores from elsewhere, by their name in tables: tables with `id` and `score` of every test clip, or of several
            targets a column for each.

    Raises:
        ValueError: for settings that a comparison does not support, for a table that lacks a clip, or when runs in the folder
            differ in a field that no arm names.
    """
    out, arms = Path(out), list(default_arms() if arms is None else arms)
    seeds = list(dict.fromkeys(seeds))
    if not seeds:
        raise ValueError("seeds: a comparison needs at least one")
    model_args, data_args, args = parse_arguments(list(argv))
    if model_args.adapter:
        raise ValueError("adapter: every arm of a comparison starts from the base model; leave the field out")
    if args.evaluate != "test":
        raise ValueError(
            "evaluate: a comparison shows test results; to choose settings on validation, use omnisent sweep"
        )
    facts, targets = facts_of(data_args), targets_of(data_args)
    tuning: dict[str, Tuning] = {}
    if settings is not None:
        arms, tuning = tuned_arms(arms, settings, argv), tuning_of(arms, settings)
    _check_names(predictions or {}, arms)
    for file in (predictions or {}).values():
        _read_scores(Path(file), _score_columns([target.name for target in targets]))
    _check_datasets(arms, facts)
    runs = planned_runs(argv, arms, seeds, out)
    _check_adapters(runs)
    run_all([*runs, *cost_runs(argv, arms, seeds, out)])
    baselines, _ = _baselines(out, facts)
    for name in baselines:
        if not _is_finished(out / name):
            run_baseline(name, *parse_arguments([*argv, "--output_dir", str(out / name)]))
    may_differ = {*OWN_FIELDS, *(field for arm in arms for field in arm.fields)}
    check_comparable([run.folder for run in runs] + [out / name for name in baselines], may_differ)
    for name, file in (predictions or {}).items():
        import_predictions(out, name, Path(file), of=runs[0].folder)
    comparisons = []
    for target in targets:
        own = replace(facts, score_range=target.score_range, convention=target.convention)
        only = target.name if len(targets) > 1 else None
        comparisons.append(replace(summarise(out, seeds, own, arms=arms, target=only), tuning=tuning))
        write_comparison(comparisons[-1], comparison_folder(out, only))
    return comparisons


def planned_runs(argv: Sequence[str], arms: Sequence[Arm], seeds: Sequence[int], out: Path) -> list[PlannedRun]:
    """The runs that give the scores of a comparison: those that others depend on first."""
    runs = []
    for arm in arms:
        for seed in arm.own_seeds(seeds):
            settings = (*argv, *arm.argv, *_adapter(argv, arm, arms, seed, out), "--seed", str(seed))
            runs.append(PlannedRun(f"{arm.label}, seed {seed}", _folder(out, arm.name, seed), settings))
    return runs


def cost_runs(argv: Sequence[str], arms: Sequence[Arm], seeds: Sequence[int], out: Path) -> list[PlannedRun]:
    """The runs that measure the cost of scoring for each trained arm: the validation clips, in a process that does not train.

    An arm is left out whose first run is there without its model, as in a study that was kept by its small files.
    """
    runs = []
    for arm in arms:
        bundle = _folder(out, arm.name, seeds[0]) / "model"
        has_cost, trained = _is_finished(_cost_folder(out, arm, seeds)), _is_finished(bundle.parent)
        if arm.trains and (has_cost or bundle.is_dir() or not trained):
            scoring = ("--adapter", str(bundle), "--evaluate_only", "true", "--seed", str(seeds[0]))
            settings = (*argv, *arm.argv, *scoring, "--evaluate", "valid")
            name, folder = f"{arm.label}, cost of scoring", _cost_folder(out, arm, seeds)
            runs.append(
                PlannedRun(name, folder, settings, may_differ=("evaluate",))
            )  # earlier versions scored the test clips
    return runs


def _adapter(argv: Sequence[str], arm: Arm, arms: Sequence[Arm], seed: int, out: Path) -> tuple[str, ...]:
    """The adapter that an arm scores with: the best by its own decoding, if the arm that trains it keeps one for each."""
    if arm.adapter_of is None:
        return ()
    trained = next(other for other in arms if other.name == arm.adapter_of)
    folder = _folder(out, trained.name, seed)
    model, _, args = parse_arguments([*argv, *arm.argv, "--evaluate_only", "false"])
    own, _, _ = parse_arguments([*argv, *trained.argv])
    has_its_own = args.load_best_model_at_end and model.decoding != own.decoding
    return ("--adapter", str(folder / run_folder.BEST / model.decoding if has_its_own else folder / "model"))


def check_comparable(folders: Sequence[Path], may_differ: Collection[str]) -> None:
    """Check that runs can be compared: same clips and labels, and same settings except for the fields that may differ.

    Raises:
        ValueError: naming the field and the two folders.
    """
    first = folders[0]
    config, clips = run_folder.read_config(first), _ids_and_labels(first)
    for folder in folders[1:]:
        other = run_folder.read_config(folder)
        field = differing_field(config, other, may_differ)
        if field:
            raise ValueError(
                f"{folder} and {first} cannot be compared: {field} is {other.get(field)!r} in one and"
                f" {config.get(field)!r} in the other; give a new --out to run all with the same settings"
            )
        part = run_folder.other_clips(first, folder)
        if part == "media" and "dataset" in may_differ and other.get("dataset") != config.get("dataset"):
            part = None  # another build of the same clips
        if part is None and _ids_and_labels(folder) != clips:
            part = "ids and labels in predictions.csv"
        if part:
            raise ValueError(
                f"{folder} and {first} cannot be compared: the {part} of their clips differ; give a new --out to run all on the"
                " same clips"
            )


def _check_names(predictions: Mapping[str, str | Path], arms: Sequence[Arm]) -> None:
    """Check that the names of scores from elsewhere can be those of folders and rows, and that no arm or baseline has them."""
    taken = {name for arm in arms for name in (arm.name, arm.label)}
    taken |= {name for key, baseline in BASELINES.items() for name in (key, baseline.label)}
    for name, file in predictions.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w ,.+-]*", name):
            raise ValueError(
                f"predictions: {name!r} names a folder; expected letters, digits, commas, dots, dashes, spaces"
            )
        if name in taken:
            raise ValueError(f"predictions: {name} is the name of another row; choose another")
        if not Path(file).is_file():
            raise FileNotFoundError(f"predictions: {file}: no such file")


def _check_datasets(arms: Sequence[Arm], facts: DatasetFacts) -> None:
    """Check that an arm with a data set of its own has another build of the same one."""
    for arm in arms:
        own = arm.fields.get("dataset")
        if own is not None and (name := dataset_facts(own).name) != facts.name:
            raise ValueError(
                f"arm {arm.name}: dataset {own} is {name}, not {facts.name}; expected another build of the same clips"
            )


def _check_adapters(runs: Sequence[PlannedRun]) -> None:
    """Check that finished trainings have the adapters that others score with, and that finished scores are of these adapters.

    Raises:
        ValueError: naming the folder, which an earlier version of omnisent made, or training without `load_best_model_at_end`.
    """
    finished = {run.folder for run in runs if run.finished}
    for run in runs:
        adapter = run.argv[run.argv.index("--adapter") + 1] if "--adapter" in run.argv else None
        if adapter is None or run_folder.BEST not in Path(adapter).parts:
            continue
        trained = Path(adapter).parents[1]
        if trained in finished and not run.finished and not Path(adapter).is_dir():
            raise ValueError(
                f"{trained} has no {run_folder.BEST} adapters; remove it to train it again, or give another --out"
            )
        if (
            run.finished
            and Path(run_folder.read_config(run.folder)["adapter"] or adapter).parts[-2:] != Path(adapter).parts[-2:]
        ):
            raise ValueError(f"{run.folder} was scored with another checkpoint; remove it, or give another --out")


def _score_columns(targets: Sequence[str]) -> dict[str, str]:
    """The columns of scores from elsewhere, and those of their copies before clipping."""
    return {score: raw for _, score, raw in run_folder.columns_of(targets)}


def _read_scores(file: Path, columns: Collection[str]) -> dict[str, dict[str, Any]]:
    """Scores from elsewhere by clip.

    Raises:
        ValueError: naming the table, and what it lacks or has twice.
    """
    rows = read_columns(file, {"id": str, **dict.fromkeys(columns, float)})
    found = {row["id"]: row for row in rows}
    if len(found) < len(rows):
        twice = Counter(row["id"] for row in rows).most_common(1)[0][0]
        raise ValueError(
            f"{file}: clip {twice} is there twice; expected one row with id and {' and '.join(columns)} for each"
        )
    return found


def import_predictions(out: Path, name: str, file: Path, *, of: Path) -> None:
    """Copy scores from elsewhere into `predictions/NAME`, beside the labels of the test clips of a run of the comparison.

    Raises:
        FileNotFoundError: when the table is missing.
        ValueError: naming the table and what it lacks.
    """
    columns = _score_columns(run_folder.target_names(of))
    test = [cells for _, cells in read_rows(of / run_folder.PREDICTIONS["test"])]
    found = _read_scores(file, columns)
    if missing := [row["id"] for row in test if row["id"] not in found]:
        raise ValueError(
            f"{file}: {len(missing)} test clips have no score, first {missing[0]}; expected one row with id and"
            f" {' and '.join(columns)} for each of the {len(test)} test clips"
        )
    folder = out / OUTSIDE / name
    folder.mkdir(parents=True, exist_ok=True)
    for row in test:
        row |= {column: found[row["id"]][column] for column in columns} | dict.fromkeys(columns.values())
    kinds = {column: str if column in ("id", "video_id") else float for column in test[0]}
    write_table(folder / run_folder.PREDICTIONS["test"], kinds, [list(row.values()) for row in test])


def summarise(
    out: Path,
    seeds: Sequence[int],
    facts: DatasetFacts,
    *,
    arms: Sequence[Arm] | None = None,
    target: str | None = None,
) -> Comparison:
    """The comparison of the finished runs in a folder.

    Args:
        out: the folder.
        seeds: of the trained arms.
        facts: of the data set, with the scale and convention of the target.
        arms: the ways to score, `default_arms()` for `None`.
        target: which of several it is of.
    """
    arms = default_arms() if arms is None else arms
    baselines, left_out = _baselines(out, facts)
    outside = sorted(path.name for path in (out / OUTSIDE).iterdir()) if (out / OUTSIDE).is_dir() else []
    folders = {arm.name: [_folder(out, arm.name, seed) for seed in arm.own_seeds(seeds)] for arm in arms}
    folders |= {name: [baseline_folder(out, name)] for name in (*baselines, *outside)}
    arm_labels = {arm.name: arm.label for arm in arms} | dict(zip(outside, outside, strict=True))
    arm_labels |= {name: baseline.label for name, baseline in baselines.items()}
    predictions = {
        name: [run_folder.read_predictions(run, target=target) for run in runs] for name, runs in folders.items()
    }
    labels = predictions["constant"][0]["label"].to_numpy()
    scores = {name: np.stack([table["score"].to_numpy() for table in tables]) for name, tables in predictions.items()}
    videos = next((found for tables in predictions.values() if (found := run_folder.videos_of(tables[0]))), None)
    constant = float(np.mean(np.abs(scores["constant"] - labels)))
    drawn = {name: resampled(values, labels, facts.convention, groups=videos) for name, values in scores.items()}
    results = {}
    for name, runs in folders.items():
        nothing: dict[str, Any] = dict.fromkeys(run_folder.KEYS)
        metrics = [nothing] if name in outside else [run_folder.read_metrics(folder, target) for folder in runs]
        measured, estimated = metrics[0], estimates(drawn[name])
        per_seed: dict[str, Any] = {key: [run.get(key) for run in metrics] for key in PER_SEED}
        results[name] = ArmResult(
            label=arm_labels[name],
            readout=measured["readout"] or OUTSIDE,
            decoding=measured["decoding"],
            is_baseline=name in baselines or name in outside,
            seeds=[run["seed"] for run in metrics],
            metrics=estimated,
            mae_over_constant=over_constant(estimated["mae"].mean_low_high()[0], constant),
            trainable_parameters=measured["trainable_parameters"],
            trainable_percent=measured["trainable_percent"],
            head_parameters=measured["head_parameters"],
            **per_seed,
        )
    first = folders[arms[0].name][0]
    measured, environment = run_folder.read_metrics(first, target), run_folder.read_environment(first, target)
    every_run = [folder for name, runs in folders.items() if name not in outside for folder in runs]
    return Comparison(
        **{key: measured[key] for key in ("dataset", "split", "modalities", "n", "denoise", "bad_clips")},
        without_video=measured.get("without_video"),  # not in runs from before
        without_audio=measured.get("without_audio"),
        seeds=list(seeds),
        convention=facts.convention,
        arms=results,
        tests=_tests(scores, labels, videos, drawn),
        costs={arm.name: cost for arm in arms if (cost := _cost(out, arm, seeds))},
        settings=shared_settings(first),
        environment=environment,
        commits=sorted({str(run_folder.read_environment(folder)["commit"]) for folder in every_run}),
        human_mae=run_folder.one_person_mae(first, target),
        left_out=left_out,
        videos=None if videos is None else len(set(videos)),
        documents=facts.units_of(measured["modalities"]),
        margin=MARGIN * (facts.score_range[1] - facts.score_range[0]),
        target=target,
    )


def _baselines(out: Path, facts: DatasetFacts) -> tuple[dict[str, Baseline], dict[str, str]]:
    """The baselines of a comparison, and by label why others that suit the data set cannot be run here."""
    suited = {name: baseline for name, baseline in BASELINES.items() if baseline.suits(facts)}
    lacks = {name: why for name, baseline in suited.items() if not _is_finished(out / name) and (why := baseline.lacks)}
    used = {name: baseline for name, baseline in suited.items() if name not in lacks}
    return used, {suited[name].label: why for name, why in lacks.items()}


def _is_finished(folder: Path) -> bool:
    return (folder / "metrics.json").is_file()


def _tests(
    scores: dict[str, np.ndarray], labels: np.ndarray, videos: Sequence[str] | None, drawn: dict[str, Resampled]
) -> list[ArmTest]:
    """The first arm against every other one, by MAE and by every other metric, with p values adjusted for several tests."""
    errors = {name: np.abs(values - labels) for name, values in scores.items()}
    first, *others = errors
    tests = paired_tests(errors[first], [errors[name] for name in others], groups=videos)
    by_metric = metric_tests(drawn[first], {name: drawn[name] for name in others})
    return [
        ArmTest(first, name, test, p, {key: other for key, other in by_metric[name].items() if key != "mae"})
        for name, (test, p) in zip(others, tests, strict=True)
    ]


def _cost(out: Path, arm: Arm, seeds: Sequence[int]) -> Cost | None:
    """What scoring takes, unless it was not measured."""
    folder = _cost_folder(out, arm, seeds)
    metrics = run_folder.read_metrics(folder) if _is_finished(folder) else {}
    if metrics.get("seconds_per_clip") is None:
        return None
    return Cost(metrics["seconds_per_clip"], metrics["peak_memory_bytes"])


def _folder(out: Path, arm: str, seed: int) -> Path:
    return out / arm / f"seed-{seed}"


def _cost_folder(out: Path, arm: Arm, seeds: Sequence[int]) -> Path:
    return out / "costs" / arm.name if arm.trains else _folder(out, arm.name, seeds[0])


def _ids_and_labels(folder: Path) -> tuple:
    names = run_folder.target_names(folder)
    tables = [run_folder.read_predictions(folder, target=name) for name in names]
    return tuple((name, *table["id"], *table["label"]) for name, table in zip(names, tables, strict=True))
