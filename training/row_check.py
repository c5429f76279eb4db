"""Checks that each row of results belongs to its clip: by the order of predictions, and by scoring clips again."""

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.clip import labels_of
from ..processing_omnisent import OmniSentProcessor
from ..readouts.base import Predictions, Readout
from .collator import ClipDataset

CHECKED_CLIPS = 8
# Largest rounding difference between a row and the clip scored alone, in standard deviations of the training labels.
TOLERANCES = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.25}


def check_order(places: np.ndarray, labels: np.ndarray, dataset: ClipDataset) -> None:
    """Check that there is one prediction per clip, with the clip's label.

    Args:
        places: (n,) index of each prediction's clip in the data set, sorted.
        labels: (n,) returned with the predictions, label units.
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
    wrong = np.flatnonzero(labels != labels_of(dataset.clips).astype(np.float32))
    if len(wrong):
        raise ValueError(f"evaluation gave clip {dataset.clips[wrong[0]].id} the label {labels[wrong[0]]}{advice}")


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` indices, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def check_rows(
    model: PreTrainedModel,
    processor: OmniSentProcessor,
    readout: Readout,
    dataset: ClipDataset,
    predictions: Predictions,
    *,
    tolerance: float,
) -> None:
    """Read some clips again, score them one by one, and check that the scores equal those of their rows.

    Args:
        model: the loaded bundle, or the model that was evaluated.
        processor: of the bundle.
        readout: of the run.
        dataset: the clips.
        predictions: for these clips, in their order.
        tolerance: largest difference of the two scores, label units.

    Raises:
        ValueError: naming the clip with another score. Generated text may differ for up to half of the clips, since rounding can
            change a token.
    """
    places = evenly_spaced(len(dataset), CHECKED_CLIPS)
    model.eval()
    device = next(model.parameters()).device
    again = []
    for place in places:
        with torch.no_grad():
            _, outputs = readout.predict(model, processor([dataset.inputs[place]]).to(device))
        again.append(readout.scores(readout.decode(outputs.cpu().numpy()))[0])
    rows = readout.scores(predictions)[places]
    differences = np.abs(rows - np.array(again))
    wrong = int((differences > tolerance).sum())
    if wrong > (0 if predictions.answers is None else len(places) // 2):
        worst = int(differences.argmax())
        raise ValueError(
            f"clip {dataset.clips[places[worst]].id}: its row has {rows[worst]:.4f}, but scored alone the saved model gives"
            f" {again[worst]:.4f}; no metrics are written, since rows may belong to other clips"
        )
