"""The Trainer's own parts: order, accumulation, learning rates, and a stop at the first value that is not finite."""

import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from omnisent.losses_omnisent import LabelScale
from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.readouts.generative import GreedyReadout
from omnisent.train import main, run
from omnisent.training.arguments import ModelArguments, parse_arguments
from omnisent.training.backbone import build_model, build_readout, lora_config
from omnisent.training.collator import ClipCollator, ClipDataset
from omnisent.training.data import prepare_data
from omnisent.training.feature_cache import open_cache
from omnisent.training.trainer import SentimentTrainer, first_bad_value
from runs import cached_settings, launched, trainer_callback, weights_of


@pytest.fixture
def trainer(model, processor, planted_clips, tmp_path):
    readout = DiscriminativeReadout((-3.0, 3.0))
    clips = ClipDataset([clip for clip in planted_clips if clip.split == "train"], processor, [readout])
    wanted = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--train_sampling_strategy", "group_by_length"]
    _, _, args = parse_arguments([*wanted, "--per_device_train_batch_size", "4"])
    return SentimentTrainer(model=model, args=args, train_dataset=clips, eval_dataset=clips, readouts=[readout])


def test_grouped_batches_are_equal_in_all_processes_and_differ_between_epochs(trainer):
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
    assert first_bad_value(model, inputs) == "no module's output is non-finite when the batch is run again"
    with torch.no_grad():
        model.model.language_model.layers[1].mlp.up_proj.weight[3, 3] = torch.inf
    assert first_bad_value(model, inputs) == "first bad value: the output of model.language_model.layers.1.mlp.up_proj"
    with torch.no_grad():
        model.model.visual.blocks[0].attn.proj.bias[0] = torch.nan
    assert first_bad_value(model, inputs) == "first bad value: the output of model.visual.blocks.0.attn.proj"
    inputs["input_features"][0, 0] = torch.nan
    assert first_bad_value(model, inputs) == "first bad value: the input input_features"
    assert not any(module._forward_hooks for module in model.modules())


def test_similar_lengths_share_a_batch_with_group_by_length(trainer):
    known, spread = trainer.train_dataset.lengths(), {}
    for strategy in ("random", "group_by_length"):
        trainer.args.train_sampling_strategy = strategy
        loader = trainer.get_train_dataloader()
        widths = []
        for epoch in range(4):
            loader.set_epoch(epoch)
            for batch in loader.batch_sampler:
                widths.append(max(known[i] for i in batch) - min(known[i] for i in batch))
        spread[strategy] = sum(widths) / len(widths)
    assert spread["group_by_length"] < 0.8 * spread["random"]


@pytest.mark.parametrize("kind", ["discriminative", "generative"])
def test_gradient_accumulation_gives_the_gradient_of_the_whole_batch(
    tiny_backbone, processor, planted_clips, tmp_path, kind
):
    clips = [clip for clip in planted_clips if clip.split == "train"][:4]
    readout = {
        "discriminative": DiscriminativeReadout((-3.0, 3.0)),
        "generative": GreedyReadout((-3.0, 3.0), processor.tokenizer),
    }[kind]
    wanted = ModelArguments(
        base_model=str(tiny_backbone), readout=kind, quantization="none", dtype="float32", lora_r=4, lora_dropout=0.0
    )
    wanted.head_dropout = 0.0
    gradients = []
    for batch, steps in ((4, 1), (1, 4)):
        torch.manual_seed(5)
        model = build_model(wanted, scales=[LabelScale(0.0, 1.0, -3.0, 3.0)])
        arguments = ["--use_cpu", "--output_dir", str(tmp_path), "--max_steps", "1", "--max_grad_norm", "0"]
        arguments += ["--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(steps)]
        arguments += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
        _, _, args = parse_arguments([*arguments, "--no_activation_checkpointing", "--disable_tqdm", "true"])
        seen = {}

        class Keep(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model=None, seen=seen, **kwargs):
                seen.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

        trainer = SentimentTrainer(
            model=model,
            args=args,
            data_collator=ClipCollator(processor, readout),
            train_dataset=ClipDataset(clips, processor, [readout]),
            readouts=[readout],
            callbacks=[Keep()],
        )
        trainer.train()
        gradients.append(seen)
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0].keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).abs().max() < 1e-5, name
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 1e-2


@pytest.mark.parametrize(
    ("kind", "rates"), [("discriminative", {(2e-3, False), (5e-3, True)}), ("generative", {(7e-3, False)})]
)
def test_adapter_and_head_have_their_own_learning_rates(tiny_backbone, processor, tmp_path, kind, rates):
    wanted = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--base_model", str(tiny_backbone), "--readout", kind]
    wanted += [
        "--quantization",
        "none",
        "--dtype",
        "float32",
        "--learning_rate",
        "2e-3",
        "--head_learning_rate",
        "5e-3",
    ]
    model_args, _, args = parse_arguments([*wanted, "--generative_learning_rate", "7e-3"])
    model = build_model(model_args, scales=[LabelScale(0.0, 1.0, -3.0, 3.0)])
    readout = build_readout(model_args, processor.tokenizer, (-3.0, 3.0))
    optimizer = SentimentTrainer(model=model, args=args, eval_dataset=[0], readouts=[readout]).create_optimizer()
    by_id = {id(p): n for n, p in model.named_parameters()}
    seen = [
        (group["lr"], {by_id[id(p)].startswith("score.") for p in group["params"]}) for group in optimizer.param_groups
    ]
    assert {(rate, *kinds) for rate, kinds in seen} == rates
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == trained


def _poison(config: str) -> str:
    """Puts a NaN into what a run's cache holds of its first training clip with a picture; returns the clip's id."""
    model_args, data_args, args = parse_arguments([config])
    data = prepare_data(model_args, data_args, args)
    cache = open_cache(data_args.feature_cache, model_args, data.processor)
    readout = DiscriminativeReadout((-3.0, 3.0))
    (shard,) = cache.store.folder.iterdir()
    tensors = load_file(shard)
    with safe_open(shard, "pt") as file:
        metadata = file.metadata()
    for inputs in ClipDataset(data.splits["train"], data.processor, [readout]).inputs:
        name = f"{cache.keys(inputs)[0]}/video_embeds"
        if name in tensors:
            tensors[name][0, 0] = torch.nan
            save_file(tensors, shard, metadata=metadata)
            return inputs["id"]
    raise AssertionError("no clip with a picture")


@pytest.mark.parametrize(("batch", "steps"), [(2, 2)])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_clips_and_place(settings, tmp_path, batch, steps):
    config = settings(
        **cached_settings(tmp_path),
        train_sampling_strategy="sequential",
        per_device_train_batch_size=batch,
        save_total_limit=20,
    )
    run(*parse_arguments([config]))
    checkpoint = weights_of(tmp_path / "run" / "checkpoint-4")
    poisoned = _poison(config)
    more = ["--resume_from_checkpoint", "true", "--max_steps", "40", "--save_total_limit", "9"]
    more += ["--gradient_accumulation_steps", str(steps)]
    with pytest.raises(SystemExit) as stopped:
        main([config, *more])
    assert re.match(rf"train\.py: step \d+: the loss is nan on clips .*{poisoned}", stopped.value.code)
    assert "first bad value: the input video_embeds" in stopped.value.code
    assert "\n" not in stopped.value.code
    found = weights_of(tmp_path / "run" / "checkpoint-4")
    assert all(torch.equal(found[name], checkpoint[name]) for name in checkpoint)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_step_with_an_infinite_gradient_is_skipped(settings, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main([settings(learning_rate=1e38, head_learning_rate=1e38, max_grad_norm=0, max_steps=20)])
    assert re.match(r"train\.py: step \d+: the (loss|gradient norm) is (nan|inf) on clips planted-", stopped.value.code)
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_gradient_that_is_not_finite_is_named_before_the_step(settings, tmp_path):
    class Spoil(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            name, parameter = next((n, p) for n, p in model.named_parameters() if "lora_B" in n)
            self.name, self.before = (
                name,
                {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad},
            )
            self.model = model
            parameter.register_hook(lambda gradient: gradient * torch.inf)

    spoil = Spoil()
    with trainer_callback(spoil), pytest.raises(SystemExit) as stopped:
        main([settings()])
    assert re.match(r"train\.py: step 1: the gradient norm is (nan|inf) on clips planted-", stopped.value.code)
    assert f"first bad gradient: {spoil.name}" in stopped.value.code
    after = dict(spoil.model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in spoil.before.items())


def test_weights_that_are_not_finite_are_never_saved(model, tmp_path):
    model.add_lora(lora_config(ModelArguments(lora_r=2)))
    adapter = next(name for name, _ in model.named_parameters() if "lora_A" in name)
    for name in (adapter, "score.layers.0.bias"):
        with torch.no_grad():
            value = dict(model.named_parameters())[name]
            kept = value.clone()
            value.view(-1)[0] = torch.nan
            with pytest.raises(ValueError, match=r"has NaN or infinite values"):
                model.save_pretrained(tmp_path / "bundle")
            value.copy_(kept)
        assert not list((tmp_path / "bundle").rglob("*.safetensors"))
        assert not (tmp_path / "bundle" / "config.json").exists()


@pytest.mark.slow
def test_two_processes_stop_together_when_one_has_a_bad_value(settings, tmp_path):
    config = settings(**cached_settings(tmp_path), train_sampling_strategy="sequential", per_device_train_batch_size=2)
    run(*parse_arguments([config]))
    poisoned = _poison(config)
    done = launched(config, 2, tmp_path / "two")
    assert done.returncode != 0
    assert re.search(rf"the loss is nan on clips [^;]*{poisoned}", done.stderr)
    assert "the loss is not finite in another process" in done.stderr
    assert not (tmp_path / "two" / "model").exists()
    assert not (tmp_path / "two" / "metrics.json").exists()


def test_an_undefined_metric_selects_no_checkpoint_and_does_not_stop_training(settings, tmp_path, caplog):
    still = {"learning_rate": 0.0, "head_learning_rate": 0.0, "metric_for_best_model": "corr", "max_steps": 2}
    spoiled = []

    class Flatten(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            spoiled.append(model.score.layers[-1].weight.data.zero_())

    with trainer_callback(Flatten()), pytest.warns(UserWarning, match="correlation is undefined"):
        metrics = run(*parse_arguments([settings(**still)]))
    assert spoiled
    assert metrics["corr"] is None
    assert "corr is undefined at step 2, which cannot be the best" in caplog.text
