"""What a run rates: its targets with their scales and metrics, how its table is read, and how much a clip counts in training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..data.catalog import LABEL, DatasetFacts, Target, dataset_facts, ranges_of
from ..data.table_options import TableOptions
from ..losses_omnisent import LabelScale
from ..readouts.base import Predictions, Readout

SCALES = {"mosi": (-3.0, 3.0), "sims": (-1.0, 1.0)}  # of the conventions that have one
BINS = 10  # of the label range, for the weights of `balance`


def targets_of(settings: Any) -> tuple[Target, ...]:
    """The targets of a run.

    Without `score_range`, the scale is the data set's own; for a user's table [-3, 3]. Without `convention`, it is the data set's
    own, and for a user's table or another scale `mosi` for `label` in [-3, 3] and else `generic`.

    Args:
        settings: anything with the fields `dataset`, `targets`, `score_range` and `convention` of a run.
    """
    names, given = settings.targets, settings.score_range
    known = dataset_facts(settings.dataset).targets
    ranges = ranges_of(given, len(names)) if given else [None] * len(names)
    found = []
    for name, score_range in zip(names, ranges, strict=True):
        target = known.get(name, Target(name, convention="generic", asks=name.replace("_", " ")))
        if score_range is not None and score_range != target.score_range:
            usual = "mosi" if name == LABEL and score_range == SCALES["mosi"] else "generic"
            target = replace(target, score_range=score_range, convention=usual)
        found.append(replace(target, convention=settings.convention or target.convention))
    return tuple(found)


def check_one_target(settings: Any, study: str) -> None:
    """Check that the settings of a study that rates one target have one.

    Raises:
        ValueError: naming the study.
    """
    if len(settings.targets) > 1:
        raise ValueError(
            f"targets: {study} takes one target, not {len(settings.targets)}; give them one after the other"
        )


def facts_of(settings: Any) -> DatasetFacts:
    """The facts of a run's data set, with the scale and the convention of its first target; `settings` as for `targets_of`."""
    first = targets_of(settings)[0]
    return replace(dataset_facts(settings.dataset), score_range=first.score_range, convention=first.convention)


def table_options(settings: Any) -> TableOptions:
    """How the table of a run is read; `settings` has the fields of `TableOptions`."""
    return TableOptions(
        tuple(settings.targets),
        dict(settings.columns or {}),
        tuple(settings.raters),
        settings.encoding,
        settings.decimal,
    )


def label_scales(targets: Sequence[Target], labels: np.ndarray) -> list[LabelScale]:
    """The scale of each of K targets, from training labels (n,) or (n, K), label units; nan where one is missing.

    Raises:
        ValueError: naming a target whose labels are all the same.
    """
    columns = [column[~np.isnan(column)] for column in labels.reshape(len(labels), -1).T]
    for target, column in zip(targets, columns, strict=True):
        if np.ptp(column) == 0:
            raise ValueError(
                f"{target.name}: the labels of all {len(column)} training clips are {column[0]:g}; expected labels that differ"
            )
    return [
        LabelScale(float(column.mean()), float(column.std()), *target.score_range)
        for target, column in zip(targets, columns, strict=True)
    ]


def metrics_by_target(
    targets: Sequence[Target], readouts: Sequence[Readout], predictions: Sequence[Predictions], labels: np.ndarray
) -> dict[str, dict[str, Any]]:
    """The metrics of each of K targets, by name, over the clips that have a label for it.

    Args:
        targets: K.
        readouts: one for each.
        predictions: of each for n clips.
        labels: (n,) or (n, K), label units; nan where one is missing.
    """
    found = {}
    columns = labels.reshape(len(labels), -1).T
    for target, readout, own, truth in zip(targets, readouts, predictions, columns, strict=True):
        known = ~np.isnan(truth)
        own = own if known.all() else own.of(known)
        found[target.name] = readout.metrics(own, truth[known], target.convention)
    return found


def over_targets(by_target: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of the only target; of several, the mean of each figure that all of them have."""
    of_each = list(by_target.values())
    if len(of_each) == 1:
        return dict(of_each[0])
    means = {}
    for key in of_each[0]:
        values = [one.get(key) for one in of_each]
        numbers = [value for value in values if isinstance(value, float)]
        if key == "decoding":
            means[key] = values[0]
        elif len(numbers) == len(of_each):
            means[key] = float(np.mean(numbers))
    return means


def inverse_density(targets: Sequence[Target], labels: np.ndarray) -> np.ndarray:
    """How much each training clip counts, (n,) with the mean 1: the fewer labels lie where its own does, the more.

    A clip counts as 1 over the share of labels in its part of the range, one of `BINS`, and of several targets as the mean of that
    over those with a label (inverse frequency, as in Yang et al., ICML 2021, without their smoothing).

    Args:
        targets: K.
        labels: (n,) or (n, K), label units; nan where one is missing.
    """
    columns = labels.reshape(len(labels), -1)
    weights = np.full(columns.shape, np.nan)
    for place, target in enumerate(targets):
        known = ~np.isnan(columns[:, place])
        edges = np.linspace(*target.score_range, BINS + 1)[1:-1]
        bins = np.digitize(columns[known, place], edges)
        weights[known, place] = 1 / np.bincount(bins, minlength=BINS)[bins]
        weights[known, place] /= weights[known, place].mean()
    of_clips = np.nanmean(weights, axis=1)
    return of_clips / of_clips.mean()
