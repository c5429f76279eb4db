"""Training through the real Trainer: exact resuming, accumulation, several processes, NF4, bad clips, and the run folder."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback

from omnisent.data.build import build_dataset
from omnisent.data.mmsa import MMSA_ORDER
from omnisent.data.planted import make_planted_clips
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.train import main, run
from omnisent.training.arguments import parse_arguments
from omnisent.training.collator import ClipCollator, ClipDataset
from omnisent.training.run_folder import METRIC_KEYS
from omnisent.training.trainer import SentimentTrainer


@pytest.fixture
def settings(tiny_backbone, planted_root, tmp_path):
    """A YAML file for a short run on the planted clips, and a way to change it."""

    def write(**changes) -> str:
        fields = {
            "base_model": str(tiny_backbone),
            "quantization": "none",
            "dtype": "float32",
            "dataset": str(planted_root),
            "min_pixels": 56 * 56,
            "max_pixels": 56 * 112,
            "lora_r": 4,
            "lora_dropout": 0.1,
            "learning_rate": 2e-3,
            "head_learning_rate": 5e-3,
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 8,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_strategy": "steps",
            "save_steps": 2,
            "logging_steps": 1,
            "activation_checkpointing": False,
            "disable_tqdm": True,
            "use_cpu": True,
            "output_dir": str(tmp_path / "run"),
        }
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({**fields, **changes}))
        return str(path)

    return write


def _weights(folder) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "head.safetensors"), **load_file(folder / "adapter" / "adapter_model.safetensors")}


def _losses(folder) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


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
    assert metrics["interval_coverage"] is None
    assert metrics["seconds_per_clip"] > 0
    assert metrics["peak_memory_bytes"] > 1e8
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["lora_r"], config["quantization"], config["max_steps"]) == (4, "nf4", 4)
    versions = json.loads((folder / "environment.json").read_text())["versions"]
    assert versions["torch"] == torch.__version__.split("+")[0]
    assert (folder / "trainer_state.json").is_file()
    assert "constant (train median)" in capsys.readouterr().out

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


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_resuming_half_way_gives_bit_equal_weights(settings, tmp_path, quantization):
    common = {"quantization": quantization, "load_best_model_at_end": False, "save_total_limit": 5}
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

    start = SentimentTrainer.__init__

    def with_stop(self, *positional, **keywords):
        start(self, *positional, **keywords)
        self.add_callback(Stop())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SentimentTrainer, "__init__", with_stop)
        run(model_args, data_args, args)


def test_gradient_accumulation_gives_the_gradient_of_the_whole_batch(tiny_backbone, processor, planted_clips, tmp_path):
    clips = [clip for clip in planted_clips if clip.split == "train"][:4]
    gradients = []
    for batch, steps in ((4, 1), (1, 4)):
        torch.manual_seed(5)
        model = OmniForSentimentRegression.from_thinker(tiny_backbone, head_dropout=0.0)
        model.add_lora(_lora())
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
            data_collator=ClipCollator(processor),
            train_dataset=ClipDataset(clips, processor),
            callbacks=[Keep()],
        )
        trainer.train()
        gradients.append(seen)
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0].keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).abs().max() < 1e-5, name
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 1e-2


def _lora():
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"])


def test_training_under_nf4_goes_on_learning_after_an_evaluation(tiny_backbone, processor, planted_clips):
    from omnisent.training.arguments import ModelArguments
    from omnisent.training.backbone import build_model

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


def test_two_learning_rates(settings, tmp_path):
    seen = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            by_id = {id(p): n for n, p in model.named_parameters()}
            for group in optimizer.param_groups:
                seen.append((group["initial_lr"], {by_id[id(p)].startswith("score.") for p in group["params"]}))

    start = SentimentTrainer.__init__

    def with_look(self, *positional, **keywords):
        start(self, *positional, **keywords)
        self.add_callback(Look())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SentimentTrainer, "__init__", with_look)
        run(*parse_arguments([settings(max_steps=1, eval_steps=1, save_steps=1)]))
    assert {(rate, *kinds) for rate, kinds in seen} == {(2e-3, False), (5e-3, True)}


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


def test_bad_clips_are_an_error_by_name_or_are_listed_and_left_out(settings, tmp_path):
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
    assert json.loads((tmp_path / "skipped" / "metrics.json").read_text())["bad_clips"] == 1


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
    done = subprocess.run(command, cwd=_root(), env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]


def _root():
    from pathlib import Path

    from omnisent import train

    return Path(train.__file__).parent


def test_two_processes_follow_the_loss_curve_of_one(settings, tmp_path):
    still = {"lora_dropout": 0.0, "head_dropout": 0.0, "lr_scheduler_type": "constant"}
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
