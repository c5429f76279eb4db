"""From predictions to scores and their metrics: what all readouts do alike, and the discriminative one's own."""

import json
import math

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig

from omnisent.evaluation.metrics import msa_metrics
from omnisent.readouts.answer_tree import AnswerTree
from omnisent.readouts.base import Predictions
from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.readouts.generation_model import OmniForSentimentGeneration
from omnisent.readouts.generative import ExpectedReadout, GreedyReadout

LABELS = [2.0, -1.0, 0.0, 0.5]


def test_scores_are_clipped_to_the_range_and_the_predictions_are_not():
    readout = DiscriminativeReadout((-1.0, 2.0))
    predictions = readout.decode(np.array([2.5, -1.5, 0.25, 2.0]))
    assert predictions.raw.tolist() == [2.5, -1.5, 0.25, 2.0]
    assert predictions.answers is None
    assert readout.scores(predictions).tolist() == [2.0, -1.0, 0.25, 2.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_prediction_that_is_not_finite_is_an_error(bad):
    readout = DiscriminativeReadout((-3.0, 3.0))
    for measure in (readout.scores, lambda predictions: readout.metrics(predictions, LABELS, "mosi")):
        with pytest.raises(ValueError, match="2 of 4 predictions are not finite"):
            measure(readout.decode(np.array([0.0, bad, bad, 1.0])))
    assert readout.scores(Predictions(np.array([1.0, math.nan]), ["1", "well"])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("convention", ["mosi", "sims"])
def test_metrics_are_those_of_the_scores_and_say_how_many_were_clipped(convention):
    readout = DiscriminativeReadout((-1.0, 1.0))
    raw = np.array([1.5, -1.0, -1.25, 1.0])
    found = readout.metrics(Predictions(raw), LABELS, convention)
    assert found.pop("out_of_range_rate") == 0.5
    assert found.pop("decoding") is None
    before = msa_metrics(raw, LABELS, convention)
    assert [found.pop(f"{key}_unclipped") for key in ("mae", "corr")] == [before["mae"], before["corr"]]
    assert found == msa_metrics(raw.clip(-1, 1), LABELS, convention)


def test_an_answer_without_a_number_counts_as_unparsable():
    readout = GreedyReadout((-3.0, 3.0), tokenizer=None)
    found = readout.metrics(Predictions(np.array([1.0, math.nan, 4.0, -4.0]), ["1", "well", "4", "-4"]), LABELS, "mosi")
    assert found["mae"] == (1 + 1 + 3 + 3.5) / 4
    assert (found["out_of_range_rate"], found["unparsable_rate"]) == (0.5, 0.25)
    assert found["mae_parsable"] == (1 + 3 + 3.5) / 3
    assert found["mae_unclipped"] == (1 + 1 + 4 + 4.5) / 4
    assert found["decoding"] == "greedy"
    expected = ExpectedReadout((-3.0, 3.0), tokenizer=None)
    found = expected.metrics(Predictions(np.array(LABELS)), LABELS, "mosi")
    assert (found["decoding"], found["unparsable_rate"], found["mae_parsable"]) == ("expected", 0.0, 0.0)


def test_the_discriminative_readout_predicts_in_label_units(model, processor, whole_clips):
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


@pytest.fixture
def generator(tiny_backbone) -> OmniForSentimentGeneration:
    return OmniForSentimentGeneration.from_base(tiny_backbone)


@pytest.fixture
def passes(generator) -> list[dict]:
    """The arguments of every pass through the language model."""
    seen = []
    generator.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    return seen


def test_the_greedy_readout_respects_its_token_limit_and_needs_no_labels(generator, processor, whole_clips):
    batch = processor([clip.to_dict() for clip in whole_clips[:2]])
    readout = GreedyReadout((-3.0, 3.0), processor.tokenizer, max_new_tokens=3)
    with torch.no_grad():
        expected = generator.write_greedily(3, processor.tokenizer.eos_token_id, **batch)
        loss, found = readout.predict(
            generator, {**batch, "labels": torch.zeros(2), "answer_ids": torch.zeros(2, 4, dtype=torch.long)}
        )
    assert loss is None
    assert found.shape == (2, 3)
    assert found.tolist() == expected.tolist()
    assert GreedyReadout((-3.0, 3.0), processor.tokenizer).max_new_tokens == 8


def test_each_step_attends_to_the_prompt_and_earlier_tokens(generator, processor, whole_clips, passes):
    batch = processor([whole_clips[0].to_dict(), {"text": "good"}])
    with torch.no_grad():
        generator.write_greedily(3, -1, **batch)
    length = batch["input_ids"].shape[1]
    assert len(passes) == 3  # the first token comes of the prompt, and after the last nothing is asked
    for step, one in enumerate(passes):
        assert one["attention_mask"].shape == (2, length + step)
        assert torch.equal(one["attention_mask"][:, :length], batch["attention_mask"])
        assert one["attention_mask"][:, length:].bool().all()
        if step:
            last = batch["position_ids"][:, :, -1:].amax(0, keepdim=True).expand(3, -1, -1)
            assert one["position_ids"].tolist() == (last + step).tolist()
            assert one["inputs_embeds"].shape[:2] == (2, 1)


def test_generation_stops_once_every_answer_has_ended(generator, processor, whole_clips, passes):
    batch = processor(whole_clips[0].to_dict())
    with torch.no_grad():
        first = int(generator.write_greedily(1, -1, **batch)[0, 0])
        passes.clear()
        generator.write_greedily(5, first, **batch)
    assert len(passes) == 1


def test_answer_probabilities_take_one_pass_over_prompt_and_shared_beginnings(
    generator, processor, whole_clips, passes
):
    batch = processor([whole_clips[0].to_dict(), {"text": "good"}])
    length = batch["input_ids"].shape[1]
    padding = batch["attention_mask"][1] == 0
    with torch.no_grad():
        generator.answer_log_probabilities(AnswerTree.of([[7], [9, 4], [9, 5, 3]]), **batch)
        generator.answer_log_probabilities(AnswerTree.of([[7], [9]]), **batch)
    both, single = passes
    # The beginnings (9,) and (9, 5), each at the position after its own tokens.
    assert both["inputs_embeds"].shape[1] == both["attention_mask"].shape[-1] == length + 2
    last = batch["position_ids"][:, :, -1:].amax(0, keepdim=True).expand(3, -1, -1)
    assert both["position_ids"][:, :, length:].tolist() == torch.cat([last + 1, last + 2], 2).tolist()
    seen = both["attention_mask"][:, 0] == 0
    assert seen[:, length:, length:].tolist() == [[[True, False], [True, True]]] * 2
    assert torch.equal(seen[:, length:, :length], batch["attention_mask"].bool()[:, None].expand(-1, 2, -1))
    assert not seen[1, ~torch.cat([padding, torch.tensor([False] * 2)])][:, :length][:, padding].any()
    assert seen.any(-1).all()  # a row that sees nothing would be NaN
    assert not seen[:, :length, :length].triu(1).any()
    assert single["inputs_embeds"].shape[1] == length  # answers of one token are read from the prompt's own pass


def test_a_saved_adapter_names_the_base_that_it_belongs_to(generator, tiny_backbone, tmp_path):
    generator.add_lora(LoraConfig(r=2, target_modules=["q_proj"]))
    generator.base_revision = "abc"
    generator.save_pretrained(tmp_path / "kept")
    saved = json.loads((tmp_path / "kept/adapter/adapter_config.json").read_text())
    assert (saved["base_model_name_or_path"], saved["revision"]) == (str(tiny_backbone), "abc")
    generator.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()


def test_a_generator_is_loaded_with_the_requested_options(tiny_backbone):
    generator = OmniForSentimentGeneration.from_base(tiny_backbone, revision="abc", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in generator.parameters()} == {torch.bfloat16}
    assert (generator.base_name, generator.base_revision) == (str(tiny_backbone), "abc")
    assert not generator.training
    assert OmniForSentimentGeneration.from_base(tiny_backbone).base_revision is None


def test_a_single_padding_token_on_the_right_is_refused(generator, processor):
    batch = processor([{"text": "good"}, {"text": "bad"}])
    batch["attention_mask"][1, -1] = 0
    with pytest.raises(ValueError, match=r"^prompts must be padded on the left"):
        generator.read_prompt(**batch)


def test_a_quantised_generator_is_visible_as_quantised_to_trainer(tiny_backbone):
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    generator = OmniForSentimentGeneration.from_base(tiny_backbone, quantization_config=nf4)
    assert generator.is_quantized
    assert generator.is_loaded_in_4bit
    assert generator.hf_quantizer is not None
    assert not getattr(OmniForSentimentGeneration.from_base(tiny_backbone), "is_quantized", False)
