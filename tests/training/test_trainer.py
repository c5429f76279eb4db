"""The Trainer's own parts: an order that every process agrees on, and where a bad value begins."""

import pytest
import torch

from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.training.arguments import parse_arguments
from omnisent.training.collator import ClipDataset
from omnisent.training.trainer import SentimentTrainer, first_bad_value


@pytest.fixture
def trainer(model, processor, planted_clips, tmp_path):
    readout = DiscriminativeReadout((-3.0, 3.0))
    clips = ClipDataset([clip for clip in planted_clips if clip.split == "train"], processor, readout)
    wanted = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--train_sampling_strategy", "group_by_length"]
    _, _, args = parse_arguments([*wanted, "--per_device_train_batch_size", "4"])
    return SentimentTrainer(model=model, args=args, train_dataset=clips, eval_dataset=clips, readout=readout)


def test_grouped_batches_are_the_same_in_every_process_and_epoch_after_epoch_others(trainer):
    orders = []
    for noise in (1, 2):  # two processes, whose random numbers have parted
        torch.manual_seed(noise)
        sampler = trainer._get_train_sampler()
        found = []
        for epoch in (0, 1, 2):
            torch.rand(noise)
            sampler.set_epoch(epoch)
            found.append(list(sampler))
        orders.append(found)
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders[0]}) == 3
    assert all(sorted(order) == list(range(len(trainer.train_dataset))) for order in orders[0])
    resumed = trainer._get_train_sampler()
    resumed.set_epoch(2)
    assert list(resumed) == orders[0][2]


def test_the_first_module_with_a_bad_value_is_named(model, processor, whole_clips):
    inputs = dict(processor([whole_clips[0].to_dict()]))
    model.train()
    assert first_bad_value(model, inputs) == "no module's output is bad when it is run again"
    with torch.no_grad():
        model.model.language_model.layers[1].mlp.up_proj.weight[3, 3] = torch.inf
    assert first_bad_value(model, inputs) == "first bad value: the output of model.language_model.layers.1.mlp.up_proj"
    with torch.no_grad():
        model.model.visual.blocks[0].attn.proj.bias[0] = torch.nan
    assert first_bad_value(model, inputs) == "first bad value: the output of model.visual.blocks.0.attn.proj"
    inputs["pixel_values_videos"][0, 0] = torch.nan
    assert first_bad_value(model, inputs) == "first bad value: the input pixel_values_videos"
    assert not any(module._forward_hooks for module in model.modules())
