"""A readout is one entry in a table: choices, help, model, learning rate and rules follow from its class."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from omnisent.losses_omnisent import LabelScale
from omnisent.readouts.catalog import READOUTS
from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.readouts.generation_model import OmniForSentimentGeneration
from omnisent.readouts.generative import DECODINGS
from omnisent.training.argument_rules import metric_names
from omnisent.training.arguments import ModelArguments, OmniSentTrainingArguments, parse_arguments
from omnisent.training.backbone import build_model, build_readout

RANGE = (-3.0, 3.0)


@dataclass(frozen=True)
class DoubledReadout(DiscriminativeReadout):
    """Twice the score of the head."""

    name: ClassVar[str] = "doubled"
    learning_rate_field: ClassVar[str] = "head_learning_rate"

    def predict(self, model, batch):
        loss, scores = super().predict(model, batch)
        return loss, 2 * scores


def test_readouts_and_decodings_are_registered_by_their_names():
    assert list(READOUTS) == ["discriminative", "generative"]
    assert all(name == readout.name for name, readout in READOUTS.items())
    assert all(name == readout.decoding for name, readout in DECODINGS.items())


@pytest.mark.parametrize("decoding", list(DECODINGS))
def test_a_run_reads_answers_with_the_decoding_of_its_settings(processor, decoding):
    arguments = ModelArguments(readout="generative", decoding=decoding, max_new_tokens=5)
    readout = build_readout(arguments, processor.tokenizer, RANGE)
    assert (type(readout), readout.max_new_tokens) == (DECODINGS[decoding], 5)


def test_an_entry_in_the_table_is_enough_for_a_new_readout(monkeypatch, settings, processor):
    with pytest.raises(ValueError, match="readout must be one of discriminative, generative, not 'doubled'"):
        parse_arguments([settings(readout="doubled")])
    monkeypatch.setitem(READOUTS, "doubled", DoubledReadout)
    model_args, _, args = parse_arguments([settings(readout="doubled", head_learning_rate=0.5)])
    assert args.adapter_learning_rate("doubled") == 0.5
    assert metric_names("doubled", "greedy", "mosi") == metric_names("discriminative", "greedy", "mosi")
    model = build_model(model_args, scales=[LabelScale(0.0, 1.0, *RANGE)]).eval()
    batch = processor([{"text": "good"}])
    with torch.no_grad():
        _, doubled = build_readout(model_args, processor.tokenizer, RANGE).predict(model, batch)
        assert doubled.item() == 2 * DiscriminativeReadout(RANGE).predict(model, batch)[1].item()
    with pytest.raises(ValueError, match="evaluate_only true with adapter null"):
        parse_arguments([settings(readout="doubled", evaluate_only=True)])


@pytest.mark.parametrize(
    ("readout", "own", "rate"), [("discriminative", 7e-3, 2e-4), ("generative", 7e-3, 7e-3), ("generative", None, 2e-4)]
)
def test_the_adapters_learning_rate_is_that_of_its_readout_where_it_is_set(readout, own, rate):
    args = OmniSentTrainingArguments(use_cpu=True, generative_learning_rate=own)
    assert args.adapter_learning_rate(readout) == rate


def test_the_readout_of_the_lm_head_builds_the_generative_model(tiny_backbone):
    arguments = ModelArguments(
        base_model=str(tiny_backbone), readout="generative", quantization="none", dtype="float32"
    )
    model = build_model(arguments, scales=[LabelScale(0.0, 1.0, *RANGE)])
    assert type(model) is OmniForSentimentGeneration
    assert model.has_adapter
