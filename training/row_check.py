"""Checks that each row of results belongs to its clip: by the order of predictions, and by scoring clips again."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from ..processing_omnisent import OmniSentProcessor
from ..readouts.base import Predictions
from .collator import ClipDataset

CHECKED_CLIPS = 8
# Largest rounding difference between a row and the clip scored alone, in standard deviations of the training labels.
TOLERANCES = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.25}


def check_order(places: np.ndarray, labels: np.ndarray, dataset: ClipDataset) -> None:
    """Check that there is one prediction per item of a data set, with the item's label.

    Args:
        places: index of each prediction's item, sorted.
        labels: returned with the predictions, one or K for each item, label units.
        dataset: of the predicted clips.

    Raises:
        ValueError: naming the first wrong row.
    """
    advice = "; nothing is written. Remove settings of Trainer or accelerate that reorder or split evaluation"
    if len(places) != len(dataset):
        raise ValueError(f"evaluation gave {len(places)} predictions for {len(dataset)} clips{advice}")
    wrong = np.flatnonzero(places != np.arange(len(dataset)))
    if len(wrong):
        raise ValueError(f"evaluation gave the prediction of clip {places[wrong[0]]} for clip {wrong[0]}{advice}")
    expected = dataset.item_labels.astype(np.float32)
    differs = (labels != expected) & ~(np.isnan(labels) & np.isnan(expected))
    wrong = np.flatnonzero(differs.reshape(len(dataset), -1).any(1))
    if len(wrong):
        place = int(wrong[0])
        raise ValueError(f"evaluation gave clip {dataset.clip_of(place).id} the label {labels[place]}{advice}")


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` indices, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def check_rows(
    model: PreTrainedModel,
    processor: OmniSentProcessor,
    dataset: ClipDataset,
    predictions: Sequence[Predictions],
    *,
    tolerances: Sequence[float],
) -> None:
    """Read some clips again, score them one by one, and check that the scores equal those of their rows.

    Args:
        model: the loaded bundle, or the model that was evaluated.
        processor: of the bundle.
        dataset: the clips, with the readout of each target.
        predictions: of each target for these clips, in their order.
        tolerances: for each target, the largest difference of the two scores, label units.

    Raises:
        ValueError: naming the clip with another score. Generated text may differ for up to half of the clips, since rounding can
            change a token.
    """
    places, readouts = evenly_spaced(len(dataset.clips), CHECKED_CLIPS), dataset.readouts
    model.eval()
    device = next(model.parameters()).device
    outputs = []
    for item in (item for place in places for item in dataset.items_of(int(place))):
        with torch.no_grad():
            _, found = readouts[0].predict(model, processor([dataset.inputs[item]]).to(device))
        outputs.append(found.cpu().numpy())
    again = dataset.by_target(np.concatenate(outputs))
    for readout, own, rows, tolerance in zip(readouts, again, predictions, tolerances, strict=True):
        first, second = readout.scores(rows)[places], readout.scores(readout.decode(own))
        differences = np.abs(first - second)
        wrong = int((differences > tolerance).sum())
        if wrong > (0 if rows.answers is None else len(places) // 2):
            worst = int(differences.argmax())
            raise ValueError(
                f"clip {dataset.clips[places[worst]].id}: its row has {first[worst]:.4f}, but scored alone the saved model gives"
                f" {second[worst]:.4f}; no metrics are written, since rows may belong to other clips"
            )
