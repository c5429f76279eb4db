"""A row of results belongs to its clip: checked when predictions come back, and again with the saved bundle, clip by clip."""

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.clip import labels_of
from ..processing_omnisent import OmniSentProcessor
from ..readouts.base import Readings, Readout
from .collator import ClipDataset

CHECKED_CLIPS = 8
# How far a clip's score by itself may lie from its row, in standard deviations of the training labels: what number formats round.
TOLERANCES = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.25}


def check_order(places: np.ndarray, labels: np.ndarray, dataset: ClipDataset) -> None:
    """Predictions came back one a clip, in the order of the clips.

    Args:
        places: (n,) of each prediction's clip in the data set.
        labels: (n,) that came back with the predictions, label units.
        dataset: that was predicted on.

    Raises:
        ValueError: naming the first row where they did not.
    """
    advice = "; nothing is written. Remove settings of Trainer or accelerate that reorder or split evaluation"
    if len(places) != len(dataset):
        raise ValueError(f"evaluation gave {len(places)} predictions for {len(dataset)} clips{advice}")
    wrong = np.flatnonzero(places != np.arange(len(dataset)))
    if len(wrong):
        raise ValueError(f"evaluation gave the prediction of clip {places[wrong[0]]} in row {wrong[0]}{advice}")
    wrong = np.flatnonzero(labels != labels_of(dataset.clips).astype(np.float32))
    if len(wrong):
        raise ValueError(f"evaluation gave clip {dataset.clips[wrong[0]].id} the label {labels[wrong[0]]}{advice}")


def evenly(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` places, spread evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def check_rows(
    model: PreTrainedModel,
    processor: OmniSentProcessor,
    readout: Readout,
    dataset: ClipDataset,
    readings: Readings,
    *,
    tolerance: float,
) -> None:
    """Some clips, read again from their files and scored one by one, have the scores of their rows.

    Args:
        model: what a saved bundle is loaded to, or the model that was evaluated.
        processor: that of the bundle.
        readout: of the run.
        dataset: the clips.
        readings: of these clips, in their order.
        tolerance: how far the two scores may lie apart, label units.

    Raises:
        ValueError: naming the clip that has another score. Written text may differ for up to half of the clips, since rounding
            can tip a token.
    """
    places = evenly(len(dataset), CHECKED_CLIPS)
    model.eval()
    device = next(model.parameters()).device
    again = []
    for place in places:
        with torch.no_grad():
            _, predictions = readout.predict(model, processor([dataset.inputs[place]]).to(device))
        again.append(readout.scores(readout.read(predictions.cpu().numpy()))[0])
    rows = readout.scores(readings)[places]
    apart = np.abs(rows - np.array(again))
    wrong = int((apart > tolerance).sum())
    if wrong > (0 if readings.answers is None else len(places) // 2):
        worst = int(apart.argmax())
        raise ValueError(
            f"clip {dataset.clips[places[worst]].id}: its row has {rows[worst]:.4f}, but by itself the saved model gives"
            f" {again[worst]:.4f}; no metrics are written, since rows and clips may not belong together"
        )
