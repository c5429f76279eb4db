"""The simple baselines of comparisons. `BASELINES` is the one list of them.

Importing this file is cheap: the command's help reads the list.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from ..data.catalog import DatasetFacts
from ..data.clip import Clip, labels_of

RIDGE_PENALTIES = tuple(float(penalty) for penalty in np.geomspace(0.1, 100, 13))


@dataclass(frozen=True)
class Baseline:
    """A way to score without the Thinker.

    Attributes:
        label: its name in tables.
        description: what it does, in a few words.
        modalities: the modalities that it uses.
        score: maps the clips of each split to scores (n,) of the test clips, label units, for which others may stand in.
        suits: whether comparisons on a data set include it.
        package: an optional package that it needs.
    """

    label: str
    description: str
    modalities: tuple[str, ...]
    score: Callable[[dict[str, list[Clip]]], np.ndarray]
    suits: Callable[[DatasetFacts], bool] = lambda facts: True
    package: str | None = None

    @property
    def lacks(self) -> str | None:
        """What has to be installed before it can be used; `None` if nothing has to."""
        if self.package is None or find_spec(self.package) is not None:
            return None
        return f"it needs the package {self.package}: pip install 'omnisent[real]'"


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


def vader_scores(splits: dict[str, list[Clip]]) -> np.ndarray:
    """VADER's compound score of the transcript (Hutto and Gilbert, ICWSM 2014), for every test clip (n,), in label units.

    The compound score lies in [-1, 1]; a line fitted to the training labels by least squares maps it to label units. A clip without
    text has the compound score 0.
    """
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # an optional extra

    analyzer = SentimentIntensityAnalyzer()

    def with_one(clips: Sequence[Clip]) -> np.ndarray:
        """The compound score and 1 for each of n clips, (n, 2)."""
        return np.array([(analyzer.polarity_scores(text)["compound"], 1.0) for text in _texts(clips)])

    line = np.linalg.lstsq(with_one(splits["train"]), labels_of(splits["train"]))[0]
    return with_one(splits["test"]) @ line


def _is_real_english(facts: DatasetFacts) -> bool:
    return facts.language == "en" and not facts.synthetic


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
    "vader": Baseline(
        "VADER, text",
        "compound score of VADER's lexicon of English, mapped to label units by a line fitted to the training labels",
        ("text",),
        vader_scores,
        suits=_is_real_english,
        package="vaderSentiment",
    ),
}
