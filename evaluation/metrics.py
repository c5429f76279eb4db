"""The field's metrics for sentiment scores, in the conventions of published tables. Knows neither model nor data set.

`METRICS` is the one list of them: result keys, table columns, Hub types and which direction is better derive from it.
Source of the conventions mosi and sims: the MMSA toolkit (Mao et al., ACL 2022), which most MOSI, MOSEI and CH-SIMS tables
follow. The convention generic is for labels of any scale: it has no classes.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import rankdata

Numbers = Sequence[float] | np.ndarray
LARGEST = 1e100  # sums and squares of smaller numbers stay finite
Formula = Callable[
    [np.ndarray, np.ndarray], float | None
]  # scores (n,) and labels (n,) to a figure; None where undefined
Classes = Callable[
    [np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]
]  # scores and labels to true and predicted classes


@dataclass(frozen=True)
class Metric:
    """One metric of n scores against n labels.

    Attributes:
        key: its name in metrics.json and every other result.
        title: its name in tables.
        better: whether higher or lower values are better.
        formulas: how it is computed, by convention; the metric does not exist in other conventions.
        columns: conventions whose tables of results have a column for it.
        hub_type: its metric type on the Hub; without one it is not on model cards and in `.eval_results`.
        panel: whether the plot of a comparison has a panel for it.
        long_title: its name on model cards and plots, if that differs from the title.
        limits: the smallest and largest value that it can have.
    """

    key: str
    title: str
    better: Literal["higher", "lower"]
    formulas: Mapping[str, Formula]
    columns: tuple[str, ...] = ()
    hub_type: str | None = None
    panel: bool = False
    long_title: str | None = None
    limits: tuple[float, float] = (-np.inf, np.inf)

    @property
    def name(self) -> str:
        """The long title if there is one, else the title."""
        return self.long_title or self.title


def _mae(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.abs(scores - labels)))


def _rmse(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(scores - labels))))


def _is_constant(values: np.ndarray) -> bool:
    # A spread as small as the rounding error of the mean is meaningless (scipy's pearsonr warns too); smaller squares underflow.
    return bool(values.std() <= 1e-13 * np.abs(values.mean()) + 1 / LARGEST)


def _corr(scores: np.ndarray, labels: np.ndarray) -> float | None:
    if _is_constant(scores) or _is_constant(labels):
        warnings.warn("correlation is undefined: predictions or references are constant", stacklevel=3)
        return None
    return float(np.corrcoef(scores, labels)[0, 1])


def _spearman(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Pearson correlation of the ranks; equal values share their mean rank."""
    if _is_constant(scores) or _is_constant(labels):
        return None
    return float(np.corrcoef(rankdata(scores), rankdata(labels))[0, 1])


def _ccc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Concordance correlation (Lin, 1989), of population moments: 0 if one side is constant, undefined if both are."""
    constant = [_is_constant(scores), _is_constant(labels)]
    if any(constant):
        return None if all(constant) else 0.0
    covariance = np.mean((scores - scores.mean()) * (labels - labels.mean()))
    apart = np.square(scores.mean() - labels.mean())
    return float((2 * covariance / (scores.var() + labels.var() + apart)).clip(-1, 1))


def _r2(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Coefficient of determination: 1 minus the squared errors over the squared deviations of the labels from their mean."""
    if _is_constant(labels):
        return None
    return float(1 - np.sum(np.square(labels - scores)) / np.sum(np.square(labels - labels.mean())))


def _undefined(scores: np.ndarray, labels: np.ndarray) -> None:
    """For a metric that is always null in a convention."""


def _rounded(limit: int) -> Classes:
    """Both sides clipped to +-limit and rounded half to even: 2 * limit + 1 classes."""
    return lambda scores, labels: (np.round(labels.clip(-limit, limit)), np.round(scores.clip(-limit, limit)))


def _cut(*edges: float) -> Classes:
    """Classes between edges, closed on the right; in float32, so that a label on an edge stays there in any precision."""
    bins = np.array(edges, np.float32)
    return lambda scores, labels: (
        np.digitize(labels.astype(np.float32), bins, right=True),
        np.digitize(scores.astype(np.float32), bins, right=True),
    )


def _has0(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return labels >= 0, scores >= 0


def _non0(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nonzero = labels != 0
    return labels[nonzero] > 0, scores[nonzero] > 0


def _weak(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Not positive and positive, of the clips whose label is at most 0.4 from 0; in float32, as `_cut`."""
    weak = np.abs(labels.astype(np.float32)) <= np.float32(0.4)
    return labels[weak] > 0, scores[weak] > 0


def _accuracy(classes: Classes) -> Formula:
    def formula(scores: np.ndarray, labels: np.ndarray) -> float | None:
        truth, predicted = classes(scores, labels)
        return float(np.mean(truth == predicted)) if len(truth) else None

    return formula


def _f1(classes: Classes) -> Formula:
    """F1 of each of two classes, weighted by how often it is the truth; a class that is never predicted right counts 0."""

    def formula(scores: np.ndarray, labels: np.ndarray) -> float | None:
        truth, predicted = classes(scores, labels)
        total = 0.0
        for value in np.unique(truth):
            clips, hits = np.sum(truth == value), np.sum((truth == value) & (predicted == value))
            total += clips * 2 * hits / (clips + np.sum(predicted == value))
        return float(total / len(truth)) if len(truth) else None

    return formula


_PEARSON, _SPEARMAN, _CCC = "Pearson correlation", "Spearman correlation", "Concordance correlation"
_ALL = ("mosi", "sims", "generic")
_SIMS_2, _SIMS_3, _SIMS_5 = _cut(0.0), _cut(-0.1, 0.1), _cut(-0.7, -0.1, 0.1, 0.7)
_ERROR, _SHARE, _AGREEMENT, _EXPLAINED = (0.0, np.inf), (0.0, 1.0), (-1.0, 1.0), (-np.inf, 1.0)  # limits
METRICS = {
    metric.key: metric
    for metric in (
        Metric("mae", "MAE", "lower", dict.fromkeys(_ALL, _mae), _ALL, "mae", panel=True, limits=_ERROR),
        Metric("rmse", "RMSE", "lower", {"generic": _rmse}, ("generic",), "rmse", limits=_ERROR),
        Metric(
            "corr", "Corr", "higher", dict.fromkeys(_ALL, _corr), _ALL, "pearsonr", True, _PEARSON, limits=_AGREEMENT
        ),
        Metric(
            "spearman",
            "Spearman",
            "higher",
            {"generic": _spearman},
            ("generic",),
            "spearmanr",
            False,
            _SPEARMAN,
            limits=_AGREEMENT,
        ),
        Metric("ccc", "CCC", "higher", {"generic": _ccc}, ("generic",), "ccc", True, _CCC, limits=_AGREEMENT),
        Metric(
            "acc_7",
            "Acc-7",
            "higher",
            {"mosi": _accuracy(_rounded(3)), "sims": _undefined},
            ("mosi",),
            "accuracy",
            limits=_SHARE,
        ),
        Metric(
            "acc_5",
            "Acc-5",
            "higher",
            {"mosi": _accuracy(_rounded(2)), "sims": _accuracy(_SIMS_5)},
            ("mosi", "sims"),
            limits=_SHARE,
        ),
        Metric("acc_3", "Acc-3", "higher", {"mosi": _accuracy(_rounded(1)), "sims": _accuracy(_SIMS_3)}, limits=_SHARE),
        Metric("acc_2_has0", "Acc-2 has0", "higher", {"mosi": _accuracy(_has0)}, ("mosi",), limits=_SHARE),
        Metric(
            "acc_2_non0",
            "Acc-2 non0",
            "higher",
            {"mosi": _accuracy(_non0)},
            ("mosi",),
            "accuracy",
            panel=True,
            limits=_SHARE,
        ),
        Metric("f1_has0", "F1 has0", "higher", {"mosi": _f1(_has0)}, ("mosi",), limits=_SHARE),
        Metric("f1_non0", "F1 non0", "higher", {"mosi": _f1(_non0)}, ("mosi",), "f1", limits=_SHARE),
        Metric(
            "acc_2", "Acc-2", "higher", {"sims": _accuracy(_SIMS_2)}, ("sims",), "accuracy", panel=True, limits=_SHARE
        ),
        Metric("acc_2_weak", "Acc-2 weak", "higher", {"sims": _accuracy(_weak)}, ("sims",), limits=_SHARE),
        Metric("f1", "F1", "higher", {"sims": _f1(_SIMS_2)}, ("sims",), "f1", limits=_SHARE),
        Metric("r2", "R²", "higher", {"sims": _r2}, ("sims",), limits=_EXPLAINED),
    )
}
CONVENTIONS = tuple(dict.fromkeys(convention for metric in METRICS.values() for convention in metric.formulas))


def msa_metrics(predictions: Numbers, references: Numbers, convention: str = "mosi") -> dict[str, float | None]:
    """MAE, correlation, and by convention accuracies and F1, or RMSE and concordance, of scores against labels.

    `"mosi"` (labels in [-3, 3]): MAE and correlation use unclipped values. Acc-7, Acc-5 and Acc-3 clip both sides to 3, 2
    and 1, round half to even, and compare; the toolkit computes Acc-3 like this but omits it from its tables. The CMU SDK uses
    other bins, so its Acc-7 is not comparable. There are two kinds of Acc-2 and F1: has0 is >= 0 against < 0 over all clips,
    non0 is > 0 against <= 0 over the clips whose label is not 0. F1 is weighted by the labels' counts.

    `"sims"` (labels in [-1, 1]): both sides are clipped to 1 first. Class edges, closed on the right, are 0 (Acc-2,
    where 0 is negative, and F1), +-0.1 (Acc-3), and +-0.1 and +-0.7 (Acc-5), in float32 as in the toolkit. There is no
    Acc-7. Weak Acc-2 is that of the clips whose label is at most 0.4 from 0, and R² the coefficient of determination, as in
    the code of CH-SIMS v2 (Liu et al., ICMI 2022).

    `"generic"` (labels of any scale): MAE, RMSE, Pearson and Spearman correlation, and the concordance correlation coefficient
    (CCC; Lin, 1989; population moments). Nothing is clipped.

    Args:
        predictions: (n,) scores, label units.
        references: (n,) labels.
        convention: `"mosi"`, `"sims"` or `"generic"`.

    Returns:
        Fractions in [0, 1], MAE and RMSE in label units. A value is `None` if it is undefined: both correlations (with a warning)
        if either side is constant up to rounding errors, CCC if both are, R² if the labels are, the non0 pair if every label is
        0, weak Acc-2 if no label is weak.

    Raises:
        ValueError: for empty or unequally long input, or values that are not finite numbers.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, not {convention!r}")
    scores, labels = paired("predictions", predictions, "references", references)
    if convention == "sims":
        scores, labels = scores.clip(-1, 1), labels.clip(-1, 1)
    values: dict[str, float | None] = {}
    for key, metric in METRICS.items():  # no comprehension: its frame would change the line that the warning names
        if convention in metric.formulas:
            values[key] = metric.formulas[convention](scores, labels)
    return values


def finite(name: str, values: Numbers, dimensions: int = 1) -> np.ndarray:
    """The values as float64: (n,), or with 2 dimensions (S, n), of which (n,) is one row.

    Raises:
        ValueError: naming `name`, for another shape, or a value that is not a number, not finite, or beyond `LARGEST`.
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufO":
            raise TypeError(f"found {array.dtype}")
        array = array.astype(np.float64)
        array = np.atleast_2d(array) if dimensions == 2 else array
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from error
    if array.ndim != dimensions:
        raise ValueError(f"{name} must be {('(n,)', '(S, n)')[dimensions - 1]} numbers, found shape {array.shape}")
    wrong = np.argwhere(~(np.abs(array) <= LARGEST))
    if len(wrong):
        first = tuple(int(at) for at in wrong[0])
        raise ValueError(
            f"{name}: {len(wrong)} values are not finite or beyond {LARGEST:g},"
            f" first at index {first[0] if dimensions == 1 else first} ({array[first]})"
        )
    return array


def paired(name: str, values: Numbers, label_name: str, labels: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Values and labels of n clips, both (n,) float64.

    Raises:
        ValueError: for no clips, for unequal lengths, and as `finite` does.
    """
    first, second = finite(name, values), finite(label_name, labels)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} {name} for {len(second)} {label_name}; expected one of each per clip")
    if len(second) == 0:
        raise ValueError(f"no {name}: expected at least one clip")
    return first, second
