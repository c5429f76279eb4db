"""Tunes every arm of a comparison with the same number of trials in the same search space, on the validation split alone.

    omnisent sweep configs/small_mosi.yaml --arms laboratory --trials 20 --out runs/sweep
    omnisent compare configs/small_mosi.yaml --arms laboratory --settings runs/sweep/sweep.json --out runs/lab

Optuna proposes the settings of a trial (TPE) and ends a trial whose validation error is above the median of earlier ones at the
same evaluation. Trials are in a file, so that an interrupted sweep resumes, and the command can run in several processes at once.
"""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ..evaluation.markdown_text import escaped
from ..figure_style import SMALL, line, panel, save_figure
from ..training import run_folder
from ..training.arguments import OmniSentTrainingArguments, parse_arguments, read_fields, read_mapping
from .arms import Arm, default_arms
from .runs import PlannedRun, differing_field, run_in_fresh_process
from .tables import markdown_table, shared_settings, short

SEED = 0  # of the sampler, plus the number of the trial
MOST_FAILURES = 3  # in a row
STARTUP_TRIALS, WARMUP_EVALUATIONS = 5, 1


def sweep(
    argv: Sequence[str],
    out: str | Path,
    *,
    trials: int,
    arms: Sequence[Arm] | None = None,
    space: str | Path | None = None,
) -> dict[str, Any]:
    """Run the missing trials of every arm that trains, and write sweep.json, .md and .png.

    Args:
        argv: arguments of train.py: a config file and fields that override it.
        out: folder of the sweep; each trial is in `<arm>/trial-<number>`.
        trials: for each arm.
        arms: the ways to score, `default_arms()` for `None`.
        space: a YAML file with the search space; `default_space` for `None`.

    Returns:
        The contents of sweep.json.

    Raises:
        ValueError: for a space that is not valid, or a folder with a sweep of another space or config.
    """
    out = Path(out)
    trained = [arm for arm in (default_arms() if arms is None else arms) if arm.trains]
    arguments = parse_arguments([*argv, "--output_dir", str(out), "--evaluate", "valid"])
    args = arguments[-1]
    if args.selecting_metric == "loss":
        raise ValueError("metric_for_best_model loss: arms with different losses cannot be compared by it; use mae")
    distributions = default_space(args) if space is None else read_space(space)
    _check_ends(argv, distributions)
    config = run_folder.config_dict(*arguments)
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(out / "trials.log")))
    for arm in trained:
        study = optuna.create_study(
            storage=storage,
            study_name=arm.name,
            load_if_exists=True,
            direction="maximize" if args.greater_is_better else "minimize",
            pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, WARMUP_EVALUATIONS),
        )
        _check_same(study, out, config, arm, distributions)
        _run_trials(study, arm, argv, out, trials, distributions, args)
    found = summarise(out, trained, trials, distributions, storage, args)
    run_folder.write_json(out / "sweep.json", found)
    (out / "sweep.md").write_text(markdown(found), encoding="utf-8")
    plot(found, out / "sweep.png")
    return found


def default_space(args: OmniSentTrainingArguments) -> dict[str, BaseDistribution]:
    """Learning rates from an eighth to four times those of the config, and ranks and dropouts; the same for each arm."""
    rates = {"learning_rate": args.learning_rate, "head_learning_rate": args.head_learning_rate}
    if args.generative_learning_rate is not None:  # else `learning_rate` is that of the generative readout too
        rates["generative_learning_rate"] = args.generative_learning_rate
    return {
        **{name: FloatDistribution(rate / 8, 4 * rate, log=True) for name, rate in rates.items()},
        "lora_r": CategoricalDistribution([8, 16, 32]),
        "lora_dropout": CategoricalDistribution([0.0, 0.1]),
        "head_dropout": CategoricalDistribution([0.0, 0.2]),
    }


def read_space(path: str | Path) -> dict[str, BaseDistribution]:
    """A search space from YAML: for each field `low` and `high`, and `log: true` for a logarithmic scale; or `choices`.

    Raises:
        ValueError: naming the file and the field.
    """
    space: dict[str, BaseDistribution] = {}
    for name, rule in read_mapping(path).items():
        try:
            if isinstance(rule, dict) and rule.keys() == {"choices"} and isinstance(rule["choices"], list):
                space[name] = CategoricalDistribution([read_fields({name: one})[name] for one in rule["choices"]])
            elif isinstance(rule, dict) and {"low", "high"} <= rule.keys() <= {"low", "high", "log"}:
                low, high = (read_fields({name: rule[end]})[name] for end in ("low", "high"))
                whole = isinstance(low, int) and isinstance(high, int)
                space[name] = (IntDistribution if whole else FloatDistribution)(
                    low, high, log=bool(rule.get("log", False))
                )
            else:
                raise ValueError("expected `low` and `high`, perhaps `log: true`, or a list of `choices`")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {name}: {error}") from error
    if not space:
        raise ValueError(f"{path}: expected at least one field with `low` and `high` or `choices`")
    return space


def _check_ends(argv: Sequence[str], distributions: Mapping[str, BaseDistribution]) -> None:
    """Check that the ends of each range and all choices are valid values of their fields, before any trial."""
    for name, rule in distributions.items():
        ends = rule.choices if isinstance(rule, CategoricalDistribution) else (rule.low, rule.high)  # type: ignore[attr-defined]
        for value in ends:
            parse_arguments([*argv, f"--{name}", str(value)])


def _check_same(
    study: optuna.Study, out: Path, config: dict, arm: Arm, distributions: Mapping[str, BaseDistribution]
) -> None:
    """Record what a study tunes, or check that its folder has the trials of the same config, arm and space.

    Raises:
        ValueError: naming what differs.
    """
    space = {name: str(rule) for name, rule in distributions.items()}
    now = {"config": json.loads(json.dumps(config, default=str)), "arm": arm.fields, "space": space}
    before = study.user_attrs.get("tuned")
    if before is None:
        study.set_user_attr("tuned", now)
        return
    field = differing_field(now["config"], before["config"])
    what = field or next((name for name in ("arm", "space") if now[name] != before[name]), None)
    if what:
        raise ValueError(
            f"{out} holds trials of {arm.name} with another {what}; give another --out, or remove that folder"
        )


def _run_trials(
    study: optuna.Study,
    arm: Arm,
    argv: Sequence[str],
    out: Path,
    count: int,
    distributions: dict[str, BaseDistribution],
    args: OmniSentTrainingArguments,
) -> None:
    """Finish the trials that a process left, run new ones, and wait for those of other processes."""
    folder = out / arm.name
    folder.mkdir(exist_ok=True)
    failed = 0

    def run(trial: optuna.Trial, *, wait: bool) -> None:
        """A trial, unless another process has it; one that this process waited for is run only if it was left."""
        nonlocal failed
        try:
            with FileLock(folder / f"trial-{trial.number}.lock", timeout=-1 if wait else 0):
                if study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
                    failed = 0 if _run_trial(study, trial, arm, argv, folder, args) else failed + 1
        except Timeout:
            return
        if failed == MOST_FAILURES:
            raise RuntimeError(f"{arm.name}: {failed} trials in a row failed; see trials.log and their folders")

    def running() -> list[optuna.Trial]:
        left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [optuna.Trial(study, one._trial_id) for one in left if one.number < count]

    for trial in running():
        run(trial, wait=False)
    while True:
        with FileLock(folder / "ask.lock"):
            number = len(study.get_trials(deepcopy=False))
            if number >= count:
                break
            # One seed a trial, so that the first settings are the same for each arm, also when it was stopped in between.
            study.sampler = optuna.samplers.TPESampler(seed=SEED + number, n_startup_trials=STARTUP_TRIALS)
            trial = study.ask(distributions)
        run(trial, wait=False)
    for trial in running():
        run(trial, wait=True)


def _run_trial(
    study: optuna.Study,
    trial: optuna.Trial,
    arm: Arm,
    argv: Sequence[str],
    folder: Path,
    args: OmniSentTrainingArguments,
) -> bool:
    """Train with a trial's settings and tell the study what came out; returns false for a run that failed."""
    tuned = replace(arm, fields={**arm.fields, **trial.params})
    run = PlannedRun(
        f"{arm.label}, trial {trial.number}",
        folder / f"trial-{trial.number}",
        (*argv, *tuned.argv, "--evaluate", "valid"),
    )
    started = time.perf_counter()
    metric = args.selecting_metric
    reported: set[int] = set()

    def has_to_end() -> bool:
        for step, value in _evaluations(run.folder, metric):
            if step not in reported:
                trial.report(value, len(reported))
                reported.add(step)
        return bool(reported) and trial.should_prune()

    def tell(state: TrialState, value: float | None = None, reason: str | None = None) -> None:
        seconds = trial.user_attrs.get("seconds", 0.0) + time.perf_counter() - started
        trial.set_user_attr("seconds", seconds)
        if reason:
            trial.set_user_attr("reason", reason)
            print(f"{reason}; this trial counts as failed", file=sys.stderr)
        study.tell(trial, value, state=state)

    try:
        finished = run.finished or run_in_fresh_process(run, ends_early=has_to_end)
    except RuntimeError as error:
        tell(TrialState.FAIL, reason=str(error))
        return False
    if not finished:
        tell(TrialState.PRUNED)
        return True
    value = run_folder.read_metrics(run.folder)[f"valid_{metric}"]
    if value is None or not math.isfinite(value):
        tell(TrialState.FAIL, reason=f"{run.name}: its validation {metric} is undefined")
        return False
    tell(TrialState.COMPLETE, value)
    return True


def _evaluations(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Step and validation metric of each evaluation up to the last checkpoint."""
    checkpoint = run_folder.last_checkpoint(folder)
    if checkpoint is None:
        return []
    log = run_folder.read_json(checkpoint / "trainer_state.json")["log_history"]
    return [(entry["step"], entry[f"eval_{metric}"]) for entry in log if f"eval_{metric}" in entry]


def summarise(
    out: Path,
    arms: Sequence[Arm],
    trials: int,
    distributions: Mapping[str, BaseDistribution],
    storage: JournalStorage,
    args: OmniSentTrainingArguments,
) -> dict[str, Any]:
    """The contents of sweep.json."""
    found = {}
    for arm in arms:
        kept = [one for one in optuna.load_study(study_name=arm.name, storage=storage).trials if one.number < trials]
        complete = [one for one in kept if one.state == TrialState.COMPLETE]
        if not complete:
            raise ValueError(
                f"{out}: no trial of {arm.name} has a validation {args.metric_for_best_model}; see its runs"
            )
        sign = -1.0 if args.greater_is_better else 1.0
        best = min(complete, key=lambda one: sign * float(one.value or 0.0))
        found[arm.name] = {
            "label": arm.label,
            "fields": arm.fields,
            "best": {"trial": best.number, "value": best.value, "settings": best.params},
            "seconds": sum(one.user_attrs.get("seconds", 0.0) for one in kept),
            "trials": [
                {
                    "trial": one.number,
                    "state": one.state.name.lower(),
                    "value": one.value if one.state == TrialState.COMPLETE else None,
                    "settings": one.params,
                    "seconds": one.user_attrs.get("seconds", 0.0),
                }
                for one in kept
            ],
        }
    first = next(iter(out.glob("*/trial-*/environment.json"))).parent
    return {
        "metric": args.metric_for_best_model,
        "lower_is_better": not args.greater_is_better,
        "trials": trials,
        "space": {name: str(distribution) for name, distribution in distributions.items()},
        "arms": found,
        "settings": shared_settings(first),
        "environment": run_folder.read_environment(first),
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The contents of sweep.md."""
    rows = {
        arm["label"]: {
            "trials": str(len(arm["trials"])),
            "ended early": str(sum(one["state"] == "pruned" for one in arm["trials"])),
            "failed": str(sum(one["state"] == "fail" for one in arm["trials"])),
            "hours": f"{arm['seconds'] / 3600:.2f}",
            f"best validation {found['metric']}": f"{arm['best']['value']:.3f}",
            "settings": ", ".join(f"{name} {short(value)}" for name, value in arm["best"]["settings"].items()),
        }
        for arm in found["arms"].values()
    }
    best = "; ".join(f"{escaped(arm['label'])} {arm['best']['value']:.3f}" for arm in found["arms"].values())
    space = "; ".join(f"{name}: {rule}" for name, rule in found["space"].items())
    parts = (
        f"# Tuning of {len(rows)} arms",
        f"Best validation {found['metric']}: {best}.",
        f"{found['trials']} trials for each arm, in the same space ({space}), on the validation split of"
        f" {found['settings']['dataset']}. The test split was not touched.",
        markdown_table(pd.DataFrame.from_dict(rows, orient="index")),
    )
    return "\n\n".join(parts) + "\n"


def plot(found: Mapping[str, Any], path: Path) -> None:
    """The best validation value so far by trial, a line for each arm."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    sign = 1 if found["lower_is_better"] else -1
    for place, arm in enumerate(found["arms"].values()):
        best, course = math.inf, []
        for one in arm["trials"]:
            best = best if one["value"] is None else min(best, sign * one["value"])
            course.append(sign * best if math.isfinite(best) else math.nan)
        axes.plot(range(1, len(course) + 1), course, markersize=4, **line(place), label=arm["label"])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True))
    axes.set_xlabel("trials")
    axes.set_ylabel(f"best validation {found['metric']} so far")
    axes.legend(fontsize=SMALL, frameon=False)
    panel(axes)
    save_figure(figure, path)
