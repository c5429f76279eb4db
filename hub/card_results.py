"""What a model card says of the results of a run, target by target. Reads its result files; only intervals are computed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from ..configuration_omnisent import OmniSentConfig
from ..data.catalog import Target, dataset_facts
from ..data.clip import ONE_PERSON
from ..evaluation.comparison_result import Comparison, comparison_folders, read_comparison
from ..evaluation.conclusion import in_words, main_test
from ..evaluation.intervals import LEVEL
from ..evaluation.metrics import METRICS
from ..evaluation.statistics import Estimate, bootstrap_estimates
from ..pipeline_omnisent import default_neutral_band, has_two_sides
from ..training import run_folder
from .card_metadata import published_metrics

LENGTHS = (0, 2, 5, 10, math.inf)  # seconds; edges of the groups of clips by length
HEADLINE = ("mae", "corr")


@dataclass(frozen=True)
class TargetResults:
    """What the card says of one target.

    Attributes:
        name, low, high, convention: of the target.
        neutral_band: within which a score is neutral; `None` for a scale without two sides.
        n: number of test clips with a label.
        figures: MAE and correlation of this model, each with its 95 % interval, by name.
        units: what the intervals are for: `videos`, `documents` or `clips`.
        constant: MAE of always predicting the training median, label units.
        person: MAE of one person against the mean of the others, label units; `None` if it is not known.
        question, verdict: what the comparison asks, and what it found; `None` without one.
        has_classes: whether accuracies are among the metrics.
        columns, rows: of the table of results.
        covers: what the intervals of the comparison hold for.
        groups: MAE by group of clips.
        interval: width and coverage of the prediction intervals, in words; `None` without a calibration.
    """

    name: str
    low: str
    high: str
    convention: str
    neutral_band: float | None
    n: int
    figures: dict[str, str]
    units: str
    constant: float
    person: float | None
    question: str | None
    verdict: str | None
    columns: list[str]
    rows: list[list[str]]
    covers: str | None
    has_classes: bool
    groups: list[tuple[str, int, str]]
    interval: str | None


def find_comparisons(run: Path) -> dict[str | None, Comparison]:
    """The comparison that a run is part of, if its folder is `<comparison>/<arm>/<seed>`; of several targets those of each."""
    found = [read_comparison(folder / "comparison.json") for folder in comparison_folders(run.resolve().parents[1])]
    return {comparison.target: comparison for comparison in found}


def target_results(
    run: Path, target: Target, comparisons: Mapping[str | None, Comparison], *, several: bool, built_in: bool
) -> TargetResults:
    """What the card says of a target.

    Args:
        run: its folder.
        target: one of its targets.
        comparisons: those that it is part of, by target.
        several: whether it has several targets.
        built_in: whether a comparison's ranking is built in, see `in_words`.
    """
    own = target.name if several else None
    metrics, comparison = run_folder.read_metrics(run, own), comparisons.get(own)
    low, high = target.score_range
    columns, rows = _results(run, metrics, comparison, own)
    predictions = run_folder.read_predictions(run, target=own)
    videos = run_folder.videos_of(predictions)
    return TargetResults(
        name=target.name,
        low=f"{low:g}",
        high=f"{high:g}",
        convention=target.convention,
        neutral_band=default_neutral_band(high) if has_two_sides(low, high) else None,
        n=metrics["n"],
        figures=_headline(predictions, videos, target.convention),
        units="clips" if videos is None else _units(metrics),
        constant=run_folder.constant_mae(run, target=own),
        person=run_folder.one_person_mae(run, own),
        question=None if comparison is None else _question(comparison),
        verdict=None if comparison is None else in_words(comparison.for_markdown(), built_in=built_in),
        columns=columns,
        rows=rows,
        covers=comparison.covers if comparison else None,
        has_classes=any(metric.hub_type in ("accuracy", "f1") for metric in published_metrics(metrics)),
        groups=list(_groups(run, metrics["modalities"], target, predictions)),
        interval=_interval(run, metrics, target.name),
    )


def _question(comparison: Comparison) -> str:
    """What the comparison's main test asks, in words that explain the names of the readouts."""
    test = main_test(comparison)
    first, second = comparison.arms[test.first].readout, comparison.arms[test.second].readout
    if (first, second) == ("discriminative", "generative"):
        return "Is the head (discriminative) better than a written score (generative)?"
    return "How does it compare?"


def _units(metrics: Mapping) -> str:
    """What the clips of a run are parts of, in the plural."""
    return dataset_facts(metrics["dataset"]).units_of(metrics["modalities"])


def _headline(predictions: pd.DataFrame, videos: Sequence[str] | None, convention: str) -> dict[str, str]:
    """This model's MAE and correlation, by their names; the correlation only where it is defined."""
    scores, labels = np.array([predictions["score"]]), predictions["label"].to_numpy()
    found = bootstrap_estimates(scores, labels, convention, groups=videos)
    return {METRICS[key].name: _with_interval(found[key]) for key in HEADLINE if found[key].mean is not None}


def _with_interval(estimate: Estimate) -> str:
    return f"**{estimate.text}**" + (f" ({estimate.interval})" if estimate.interval else "")


def _results(
    run: Path, metrics: dict, comparison: Comparison | None, target: str | None
) -> tuple[list[str], list[list[str]]]:
    keys = [metric.key for metric in published_metrics(metrics)]
    columns = [metric.name for metric in published_metrics(metrics)]
    this = ["this model", *(f"{metrics[key]:.3f}" for key in keys)]
    human = run_folder.one_person_mae(run, target)
    person = {} if human is None else {ONE_PERSON: human}
    if comparison is None:
        only_mae = {"constant (train median)": run_folder.constant_mae(run, target=target)}
        return columns, [this, *_rows_of_mae(only_mae | person, len(columns))]
    rows = [[*this, "1"]]
    for arm in comparison.arms.values():
        figures = [arm.metrics[key].text if key in arm.metrics else "" for key in keys]
        figures[0] += f" ({arm.metrics['mae'].interval})"
        rows.append([arm.label, *figures, "" if arm.is_baseline else str(len(arm.seeds))])
    columns = ["MAE (95 % interval)", *columns[1:], "seeds"]
    return columns, [*rows, *_rows_of_mae(person, len(columns))]


def _rows_of_mae(maes: Mapping[str, float], columns: int) -> list[list[str]]:
    """Rows of a table of results in which only the MAE is known."""
    return [[name, f"{mae:.3f}", *[""] * (columns - 1)] for name, mae in maes.items()]


def _interval(run: Path, metrics: dict, target: str) -> str | None:
    """Width and measured coverage of the bundle's intervals, in two sentences; `None` without a calibration."""
    calibration = OmniSentConfig.from_pretrained(run / "model").calibration_of(target)
    if calibration is None or metrics["interval_coverage"] is None:
        return None
    low, high, width = (metrics.get(f"interval_{name}") for name in ("coverage_low", "coverage_high", "width"))
    if str(LEVEL) in (calibration.get("margins") or {}):
        ends = f"two quantiles of its distribution, {width:.2f} apart on average"
    else:
        ends = f"the score minus and plus {calibration['half_widths'][str(LEVEL)]:.2f}"
    known = calibration.get("videos")
    videos = f" of {known} {_units(metrics)}" if known else ", taken as independent"
    sure = "" if low is None or high is None else f" (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    return (
        f"With `interval={LEVEL}` a result also has `low` and `high`: {ends} (a conformal prediction interval, calibrated on"
        f" {calibration['clips']} validation clips{videos}). These intervals contained {100 * metrics['interval_coverage']:.1f} %"
        f" of the {metrics['n']} test labels{sure}."
    )


def _groups(
    run: Path, modalities: Sequence[str], target: Target, clips: pd.DataFrame
) -> Iterable[tuple[str, int, str]]:
    """Groups of test clips, with their number and MAE: by missing modality of those read, by length of media, and by label."""
    errors = (clips["score"] - clips["label"]).abs()
    groups = {"all": pd.Series(True, clips.index)}
    facts = run_folder.read_clip_facts(run)
    if facts is not None:
        facts = facts.set_index("id").loc[clips["id"]].reset_index()
        for modality in modalities:
            groups[f"without {modality}"] = facts[modality] == 0
        for low, high in pairwise(LENGTHS):
            length = f"{low:g} s and longer" if high == math.inf else f"{low:g} to {high:g} s"
            groups[length] = (facts["seconds"] >= low) & (facts["seconds"] < high)
    low, high = _middle(target)
    groups |= {
        f"label below {low:.3g}": clips["label"] < low,
        f"label from {low:.3g} to {high:.3g}": clips["label"].between(low, high),
        f"label above {high:.3g}": clips["label"] > high,
    }
    for name, members in groups.items():
        if members.any():
            yield name, int(members.sum()), f"{errors[members].mean():.3f}"


def _middle(target: Target) -> tuple[float, float]:
    """The neutral part of a scale; of one without two sides, its middle third."""
    low, high = target.score_range
    if has_two_sides(low, high):
        return -default_neutral_band(high), default_neutral_band(high)
    return low + (high - low) / 3, high - (high - low) / 3
