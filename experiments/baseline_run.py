"""Runs a simple baseline on the clips that a training run with the same arguments would use, and writes a run folder.

omnisent baseline constant configs/mosi.yaml --out runs/constant
omnisent baseline tfidf-ridge configs/mosi.yaml --out runs/tfidf
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.clip import labels_of
from ..readouts.base import Predictions
from ..readouts.discriminative import DiscriminativeReadout
from ..training import run_folder
from ..training.arguments import DataArguments, ModelArguments, OmniSentTrainingArguments
from ..training.data import prepare_data
from .baselines import BASELINES


@dataclass(frozen=True)
class BaselineRun:
    """A finished run of a baseline; `metrics` are the contents of its metrics.json."""

    name: str
    folder: Path
    metrics: dict[str, Any]

    @property
    def mae(self) -> float:
        """MAE on the test split, label units."""
        return self.metrics["mae"]

    def to_dict(self) -> dict[str, Any]:
        """The contents of metrics.json."""
        return self.metrics


def run_baseline(
    name: str, model_args: ModelArguments, data_args: DataArguments, args: OmniSentTrainingArguments
) -> BaselineRun:
    """Score the test split with a baseline and write a run folder at `args.output_dir`.

    Raises:
        ValueError: for a name that is not in `BASELINES`.
        ImportError: for a baseline whose package is not installed.
    """
    if name not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, not {name!r}")
    baseline, folder = BASELINES[name], args.folder
    if baseline.lacks:
        raise ImportError(f"baseline {name}: {baseline.lacks}")
    data = prepare_data(model_args, data_args, args)
    run_folder.write_config(folder, model_args, data_args, args)
    data.write_environment(folder)
    readout = DiscriminativeReadout(data.facts.score_range)
    found = {}
    for split in ("valid", "test"):
        clips = data.splits[split]
        predictions = Predictions(baseline.score({**data.splits, "test": clips}))
        run_folder.write_predictions(folder, clips, readout.scores(predictions), predictions.raw, split=split)
        found[split] = readout.metrics(predictions, labels_of(clips), data.facts.convention)
    metrics = {
        "dataset": data.facts.name,
        "split": "test",
        "readout": name,
        "modalities": list(baseline.modalities),
        "n": len(data.splits["test"]),
        **found["test"],
        "bad_clips": data.left_out,
        **data.lacking("test"),
        "denoise": data.denoise,
        **run_folder.as_valid(found["valid"]),
    }
    return BaselineRun(name, folder, run_folder.write_metrics(folder, metrics))
