"""What a run rates: targets with their scales, conventions, prompts and weights, from its settings."""

from dataclasses import replace

import numpy as np
import pytest

from omnisent.data.catalog import Target
from omnisent.data.clip import Clip, Rating
from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.readouts.generative import GreedyReadout
from omnisent.training.arguments import DataArguments, ModelArguments
from omnisent.training.collator import ClipCollator, ClipDataset
from omnisent.training.data import build_processor, check_labels, instructions
from omnisent.training.targets import (
    check_one_target,
    inverse_density,
    label_scales,
    metrics_by_target,
    over_targets,
    ranges_of,
    targets_of,
)

MOSI, SIMS, NINE = (-3.0, 3.0), (-1.0, 1.0), (1.0, 9.0)
VALENCE, AROUSAL = Target("valence", NINE, "generic", "valence"), Target("arousal", NINE, "generic", "arousal")
CLIPS = [
    Clip("a", "It was good.", label=8.0, further=(Rating(2.0),)),
    Clip("b", "It was bad.", label=None, further=(Rating(4.0),)),
    Clip("c", "It was.", label=5.0, further=(Rating(None),)),
]


@pytest.mark.parametrize(
    ("dataset", "names", "score_range", "convention", "expected"),
    [
        ("own.csv", ["label"], None, None, [(MOSI, "mosi")]),
        ("own.csv", ["label"], [1.0, 9.0], None, [(NINE, "generic")]),
        ("own.csv", ["label"], [-1.0, 1.0], "sims", [(SIMS, "sims")]),
        ("own.csv", ["valence"], [-3.0, 3.0], None, [(MOSI, "generic")]),
        ("own.csv", ["valence", "pain"], [1.0, 9.0], None, [(NINE, "generic"), (NINE, "generic")]),
        ("own.csv", ["valence", "pain"], [1.0, 9.0, 0.0, 10.0], None, [(NINE, "generic"), ((0.0, 10.0), "generic")]),
        ("cmu_mosi", ["label"], None, None, [(MOSI, "mosi")]),
        ("cmu_mosi", ["label"], None, "generic", [(MOSI, "generic")]),
        ("ch_sims", ["label", "label_T"], None, None, [(SIMS, "sims"), (SIMS, "sims")]),
        ("cmu_mosei", ["label", "anger"], None, None, [(MOSI, "mosi"), ((0.0, 3.0), "generic")]),
        ("human_ratings", ["label"], None, None, [((-4.0, 4.0), "generic")]),
        ("human_ratings", ["label"], [-3.0, 3.0], None, [(MOSI, "mosi")]),
    ],
)
def test_scales_and_conventions_follow_from_the_settings_and_the_data_set(
    dataset, names, score_range, convention, expected
):
    data = DataArguments(dataset=dataset, targets=names, score_range=score_range, convention=convention)
    targets = targets_of(data)
    assert [target.name for target in targets] == names
    assert [(target.score_range, target.convention) for target in targets] == expected


def test_ranges_are_those_of_all_targets_or_of_each():
    assert ranges_of([1, 9], 2) == [NINE, NINE]
    assert ranges_of([1, 9, 0, 1], 2) == [NINE, (0.0, 1.0)]
    for wrong in ([1], [1, 9, 0], [1, 9, 0, 1, 2, 3]):
        with pytest.raises(ValueError, match="two numbers for all targets, or two for each"):
            ranges_of(wrong, 2)
    with pytest.raises(ValueError, match="the first number of a range must be below the second"):
        ranges_of([9, 1], 1)


def test_the_scale_of_each_target_is_that_of_its_own_labels():
    labels = np.array([[1.0, np.nan], [3.0, 5.0], [5.0, 7.0]])
    first, second = label_scales([VALENCE, replace(AROUSAL, score_range=(0.0, 10.0))], labels)
    assert (first.mean, first.std, first.low, first.high) == (3.0, pytest.approx(np.sqrt(8 / 3)), 1.0, 9.0)
    assert (second.mean, second.std, second.low, second.high) == (6.0, 1.0, 0.0, 10.0)


def test_labels_that_are_all_the_same_are_refused_by_the_name_of_their_target():
    labels = np.array([[1.0, np.nan], [3.0, 5.0], [5.0, 5.0]])
    with pytest.raises(
        ValueError, match=r"arousal: the labels of all 2 training clips are 5; expected labels that differ"
    ):
        label_scales([VALENCE, AROUSAL], labels)


def test_rare_labels_count_more_by_the_inverse_of_their_share():
    # Ten parts of [1, 9]: three labels in the first, one in the last.
    weights = inverse_density([VALENCE], np.array([1.0, 1.1, 1.2, 9.0]))
    assert weights == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    two = inverse_density([VALENCE, AROUSAL], np.array([[1.0, 5.0], [1.1, 5.0], [1.2, np.nan], [9.0, 1.0]]))
    by_hand = np.array([(2 / 3 + 3 / 4) / 2, (2 / 3 + 3 / 4) / 2, 2 / 3, (2 + 1.5) / 2])
    assert two == pytest.approx(by_hand / by_hand.mean())


def test_the_metrics_of_a_target_are_over_the_clips_with_a_label_for_it_and_the_run_has_their_mean():
    labels = np.array([[8.0, 2.0], [np.nan, 4.0], [5.0, np.nan]])
    readouts = [DiscriminativeReadout(NINE)] * 2
    predictions = [readout.decode(np.array([7.0, 7.0, 7.0])) for readout in readouts]
    found = metrics_by_target([VALENCE, AROUSAL], readouts, predictions, labels)
    assert found["valence"]["mae"] == (1 + 2) / 2
    assert found["arousal"]["mae"] == (5 + 3) / 2
    assert over_targets(found)["mae"] == (1.5 + 4.0) / 2
    assert over_targets({"valence": found["valence"]}) == found["valence"]
    assert "corr" not in over_targets(found)  # undefined for constant scores


def test_what_is_asked_names_the_target_and_its_scale():
    data = DataArguments(dataset="own.csv")
    assert instructions(data, [VALENCE]) == ["Rate valence from 1 to 9. Answer with a number with one decimal."]
    assert instructions(data, [Target()]) == [
        "Rate the speaker's sentiment from -3 (strongly negative) over 0 (neutral) to 3 (strongly positive). Answer with a signed"
        " number with one decimal."
    ]
    own = replace(data, instruction="How much {target}, {low} to {high}?")
    assert instructions(own, [VALENCE, AROUSAL]) == ["How much valence, 1 to 9?", "How much arousal, 1 to 9?"]


def test_one_prompt_asks_for_all_targets_and_every_readout_has_the_words_of_its_own(tiny_backbone):
    model = ModelArguments(base_model=str(tiny_backbone))
    processor = build_processor(model, DataArguments(dataset="own.csv"), [VALENCE, AROUSAL])
    asked = "Rate valence from 1 to 9 and arousal from 1 to 9. Answer with a number with one decimal for each."
    assert processor.instruction == asked
    assert "sentiment" not in processor.system_prompt
    own = DataArguments(dataset="own.csv", instruction="{target}:", system_prompt="Be exact.")
    processor = build_processor(model, own, [VALENCE, AROUSAL])
    assert (processor.instruction, processor.system_prompt) == ("valence: arousal:", "Be exact.")


def test_a_question_is_a_clip_and_a_target_where_each_is_asked_for(processor):
    readout = GreedyReadout(NINE, processor.tokenizer)
    asked = ["How much valence?", "How much arousal?"]
    dataset = ClipDataset(CLIPS, processor, [readout, readout], instructions=asked)
    assert len(dataset) == 6
    assert [one["instruction"] for one in dataset.inputs] == asked * 3
    assert [float(dataset.label(place)) for place in (0, 1, 3, 4)] == [8.0, 2.0, 4.0, 5.0]
    assert [dataset.clip_of(place).id for place in range(6)] == ["a", "a", "b", "b", "c", "c"]
    assert dataset.items_of(1) == [2, 3]
    first, second = dataset.by_target(np.arange(12).reshape(6, 2))
    assert first.tolist() == [[0, 1], [4, 5], [8, 9]]
    assert second.tolist() == [[2, 3], [6, 7], [10, 11]]
    prompts = [processor.tokenizer.decode(dataset[place]["input_ids"]) for place in (0, 1)]
    assert [question in prompt for question, prompt in zip(asked, prompts, strict=True)] == [True, True]
    assert asked[1] not in prompts[0]

    weights = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    trained = ClipDataset(CLIPS, processor, [readout] * 2, instructions=asked, weights=weights, labelled=True)
    assert [trained.questions[place] for place in range(len(trained))] == [(0, 0), (0, 1), (1, 1), (2, 0)]
    batch = ClipCollator(processor, readout)([trained[place] for place in range(len(trained))])
    assert batch["labels"].tolist() == [8.0, 2.0, 4.0, 5.0]
    assert batch["sample_weight"].tolist() == [1.0, 2.0, 4.0, 5.0]
    answers = [processor.tokenizer.decode(ids[ids >= 0]) for ids in batch["answer_ids"]]
    assert [answer[:3] for answer in answers] == ["8.0", "2.0", "4.0", "5.0"]


def test_one_pass_has_the_labels_of_all_targets(processor):
    dataset = ClipDataset(CLIPS, processor, [DiscriminativeReadout(NINE)] * 2)
    batch = ClipCollator(processor, DiscriminativeReadout(NINE))([dataset[place] for place in range(3)])
    assert batch["labels"].shape == (3, 2)
    assert np.array_equal(batch["labels"], [[8, 2], [np.nan, 4], [5, np.nan]], equal_nan=True)
    assert "sample_weight" not in batch


def test_labels_are_checked_for_each_target_and_a_missing_one_is_allowed():
    used = [replace(clip, split="train") for clip in CLIPS]
    check_labels(used, [VALENCE, AROUSAL])
    with pytest.raises(ValueError, match=r"1 clips without a label for valence in \[1.0, 5.0\], first a \(8.0\)"):
        check_labels(used, [replace(VALENCE, score_range=(1.0, 5.0)), AROUSAL])
    bare = [*used, Clip("d", "x", split="test", further=(Rating(),))]
    with pytest.raises(ValueError, match="1 clips without a label for any target, first d"):
        check_labels(bare, [VALENCE, AROUSAL])


def test_a_study_of_one_target_refuses_several_before_anything_is_loaded():
    check_one_target(DataArguments(), "a probe")
    with pytest.raises(ValueError, match="targets: a probe takes one target, not 2; give them one after the other"):
        check_one_target(DataArguments(targets=["a", "b"]), "a probe")
