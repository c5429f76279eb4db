"""The predictions of a run: its metrics, its files, and the check that the saved bundle gives the same scores."""

import gc
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.catalog import Target
from ..data.clip import Clip, labels_of, of_target
from ..evaluation.intervals import LEVEL, LEVELS, calibration, cross_fitted, outside, residuals, share_with_interval
from ..losses_omnisent import nested_interval
from ..processing_omnisent import OmniSentProcessor
from ..readouts.base import Predictions, Readout
from . import run_folder
from .arguments import ModelArguments, OmniSentTrainingArguments
from .backbone import build_model
from .collator import ClipDataset
from .data import PreparedData
from .environment import peak_memory_bytes
from .plan import adapter_parameters
from .row_check import TOLERANCES, check_rows
from .targets import metrics_by_target, over_targets

logger = logging.getLogger("omnisent.train")


@dataclass(frozen=True)
class Outcome:
    """The predictions of a run.

    Attributes:
        readouts: how a score is taken from the model, for each target.
        targets: what is rated.
        split: the one whose metrics are the run's result.
        datasets: valid and, if it is the evaluated split, test.
        predictions: for each of these, of each target, in its order.
        seconds: time to predict the evaluated split.
        calibration: of the intervals of each target, by its name, for the final weights; empty if not calibrated.
        validation: the validation metric of each evaluation in training, the first one first; empty without any.
    """

    readouts: Sequence[Readout]
    targets: Sequence[Target]
    split: str
    datasets: dict[str, ClipDataset]
    predictions: dict[str, list[Predictions]]
    seconds: float
    calibration: Mapping[str, dict]
    validation: list[float]

    @property
    def names(self) -> list[str]:
        """The names of the targets."""
        return [target.name for target in self.targets]

    def metrics_of(self, split: str) -> dict[str, dict]:
        """The metrics of a split, by target."""
        return metrics_by_target(self.targets, self.readouts, self.predictions[split], self.datasets[split].labels)

    def scores_of(self, split: str) -> np.ndarray:
        """Scores (n, K) of a split, label units."""
        own = zip(self.readouts, self.predictions[split], strict=True)
        return np.stack([readout.scores(predictions) for readout, predictions in own], axis=1)

    def intervals_of(self, place: int) -> dict[str, float | None]:
        """The `interval_figures` of a target on the evaluated split."""
        target, readout = self.targets[place], self.readouts[place]
        calibration = self.calibration.get(target.name) if self.split == "test" else None  # it was made of the other
        rows, dataset = readout.rows(self.predictions[self.split][place]), self.datasets[self.split]
        known = ~np.isnan(dataset.labels.reshape(len(rows), -1)[:, place])
        return interval_figures(calibration, rows[known], of_target(dataset.clips, place), target.score_range)


def run_metrics(
    outcome: Outcome,
    model: PreTrainedModel,
    data: PreparedData,
    model_args: ModelArguments,
    args: OmniSentTrainingArguments,
) -> dict:
    """The values of metrics.json, of the evaluated split, and as `valid_*` of the validation split.

    Of several targets these are means over them, without intervals, and `targets` has the figures of each by its name.
    """
    count = len(outcome.datasets[outcome.split].clips)
    zero_shot = args.evaluate_only and not model_args.adapter
    lora, percent = (0, 0.0) if zero_shot else adapter_parameters(model.model.config, model_args)
    measured, valid = outcome.metrics_of(outcome.split), outcome.metrics_of("valid")
    intervals = {name: outcome.intervals_of(place) for place, name in enumerate(outcome.names)}
    several = {
        name: {"n": known, **measured[name], **intervals[name], **run_folder.as_valid(valid[name])}
        for name, known in zip(outcome.names, _label_counts(outcome.datasets[outcome.split]), strict=True)
    }
    return {
        "dataset": data.facts.name,
        "split": outcome.split,
        "readout": outcome.readouts[0].name,
        "modalities": data.processor.modalities,
        "seed": args.seed,
        "n": count,
        **over_targets(measured),
        "bad_clips": data.left_out,
        **data.lacking(outcome.split),
        "denoise": data.denoise,
        **(intervals[outcome.names[0]] if len(several) == 1 else {}),
        "seconds_per_clip": outcome.seconds / count,
        "peak_memory_bytes": peak_memory_bytes(),
        "trainable_parameters": lora,
        "trainable_percent": percent,
        "head_parameters": sum(p.numel() for name, p in model.named_parameters() if name.startswith("score.")),
        "layer_weights": getattr(model, "layer_weights", None),
        **run_folder.as_valid(over_targets(valid)),
        **validation_course(outcome.validation, lower_is_better=not args.greater_is_better),
        **({"targets": several} if len(several) > 1 else {}),
    }


def _label_counts(dataset: ClipDataset) -> list[int]:
    """How many clips have a label for each target."""
    return (~np.isnan(dataset.labels.reshape(len(dataset.clips), -1))).sum(0).tolist()


def validation_course(values: Sequence[float], *, lower_is_better: bool) -> dict[str, float | bool | None]:
    """The validation metric of the last evaluation in training, and whether it is the best of several, so that more may help."""
    if len(values) < 2:
        return {"valid_last": values[-1] if values else None, "still_improving": None}
    best = min(values) if lower_is_better else max(values)
    return {"valid_last": values[-1], "still_improving": values[-1] == best and values.count(best) == 1}


def calibrate(
    evaluations: Sequence[np.ndarray], clips: Sequence[Clip], metric: str, targets: Sequence[Target]
) -> dict[str, dict]:
    """Prediction intervals of each target, by its name, from the validation clips: `calibration` of what `cross_fitted` gives.

    Args:
        evaluations: of `cross_fitted`.
        clips: n, with labels of the targets.
        metric: of `cross_fitted`.
        targets: K.
    """
    labels, videos = labels_of(clips), _videos(clips)
    conventions = [target.convention for target in targets]
    rows = cross_fitted(evaluations, labels, videos, metric=metric, conventions=conventions)
    rows, labels = rows.reshape(len(rows), len(targets), -1), labels.reshape(len(rows), -1)
    found = {}
    for place, target in enumerate(targets):
        known = ~np.isnan(labels[:, place])
        own, of_videos = rows[known, place], None if videos is None else list(np.array(videos)[known])
        found[target.name] = calibrated = calibration(own[:, 0], labels[known, place], of_videos, _quantiles(own))
        if str(LEVEL) not in calibrated["half_widths"]:
            logger.warning(
                "%d validation clips are too few for intervals of level %s; interval_coverage stays null",
                calibrated["clips"],
                LEVEL,
            )
    return found


def interval_figures(
    calibrated: dict | None, rows: np.ndarray, clips: Sequence[Clip], score_range: tuple[float, float]
) -> dict[str, float | None]:
    """Of the intervals of level 0.9: the share of test labels in them with its 95 % interval, and their mean width in label units.

    Args:
        calibrated: `None` without a calibration, and then every figure is `None`.
        rows: (n, C) as `Readout.rows`.
        clips: n.
        score_range: to which an interval is cut, label units.
    """
    level, labels, scores, bounds = str(LEVEL), labels_of(clips), rows[:, :1], _quantiles(rows)
    names = ("interval_coverage", "interval_coverage_low", "interval_coverage_high", "interval_width")
    margins, half_widths = ((calibrated or {}).get(name) or {} for name in ("margins", "half_widths"))
    if bounds is not None and level in margins:
        known = [at for at, one in enumerate(LEVELS) if one <= LEVEL and str(one) in margins]
        reach = np.array([margins[str(LEVELS[at])] for at in known])
        ends = nested_interval(*map(torch.from_numpy, (scores[:, 0], bounds[:, known], reach))).numpy()
        inside = outside(ends, labels) <= 0
    elif level in half_widths:
        ends = scores + np.array([-half_widths[level], half_widths[level]])
        inside = residuals(scores[:, 0], labels) <= half_widths[level]
    else:
        return dict.fromkeys(names)
    width = float(np.mean(np.diff(ends.clip(*score_range), axis=1)))
    return dict(zip(names, (*share_with_interval(inside, _videos(clips)), width), strict=True))


def _videos(clips: Sequence[Clip]) -> list[str] | None:
    return run_folder.known_videos([clip.video_id for clip in clips])


def _quantiles(rows: np.ndarray) -> np.ndarray | None:
    """The quantiles (n, levels, 2) in rows (n, C)."""
    return rows[:, 1:].reshape(len(rows), -1, 2) if rows.shape[1] > 1 else None


def save_bundle(folder: Path, model: PreTrainedModel, processor: OmniSentProcessor) -> None:
    """Write the bundle to `model/`, for AutoModel, AutoProcessor and the Hub."""
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "model" / "training_config.yaml").write_bytes((folder / "config.yaml").read_bytes())


def check_saved_bundle(
    folder: Path, outcome: Outcome, data: PreparedData, model_args: ModelArguments, args: OmniSentTrainingArguments
) -> None:
    """Load the saved bundle (without training: the evaluated model) and compare its scores with those of the run.

    Raises:
        ValueError: naming a clip whose row has another score.
    """
    gc.collect()  # there may not be enough memory for two models
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    bundle, processor = folder / "model", data.processor
    if not args.evaluate_only:
        model_args, processor = replace(model_args, adapter=str(bundle)), OmniSentProcessor.from_pretrained(bundle)
    model = build_model(model_args, **data.model_fields, device=args.device)
    tolerances = [TOLERANCES[model_args.dtype] * scale.std for scale in data.scales]
    dataset, predictions = outcome.datasets[outcome.split], outcome.predictions[outcome.split]
    check_rows(model, processor, dataset, predictions, tolerances=tolerances)


def write_results(folder: Path, outcome: Outcome, metrics: dict) -> dict:
    """Write the files of a finished run, metrics.json last; returns its contents."""
    names = outcome.names
    for split, dataset in outcome.datasets.items():
        raw = np.stack([predictions.raw for predictions in outcome.predictions[split]], axis=1)
        run_folder.write_predictions(folder, dataset.clips, outcome.scores_of(split), raw, split=split, targets=names)
    clips, predictions = outcome.datasets[outcome.split].clips, outcome.predictions[outcome.split]
    run_folder.write_clip_facts(folder, clips)
    if predictions[0].answers is not None:
        run_folder.write_answers(folder, clips, predictions, names)
    return run_folder.write_metrics(folder, metrics)
