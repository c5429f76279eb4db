"""The field's metrics for sentiment scores, in the conventions of published tables. Knows neither model nor data set.

`METRICS` is the one list of them: result keys, table columns, Hub types and which direction is better derive from it.
Source of the conventions mosi and sims: the MMSA toolkit (Mao et al., ACL 2022), which most MOSI, MOSEI and CH-SIMS tables
follow. The convention generic is for labels of any scale: it has no classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .formulas import (
    F1,
    LARGEST,
    Classes,
    Concordance,
    Correlation,
    Determination,
    Formula,
    Mean,
    accuracy,
    errors,
    of_resamples,
    undefined,
)

Numbers = Sequence[float] | np.ndarray


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
        fewest_videos: of which it has an interval; resamples of fewer say nothing of an agreement, as two clips always agree.
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
    fewest_videos: int = 2

    @property
    def name(self) -> str:
        """The long title if there is one, else the title."""
        return self.long_title or self.title


def _all_count(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return truth, predicted, np.ones(len(truth), bool)


def _rounded(limit: int) -> Classes:
    """Both sides clipped to +-limit and rounded half to even: 2 * limit + 1 classes."""
    return lambda scores, labels: _all_count(np.round(labels.clip(-limit, limit)), np.round(scores.clip(-limit, limit)))


def _cut(*edges: float) -> Classes:
    """Classes between edges, closed on the right; in float32, so that a label on an edge stays there in any precision."""
    bins = np.array(edges, np.float32)
    return lambda scores, labels: _all_count(
        np.digitize(labels.astype(np.float32), bins, right=True),
        np.digitize(scores.astype(np.float32), bins, right=True),
    )


def _has0(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _all_count(labels >= 0, scores >= 0)


def _non0(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return labels > 0, scores > 0, labels != 0


def _weak(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Not positive and positive, of the clips whose label is at most 0.4 from 0; in float32, as `_cut`."""
    return labels > 0, scores > 0, np.abs(labels.astype(np.float32)) <= np.float32(0.4)


_MAE, _RMSE = Mean(errors(1)), Mean(errors(2), np.sqrt)
_PEARSON, _SPEARMAN, _CCC = "Pearson correlation", "Spearman correlation", "Concordance correlation"
_ALL = ("mosi", "sims", "generic")
_SIMS_2, _SIMS_3, _SIMS_5 = _cut(0.0), _cut(-0.1, 0.1), _cut(-0.7, -0.1, 0.1, 0.7)
_ERROR, _SHARE, _AGREEMENT, _EXPLAINED = (0.0, np.inf), (0.0, 1.0), (-1.0, 1.0), (-np.inf, 1.0)  # limits
METRICS = {
    metric.key: metric
    for metric in (
        Metric("mae", "MAE", "lower", dict.fromkeys(_ALL, _MAE), _ALL, "mae", panel=True, limits=_ERROR),
        Metric("rmse", "RMSE", "lower", {"generic": _RMSE}, ("generic",), "rmse", limits=_ERROR),
        Metric(
            "corr",
            "Corr",
            "higher",
            dict.fromkeys(_ALL, Correlation(warns=True)),
            _ALL,
            "pearsonr",
            True,
            _PEARSON,
            limits=_AGREEMENT,
            fewest_videos=5,
        ),
        Metric(
            "spearman",
            "Spearman",
            "higher",
            {"generic": Correlation(ranks=True)},
            ("generic",),
            "spearmanr",
            False,
            _SPEARMAN,
            limits=_AGREEMENT,
            fewest_videos=5,
        ),
        Metric("ccc", "CCC", "higher", {"generic": Concordance()}, ("generic",), "ccc", True, _CCC, _AGREEMENT, 5),
        Metric(
            "acc_7",
            "Acc-7",
            "higher",
            {"mosi": accuracy(_rounded(3)), "sims": undefined},
            ("mosi",),
            "accuracy",
            limits=_SHARE,
        ),
        Metric(
            "acc_5",
            "Acc-5",
            "higher",
            {"mosi": accuracy(_rounded(2)), "sims": accuracy(_SIMS_5)},
            ("mosi", "sims"),
            limits=_SHARE,
        ),
        Metric("acc_3", "Acc-3", "higher", {"mosi": accuracy(_rounded(1)), "sims": accuracy(_SIMS_3)}, limits=_SHARE),
        Metric("acc_2_has0", "Acc-2 has0", "higher", {"mosi": accuracy(_has0)}, ("mosi",), limits=_SHARE),
        Metric(
            "acc_2_non0",
            "Acc-2 non0",
            "higher",
            {"mosi": accuracy(_non0)},
            ("mosi",),
            "accuracy",
            panel=True,
            limits=_SHARE,
        ),
        Metric("f1_has0", "F1 has0", "higher", {"mosi": F1(_has0)}, ("mosi",), limits=_SHARE),
        Metric("f1_non0", "F1 non0", "higher", {"mosi": F1(_non0)}, ("mosi",), "f1", limits=_SHARE),
        Metric(
            "acc_2", "Acc-2", "higher", {"sims": accuracy(_SIMS_2)}, ("sims",), "accuracy", panel=True, limits=_SHARE
        ),
        Metric("acc_2_weak", "Acc-2 weak", "higher", {"sims": accuracy(_weak)}, ("sims",), limits=_SHARE),
        Metric("f1", "F1", "higher", {"sims": F1(_SIMS_2)}, ("sims",), "f1", limits=_SHARE),
        Metric("r2", "R²", "higher", {"sims": Determination()}, ("sims",), limits=_EXPLAINED),
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
    scores, labels = _sides(*paired("predictions", predictions, "references", references), convention)
    values: dict[str, float | None] = {}
    for key, metric in METRICS.items():  # no comprehension: its frame would change the line that the warning names
        if convention in metric.formulas:
            values[key] = metric.formulas[convention](scores, labels)
    return values


def resampled_metrics(
    scores: np.ndarray, labels: np.ndarray, convention: str, counts: np.ndarray
) -> dict[str, np.ndarray]:
    """The metrics of `msa_metrics` of each resample, (R,), nan where undefined.

    Args:
        scores: (n,) label units.
        labels: (n,) label units.
        convention: of `msa_metrics`.
        counts: (R, n), how often each clip stands in each resample.
    """
    scores, labels = _sides(scores, labels, convention)
    return {
        key: of_resamples(metric.formulas[convention], scores, labels, counts)
        for key, metric in METRICS.items()
        if convention in metric.formulas
    }


def _sides(scores: np.ndarray, labels: np.ndarray, convention: str) -> tuple[np.ndarray, np.ndarray]:
    return (scores.clip(-1, 1), labels.clip(-1, 1)) if convention == "sims" else (scores, labels)


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


def over_constant(mae: float, constant_mae: float) -> float | None:
    """A MAE divided by that of always the same score; `None` if that is 0, as where all labels are the same."""
    return mae / constant_mae if constant_mae else None


def ratio_text(ratio: float | None) -> str:
    """For tables: a ratio; empty if there is none."""
    return "" if ratio is None else f"{ratio:.2f}"


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
