"""The simple baselines of every comparison. `BASELINES` is the one list of them.

Importing this file is cheap: the command's help reads the list.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.clip import Clip, labels_of

RIDGE_PENALTIES = tuple(float(penalty) for penalty in np.geomspace(0.1, 100, 13))


@dataclass(frozen=True)
class Baseline:
    """A way to score without the Thinker.

    Attributes:
        label: its name in tables.
        description: what it does, in a few words.
        modalities: the modalities that it uses.
        score: maps the clips of each split to scores (n,) of the test clips, label units.
    """

    label: str
    description: str
    modalities: tuple[str, ...]
    score: Callable[[dict[str, list[Clip]]], np.ndarray]


def constant_scores(splits: dict[str, list[Clip]]) -> np.ndarray:
    """The median of the training labels for every test clip (n,), label units: the best constant for MAE."""
    return np.full(len(splits["test"]), np.median(labels_of(splits["train"])))


def tfidf_ridge_scores(splits: dict[str, list[Clip]]) -> np.ndarray:
    """Ridge regression on TF-IDF of one and two words of the transcript, for every test clip (n,), label units.

    The penalty is the one of `RIDGE_PENALTIES` with the lowest MAE on the validation split; a clip without text has no words.

    Raises:
        ValueError: when no training clip has a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import
    from sklearn.linear_model import Ridge

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    try:
        train_words = vectorizer.fit_transform(_texts(splits["train"]))
    except ValueError as error:
        raise ValueError(f"tfidf-ridge: the training clips have no transcript to learn from ({error})") from error
    train_labels, valid_labels = labels_of(splits["train"]), labels_of(splits["valid"])
    models = [Ridge(alpha=penalty).fit(train_words, train_labels) for penalty in RIDGE_PENALTIES]
    valid_words = vectorizer.transform(_texts(splits["valid"]))
    errors = [np.mean(np.abs(model.predict(valid_words) - valid_labels)) for model in models]
    return models[int(np.argmin(errors))].predict(vectorizer.transform(_texts(splits["test"])))


def _texts(clips: Sequence[Clip]) -> list[str]:
    return [clip.text or "" for clip in clips]


BASELINES = {
    "constant": Baseline("constant (train median)", "the median of the training labels", (), constant_scores),
    "tfidf-ridge": Baseline(
        "TF-IDF + ridge, text",
        "ridge regression on TF-IDF features of the transcript",
        ("text",),
        tfidf_ridge_scores,
    ),
}
