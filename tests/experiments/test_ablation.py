"""The ablation: every subset is run, and planted clips give the known answer."""

import json
import re
import shutil

import numpy as np
import pytest

from omnisent.data.clip import MODALITIES
from omnisent.data.planted import LABEL_FRACTIONS, make_planted_clips
from omnisent.evaluation.statistics import holm, paired_test
from omnisent.experiments.ablation import SUBSETS, ablate, conclusion, markdown, planned_runs, summarise
from omnisent.experiments.runs import run_all
from omnisent.training.run_folder import read_config, read_metrics, read_predictions


@pytest.fixture(scope="module")
def ablation(short_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation") / "out"
    settings = ["--max_steps", "2", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    ablate([str(short_config), *settings], [0], out)
    return out


def test_all_seven_subsets_are_trained_and_six_are_tested_on_the_whole_model(ablation):
    assert sorted(map(sorted, SUBSETS)) == sorted(
        sorted(name for bit, name in enumerate(MODALITIES) if number >> bit & 1) for number in range(1, 8)
    )
    for subset in SUBSETS:
        folder = ablation / "train" / "-".join(subset) / "seed-0"
        assert (read_config(folder)["modalities"], read_metrics(folder)["modalities"]) == (list(subset), list(subset))
        assert read_config(folder)["evaluate_only"] is False
        if len(subset) < 3:
            tested = ablation / "test" / "-".join(subset) / "seed-0"
            assert read_metrics(tested)["modalities"] == list(subset)
            assert read_config(tested)["adapter"] == str(ablation / "train" / "text-audio-video" / "seed-0" / "model")
    assert not (ablation / "test" / "text-audio-video").exists()


def test_each_modality_is_also_swapped_with_all_three_in_use(ablation):
    whole = read_predictions(ablation / "train" / "text-audio-video" / "seed-0")
    for name in MODALITIES:
        folder = ablation / "swapped" / name / "seed-0"
        config = read_config(folder)
        assert (config["swapped"], config["modalities"]) == ([name], list(MODALITIES))
        assert config["adapter"] == str(ablation / "train" / "text-audio-video" / "seed-0" / "model")
        found = read_predictions(folder)
        assert found["label"].tolist() == whole["label"].tolist()
        assert (found["score"] != whole["score"]).mean() > 0.9


def test_every_subset_is_tested_on_the_clips_that_have_all_three(ablation, whole_clips):
    ids = [clip.id for clip in whole_clips if clip.split == "test"]
    for folder in ablation.glob("*/*/seed-0"):
        assert read_predictions(folder)["id"].tolist() == ids, folder


def test_its_figures_are_those_of_its_runs(ablation):
    stored = json.loads((ablation / "ablation.json").read_text())
    assert len(stored["subsets"]) == 7 + 7 + 3
    for entry in stored["subsets"]:
        time = "train" if len(entry["modalities"]) == 3 else entry["time"]
        metrics = read_metrics(ablation / time / "-".join(entry["modalities"]) / "seed-0")
        assert entry["metrics"]["mae"]["mean"] == pytest.approx(metrics["mae"])
    maes = {(e["time"], tuple(e["modalities"])): e["metrics"]["mae"]["mean"] for e in stored["subsets"]}
    for drop in stored["drops"]:
        rest = tuple(name for name in MODALITIES if name != drop["modality"])
        without = maes[drop["time"], (drop["modality"],) if drop["time"] == "swapped" else rest]
        assert drop["difference"] == pytest.approx(without - maes["train", MODALITIES])
        assert drop["low"] < drop["difference"] < drop["high"]
        assert (drop["p"], drop["p_holm"], drop["verdict"]) == (None, None, "undecided")  # one seed
    assert [drop["time"] for drop in stored["drops"]] == ["train"] * 3 + ["test"] * 3 + ["swapped"] * 3
    text = (ablation / "ablation.md").read_text()
    result = summarise(ablation, [0], "mosi")
    assert json.loads(json.dumps(result.to_dict())) == stored
    assert conclusion(result) in text
    assert text.count("\n| ") == 2 + 17 + 2 + 9
    table = read_predictions(ablation / "train" / "text" / "seed-0")
    assert 0 < stored["constant_mae"] < table["label"].abs().max()


def test_an_ablation_trains_its_own_models(short_config, tmp_path):
    with pytest.raises(ValueError, match="an ablation trains its own models"):
        ablate([str(short_config), "--adapter", "x"], [0], tmp_path)


@pytest.mark.slow
def test_planted_clips_give_the_known_answer(short_config, tmp_path):
    """The label is 3 * (0.5 text + 0.3 voice + 0.2 face): without text the error rises most, without the face least."""
    make_planted_clips(tmp_path / "clips", n_train=240, n_valid=16, n_test=96, seed=1)
    settings = ["--dataset", str(tmp_path / "clips"), "--lora_r", "16", "--max_steps", "240", "--eval_strategy", "no"]
    settings += ["--per_device_train_batch_size", "8", "--load_best_model_at_end", "false", "--save_strategy", "no"]
    settings += [
        "--lora_preset",
        "llm",
        "--feature_cache",
        str(tmp_path / "cache"),
        "--warmup_steps",
        "20",
        "--lora_dropout",
        "0",
        "--head_dropout",
        "0",
        "--logging_steps",
        "100",
    ]
    pairs = [tuple(name for name in MODALITIES if name != left_out) for left_out in MODALITIES]
    wanted = [("train", MODALITIES), *(("test", pair) for pair in pairs), ("swapped", ("text",))]
    folders = {tmp_path / "out" / time / "-".join(subset) / "seed-0": subset for time, subset in wanted}
    run_all(
        [run for run in planned_runs([str(short_config), *settings], [0], tmp_path / "out") if run.folder in folders]
    )
    tables = {subset: read_predictions(folder) for folder, subset in folders.items()}
    wrong_words = np.abs(tables.pop(("text",))["score"].to_numpy() - tables[MODALITIES]["label"].to_numpy())
    labels = tables[MODALITIES]["label"].to_numpy()
    errors = {subset: np.abs(table["score"].to_numpy() - labels) for subset, table in tables.items()}
    assert errors[MODALITIES].mean() < 0.6 * np.abs(labels - np.median(labels)).mean()
    rises = {
        left_out: paired_test(errors[pair], errors[MODALITIES])
        for left_out, pair in zip(MODALITIES, pairs, strict=True)
    }
    assert sorted(LABEL_FRACTIONS, key=lambda name: rises[name].difference) == ["video", "audio", "text"]
    assert all(rise.low > 0 for rise in rises.values())
    assert paired_test(wrong_words, errors["audio", "video"]).low > 0  # wrong words are worse than none


@pytest.mark.slow
def test_p_is_adjusted_for_all_drops_and_they_are_decided_by_it(ablation, tmp_path):
    """The runs of one seed as three, with errors of which only those without text are larger."""
    for folder in ablation.glob("*/*/seed-0"):
        mode, subset = folder.parent.parent.name, folder.parent.name
        without_text = subset == "text" if mode == "swapped" else "text" not in subset
        for seed in range(3):
            copied = tmp_path / mode / subset / f"seed-{seed}"
            shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("model", "checkpoint-*", "best"))
            table = read_predictions(copied)
            noise = 0.05 * np.random.default_rng([seed, len(subset), len(mode)]).normal(size=len(table))
            table["score"] = table["label"] + (2.0 if without_text else 0.5) + noise
            table.to_csv(copied / "predictions.csv", index=False)
    result = summarise(tmp_path, [0, 1, 2], "mosi")
    p_values = [drop.paired.p for drop in result.drops]
    assert [drop.p_holm for drop in result.drops] == holm(p_values)
    assert {drop.modality for drop in result.drops if drop.verdict == "second"} == {"text"}
    assert [drop.verdict for drop in result.drops].count("second") == 3
    assert re.search(r"\| text, left out of training and testing \| \+1\.[45]\d+ \|", markdown(result))


def test_preceding_transcripts_are_left_out_with_the_text(short_config, tmp_path):
    runs = planned_runs([str(short_config), "--context_clips", "2"], [0], tmp_path)
    clips = {tuple(run.config()["modalities"]): run.config()["context_clips"] for run in runs}
    assert len(clips) == 7
    assert all(count == (2 if "text" in subset else 0) for subset, count in clips.items())
