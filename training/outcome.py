"""What a run predicts: its metrics, its files, and the check that the saved bundle gives the same scores."""

import gc
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.clip import Clip, labels_of
from ..evaluation.intervals import LEVEL, calibration, coverage
from ..evaluation.metrics import Numbers
from ..processing_omnisent import OmniSentProcessor
from ..readouts.base import Readings, Readout
from . import run_folder
from .arguments import ModelArguments, OmniSentTrainingArguments
from .backbone import build_model
from .collator import ClipDataset
from .data import PreparedData
from .environment import peak_memory_bytes
from .plan import adapter_share
from .row_check import TOLERANCES, check_rows

logger = logging.getLogger("omnisent.train")


@dataclass(frozen=True)
class Outcome:
    """What a run predicts.

    Attributes:
        readout: how a score is read from the model.
        dataset: the test split, as it was predicted on.
        readings: of the test split, in its order.
        seconds: that the test split took.
        calibration: the intervals of the kept weights; `None` where there are none.
        valid_scores: of the validation split, label units; `None` without training.
    """

    readout: Readout
    dataset: ClipDataset
    readings: Readings
    seconds: float
    calibration: dict | None
    valid_scores: np.ndarray | None

    @property
    def clips(self) -> list[Clip]:
        """The clips of the test split."""
        return self.dataset.clips

    @property
    def scores(self) -> np.ndarray:
        """Scores (n,) of the test split, label units."""
        return self.readout.scores(self.readings)


def run_metrics(
    outcome: Outcome,
    model: PreTrainedModel,
    data: PreparedData,
    model_args: ModelArguments,
    args: OmniSentTrainingArguments,
) -> dict:
    """The values of metrics.json, of the test split."""
    labels, scores = labels_of(outcome.clips), outcome.scores
    zero_shot = args.evaluate_only and not model_args.adapter
    lora, percent = (0, 0.0) if zero_shot else adapter_share(model.model.config, model_args)
    return {
        "dataset": data.facts.name,
        "split": "test",
        "readout": outcome.readout.name,
        "modalities": data.processor.modalities,
        "seed": args.seed,
        "n": len(labels),
        **outcome.readout.metrics(outcome.readings, labels, data.facts.convention),
        "bad_clips": len(data.bad),
        "denoise": data.denoise,
        "interval_coverage": interval_coverage(outcome.calibration, scores, labels),
        "seconds_per_clip": outcome.seconds / len(labels),
        "peak_memory_bytes": peak_memory_bytes(),
        "trainable_parameters": lora,
        "trainable_percent": percent,
        "head_parameters": sum(p.numel() for name, p in model.named_parameters() if name.startswith("score.")),
    }


def calibrate(scores: Numbers, clips: Sequence[Clip]) -> dict:
    """Prediction intervals from the scores of the validation split, by the weights that are kept."""
    known = calibration(scores, labels_of(clips))
    if str(LEVEL) not in known["half_widths"]:
        logger.warning(
            "%d validation clips are too few for intervals of level %s; interval_coverage stays null",
            known["clips"],
            LEVEL,
        )
    return known


def interval_coverage(known: dict | None, scores: Numbers, labels: Numbers) -> float | None:
    """Fraction of the test split's labels within their intervals of level 0.9; `None` where there are none."""
    width = (known or {}).get("half_widths", {}).get(str(LEVEL))
    return None if width is None else coverage(scores, labels, width)


def save_bundle(folder: Path, model: PreTrainedModel, processor: OmniSentProcessor) -> None:
    """`model/`: what AutoModel and AutoProcessor load, and what a repository on the Hub holds."""
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "model" / "training_config.yaml").write_bytes((folder / "config.yaml").read_bytes())


def check_saved_bundle(
    folder: Path, outcome: Outcome, data: PreparedData, model_args: ModelArguments, args: OmniSentTrainingArguments
) -> None:
    """Load the run's bundle as anyone would, and compare its scores with the rows; without training, what was evaluated.

    Raises:
        ValueError: naming a clip whose row has another score.
    """
    gc.collect()  # there need not be memory for two models
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    bundle, processor = folder / "model", data.processor
    if not args.evaluate_only:
        model_args, processor = replace(model_args, adapter=str(bundle)), OmniSentProcessor.from_pretrained(bundle)
    model = build_model(model_args, **data.scale, device=args.device)
    tolerance = TOLERANCES[model_args.dtype] * float(data.labels.std())
    check_rows(model, processor, outcome.readout, outcome.dataset, outcome.readings, tolerance=tolerance)


def write_results(folder: Path, outcome: Outcome, data: PreparedData, metrics: dict) -> dict:
    """The files of a finished run, metrics.json last; returns what it holds."""
    run_folder.write_predictions(folder, outcome.clips, outcome.scores)
    run_folder.write_clip_facts(folder, outcome.clips)
    if outcome.valid_scores is not None:
        run_folder.write_predictions(folder, data.splits["valid"], outcome.valid_scores, split="valid")
    if outcome.readings.answers is not None:
        run_folder.write_answers(folder, outcome.clips, outcome.readings)
    return run_folder.write_metrics(folder, metrics)
