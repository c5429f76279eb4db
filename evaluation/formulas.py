"""What the field's metrics are computed by, of the clips as they are and of many resamples of them at once.

A formula is called with scores and labels of n clips. The classes here also have `of_resamples`, which takes how often each clip
stands in each of R resamples: then 1,000 resamples cost a few matrix products instead of 1,000 calls.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.stats import rankdata

LARGEST = 1e100  # sums and squares of smaller numbers stay finite
ALIKE = 1e-12  # a variance in a resample below this share of the whole one is rounding
Classes = Callable[
    [np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]
]  # scores and labels to true and predicted classes, and which clips count, each (n,)


class Formula(Protocol):
    """Scores (n,) and labels (n,) to a figure; `None` where it is undefined."""

    def __call__(self, scores: np.ndarray, labels: np.ndarray) -> float | None: ...


@runtime_checkable
class ResampledFormula(Formula, Protocol):
    """One that can do all resamples at once."""

    def of_resamples(self, scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray: ...


def of_resamples(formula: Formula, scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """A figure of each resample, (R,), nan where it is undefined; `counts` (R, n) says how often each clip stands in each."""
    if isinstance(formula, ResampledFormula):
        return formula.of_resamples(scores, labels, counts)
    found = []
    for row in counts:
        clips = np.repeat(np.arange(len(labels)), row.astype(int))
        value = formula(scores[clips], labels[clips])
        found.append(np.nan if value is None else value)
    return np.array(found)


@dataclass(frozen=True)
class Mean:
    """The mean of what each clip has, perhaps of some clips alone, and a function of it.

    Attributes:
        values: scores and labels to a value of each clip and which clips count, both (n,).
        finish: of the mean.
    """

    values: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    finish: Callable[[np.ndarray], np.ndarray] | None = None

    def __call__(self, scores: np.ndarray, labels: np.ndarray) -> float | None:
        values, kept = self.values(scores, labels)
        if not kept.any():
            return None
        mean = np.mean(values[kept])
        return float(mean if self.finish is None else self.finish(mean))

    def of_resamples(self, scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Of each resample, (R,)."""
        values, kept = self.values(scores, labels)
        means = _divided(counts @ (values * kept), counts @ kept.astype(float))
        return means if self.finish is None else self.finish(means)


def accuracy(classes: Classes) -> Mean:
    """The share of clips whose predicted class is the true one."""

    def hits(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        truth, predicted, kept = classes(scores, labels)
        return truth == predicted, kept

    return Mean(hits)


def errors(power: int) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Absolute errors to a power, of all clips."""
    return lambda scores, labels: (np.abs(scores - labels) ** power, np.ones(len(labels), bool))


@dataclass(frozen=True)
class F1:
    """F1 of each class, weighted by how often it is the truth; a class that is never predicted right counts 0."""

    classes: Classes

    def __call__(self, scores: np.ndarray, labels: np.ndarray) -> float | None:
        value = self.of_resamples(scores, labels, np.ones((1, len(labels))))[0]
        return None if np.isnan(value) else float(value)

    def of_resamples(self, scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Of each resample, (R,)."""
        truth, predicted, kept = self.classes(scores, labels)
        total = np.zeros(len(counts))
        for value in np.unique(truth[kept]):
            true, found = kept & (truth == value), kept & (predicted == value)
            clips, hits, guesses = (counts @ which.astype(float) for which in (true, true & found, found))
            total += clips * np.nan_to_num(_divided(2 * hits, clips + guesses))
        return _divided(total, counts @ kept.astype(float))


@dataclass(frozen=True)
class Correlation:
    """Pearson's, or with `ranks` that of the ranks (Spearman's; equal values share their mean rank).

    It is undefined if a side is constant.

    Attributes:
        ranks: whether the values are replaced by their ranks.
        warns: whether a constant side is warned of.
    """

    ranks: bool = False
    warns: bool = False

    def __call__(self, scores: np.ndarray, labels: np.ndarray) -> float | None:
        if is_constant(scores) or is_constant(labels):
            if self.warns:
                warnings.warn("correlation is undefined: predictions or references are constant", stacklevel=3)
            return None
        if self.ranks:
            scores, labels = rankdata(scores), rankdata(labels)
        return float(np.corrcoef(scores, labels)[0, 1])

    def of_resamples(self, scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Of each resample, (R,)."""
        first, second = (_ranks(side, counts) if self.ranks else side for side in (scores, labels))
        moments = _moments(first, second, counts)
        constant = moments.is_constant(first) | moments.is_constant(second, of_labels=True)
        value = _divided(moments.covariance, np.sqrt(moments.variance * moments.label_variance)).clip(-1, 1)
        return np.where(constant, np.nan, value)


@dataclass(frozen=True)
class Concordance:
    """Concordance correlation (Lin, 1989), of population moments: 0 if one side is constant, undefined if both are."""

    def __call__(self, scores: np.ndarray, labels: np.ndarray) -> float | None:
        constant = [is_constant(scores), is_constant(labels)]
        if any(constant):
            return None if all(constant) else 0.0
        covariance = np.mean((scores - scores.mean()) * (labels - labels.mean()))
        apart = np.square(scores.mean() - labels.mean())
        return float((2 * covariance / (scores.var() + labels.var() + apart)).clip(-1, 1))

    def of_resamples(self, scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Of each resample, (R,)."""
        moments = _moments(scores, labels, counts)
        first, second = moments.is_constant(scores), moments.is_constant(labels, of_labels=True)
        apart = np.square(moments.mean - moments.label_mean)
        value = _divided(2 * moments.covariance, moments.variance + moments.label_variance + apart).clip(-1, 1)
        return np.where(first & second, np.nan, np.where(first | second, 0.0, value))


@dataclass(frozen=True)
class Determination:
    """1 minus the squared errors over the squared deviations of the labels from their mean; undefined for constant labels."""

    def __call__(self, scores: np.ndarray, labels: np.ndarray) -> float | None:
        if is_constant(labels):
            return None
        return float(1 - np.sum(np.square(labels - scores)) / np.sum(np.square(labels - labels.mean())))

    def of_resamples(self, scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Of each resample, (R,)."""
        moments = _moments(scores, labels, counts)
        squares = counts @ np.square(labels - scores) / counts.sum(1)
        value = 1 - _divided(squares, moments.label_variance)
        return np.where(moments.is_constant(labels, of_labels=True), np.nan, value)


def undefined(scores: np.ndarray, labels: np.ndarray) -> None:
    """For a metric that is always null in a convention."""


def is_constant(values: np.ndarray) -> bool:
    """Whether the spread is as small as the rounding error of the mean, where a correlation would be meaningless."""
    return bool(values.std() <= 1e-13 * np.abs(values.mean()) + 1 / LARGEST)  # smaller squares underflow


@dataclass(frozen=True)
class _Moments:
    """Of scores and labels in each of R resamples, (R,); means are from those of all clips."""

    mean: np.ndarray
    label_mean: np.ndarray
    variance: np.ndarray
    label_variance: np.ndarray
    covariance: np.ndarray

    def is_constant(self, values: np.ndarray, *, of_labels: bool = False) -> np.ndarray:
        """Whether the values, from which the moments were computed, are all equal in a resample."""
        return (self.label_variance if of_labels else self.variance) <= ALIKE * np.var(values) + 1 / LARGEST


def _moments(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> _Moments:
    """Of scores and labels, each (n,) or of each resample (R, n)."""
    shift = float(np.mean(labels))
    sides = [np.broadcast_to(side - shift, counts.shape) for side in (scores, labels)]
    total = counts.sum(1)

    def mean_of(values: np.ndarray) -> np.ndarray:
        return np.einsum("rn,rn->r", counts, values) / total

    means = [mean_of(side) for side in sides]
    centred = [side - mean[:, None] for side, mean in zip(sides, means, strict=True)]
    return _Moments(
        means[0],
        means[1],
        mean_of(centred[0] ** 2),
        mean_of(centred[1] ** 2),
        mean_of(centred[0] * centred[1]),
    )


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The ranks (R, n) of values (n,) in each resample; equal ones, a clip drawn twice too, share their mean rank."""
    _, place = np.unique(values, return_inverse=True)
    of_values = np.zeros((place.max() + 1, len(counts)))
    np.add.at(of_values, place, counts.T)
    below = np.cumsum(of_values, axis=0) - of_values
    return (below + (of_values + 1) / 2).T[:, place]


def _divided(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The quotient, nan where the second is 0."""
    return np.divide(first, second, out=np.full(first.shape, np.nan), where=second != 0)
