"""The field's metrics for sentiment scores, in the conventions of published tables. Knows neither model nor data set.

Source of both conventions: the MMSA toolkit (Mao et al., ACL 2022), which most MOSI, MOSEI and CH-SIMS tables follow.
"""

import warnings
from collections.abc import Sequence

import numpy as np

CONVENTIONS = ("mosi", "sims")
LARGEST = 1e100  # sums and squares of what is smaller stay finite
_SIMS_EDGES = {"acc_2": (0.0,), "acc_3": (-0.1, 0.1), "acc_5": (-0.7, -0.1, 0.1, 0.7)}


def msa_metrics(
    predictions: Sequence[float], references: Sequence[float], convention: str = "mosi"
) -> dict[str, float | None]:
    """MAE, Pearson correlation, accuracies and F1 of scores against labels.

    `"mosi"` (labels in [-3, 3]): MAE and correlation as they come. Acc-7, Acc-5 and Acc-3 clip both sides to 3, 2 and
    1, round half to even, and count equal ones; the toolkit computes Acc-3 so but leaves it out of its tables, and the
    CMU SDK's own seven bins are others, so an Acc-7 made with them does not compare. Acc-2 and F1 come twice: has0 is
    >= 0 against < 0 over all clips, non0 is > 0 against <= 0 over the clips whose label is not 0. F1 is weighted by the
    labels' counts.

    `"sims"` (labels in [-1, 1]): both sides are clipped to 1 first. Classes are cut, closed on the right, at 0 (Acc-2,
    where 0 is negative, and F1), at 0.1 on both sides (Acc-3), and at 0.1 and 0.7 on both sides (Acc-5), in float32 as
    the toolkit has it. There is no Acc-7.

    Args:
        predictions: (n,) scores, label units.
        references: (n,) labels.
        convention: `"mosi"` or `"sims"`.

    Returns:
        Fractions in [0, 1], MAE in label units. A value is `None` where it is undefined: correlation (with a warning)
        when either side is constant or differs by rounding errors alone, the non0 pair when every label is 0.

    Raises:
        ValueError: for empty or unequally long input, or values that are not finite numbers.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, not {convention!r}")
    scores, labels = paired("predictions", predictions, "references", references)
    return _mosi(scores, labels) if convention == "mosi" else _sims(scores, labels)


def finite(name: str, values: Sequence[float] | np.ndarray, dimensions: int = 1) -> np.ndarray:
    """The values as float64: (n,), or with 2 dimensions (S, n), of which (n,) is one row.

    Raises:
        ValueError: by `name`, for another shape, for what is no number, not finite, or beyond `LARGEST`.
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


def paired(
    name: str, values: Sequence[float], label_name: str, labels: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """A value and a label of each of n clips, both (n,) float64.

    Raises:
        ValueError: for none, for numbers that differ, or for what `finite` refuses.
    """
    values, labels = finite(name, values), finite(label_name, labels)
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} {name} for {len(labels)} {label_name}; expected one of each for every clip")
    if len(labels) == 0:
        raise ValueError(f"no {name}: expected at least one clip")
    return values, labels


def _mosi(scores: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    nonzero = labels != 0
    has0 = labels >= 0, scores >= 0
    non0 = labels[nonzero] > 0, scores[nonzero] > 0
    return {
        "mae": _mae(scores, labels),
        "corr": _corr(scores, labels),
        **{f"acc_{2 * limit + 1}": _rounded_accuracy(scores, labels, limit) for limit in (3, 2, 1)},
        "acc_2_has0": _accuracy(*has0),
        "acc_2_non0": _accuracy(*non0) if nonzero.any() else None,
        "f1_has0": _f1(*has0),
        "f1_non0": _f1(*non0) if nonzero.any() else None,
    }


def _sims(scores: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    scores, labels = scores.clip(-1, 1), labels.clip(-1, 1)
    classes = {name: (_cut(labels, edges), _cut(scores, edges)) for name, edges in _SIMS_EDGES.items()}
    return {
        "mae": _mae(scores, labels),
        "corr": _corr(scores, labels),
        "acc_7": None,
        **{name: _accuracy(*classes[name]) for name in ("acc_5", "acc_3", "acc_2")},
        "f1": _f1(*classes["acc_2"]),
    }


def _cut(values: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    # A label of 0.1 lies on its edge whichever precision it came in.
    return np.digitize(values.astype(np.float32), np.array(edges, np.float32), right=True)


def _mae(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.abs(scores - labels)))


def _corr(scores: np.ndarray, labels: np.ndarray) -> float | None:
    # A spread at the size of the mean's rounding error says nothing (scipy's pearsonr warns of it); squares of less underflow.
    if any(values.std() <= 1e-13 * np.abs(values.mean()) + 1 / LARGEST for values in (scores, labels)):
        warnings.warn("correlation is undefined: predictions or references are constant", stacklevel=4)
        return None
    return float(np.corrcoef(scores, labels)[0, 1])


def _rounded_accuracy(scores: np.ndarray, labels: np.ndarray, limit: int) -> float:
    return _accuracy(np.round(labels.clip(-limit, limit)), np.round(scores.clip(-limit, limit)))


def _accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean(truth == predicted))


def _f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """F1 of each of two classes, weighted by how often it is the truth; a class that is never found counts 0."""
    total = 0.0
    for value in np.unique(truth):
        clips, hits = np.sum(truth == value), np.sum((truth == value) & (predicted == value))
        total += clips * 2 * hits / (clips + np.sum(predicted == value))
    return float(total / len(truth))
