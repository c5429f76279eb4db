"""Training through the real Trainer: exact resuming, accumulation, several processes, NF4, bad clips, and the run folder."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from omnisent import train
from omnisent.configuration_omnisent import OmniSentConfig
from omnisent.data.build import build_dataset
from omnisent.data.mmsa import MMSA_ORDER
from omnisent.data.planted import make_planted_clips
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.readouts.discriminative import DiscriminativeReadout
from omnisent.readouts.generative import GreedyReadout
from omnisent.train import last_checkpoint, main, run
from omnisent.training.arguments import ModelArguments, parse_arguments
from omnisent.training.backbone import build_model, lora_config
from omnisent.training.collator import ClipCollator, ClipDataset
from omnisent.training.feature_cache import open_cache
from omnisent.training.run_folder import METRIC_KEYS
from omnisent.training.trainer import SentimentTrainer

ROOT = Path(train.__file__).parent


@pytest.fixture
def settings(short_run, tiny_backbone, planted_root, tmp_path):
    """A YAML file for a short run on the planted clips, and a way to change it."""

    def write(**changes) -> str:
        fields = {
            **short_run,
            "base_model": str(tiny_backbone),
            "dataset": str(planted_root),
            "max_pixels": 56 * 112,
            "lora_dropout": 0.1,
            "learning_rate": 2e-3,
            "output_dir": str(tmp_path / "run"),
        }
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({**fields, **changes}))
        return str(path)

    return write


def _weights(folder) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "head.safetensors"), **load_file(folder / "adapter" / "adapter_model.safetensors")}


def _calibration(folder) -> dict | None:
    return OmniSentConfig.from_pretrained(folder).calibration


def _losses(folder) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@contextmanager
def _trainer_callback(callback: TrainerCallback):
    """Runs in here call it at every event of theirs."""
    start = SentimentTrainer.__init__

    def with_callback(self, *positional, **keywords):
        start(self, *positional, **keywords)
        self.add_callback(callback)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SentimentTrainer, "__init__", with_callback)
        yield


def test_a_run_leaves_a_complete_folder(settings, tmp_path, planted_clips, capsys):
    run(*parse_arguments([settings(quantization="nf4")]))
    folder = tmp_path / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == set(METRIC_KEYS)
    test = [clip for clip in planted_clips if clip.split == "test"]
    assert (metrics["n"], metrics["split"], metrics["readout"]) == (len(test), "test", "discriminative")
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], float(row["label"])) for row in rows] == [(clip.id, clip.label) for clip in test]
    errors = [abs(float(row["score"]) - float(row["label"])) for row in rows]
    assert metrics["mae"] == pytest.approx(sum(errors) / len(errors), abs=1e-6)
    assert metrics["decoding"] is None
    known = json.loads((folder / "model" / "config.json").read_text())["calibration"]
    assert known["clips"] == sum(clip.split == "valid" for clip in planted_clips)
    assert metrics["interval_coverage"] == sum(error <= known["half_widths"]["0.9"] for error in errors) / len(errors)
    assert metrics["interval_coverage"] > 0.6  # of 16 clips, given 16: below 0.6 in less than one of 300 draws
    assert metrics["seconds_per_clip"] > 0
    assert metrics["peak_memory_bytes"] > 1e8
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["lora_r"], config["quantization"], config["max_steps"]) == (4, "nf4", 4)
    versions = json.loads((folder / "environment.json").read_text())["versions"]
    assert versions["torch"] == torch.__version__.split("+")[0]
    assert (folder / "trainer_state.json").is_file()
    assert "constant (train median)" in capsys.readouterr().out

    files = [*folder.rglob("*.json")]
    assert len(files) > 8
    for file in files:
        json.loads(file.read_text(), parse_constant=lambda token, file=file: pytest.fail(f"{token} in {file}"))

    model = OmniForSentimentRegression.from_pretrained(folder / "model")
    processor = OmniSentProcessor.from_pretrained(folder / "model")
    assert processor.max_pixels == 56 * 112
    assert model.config.label_mean == pytest.approx(
        sum(c.label for c in planted_clips if c.split == "train") / sum(c.split == "train" for c in planted_clips)
    )


def test_the_bundle_scores_as_training_did(settings, tmp_path, planted_clips):
    run(*parse_arguments([settings()]))
    model = OmniForSentimentRegression.from_pretrained(tmp_path / "run" / "model")
    processor = OmniSentProcessor.from_pretrained(tmp_path / "run" / "model")
    with (tmp_path / "run" / "predictions.csv").open(newline="") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)][:8]
    clips = [clip.to_dict() for clip in planted_clips if clip.split == "test"][:8]
    with torch.no_grad():
        assert model(**processor(clips)).scores.tolist() == scores


def test_the_best_checkpoint_is_what_is_kept(settings, tmp_path):
    run(*parse_arguments([settings(learning_rate=0.01, head_learning_rate=0.03, max_steps=8)]))
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    maes = {entry["step"]: entry["eval_mae"] for entry in state["log_history"] if "eval_mae" in entry}
    best = min(maes, key=maes.get)
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{best}")
    kept, checkpoint = _weights(tmp_path / "run" / "model"), _weights(tmp_path / "run" / f"checkpoint-{best}")
    assert all(torch.equal(kept[name], checkpoint[name]) for name in checkpoint)


def test_training_stops_when_the_validation_error_does_not_fall(settings, tmp_path):
    still = {"learning_rate": 0.0, "head_learning_rate": 0.0, "eval_steps": 1, "save_steps": 1, "max_steps": 20}
    run(*parse_arguments([settings(**still, early_stopping_patience=2)]))
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 3


def _scores(folder) -> list[float]:
    with (folder / "predictions.csv").open(newline="") as file:
        return [float(row["score"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("readout", ["discriminative", "generative"])
def test_a_seed_decides_all_that_is_random_and_nothing_else(settings, tmp_path, readout):
    common = {"readout": readout, "decoding": "expected"}
    for name, seed in (("first", 7), ("again", 7), ("other", 8)):
        run(*parse_arguments([settings(**common, seed=seed, output_dir=str(tmp_path / name))]))
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("first", "again", "other")]
    for measured in metrics:
        del measured["seconds_per_clip"], measured["peak_memory_bytes"]
    assert metrics[0] == metrics[1]
    assert _scores(tmp_path / "first") == _scores(tmp_path / "again")
    assert _losses(tmp_path / "first") == _losses(tmp_path / "again")
    assert all(a != b for a, b in zip(_losses(tmp_path / "first"), _losses(tmp_path / "other"), strict=True))
    assert _scores(tmp_path / "first") != _scores(tmp_path / "other")
    clips = [
        json.loads((tmp_path / name / "environment.json").read_text())["clips_sha256"] for name in ("first", "other")
    ]
    assert clips[0] == clips[1]
    configs = [yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("first", "other")]
    assert {key for key in configs[0] if configs[0][key] != configs[1][key]} == {"seed", "output_dir"}


def test_a_generative_run_keeps_what_was_written_and_how_it_was_read(settings, tmp_path, planted_clips):
    run(*parse_arguments([settings(readout="generative", max_steps=2)]))
    folder = tmp_path / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["readout"], metrics["decoding"]) == ("generative", "greedy")
    with (folder / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [clip.id for clip in planted_clips if clip.split == "test"]
    assert metrics["unparsable_rate"] == sum(row["parsed"] == "" for row in rows) / len(rows)
    for row, score in zip(rows, _scores(folder), strict=True):
        assert score == (max(-3.0, min(3.0, float(row["parsed"]))) if row["parsed"] else 0.0)
    assert metrics["trainable_parameters"] > 0
    assert not (folder / "model" / "head.safetensors").exists()


def test_a_trained_run_is_scored_again_without_training(settings, tmp_path):
    for readout in ("discriminative", "generative"):
        trained, again = tmp_path / readout, tmp_path / f"{readout}-again"
        common = {"readout": readout, "decoding": "expected"}
        run(*parse_arguments([settings(**common, learning_rate=0.05, output_dir=str(trained))]))
        score_only = {"evaluate_only": True, "adapter": str(trained / "model"), "seed": 5}
        run(*parse_arguments([settings(**common, **score_only, output_dir=str(again))]))
        assert _scores(again) == _scores(trained)
        covered = [json.loads((f / "metrics.json").read_text())["interval_coverage"] for f in (trained, again)]
        assert covered[0] is not None
        assert covered[1] == (covered[0] if readout == "discriminative" else None)  # only a bundle with a head keeps it
        assert not (again / "trainer_state.json").exists()
        assert not (again / "model").exists()


def test_zero_shot_answers_do_not_depend_on_the_seed(settings, tmp_path):
    common = {"readout": "generative", "evaluate_only": True, "decoding": "expected"}
    for seed in (0, 1):
        metrics = run(*parse_arguments([settings(**common, seed=seed, output_dir=str(tmp_path / str(seed)))]))
        assert (metrics["trainable_parameters"], metrics["trainable_percent"]) == (0, 0.0)
    assert _scores(tmp_path / "0") == _scores(tmp_path / "1")


def test_intervals_come_from_the_validation_split_by_the_weights_that_are_kept(settings, tmp_path, planted_clips):
    run(*parse_arguments([settings()]))
    model = OmniForSentimentRegression.from_pretrained(tmp_path / "run" / "model")
    pipe = MultimodalSentimentPipeline(
        model=model, processor=OmniSentProcessor.from_pretrained(tmp_path / "run" / "model"), device="cpu"
    )
    valid = [clip for clip in planted_clips if clip.split == "valid"]
    found = pipe([clip.to_dict() for clip in valid], batch_size=8, interval=0.8)
    inside = [row["low"] - 1e-5 <= clip.label <= row["high"] + 1e-5 for row, clip in zip(found, valid, strict=True)]
    assert sum(inside) == 14  # rank ceil(17 * 0.8) of the 16 residuals


def test_an_untrained_head_is_not_evaluated(settings):
    with pytest.raises(SystemExit, match=r"^train\.py: .*yaml: evaluate_only true .*name a bundle with adapter"):
        main([settings(evaluate_only=True)])


def test_only_complete_clips_are_used_when_asked_for(settings, tmp_path, whole_clips):
    metrics = run(*parse_arguments([settings(complete_clips=True, modalities=["text"], max_steps=2)]))
    with (tmp_path / "run" / "predictions.csv").open(newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    assert ids == [clip.id for clip in whole_clips if clip.split == "test"]
    assert metrics["n"] == len(ids)


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(settings, tmp_path):
    config = settings(load_best_model_at_end=False, save_total_limit=5)
    run(*parse_arguments([config]))
    folder = tmp_path / "run"
    expected = _weights(folder / "model")
    assert last_checkpoint(folder) == folder / "checkpoint-4"
    state = folder / "checkpoint-4" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    assert last_checkpoint(folder) == folder / "checkpoint-2"
    shutil.rmtree(folder / "model")
    run(*parse_arguments([config, "--resume_from_checkpoint", "true"]))
    found = _weights(folder / "model")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    state.unlink()
    (folder / "checkpoint-2" / "trainer_state.json").unlink()
    with pytest.raises(FileNotFoundError, match="no whole checkpoint"):
        run(*parse_arguments([config, "--resume_from_checkpoint", "true"]))


def test_a_run_that_was_stopped_after_training_is_finished_from_its_last_checkpoint(settings, tmp_path):
    config = settings()
    run(*parse_arguments([config]))
    folder = tmp_path / "run"
    expected, scores, known = _weights(folder / "model"), _scores(folder), _calibration(folder / "model")
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "model")
    run(*parse_arguments([config, "--resume_from_checkpoint", "true"]))
    found = _weights(folder / "model")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert _scores(folder) == scores
    assert known["half_widths"]
    assert _calibration(folder / "model") == known


@pytest.mark.parametrize(
    ("quantization", "order"), [("none", "random"), ("nf4", "random"), ("none", "group_by_length")]
)
def test_resuming_half_way_gives_bit_equal_weights(settings, tmp_path, quantization, order):
    common = {"quantization": quantization, "load_best_model_at_end": False, "save_total_limit": 5}
    common["train_sampling_strategy"] = order
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run(*parse_arguments([settings(**common, output_dir=str(whole))]))
    config = settings(**common, output_dir=str(halves))
    model_args, data_args, args = parse_arguments([config])
    with pytest.raises(KeyboardInterrupt):
        _run_until(2, model_args, data_args, args)
    run(*parse_arguments([config, "--resume_from_checkpoint", "true"]))
    expected, found = _weights(whole / "model"), _weights(halves / "model")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert _losses(whole) == _losses(halves)


def _run_until(step: int, model_args, data_args, args) -> None:
    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise KeyboardInterrupt

    with _trainer_callback(Stop()):
        run(model_args, data_args, args)


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
        model = build_model(wanted, label_mean=0.0, label_std=1.0, score_range=(-3.0, 3.0))
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
            train_dataset=ClipDataset(clips, processor, readout),
            readout=readout,
            callbacks=[Keep()],
        )
        trainer.train()
        gradients.append(seen)
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0].keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).abs().max() < 1e-5, name
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 1e-2


def test_training_under_nf4_goes_on_learning_after_an_evaluation(tiny_backbone, processor, planted_clips):
    arguments = ModelArguments(base_model=str(tiny_backbone), dtype="float32", lora_dropout=0.0, lora_r=4)
    torch.manual_seed(0)
    model = build_model(arguments, label_mean=0.0, label_std=1.0, score_range=(-3, 3))
    clips = [clip.to_dict() for clip in planted_clips if clip.video][:2]
    inputs, labels = processor(clips), torch.tensor([1.0, -1.0])

    def gradients():
        model.train()
        model.zero_grad()
        torch.manual_seed(1)
        model(**inputs, labels=labels).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    before = gradients()
    model.eval()
    with torch.no_grad():
        model(**inputs)
    after = gradients()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(g.abs().max() > 0 for n, g in after.items() if "lora_B" in n)


@pytest.mark.parametrize(
    ("readout", "rates"), [("discriminative", {(2e-3, False), (5e-3, True)}), ("generative", {(7e-3, False)})]
)
def test_adapter_and_head_learn_at_rates_of_their_own(settings, readout, rates):
    seen = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            by_id = {id(p): n for n, p in model.named_parameters()}
            for group in optimizer.param_groups:
                seen.append((group["initial_lr"], {by_id[id(p)].startswith("score.") for p in group["params"]}))

    with _trainer_callback(Look()):
        config = settings(readout=readout, generative_learning_rate=7e-3, max_steps=1, eval_steps=1, save_steps=1)
        run(*parse_arguments([config]))
    assert {(rate, *kinds) for rate, kinds in seen} == rates


def test_an_adapter_goes_on_training_from_a_bundle(settings, tmp_path):
    run(*parse_arguments([settings(output_dir=str(tmp_path / "first"))]))
    bundle = tmp_path / "first" / "model"
    config = settings(
        adapter=str(bundle), output_dir=str(tmp_path / "second"), learning_rate=0.0, head_learning_rate=0.0
    )
    run(*parse_arguments([config]))
    before, after = _weights(bundle), _weights(tmp_path / "second" / "model")
    assert all(torch.equal(before[name], after[name]) for name in before)
    run(*parse_arguments([config, "--learning_rate", "0.001", "--output_dir", str(tmp_path / "third")]))
    after = _weights(tmp_path / "third" / "model")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    found = [_calibration(folder) for folder in (bundle, tmp_path / "third" / "model")]
    assert found[0] != found[1]
    assert _calibration(tmp_path / "third" / "checkpoint-2") is None  # the first run's would be wrong for it


def test_like_lengths_share_a_batch_when_asked_for(settings, tmp_path, planted_root):
    lengths = []

    class Widths(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader=None, **_):
            known = train_dataloader.dataset.lengths()
            for batch in train_dataloader.batch_sampler:
                lengths.append(max(known[i] for i in batch) - min(known[i] for i in batch))

    spread = {}
    for strategy in ("random", "group_by_length"):
        lengths.clear()
        with _trainer_callback(Widths()):
            run(*parse_arguments([settings(train_sampling_strategy=strategy, output_dir=str(tmp_path / strategy))]))
        spread[strategy] = sum(lengths) / len(lengths)
    assert spread["group_by_length"] < 0.8 * spread["random"]


def _bundle_scores(run_folder, clips) -> list[float]:
    """Of each clip by itself, by the run's saved bundle."""
    model = OmniForSentimentRegression.from_pretrained(run_folder / "model")
    processor = OmniSentProcessor.from_pretrained(run_folder / "model")
    with torch.no_grad():
        return [model(**processor(clip.to_dict())).scores.item() for clip in clips]


@pytest.mark.parametrize("cached", [False, True])
def test_a_row_belongs_to_its_clip_when_like_lengths_share_a_batch(settings, tmp_path, planted_clips, cached):
    changes = _cached(tmp_path) if cached else {"learning_rate": 0.02}
    run(
        *parse_arguments([settings(**changes, train_sampling_strategy="group_by_length", per_device_eval_batch_size=3)])
    )
    test = [clip for clip in planted_clips if clip.split == "test"]
    expected = _bundle_scores(tmp_path / "run", test)
    assert _scores(tmp_path / "run") == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected}) > 8
    valid = [clip for clip in planted_clips if clip.split == "valid"]
    with (tmp_path / "run" / "valid_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [clip.id for clip in valid]
    assert [float(row["score"]) for row in rows] == pytest.approx(_bundle_scores(tmp_path / "run", valid), abs=1e-5)


def test_predictions_that_come_back_in_another_order_are_refused(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(SentimentTrainer, "_get_eval_sampler", lambda self, clips: range(len(clips) - 1, -1, -1))
    with pytest.raises(SystemExit, match=r"evaluation gave the prediction of clip 15 in row 0; nothing is written"):
        main([settings()])
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert not (tmp_path / "run" / "predictions.csv").exists()


@pytest.mark.parametrize("readout", ["discriminative", "generative"])
def test_a_run_whose_saved_bundle_gives_other_scores_is_not_finished(settings, tmp_path, monkeypatch, readout):
    save = train.save_bundle

    def save_another(folder, model, processor):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name or name.startswith("score."):
                    parameter.add_(0.1)
        save(folder, model, processor)

    monkeypatch.setattr(train, "save_bundle", save_another)
    with pytest.raises(SystemExit, match=r"clip planted-\S+: its row has \S+, but by itself the saved model gives"):
        main([settings(readout=readout, decoding="expected", max_steps=2)])
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_another_run_does_not_start_in_a_folder_with_checkpoints(settings, tmp_path):
    run(*parse_arguments([settings(max_steps=2)]))
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    with pytest.raises(SystemExit, match=r"output_dir: \S+run holds checkpoints of another run; add --resume"):
        main([settings(seed=3)])
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("readout", ["discriminative", "generative"])
def test_mixed_precision_changes_training_and_no_score(settings, tmp_path, readout):
    common = {"readout": readout, "decoding": "expected", "bf16": True, "learning_rate": 0.02}
    run(*parse_arguments([settings(**common)]))
    score_only = {**common, "bf16": False, "evaluate_only": True, "adapter": str(tmp_path / "run" / "model")}
    run(*parse_arguments([settings(**score_only, output_dir=str(tmp_path / "again"))]))
    assert _scores(tmp_path / "again") == _scores(tmp_path / "run")


def _cached(tmp_path) -> dict:
    """Settings with the towers' outputs on disk, in a folder of their own for every run."""
    out = tmp_path / "run"
    return {
        "lora_preset": "llm",
        "feature_cache": str(tmp_path / "cache"),
        "output_dir": str(out),
        "learning_rate": 0.02,
    }


def _poison(config: str) -> str:
    """Puts a NaN into what a run's cache holds of its first training clip with a picture; returns the clip's id."""
    model_args, data_args, args = parse_arguments([config])
    data = train.prepare_data(model_args, data_args, args)
    cache = open_cache(model_args, data_args, data.processor)
    readout = DiscriminativeReadout((-3.0, 3.0))
    for inputs in ClipDataset(data.splits["train"], data.processor, readout).inputs:
        entry = load_file(cache.path(inputs))
        if "video_embeds" in entry:
            entry["video_embeds"][0, 0] = torch.nan
            save_file(entry, cache.path(inputs))
            return inputs["id"]
    raise AssertionError("no clip with a picture")


@pytest.mark.parametrize(("batch", "steps"), [(4, 1), (2, 2)])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_clips_and_place(settings, tmp_path, batch, steps):
    config = settings(**_cached(tmp_path), train_sampling_strategy="sequential", per_device_train_batch_size=batch)
    run(*parse_arguments([config]))
    checkpoint = _weights(tmp_path / "run" / "checkpoint-4")
    poisoned = _poison(config)
    more = ["--resume_from_checkpoint", "true", "--max_steps", "40", "--gradient_accumulation_steps", str(steps)]
    with pytest.raises(SystemExit) as stopped:
        main([config, *more])
    assert re.match(rf"train\.py: step \d+: the loss is nan on clips .*{poisoned}", stopped.value.code)
    assert "first bad value: the input video_embeds" in stopped.value.code
    assert "\n" not in stopped.value.code
    found = _weights(tmp_path / "run" / "checkpoint-4")
    assert all(torch.equal(found[name], checkpoint[name]) for name in checkpoint)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_step_that_ends_in_infinity_is_not_made(settings, tmp_path):
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
    with _trainer_callback(spoil), pytest.raises(SystemExit) as stopped:
        main([settings()])
    assert re.match(r"train\.py: step 1: the gradient norm is (nan|inf) on clips planted-", stopped.value.code)
    assert f"first bad gradient: {spoil.name}" in stopped.value.code
    after = dict(spoil.model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in spoil.before.items())


def test_what_is_not_finite_is_never_saved(model, tmp_path):
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


def test_bad_clips_are_an_error_by_name_or_are_listed_and_left_out(settings, tmp_path, caplog):
    root = tmp_path / "damaged"
    clips = make_planted_clips(root, n_train=12, n_valid=6, n_test=6, seed=8)
    broken = [c for c in clips if c.video and c.split == "train"][1]
    with open(broken.video, "r+b") as file:
        file.truncate(os.path.getsize(broken.video) // 3)
    with pytest.raises(SystemExit, match=rf"^train\.py: clip {broken.id}: .*{os.path.basename(broken.video)}"):
        main([settings(dataset=str(root))])
    main([settings(dataset=str(root), on_bad_clip="skip", output_dir=str(tmp_path / "skipped"))])
    with (tmp_path / "skipped" / "bad_clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["split"]) for row in rows] == [(broken.id, "train")]
    assert os.path.basename(broken.video) in rows[0]["reason"]
    metrics = json.loads((tmp_path / "skipped" / "metrics.json").read_text())
    assert (metrics["bad_clips"], metrics["interval_coverage"]) == (1, None)
    assert _calibration(tmp_path / "skipped" / "model").keys() == {"clips", "half_widths"}
    assert "6 validation clips are too few for intervals of level 0.9" in caplog.text


def test_a_bad_clip_is_one_clear_line_from_a_worker_too(settings, tmp_path):
    root = tmp_path / "damaged"
    clips = make_planted_clips(root, n_train=12, n_valid=6, n_test=6, seed=8)
    for clip in clips:
        if clip.video and clip.split == "train":
            with open(clip.video, "r+b") as file:
                file.truncate(os.path.getsize(clip.video) // 3)
    with pytest.raises(SystemExit) as stopped:
        main([settings(dataset=str(root), dataloader_num_workers=1)])
    assert "\n" not in str(stopped.value)
    assert "clip planted-" in str(stopped.value)


def test_a_built_data_set_brings_its_score_range_convention_and_denoising(settings, tmp_path):
    rows = [
        f"v{i},000{i},word {i},{(i % 5 - 2) / 2},,,,,{s}" for i, s in enumerate(["train"] * 4 + ["valid", "test"] * 2)
    ]
    root = tmp_path / "sims"
    root.mkdir()
    (root / "label.csv").write_text("\n".join([",".join(MMSA_ORDER), *rows]))
    build_dataset("ch_sims", root, tmp_path / "built", with_media=False)
    metrics = run(*parse_arguments([settings(dataset=str(tmp_path / "built"), modalities=["text"], max_steps=2)]))
    assert (metrics["dataset"], metrics["denoise"], metrics["n"]) == ("ch_sims", "none", 2)
    assert metrics["acc_7"] is None
    assert {"acc_2", "f1"} <= metrics.keys()
    assert "acc_2_has0" not in metrics
    config = OmniForSentimentRegression.from_pretrained(tmp_path / "run" / "model").config
    assert (config.score_min, config.score_max) == (-1.0, 1.0)


def test_a_named_data_set_is_trained_on_from_its_root_and_lists_missing_clips(settings, tmp_path, whole_clips):
    root, rows = tmp_path / "mosi", []
    for number, clip in enumerate(whole_clips[:12]):
        split = ("train", "train", "valid", "test")[number % 4]
        (root / "Raw" / f"v{number}").mkdir(parents=True)
        if number:
            shutil.copy(clip.video, root / "Raw" / f"v{number}" / "7.mp4")
        rows.append(f"v{number},7,{clip.text.replace(',', '')},{clip.label},,,,,{split}")
    (root / "label.csv").write_text("\n".join([",".join(MMSA_ORDER), *rows]))
    named = {"dataset": "cmu_mosi", "root": str(root), "max_steps": 2}
    with pytest.raises(SystemExit, match=r"1 of 12 media files do not exist: .*v0.7\.mp4 \(clip v0_7\)"):
        main([settings(**named)])
    main([settings(**named, on_bad_clip="skip")])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["bad_clips"] == 1


def test_labels_outside_the_range_are_refused_by_clip(settings, tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text("id,text,label,split\na,good,1,train\nb,bad,-7,train\nc,so,0,valid\nd,so,0,test\n")
    with pytest.raises(SystemExit, match=r"1 clips without a label in \[-3.*\], first b"):
        main([settings(dataset=str(table), modalities=["text"])])


def _launch(config: str, processes: int, folder) -> None:
    done = _launched(config, processes, folder)
    assert done.returncode == 0, done.stderr[-3000:]


def _launched(config: str, processes: int, folder) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--dynamo_backend", "no"]
    command += ["--num_processes", str(processes), "--mixed_precision", "no", "--main_process_port", "0"]
    command += ["--multi_gpu"] if processes > 1 else []
    command += ["train.py", config, "--output_dir", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)


def test_two_processes_follow_the_loss_curve_of_one_and_score_each_clip_alike(settings, tmp_path):
    still = {"lora_dropout": 0.0, "head_dropout": 0.0, "lr_scheduler_type": "constant"}
    still |= {"per_device_eval_batch_size": 3}  # the last batches of the 16 clips are uneven
    _launch(settings(**still, per_device_train_batch_size=4), 1, tmp_path / "one")
    _launch(settings(**still, per_device_train_batch_size=2), 2, tmp_path / "two")
    assert json.loads((tmp_path / "one" / "environment.json").read_text())["processes"] == 1
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
    one, two = _losses(tmp_path / "one"), _losses(tmp_path / "two")
    assert len(one) == 4
    assert two == pytest.approx(one, abs=1e-3)
    tests = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert tests[0]["n"] == tests[1]["n"]
    assert tests[1]["mae"] == pytest.approx(tests[0]["mae"], abs=1e-3)
    assert _scores(tmp_path / "two") == pytest.approx(_scores(tmp_path / "one"), abs=1e-3)
    assert len({round(score, 3) for score in _scores(tmp_path / "one")}) > 8


def test_two_processes_stop_together_when_one_has_a_bad_value(settings, tmp_path):
    config = settings(**_cached(tmp_path), train_sampling_strategy="sequential", per_device_train_batch_size=2)
    run(*parse_arguments([config]))
    poisoned = _poison(config)
    done = _launched(config, 2, tmp_path / "two")
    assert done.returncode != 0
    assert re.search(rf"the loss is nan on clips [^;]*{poisoned}", done.stderr)
    assert "the loss is not finite in another process" in done.stderr
    assert not (tmp_path / "two" / "model").exists()
    assert not (tmp_path / "two" / "metrics.json").exists()


def test_peak_memory_is_this_programs_and_not_that_of_the_one_that_started_it():
    held = bytearray(b"1" * 3_000_000_000)  # more than an import of this package takes
    program = (
        "from omnisent.training.run_folder import process_peak_bytes as peak\n"
        "before = peak()\nmore = bytearray(b'1' * 300_000_000)\nprint(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert int(done.stdout) > 290_000_000
    assert held[-1]
