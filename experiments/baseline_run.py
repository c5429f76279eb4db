"""Runs a simple baseline on the clips that a training run with the same arguments would use, and writes a run folder.

omnisent baseline constant configs/mosi.yaml --out runs/constant
omnisent baseline tfidf-ridge configs/mosi.yaml --out runs/tfidf
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.clip import labels_of, of_target
from ..readouts.base import Predictions
from ..readouts.discriminative import DiscriminativeReadout
from ..training import run_folder
from ..training.arguments import DataArguments, ModelArguments, OmniSentTrainingArguments
from ..training.data import PreparedData, prepare_data
from ..training.targets import metrics_by_target, over_targets
from .baselines import BASELINES, Baseline


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
    names = [target.name for target in data.targets]
    readouts = [DiscriminativeReadout(target.score_range) for target in data.targets]
    found = {}
    for split in ("valid", "test"):
        clips = data.splits[split]
        own = [_score(baseline, data, place, split) for place in range(len(names))]
        scores = np.stack([readout.scores(one) for readout, one in zip(readouts, own, strict=True)], axis=1)
        raw = np.stack([one.raw for one in own], axis=1)
        run_folder.write_predictions(folder, clips, scores, raw, split=split, targets=names)
        found[split] = metrics_by_target(data.targets, readouts, own, labels_of(clips))
    several = {name: {**found["test"][name], **run_folder.as_valid(found["valid"][name])} for name in names}
    metrics = {
        "dataset": data.facts.name,
        "split": "test",
        "readout": name,
        "modalities": list(baseline.modalities),
        "n": len(data.splits["test"]),
        **over_targets(found["test"]),
        "bad_clips": data.left_out,
        **data.lacking("test"),
        "denoise": data.denoise,
        **run_folder.as_valid(over_targets(found["valid"])),
        **({"targets": several} if len(names) > 1 else {}),
    }
    return BaselineRun(name, folder, run_folder.write_metrics(folder, metrics))


def _score(baseline: Baseline, data: PreparedData, place: int, split: str) -> Predictions:
    """The predictions of a target for the clips of a split, from the training clips with a label for it."""
    fitted = {name: of_target(data.splits[name], place) for name in ("train", "valid")}
    return Predictions(baseline.score({**fitted, "test": data.splits[split]}))
