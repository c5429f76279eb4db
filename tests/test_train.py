"""Training through the real Trainer: exact resuming, accumulation, several processes, NF4, bad clips, and the run folder."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import TrainerCallback

from omnisent import train
from omnisent.data.build import build_dataset
from omnisent.data.mmsa import MMSA_ORDER
from omnisent.evaluation.intervals import half_width
from omnisent.evaluation.metrics import METRICS
from omnisent.losses_omnisent import LabelScale
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.scoring.loading import Loading, load_pipeline
from omnisent.train import main, run
from omnisent.training.arguments import ModelArguments, parse_arguments
from omnisent.training.backbone import build_model
from omnisent.training.run_folder import (
    KEYS_AFTER,
    KEYS_BEFORE,
    UNCLIPPED,
    last_checkpoint,
    read_environment,
    write_json,
)
from runs import calibration_of, launch, losses_of, scores_of, trainer_callback, weights_of

ROOT = Path(train.__file__).parent


def test_a_run_leaves_a_complete_folder(settings, tmp_path, planted_clips, capsys):
    run(*parse_arguments([settings(quantization="nf4")]))
    folder = tmp_path / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    measured = [key for key, metric in METRICS.items() if "mosi" in metric.formulas]
    of_valid = [f"valid_{key}" for key in (*measured, *UNCLIPPED, "out_of_range_rate")]
    assert list(metrics) == [*KEYS_BEFORE, *measured, *KEYS_AFTER, *of_valid]
    test = [clip for clip in planted_clips if clip.split == "test"]
    assert (metrics["n"], metrics["split"], metrics["readout"]) == (len(test), "test", "discriminative")
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], float(row["label"])) for row in rows] == [(clip.id, clip.label) for clip in test]
    assert [float(row["score"]) for row in rows] == [min(max(float(row["raw"]), -3.0), 3.0) for row in rows]
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


def test_the_best_checkpoint_is_restored(settings, tmp_path):
    run(*parse_arguments([settings(learning_rate=0.01, head_learning_rate=0.03, max_steps=8)]))
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    maes = {entry["step"]: entry["eval_mae"] for entry in state["log_history"] if "eval_mae" in entry}
    best = min(maes, key=maes.get)
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{best}")
    kept, checkpoint = weights_of(tmp_path / "run" / "model"), weights_of(tmp_path / "run" / f"checkpoint-{best}")
    assert all(torch.equal(kept[name], checkpoint[name]) for name in checkpoint)


def test_training_stops_when_the_validation_error_does_not_fall(settings, tmp_path):
    still = {"learning_rate": 0.0, "head_learning_rate": 0.0, "eval_steps": 1, "save_steps": 1, "max_steps": 20}
    run(*parse_arguments([settings(**still, early_stopping_patience=2)]))
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 3


@pytest.mark.parametrize("readout", ["discriminative", pytest.param("generative", marks=pytest.mark.slow)])
def test_the_seed_determines_all_randomness_and_nothing_else(settings, tmp_path, readout):
    common = {"readout": readout, "decoding": "expected"}
    for name, seed in (("first", 7), ("again", 7), ("other", 8)):
        run(*parse_arguments([settings(**common, seed=seed, output_dir=str(tmp_path / name))]))
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("first", "again", "other")]
    for measured in metrics:
        del measured["seconds_per_clip"], measured["peak_memory_bytes"]
    assert metrics[0] == metrics[1]
    assert scores_of(tmp_path / "first") == scores_of(tmp_path / "again")
    assert losses_of(tmp_path / "first") == losses_of(tmp_path / "again")
    assert all(a != b for a, b in zip(losses_of(tmp_path / "first"), losses_of(tmp_path / "other"), strict=True))
    assert scores_of(tmp_path / "first") != scores_of(tmp_path / "other")
    clips = [
        json.loads((tmp_path / name / "environment.json").read_text())["clips_sha256"] for name in ("first", "other")
    ]
    assert clips[0] == clips[1]
    configs = [yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("first", "other")]
    assert {key for key in configs[0] if configs[0][key] != configs[1][key]} == {"seed", "output_dir"}


def test_a_generative_run_saves_answers_and_parsed_scores(settings, tmp_path, planted_clips):
    run(*parse_arguments([settings(readout="generative", max_steps=2)]))
    folder = tmp_path / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["readout"], metrics["decoding"]) == ("generative", "greedy")
    with (folder / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [clip.id for clip in planted_clips if clip.split == "test"]
    assert metrics["unparsable_rate"] == sum(row["parsed"] == "" for row in rows) / len(rows)
    for row, score in zip(rows, scores_of(folder), strict=True):
        assert score == (max(-3.0, min(3.0, float(row["parsed"]))) if row["parsed"] else 0.0)
    assert metrics["trainable_parameters"] > 0
    assert not (folder / "model" / "head.safetensors").exists()


@pytest.mark.parametrize("loss", ["l1", "ordinal"])
def test_the_pipeline_gives_the_intervals_that_the_run_measured(settings, tmp_path, planted_clips, loss):
    run(*parse_arguments([settings(loss=loss, learning_rate=0.01)]))
    metrics, known = (
        json.loads((tmp_path / "run" / name).read_text()) for name in ("metrics.json", "model/config.json")
    )
    assert ("margins" in known["calibration"]) == (loss == "ordinal")
    assert known["calibration"]["videos"] == len({clip.video_id for clip in planted_clips if clip.split == "valid"})
    test = [clip for clip in planted_clips if clip.split == "test"]
    pipe = load_pipeline(Loading(str(tmp_path / "run" / "model"), device="cpu"))
    found = pipe([clip.to_dict() for clip in test], interval=0.9)
    assert all(set(one) <= {"score", "label", "low", "high", "warning"} for one in found)
    inside = [one["low"] <= clip.label <= one["high"] for one, clip in zip(found, test, strict=True)]
    assert metrics["interval_coverage"] == pytest.approx(np.mean(inside))
    assert metrics["interval_coverage_low"] <= np.mean(inside) <= metrics["interval_coverage_high"]
    widths = [one["high"] - one["low"] for one in found]
    assert metrics["interval_width"] == pytest.approx(np.mean(widths), abs=1e-3)
    narrow = pipe([clip.to_dict() for clip in test], interval=0.5)
    assert all(one["low"] <= two["low"] and two["high"] <= one["high"] for one, two in zip(found, narrow, strict=True))
    if loss == "ordinal":  # not the score plus and minus one half-width
        assert np.ptp([one["high"] + one["low"] - 2 * one["score"] for one in found]) > 1e-3


@pytest.mark.slow
def test_a_resumed_run_has_the_calibration_of_one_that_was_not_stopped(settings, tmp_path, caplog):
    """The validation scores of evaluations before the stop take part."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    often = {"max_steps": 4, "eval_steps": 1, "save_steps": 1, "learning_rate": 0.01}
    run(*parse_arguments([settings(**often, output_dir=str(whole))]))
    assert len(list((whole / "validation").glob("*.npy"))) == 4
    with pytest.raises(KeyboardInterrupt):
        _run_until(2, *parse_arguments([settings(**often, output_dir=str(halves))]))
    again = [settings(**often, output_dir=str(halves), resume_from_checkpoint="true")]
    run(*parse_arguments(again))
    assert calibration_of(halves / "model") == calibration_of(whole / "model")
    assert "validation scores" not in caplog.text
    np.save(halves / "validation" / "1.npy", np.load(halves / "validation" / "1.npy") + 0.1)  # as of another run
    shutil.rmtree(halves / "model")
    run(*parse_arguments(again))
    assert "the validation scores of step 1 are not in" in caplog.text
    assert calibration_of(halves / "model")["half_widths"]


@pytest.mark.slow
def test_a_trained_run_is_scored_again_without_training(settings, tmp_path):
    for readout in ("discriminative", "generative"):
        trained, again = tmp_path / readout, tmp_path / f"{readout}-again"
        common = {"readout": readout, "decoding": "expected"}
        run(*parse_arguments([settings(**common, learning_rate=0.05, output_dir=str(trained))]))
        score_only = {"evaluate_only": True, "adapter": str(trained / "model"), "seed": 5}
        run(*parse_arguments([settings(**common, **score_only, output_dir=str(again))]))
        assert scores_of(again) == scores_of(trained)
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
    assert scores_of(tmp_path / "0") == scores_of(tmp_path / "1")


def test_intervals_are_calibrated_on_the_validation_split_with_the_final_weights(settings, tmp_path, planted_clips):
    run(*parse_arguments([settings(load_best_model_at_end=False)]))
    model = OmniForSentimentRegression.from_pretrained(tmp_path / "run" / "model")
    pipe = MultimodalSentimentPipeline(
        model=model, processor=OmniSentProcessor.from_pretrained(tmp_path / "run" / "model"), device="cpu"
    )
    valid = [clip for clip in planted_clips if clip.split == "valid"]
    found = pipe([clip.to_dict() for clip in valid], batch_size=8, interval=0.8)
    scores, labels = [row["score"] for row in found], [clip.label for clip in valid]
    width = half_width(scores, labels, 0.8, [clip.video_id for clip in valid])
    assert calibration_of(tmp_path / "run" / "model")["half_widths"]["0.8"] == pytest.approx(width, abs=1e-5)
    assert [row["high"] for row in found] == pytest.approx([min(score + width, 3) for score in scores], abs=1e-5)


def test_an_untrained_head_is_not_evaluated(settings):
    with pytest.raises(
        SystemExit, match=r"^train\.py: .*yaml: evaluate_only true .*name a trained bundle with adapter"
    ):
        main([settings(evaluate_only=True)])


def test_complete_clips_uses_only_complete_clips(settings, tmp_path, whole_clips):
    metrics = run(*parse_arguments([settings(complete_clips=True, modalities=["text"], max_steps=2)]))
    with (tmp_path / "run" / "predictions.csv").open(newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    assert ids == [clip.id for clip in whole_clips if clip.split == "test"]
    assert metrics["n"] == len(ids)


def test_an_incomplete_checkpoint_is_skipped(settings, tmp_path):
    config = settings(load_best_model_at_end=False, save_total_limit=5)
    run(*parse_arguments([config]))
    folder = tmp_path / "run"
    expected = weights_of(folder / "model")
    assert last_checkpoint(folder) == folder / "checkpoint-4"
    state = folder / "checkpoint-4" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    (folder / "checkpoint-best").mkdir()
    assert last_checkpoint(folder) == folder / "checkpoint-2"
    shutil.rmtree(folder / "model")
    run(*parse_arguments([config, "--resume_from_checkpoint", "true"]))
    found = weights_of(folder / "model")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    state.unlink()
    (folder / "checkpoint-2" / "trainer_state.json").unlink()
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        run(*parse_arguments([config, "--resume_from_checkpoint", "true"]))


def test_a_run_that_was_stopped_after_training_is_finished_from_its_last_checkpoint(settings, tmp_path):
    config = settings()
    run(*parse_arguments([config]))
    folder = tmp_path / "run"
    expected, scores, known = weights_of(folder / "model"), scores_of(folder), calibration_of(folder / "model")
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "model")
    run(*parse_arguments([config, "--resume_from_checkpoint", "true"]))
    found = weights_of(folder / "model")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert scores_of(folder) == scores
    assert known["half_widths"]
    assert calibration_of(folder / "model") == known


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"quantization": "nf4"}, id="nf4"),
        pytest.param({"train_sampling_strategy": "group_by_length"}, id="group_by_length", marks=pytest.mark.slow),
        pytest.param({"optim": "paged_adamw_8bit"}, id="paged_adamw_8bit", marks=pytest.mark.slow),
    ],
)
def test_resuming_half_way_gives_bit_equal_weights(settings, tmp_path, changes):
    common = {"quantization": "none", "load_best_model_at_end": False, "save_total_limit": 5, **changes}
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run(*parse_arguments([settings(**common, output_dir=str(whole))]))
    config = settings(**common, output_dir=str(halves))
    model_args, data_args, args = parse_arguments([config])
    with pytest.raises(KeyboardInterrupt):
        _run_until(2, model_args, data_args, args)
    environment = read_environment(halves)
    other_media = {**environment["fingerprints"], "media": "0"}
    write_json(halves / "environment.json", {**environment, "fingerprints": other_media})
    with pytest.raises(ValueError, match="halves: the media of the clips changed since this run began"):
        run(*parse_arguments([config, "--resume_from_checkpoint", "true"]))
    write_json(halves / "environment.json", environment)
    run(*parse_arguments([config, "--resume_from_checkpoint", "true"]))
    expected, found = weights_of(whole / "model"), weights_of(halves / "model")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert losses_of(whole) == losses_of(halves)


def _run_until(step: int, model_args, data_args, args) -> None:
    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise KeyboardInterrupt

    with trainer_callback(Stop()):
        run(model_args, data_args, args)


def test_training_under_nf4_continues_to_learn_after_an_evaluation(tiny_backbone, processor, planted_clips):
    arguments = ModelArguments(base_model=str(tiny_backbone), dtype="float32", lora_dropout=0.0, lora_r=4)
    torch.manual_seed(0)
    model = build_model(arguments, scales=[LabelScale(0.0, 1.0, -3, 3)])
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


@pytest.mark.slow
def test_training_continues_from_the_adapter_of_a_bundle(settings, tmp_path):
    run(*parse_arguments([settings(output_dir=str(tmp_path / "first"))]))
    bundle = tmp_path / "first" / "model"
    config = settings(
        adapter=str(bundle), output_dir=str(tmp_path / "second"), learning_rate=0.0, head_learning_rate=0.0
    )
    run(*parse_arguments([config]))
    before, after = weights_of(bundle), weights_of(tmp_path / "second" / "model")
    assert all(torch.equal(before[name], after[name]) for name in before)
    run(*parse_arguments([config, "--learning_rate", "0.001", "--output_dir", str(tmp_path / "third")]))
    after = weights_of(tmp_path / "third" / "model")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    found = [calibration_of(folder) for folder in (bundle, tmp_path / "third" / "model")]
    assert found[0] != found[1]
    assert calibration_of(tmp_path / "third" / "checkpoint-2") is None  # the first run's would be wrong for it


def test_another_run_does_not_start_in_a_folder_with_checkpoints(settings, tmp_path):
    run(*parse_arguments([settings(max_steps=2)]))
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    with pytest.raises(SystemExit, match=r"output_dir: \S+run holds checkpoints of another run; add --resume"):
        main([settings(seed=3)])
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("readout", ["discriminative", pytest.param("generative", marks=pytest.mark.slow)])
def test_mixed_precision_affects_training_and_not_scoring(settings, tmp_path, readout):
    common = {"readout": readout, "decoding": "expected", "bf16": True, "learning_rate": 0.02}
    run(*parse_arguments([settings(**common)]))
    score_only = {**common, "bf16": False, "evaluate_only": True, "adapter": str(tmp_path / "run" / "model")}
    run(*parse_arguments([settings(**score_only, output_dir=str(tmp_path / "again"))]))
    assert scores_of(tmp_path / "again") == scores_of(tmp_path / "run")


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


def test_labels_outside_the_range_are_refused_by_clip(settings, tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text("id,text,label,split\na,good,1,train\nb,bad,-7,train\nc,so,0,valid\nd,so,0,test\n")
    with pytest.raises(SystemExit, match=r"1 clips without a label in \[-3.*\], first b"):
        main([settings(dataset=str(table), modalities=["text"])])


def test_a_constant_without_error_has_no_ratio_to_it(settings, tmp_path, capsys):
    table = tmp_path / "clips.csv"
    table.write_text("id,text,label,split\na,good,1,train\nb,bad,2,train\nf,hm,1,train\nc,so,1,valid\nd,so,1,test\n")
    main([settings(dataset=str(table), modalities=["text"], max_steps=1)])
    assert re.search(r"test MAE \S+, constant \(train median\) 0\.000; run folder", capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_two_processes_follow_the_loss_curve_of_one_and_score_each_clip_alike(settings, tmp_path, quantization):
    still = {"quantization": quantization, "lora_dropout": 0.0, "head_dropout": 0.0, "lr_scheduler_type": "constant"}
    still |= {"per_device_eval_batch_size": 3}  # the last batches of the 16 clips are uneven
    launch(settings(**still, per_device_train_batch_size=4), 1, tmp_path / "one")
    launch(settings(**still, per_device_train_batch_size=2), 2, tmp_path / "two")
    assert json.loads((tmp_path / "one" / "environment.json").read_text())["processes"] == 1
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
    one, two = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    assert len(one) == 4
    assert two == pytest.approx(one, abs=1e-3)
    tests = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert tests[0]["n"] == tests[1]["n"]
    assert tests[1]["mae"] == pytest.approx(tests[0]["mae"], abs=1e-3)
    assert scores_of(tmp_path / "two") == pytest.approx(scores_of(tmp_path / "one"), abs=1e-3)
    assert len({round(score, 3) for score in scores_of(tmp_path / "one")}) > 8


def test_peak_memory_is_that_of_the_process_and_not_of_its_parent():
    held = bytearray(b"1" * 700_000_000)  # more than an import of this package takes
    program = (
        "from omnisent.training.environment import process_peak_bytes as peak\n"
        "before = peak()\nmore = bytearray(b'1' * 300_000_000)\nprint(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert int(done.stdout) > 290_000_000
    assert held[-1]
