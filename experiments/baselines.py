"""The floors that every readout is shown with: the constant (train median), and TF-IDF with ridge regression on the transcript.

omnisent baseline constant configs/mosi.yaml --out runs/constant
omnisent baseline tfidf-ridge configs/mosi.yaml --out runs/tfidf
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from ..data.clip import Clip
from ..readouts.base import Readings
from ..readouts.discriminative import DiscriminativeReadout
from ..training import run_folder
from ..training.arguments import DataArguments, ModelArguments, OmniSentTrainingArguments
from ..training.data import prepare_data

ALPHAS = tuple(float(alpha) for alpha in np.geomspace(0.1, 100, 13))


def constant_scores(splits: dict[str, list[Clip]]) -> np.ndarray:
    """The median of the training labels for every test clip (n,), label units: the best constant for MAE."""
    return np.full(len(splits["test"]), np.median([clip.label for clip in splits["train"]]))


def tfidf_ridge_scores(splits: dict[str, list[Clip]]) -> np.ndarray:
    """Ridge regression on TF-IDF of one and two words of the transcript, for every test clip (n,), label units.

    The penalty is the one of `ALPHAS` with the lowest MAE on the validation split; a clip without text has no words.

    Raises:
        ValueError: when no training clip has a word.
    """
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    try:
        train_words = vectorizer.fit_transform(_texts(splits["train"]))
    except ValueError as error:
        raise ValueError(f"tfidf-ridge: the training clips have no transcript to learn from ({error})") from error
    train_labels, valid_labels = _labels(splits["train"]), _labels(splits["valid"])
    models = [Ridge(alpha=alpha).fit(train_words, train_labels) for alpha in ALPHAS]
    valid_words = vectorizer.transform(_texts(splits["valid"]))
    errors = [np.mean(np.abs(model.predict(valid_words) - valid_labels)) for model in models]
    return models[int(np.argmin(errors))].predict(vectorizer.transform(_texts(splits["test"])))


BASELINES: dict[str, Callable[[dict[str, list[Clip]]], np.ndarray]] = {
    "constant": constant_scores,
    "tfidf-ridge": tfidf_ridge_scores,
}


def run_baseline(
    name: str, model_args: ModelArguments, data_args: DataArguments, args: OmniSentTrainingArguments
) -> dict:
    """A run folder for a baseline on the clips that a training run with these arguments would see; returns its metrics.

    Raises:
        ValueError: for a name that is not in `BASELINES`.
    """
    if name not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, not {name!r}")
    folder = Path(args.output_dir)
    data = prepare_data(model_args, data_args, args)
    run_folder.write_config(folder, model_args, data_args, args)
    run_folder.write_environment(folder, data.clips)
    readout = DiscriminativeReadout(data.facts.score_range)
    readings = Readings(BASELINES[name](data.splits))
    references = [clip.label for clip in data.splits["test"]]
    run_folder.write_predictions(folder, data.splits["test"], readout.scores(readings))
    metrics = {
        "dataset": data.facts.name,
        "split": "test",
        "readout": name,
        "modalities": [] if name == "constant" else ["text"],
        "n": len(references),
        **readout.metrics(readings, references, data.facts.convention),
        "bad_clips": len(data.bad),
        "denoise": data.denoise,
    }
    return run_folder.write_metrics(folder, metrics)


def _texts(clips: Sequence[Clip]) -> list[str]:
    return [clip.text or "" for clip in clips]


def _labels(clips: Sequence[Clip]) -> np.ndarray:
    return np.array([clip.label for clip in clips])
