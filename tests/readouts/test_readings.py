"""From predictions to scores and their metrics: what all readouts do alike, and the discriminative one's own."""

import math

import numpy as np
import pytest
import torch

from omnisent.evaluation.metrics import msa_metrics
from omnisent.readouts.base import Readings
from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.readouts.generative import ExpectedReadout, GreedyReadout

LABELS = [2.0, -1.0, 0.0, 0.5]


def test_scores_are_clipped_to_the_range_and_the_readings_are_not():
    readout = DiscriminativeReadout((-1.0, 2.0))
    readings = readout.read(np.array([2.5, -1.5, 0.25, 2.0]))
    assert readings.raw.tolist() == [2.5, -1.5, 0.25, 2.0]
    assert readings.answers is None
    assert readout.scores(readings).tolist() == [2.0, -1.0, 0.25, 2.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_prediction_that_is_not_finite_is_no_score(bad):
    readout = DiscriminativeReadout((-3.0, 3.0))
    for measure in (readout.scores, lambda readings: readout.metrics(readings, LABELS, "mosi")):
        with pytest.raises(ValueError, match="2 of 4 predictions are not finite"):
            measure(readout.read(np.array([0.0, bad, bad, 1.0])))
    assert readout.scores(Readings(np.array([1.0, math.nan]), ["1", "well"])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("convention", ["mosi", "sims"])
def test_metrics_are_those_of_the_scores_and_say_how_many_were_clipped(convention):
    readout = DiscriminativeReadout((-1.0, 1.0))
    raw = np.array([1.5, -1.0, -1.25, 1.0])
    found = readout.metrics(Readings(raw), LABELS, convention)
    assert found.pop("out_of_range_rate") == 0.5
    assert found.pop("decoding") is None
    assert found == msa_metrics(raw.clip(-1, 1), LABELS, convention)


def test_a_written_answer_counts_as_read_only_where_a_number_was():
    readout = GreedyReadout((-3.0, 3.0), tokenizer=None)
    found = readout.metrics(Readings(np.array([1.0, math.nan, 4.0, -4.0]), ["1", "well", "4", "-4"]), LABELS, "mosi")
    assert found["mae"] == (1 + 1 + 3 + 3.5) / 4
    assert (found["out_of_range_rate"], found["unparsable_rate"]) == (0.5, 0.25)
    assert found["mae_parsable"] == (1 + 3 + 3.5) / 3
    assert found["decoding"] == "greedy"
    expected = ExpectedReadout((-3.0, 3.0), tokenizer=None)
    found = expected.metrics(expected.read(np.array(LABELS)), LABELS, "mosi")
    assert (found["decoding"], found["unparsable_rate"], found["mae_parsable"]) == ("expected", 0.0, 0.0)


def test_the_discriminative_readout_reads_the_head_in_label_units(model, processor, whole_clips):
    model.config.label_mean, model.config.label_std = 0.5, 2.0
    readout = DiscriminativeReadout((-3.0, 3.0))
    assert readout.name == "discriminative"
    assert (readout.training_inputs(1.0), readout.collate_training_inputs([{}, {}])) == ({}, {})
    batch = processor([clip.to_dict() for clip in whole_clips[:2]])
    with torch.no_grad():
        out = model(**batch)
        loss, predictions = readout.predict(model, batch)
        assert loss is None
        assert predictions.tolist() == pytest.approx((out.logits * 2.0 + 0.5).tolist())
        loss, _ = readout.predict(model, {**batch, "labels": torch.tensor([0.5, 2.5])})
        assert loss.item() == pytest.approx(model(**batch, labels=torch.tensor([0.5, 2.5])).loss.item())
        assert loss.item() > 0
