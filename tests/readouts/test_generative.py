"""The generative readout against the library's own class: its loss, its greedy text and the probabilities of its answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig

from omnisent.losses_omnisent import LabelScale
from omnisent.readouts.answer_tree import AnswerTree
from omnisent.readouts.generation_model import OmniForSentimentGeneration, next_positions
from omnisent.readouts.generative import ExpectedReadout, GreedyReadout, MedianReadout
from omnisent.readouts.generative_losses import GENERATIVE_LOSSES, IGNORED, NumberTokenLoss
from omnisent.thinker_inputs_omnisent import pixel_values
from omnisent.thinker_omnisent import load_thinker
from omnisent.training.arguments import ModelArguments
from omnisent.training.backbone import build_model, lora_config
from omnisent.training.collator import ClipCollator, ClipDataset

RANGE = (-3.0, 3.0)


@pytest.fixture
def generator(tiny_backbone) -> OmniForSentimentGeneration:
    return OmniForSentimentGeneration.from_base(tiny_backbone)


@pytest.fixture
def mixed_clips(planted_clips):
    """Clips with and without text, audio and video."""
    silent = next(clip for clip in planted_clips if clip.video is None)
    return [*[clip for clip in planted_clips if clip.video][:3], silent]


@pytest.fixture
def reference(tiny_backbone):
    """Next-token logits (T, vocabulary) of one encoded clip and an answer, by the library's own class and forward."""
    thinker = load_thinker(tiny_backbone, lm_head=True).eval()

    def logits(batch, answer: list[int]) -> torch.Tensor:
        answer = torch.tensor([answer], dtype=torch.long)
        media = {k: batch[k] for k in ("input_features", "feature_attention_mask", "video_grid_thw") if k in batch}
        if "video_patches" in batch:
            media["pixel_values_videos"] = pixel_values(batch["video_patches"], batch["video_mean_std"])
        with torch.no_grad():
            return thinker(
                input_ids=torch.cat([batch["input_ids"], answer], 1),
                attention_mask=torch.ones(1, batch["input_ids"].shape[1] + answer.shape[1], dtype=torch.long),
                position_ids=torch.cat(
                    [batch["position_ids"], next_positions(batch["position_ids"], answer.shape[1])], 2
                ),
                **media,
            ).logits[0]

    return logits


def _ids(processor, text: str) -> list[int]:
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_an_answer_follows_its_prompt_at_the_positions_the_thinker_would_give_it(processor, whole_clips):
    batch = processor(whole_clips[0].to_dict())
    longer = processor.encode({**whole_clips[0].to_dict()})
    assert torch.equal(batch["position_ids"][:, 0], longer["position_ids"])
    following = next_positions(batch["position_ids"], 3)
    last = longer["position_ids"][:, -1]
    assert len(set(last.tolist())) == 1
    assert following.tolist() == [[[int(last[0]) + step for step in (1, 2, 3)]]] * 3


def test_the_loss_is_the_cross_entropy_of_the_answer_alone(generator, processor, mixed_clips, reference):
    readout = GreedyReadout(RANGE, processor.tokenizer)
    dataset = ClipDataset(mixed_clips, processor, [readout])
    collate = ClipCollator(processor, readout)
    batch = collate([dataset[i] for i in range(len(dataset))])
    del batch["clip_index"]
    with torch.no_grad():
        loss = generator(**batch).loss.item()
    expected = []
    for clip in mixed_clips:
        batch = processor(clip.to_dict())
        answer = [*readout.answer_ids(clip.label), processor.tokenizer.eos_token_id]
        log_p = reference(batch, answer)[-len(answer) - 1 : -1].log_softmax(-1)
        expected.append(-np.mean([log_p[step, token].item() for step, token in enumerate(answer)]))
    assert loss == pytest.approx(np.mean(expected), abs=2e-5)


def test_greedy_text_is_the_most_likely_token_at_every_step(generator, processor, mixed_clips, reference):
    end = processor.tokenizer.eos_token_id
    with torch.no_grad():
        written = generator.write_greedily(5, end, **processor([clip.to_dict() for clip in mixed_clips]))
    for clip, row in zip(mixed_clips, written.tolist(), strict=True):
        answer = []
        while len(answer) < 5 and end not in answer:
            answer.append(int(reference(processor(clip.to_dict()), answer)[-1].argmax()))
        assert row == answer + [end] * (5 - len(answer))


def test_generation_stops_at_the_end_of_turn_token(generator, processor, mixed_clips):
    batch = processor([clip.to_dict() for clip in mixed_clips])
    with torch.no_grad():
        first = generator.write_greedily(1, -1, **batch)[:, 0]
        written = generator.write_greedily(4, int(first[0]), **batch)
    assert written[0].tolist() == [int(first[0])] * 4


def test_the_probability_of_an_answer_is_that_of_its_tokens(generator, processor, mixed_clips, reference):
    answers = [ids for form in ("-3.0", "-0.0", "+0.0", "0.0", "+1.4", "1.4", "+1") for ids in [_ids(processor, form)]]
    answers[-1] = [*answers[-1], processor.tokenizer.eos_token_id]
    with torch.no_grad():
        found = generator.answer_log_probabilities(
            AnswerTree.of(answers), **processor([clip.to_dict() for clip in mixed_clips])
        )
    assert found.shape == (len(mixed_clips), 7)
    for row, clip in enumerate(mixed_clips):
        for column, ids in enumerate(answers):
            log_p = reference(processor(clip.to_dict()), ids)[-len(ids) - 1 : -1].log_softmax(-1)
            expected = sum(log_p[step, token].item() for step, token in enumerate(ids))
            assert found[row, column].item() == pytest.approx(expected, abs=1e-4)


def test_probabilities_are_the_same_under_either_attention(generator, tiny_backbone, processor, mixed_clips):
    eager = OmniForSentimentGeneration.from_base(tiny_backbone, attn_implementation="eager")
    tree = ExpectedReadout(RANGE, processor.tokenizer).answers.tree
    batch = processor([clip.to_dict() for clip in mixed_clips])
    with torch.no_grad():
        ours, theirs = (one.answer_log_probabilities(tree, **batch) for one in (generator, eager))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_score_that_is_very_unlikely_has_a_gradient(processor):
    answers = ExpectedReadout(RANGE, processor.tokenizer).answers
    log_p = torch.zeros(1, len(answers.value_of), requires_grad=True)
    with torch.no_grad():
        log_p[0, 5:] = -400.0
    found = answers.of_values(log_p)
    (found.softmax(-1) @ answers.values).sum().backward()
    assert log_p.grad.isfinite().all()
    assert found[0, -1].item() == pytest.approx(-400 + np.log(2))


def test_the_distribution_has_each_score_in_every_form(generator, processor, mixed_clips):
    readout = ExpectedReadout(RANGE, processor.tokenizer, answer_step=0.5)
    batch = processor([clip.to_dict() for clip in mixed_clips])
    forms = [[f"{value:+.1f}", f"{value:.1f}", *["-0.0"] * (value == 0)] for value in (np.arange(-6, 7) / 2).tolist()]
    with torch.no_grad():
        _, outputs = readout.predict(generator, batch)
        expected = [
            generator.answer_log_probabilities(AnswerTree.of([_ids(processor, f) for f in dict.fromkeys(one)]), **batch)
            for one in forms
        ]
    assert outputs.shape == (len(mixed_clips), 13)
    assert torch.allclose(outputs, torch.stack([one.logsumexp(1) for one in expected], 1), atol=1e-4)
    predictions = readout.decode(outputs.numpy())
    p = outputs.exp().numpy()
    assert predictions.raw == pytest.approx((p * np.arange(-6, 7) / 2).sum(1) / p.sum(1), abs=1e-5)
    assert predictions.legal_mass == pytest.approx(p.sum(1), abs=1e-6)
    metrics = readout.metrics(predictions, [1.0, 0.0, -1.0, 2.0], "mosi")
    assert metrics["legal_mass"] == pytest.approx(p.sum(1).mean(), abs=1e-6)
    assert (metrics["unparsable_rate"], metrics["out_of_range_rate"]) == (0, 0)
    # The same where every answer is so unlikely that its probability is 0 in float32.
    assert readout.decode(outputs.numpy() - 300).raw == pytest.approx(predictions.raw, abs=1e-4)


def test_the_median_is_the_lowest_score_with_half_of_the_probability_at_or_below_it(processor):
    readout = MedianReadout(RANGE, processor.tokenizer, answer_step=1.0)
    p = np.array([[0.5, 0, 0, 0, 0, 0, 0.5], [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4], [0, 0, 0.3, 0.3, 0.4, 0, 0]]) / 4
    with np.errstate(divide="ignore"):
        assert readout.decode(np.log(p)).raw.tolist() == [-3.0, 1.0, 0.0]


def test_raft_is_the_absolute_error_of_the_mean_over_the_answers(processor):
    grid_values, labels = torch.arange(-3.0, 4.0), torch.tensor([0.25, -1.0])
    readout = ExpectedReadout(RANGE, processor.tokenizer, answer_step=1.0, generative_loss="raft")
    p = torch.rand(2, 7, generator=torch.Generator().manual_seed(0)) / 10  # the rest is on other text
    log_p = torch.full((2, len(readout.answers.value_of)), -torch.inf)
    for place in range(7):
        forms = (readout.answers.value_of == place).nonzero().flatten()
        log_p[:, forms] = (p[:, place, None] / len(forms)).log()

    class Fixed:
        def answer_log_probabilities(self, tree, **prompts):
            return log_p

    means = (p * grid_values).sum(1) / p.sum(1)
    loss = readout.objective()(Fixed(), None, labels).mean()
    assert loss.item() == pytest.approx((means - labels).abs().mean().item(), abs=1e-6)


def test_the_number_token_loss_is_the_mean_distance_of_the_digits(processor):
    loss = NumberTokenLoss.of(processor.tokenizer)
    ids = torch.tensor([[*_ids(processor, "+2.7"), processor.tokenizer.eos_token_id]])
    logits = torch.full((1, ids.shape[1], len(processor.tokenizer)), -1e4)
    logits[0, 1, loss.digits[[2, 4]]] = torch.tensor([0.0, float(np.log(3.0))])  # .25 on the right digit, .75 two away
    logits[0, 3, loss.digits[[0, 7]]] = torch.tensor([0.0, 0.0])  # .5 seven away
    assert loss.distance(logits, ids).item() == pytest.approx((0.75 * 2 + 0.5 * 7) / 2)


@pytest.mark.parametrize("name", GENERATIVE_LOSSES)
def test_every_loss_learns_and_is_that_of_its_own_distribution(generator, processor, mixed_clips, name):
    readout = GreedyReadout(RANGE, processor.tokenizer, generative_loss=name)
    generator.add_lora(LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    generator.objective = readout.objective()
    dataset = ClipDataset(mixed_clips, processor, [readout])
    batch = ClipCollator(processor, readout)([dataset[i] for i in range(len(dataset))])
    del batch["clip_index"]
    if name == "raft":
        with torch.no_grad():
            scores = ExpectedReadout(RANGE, processor.tokenizer)
            found = scores.decode(scores.predict(generator.eval(), batch)[1].numpy()).raw
            assert generator(**batch).loss.item() == pytest.approx(
                np.abs(found - batch["labels"].numpy()).mean(), abs=1e-5
            )
    optimizer = torch.optim.AdamW([p for p in generator.parameters() if p.requires_grad], lr=5e-3)
    generator.train()
    losses = []
    for _ in range(8):
        loss = generator(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_answers_of_unequal_length_are_scored_exactly_and_none_may_be_a_prefix(generator, processor, whole_clips):
    batch = processor(whole_clips[0].to_dict())
    with torch.no_grad():
        alone = [
            generator.answer_log_probabilities(AnswerTree.of([ids]), **batch).item() for ids in ([7], [9, 4], [9, 5, 3])
        ]
        together = generator.answer_log_probabilities(AnswerTree.of([[7], [9, 4], [9, 5, 3]]), **batch)[0].tolist()
    assert together == pytest.approx(alone, abs=1e-5)
    with pytest.raises(ValueError, match=r"\(9,\) is a prefix of \(9, 4\)"):
        AnswerTree.of([[9], [9, 4]])


def test_prompts_padded_on_the_right_are_refused(generator, processor, mixed_clips):
    batch = processor([clip.to_dict() for clip in mixed_clips], padding_side="right")
    with pytest.raises(ValueError, match="padded on the left"):
        generator.read_prompt(**batch)
    with pytest.raises(ValueError, match="padded on the left"):
        generator.answer_log_probabilities(AnswerTree.of([[7]]), **batch)


def test_both_readouts_carry_the_same_adapter(generator, model):
    lora = lora_config(ModelArguments())
    names = []
    for one in (generator, model):
        one.add_lora(lora)
        names.append({name for name, _ in one.named_parameters() if "lora_" in name})
        assert {name for name, p in one.named_parameters() if p.requires_grad and "score." not in name} == names[-1]
    assert names[0] == names[1]


def test_a_new_adapter_changes_no_answer(generator, processor, mixed_clips):
    readout = ExpectedReadout(RANGE, processor.tokenizer)
    batch = processor([clip.to_dict() for clip in mixed_clips])
    with torch.no_grad():
        before = readout.predict(generator, batch)[1]
        generator.add_lora(LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
        assert torch.equal(readout.predict(generator, batch)[1], before)


def test_a_saved_adapter_is_loaded_completely(generator, tiny_backbone, processor, mixed_clips, tmp_path):
    generator.add_lora(LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(3)
    for name, parameter in generator.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    generator.save_pretrained(tmp_path)
    other = OmniForSentimentGeneration.from_base(tiny_backbone)
    other.load_trained(tmp_path)
    batch = processor([clip.to_dict() for clip in mixed_clips])
    end = processor.tokenizer.eos_token_id
    with torch.no_grad():
        assert torch.equal(generator.write_greedily(4, end, **batch), other.write_greedily(4, end, **batch))
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="adapter_model"):
        other.load_trained(tmp_path)


def test_it_learns_under_nf4_and_continues_after_an_evaluation(tiny_backbone, processor, mixed_clips):
    arguments = ModelArguments(base_model=str(tiny_backbone), readout="generative", dtype="float32", lora_dropout=0.0)
    torch.manual_seed(0)
    model = build_model(arguments, scales=[LabelScale(0.0, 1.0, *RANGE)])
    readout = ExpectedReadout(RANGE, processor.tokenizer)
    dataset = ClipDataset(mixed_clips, processor, [readout])
    batch = ClipCollator(processor, readout)([dataset[i] for i in range(len(dataset))])
    del batch["clip_index"]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-3)
    losses = []
    for _ in range(6):
        model.train()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            readout.predict(model, batch)
    assert losses[-1] < 0.7 * losses[0]


def test_unparsable_and_out_of_range_answers_are_counted_and_mae_is_given_with_and_without_them(processor):
    tokenizer = processor.tokenizer
    readout = GreedyReadout(RANGE, tokenizer)
    answers = ["+1.0", "well", "-9", "2", "good"]
    ids = [tokenizer(answer)["input_ids"] for answer in answers]
    longest = max(map(len, ids))
    outputs = np.array([[*row, *[tokenizer.eos_token_id] * (longest - len(row))] for row in ids])
    predictions = readout.decode(outputs)
    assert predictions.answers == answers
    assert readout.scores(predictions).tolist() == [1.0, 0.0, -3.0, 2.0, 0.0]
    metrics = readout.metrics(predictions, [2.0, 1.0, -3.0, 2.0, -2.0], "mosi")
    assert metrics["unparsable_rate"] == pytest.approx(2 / 5)
    assert metrics["out_of_range_rate"] == pytest.approx(1 / 5)
    assert metrics["mae"] == pytest.approx((1 + 1 + 0 + 0 + 2) / 5)
    assert metrics["mae_parsable"] == pytest.approx((1 + 0 + 0) / 3)
    assert metrics["decoding"] == "greedy"


def test_the_last_number_and_the_written_sign_of_zero_are_counted_beside_the_first_number(processor):
    readout = GreedyReadout(RANGE, processor.tokenizer)
    predictions = replace(
        readout.decode(np.array([processor.tokenizer("well")["input_ids"]])),
        raw=np.array([-3.0, -0.0, 0.0, np.nan]),
        last_numbers=np.array([1.5, -0.0, 0.0, np.nan]),
    )
    metrics = readout.metrics(predictions, [2.0, -1.0, 1.0, -2.0], "mosi")
    assert metrics["mae"] == pytest.approx((5 + 1 + 1 + 2) / 4)
    assert metrics["mae_last_number"] == pytest.approx((0.5 + 1 + 1 + 2) / 4)
    assert metrics["zero_rate"] == pytest.approx(2 / 4)
    # 0 is not negative in has0 and not positive in non0; its sign says which it was.
    assert (metrics["acc_2_has0"], metrics["acc_2_has0_written_sign"]) == pytest.approx((1 / 4, 2 / 4))
    assert (metrics["acc_2_non0"], metrics["acc_2_non0_written_sign"]) == pytest.approx((2 / 4, 3 / 4))


def test_mae_parsable_is_none_when_no_answer_is_parsable(processor):
    readout = GreedyReadout(RANGE, processor.tokenizer)
    predictions = readout.decode(np.array([processor.tokenizer("well")["input_ids"]] * 2))
    with pytest.warns(UserWarning, match="correlation is undefined"):
        metrics = readout.metrics(predictions, [1.0, -1.0], "mosi")
    assert (metrics["unparsable_rate"], metrics["mae_parsable"]) == (1.0, None)


def test_answers_of_unequal_length_are_padded_and_padding_is_ignored_by_the_loss(processor):
    readout = GreedyReadout(RANGE, processor.tokenizer)
    items = [{"answer_ids": torch.tensor([4, 5])}, {"answer_ids": torch.tensor([6])}]
    assert readout.collate_training_inputs(items)["answer_ids"].tolist() == [[4, 5], [6, IGNORED]]
