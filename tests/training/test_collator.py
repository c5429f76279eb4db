"""Clips on their way into a batch: labels, padding, and what was said before."""

import numpy as np
import pytest
import torch

from omnisent.data.clip import Clip
from omnisent.data.planted import write_video
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.readouts.answers import AnswerGrid
from omnisent.readouts.catalog import READOUTS
from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.training.arguments import parse_arguments
from omnisent.training.collator import ClipCollator, ClipDataset
from omnisent.training.data import build_processor, few_shot_examples, prepare_data
from omnisent.training.targets import targets_of

CLIPS = [
    Clip("a", "one fine day", label=0.5, split="train", video_id="v", clip_index=1),
    Clip("b", "then it rained", label=-1.5, split="train", video_id="v", clip_index=2),
    Clip("c", "and it stopped", label=1.0, split="valid", video_id="v", clip_index=3),
    Clip("d", "elsewhere", label=0.0, split="train", video_id="w", clip_index=3),
]
READOUT = DiscriminativeReadout((-3.0, 3.0))


def test_a_batch_has_the_labels_of_its_clips_in_order(processor):
    dataset = ClipDataset(CLIPS, processor, [READOUT])
    batch = ClipCollator(processor, READOUT)([dataset[2], dataset[0]])
    assert batch["clip_index"].tolist() == [2, 0]
    assert batch["labels"].tolist() == [1.0, 0.5]
    assert batch["labels"].dtype == torch.float32


@pytest.mark.parametrize(
    ("count", "before"), [(0, ["", "", "", ""]), (1, ["", "one fine day", "", ""]), (3, ["", "one fine day", "", ""])]
)
def test_context_has_the_preceding_transcripts_of_the_same_video_and_split(tiny_backbone, count, before):
    processor = OmniSentProcessor.from_base(tiny_backbone, context_clips=count)
    dataset = ClipDataset(CLIPS, processor, [READOUT])
    for index, (clip, said) in enumerate(zip(CLIPS, before, strict=True)):
        text = processor.tokenizer.decode(dataset[index]["input_ids"])
        assert clip.text in text
        assert ("Before that" in text) == bool(said)
        assert said in text
        assert not any(other.text in text for other in CLIPS if other.text not in (clip.text, said))


@pytest.mark.parametrize("readout", READOUTS)
def test_the_prompt_of_a_run_is_that_of_its_settings_under_every_readout(settings, readout):
    argv = [settings(), "--readout", readout, "--text_case", "sentence", "--system_prompt", ""]
    model_args, data_args, _ = parse_arguments(argv)
    processor = build_processor(model_args, data_args, targets_of(data_args))
    said = processor.tokenizer.decode(processor.encode({"text": "I LIKED IT"})["input_ids"])
    assert said.startswith('<|im_start|>user\nThe speaker says: "I liked it."')


def test_examples_are_training_clips_spread_over_the_labels():
    labels = [2.0, -3.0, 0.0, 3.0, -1.0, 1.04, 0.5, -2.0]
    clips = [Clip(f"c{place}", f"text {place}", label=label, split="train") for place, label in enumerate(labels)]
    clips += [Clip("silent", label=0.0, split="train"), Clip("other", "test", label=0.0, split="test")]
    grid = AnswerGrid(-3.0, 3.0)
    # Sorted by label: 1, 7 | 4, 2 | 6, 5 | 0, 3; the second of each part, in the order of the table.
    expected = [["text 2", "+0.0"], ["text 3", "+3.0"], ["text 5", "+1.0"], ["text 7", "-2.0"]]
    assert few_shot_examples(clips, 4, grid) == expected
    with pytest.raises(
        ValueError, match="shots: 9 examples need as many training clips with a transcript; there are 8"
    ):
        few_shot_examples(clips, 9, grid)


def test_a_run_with_shots_has_examples_of_its_own_training_clips(settings):
    argv = [
        settings(modalities=["text"], on_bad_clip="skip"),
        "--shots",
        "3",
        "--readout",
        "generative",
        "--evaluate_only",
        "true",
    ]
    data = prepare_data(*parse_arguments(argv))
    texts = {clip.text for clip in data.splits["train"]}
    assert len(data.processor.examples) == 3
    assert all(said in texts for said, _ in data.processor.examples)
    with pytest.raises(ValueError, match=r"shots 3 with modalities \['audio'\]: the examples are transcripts"):
        parse_arguments([settings(modalities=["audio"]), "--shots", "3"])


def test_lengths_are_computed_from_headers_and_texts_only(processor, tmp_path):
    for seconds in (1, 3):
        write_video(tmp_path / f"{seconds}.mp4", np.zeros((10 * seconds, 32, 32, 3), np.uint8), 10)
    clips = [
        Clip("long", video=str(tmp_path / "3.mp4"), label=0.0),
        Clip("short", "yes", video=str(tmp_path / "1.mp4"), label=0.0),
        CLIPS[0],
    ]
    assert ClipDataset(clips, processor, [READOUT]).lengths() == [3000, 1003, 12]
