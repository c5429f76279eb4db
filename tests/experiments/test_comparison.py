"""The comparison of readouts: what it runs, what it refuses, and that it comes out the same when it is killed and resumed."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from omnisent.cli import app
from omnisent.data.catalog import DatasetFacts
from omnisent.evaluation.comparison_result import ArmTest, Comparison, read_comparison
from omnisent.evaluation.conclusion import best_rival
from omnisent.evaluation.metrics import msa_metrics, ratio_text
from omnisent.evaluation.power import Noise, power
from omnisent.evaluation.variances import p_text
from omnisent.experiments.arms import SAME_FOR_ALL, Arm, default_arms
from omnisent.experiments.baselines import BASELINES
from omnisent.experiments.comparison import OWN_FIELDS, check_comparable, compare, summarise
from omnisent.experiments.comparison_report import conclusion, markdown, metric_table
from omnisent.experiments.power_study import power_of
from omnisent.experiments.probe import SAME_FIELDS
from omnisent.experiments.runs import IGNORED_FIELDS
from omnisent.experiments.tables import MAIN_SETTINGS
from omnisent.hub.publish import PRIVATE_FIELDS
from omnisent.training.arguments import parse_arguments
from omnisent.training.run_folder import config_dict, read_environment, read_metrics, read_predictions, write_json
from runs import kill_at

COMMAND = "import sys; from omnisent.cli import main; sys.argv[0] = 'omnisent'; main()"


def _stored(folder) -> dict:
    return json.loads((folder / "comparison.json").read_text())


def test_the_arms_are_each_readout_and_decoding_trained_and_zero_shot():
    assert [arm.name for arm in default_arms()] == [
        "discriminative",
        *("generative-trained-greedy", "generative-trained-expected"),
        *("generative-zero-shot-greedy", "generative-zero-shot-expected"),
    ]
    assert [(arm.name, arm.adapter_of) for arm in default_arms() if arm.adapter_of] == [
        ("generative-trained-expected", "generative-trained-greedy")
    ]


def test_every_arm_and_baseline_is_there_with_the_figures_of_its_runs(comparison):
    stored = _stored(comparison)
    assert list(stored["arms"]) == [arm.name for arm in default_arms()] + list(BASELINES)
    for name, arm in stored["arms"].items():
        seeds = [0, 1] if name.startswith(("discriminative", "generative-trained")) else [0]
        folders = [comparison / name] if arm["floor"] else [comparison / name / f"seed-{seed}" for seed in seeds]
        assert arm["seeds"] == ([None] if arm["floor"] else seeds)
        maes = []
        for folder in folders:
            table = read_predictions(folder)
            maes.append(msa_metrics(table["score"], table["label"])["mae"])
        assert arm["metrics"]["mae"]["per_seed"] == pytest.approx(maes, abs=1e-12)
        assert arm["metrics"]["mae"]["mean"] == pytest.approx(np.mean(maes))
        assert arm["metrics"]["mae"]["low"] <= np.mean(maes) <= arm["metrics"]["mae"]["high"]
    assert stored["arms"]["constant"]["mae_over_constant"] == 1.0
    assert stored["arms"]["generative-zero-shot-greedy"]["trainable_parameters"] == 0
    assert (
        stored["arms"]["discriminative"]["trainable_parameters"]
        == stored["arms"]["generative-trained-greedy"]["trainable_parameters"]
        > 0
    )


def test_both_decodings_score_with_one_training_each_with_its_own_best_checkpoint(comparison):
    greedy, expected = (comparison / f"generative-trained-{kind}" / "seed-1" for kind in ("greedy", "expected"))
    config = yaml.safe_load((expected / "config.yaml").read_text())
    assert config["adapter"] == str(greedy / "best" / "expected")
    log = [
        entry for entry in json.loads((greedy / "trainer_state.json").read_text())["log_history"] if "eval_mae" in entry
    ]
    best = min(entry["eval_expected_mae"] for entry in log)
    assert json.loads((greedy / "best" / "expected" / "validation.json").read_text())["value"] == best
    assert read_metrics(expected)["valid_mae"] == pytest.approx(best, abs=1e-5)
    assert read_metrics(greedy)["valid_mae"] == pytest.approx(min(entry["eval_mae"] for entry in log), abs=1e-5)
    assert read_metrics(expected)["unparsable_rate"] == 0.0
    assert not (expected / "model").exists()


def test_a_folder_of_an_earlier_version_is_refused_before_any_run(comparison, short_config, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(comparison, old)
    shutil.rmtree(old / "generative-trained-greedy" / "seed-1" / "best")
    (old / "generative-trained-expected" / "seed-1" / "metrics.json").unlink()
    with pytest.raises(ValueError, match=r"generative-trained-greedy/seed-1 has no best adapters; remove it"):
        compare([str(short_config)], [0, 1], old)
    shutil.copytree(
        comparison / "generative-trained-greedy" / "seed-1" / "best", old / "generative-trained-greedy/seed-1/best"
    )
    path = old / "generative-trained-expected" / "seed-0" / "config.yaml"
    path.write_text(path.read_text().replace("seed-0/best/expected", "seed-0/model"))
    with pytest.raises(ValueError, match=r"generative-trained-expected/seed-0 was scored with another checkpoint"):
        compare([str(short_config)], [0, 1], old)


def test_costs_are_measured_without_training_for_every_arm(comparison):
    costs = _stored(comparison)["costs"]
    assert costs.keys() == {arm.name for arm in default_arms()}
    for cost in costs.values():
        assert cost["seconds_per_clip"] > 0
        assert cost["peak_memory_bytes"] > 1e8
    assert (
        yaml.safe_load((comparison / "costs" / "discriminative" / "config.yaml").read_text())["evaluate_only"] is True
    )
    scored_again = read_predictions(comparison / "costs" / "discriminative", split="valid")
    assert scored_again.equals(read_predictions(comparison / "discriminative" / "seed-0", split="valid"))


def test_costs_that_were_measured_on_test_clips_are_kept(comparison, short_config):
    path = comparison / "costs" / "discriminative" / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("evaluate: valid", "evaluate: test"))
    try:
        compare([str(short_config)], [0, 1], comparison)
    finally:
        path.write_text(text)


def test_a_study_that_was_kept_without_models_has_the_same_figures_and_no_costs_of_trained_arms(
    comparison, short_config, tmp_path
):
    kept = tmp_path / "kept"
    shutil.copytree(comparison, kept, ignore=shutil.ignore_patterns("model", "costs", "checkpoint-*"))
    again = compare([str(short_config)], [0, 1], kept)[0].to_dict()
    assert again["costs"].keys() == {arm.name for arm in default_arms() if not arm.trains}
    assert {**again, "costs": None} == {**_stored(comparison), "costs": None}
    assert "| discriminative | 0." not in (kept / "comparison.md").read_text().split("Cost of scoring")[1]


def test_the_discriminative_readout_is_tested_against_all_others(comparison):
    tests = _stored(comparison)["tests"]
    assert [test["second"] for test in tests] == [arm.name for arm in default_arms()[1:]] + list(BASELINES)
    results = _stored(comparison)["arms"]
    for test in tests:
        first, second = (results[test[key]]["metrics"]["mae"]["mean"] for key in ("first", "second"))
        assert test["difference"] == pytest.approx(first - second)
        assert test["low"] <= test["difference"] <= test["high"]
        assert test["p"] <= test["p_holm"] <= 1
        assert (test["verdict"] == "undecided") == (test["p_holm"] >= 0.05)
        assert test["groups"] == _stored(comparison)["videos"]


def test_every_metric_has_a_paired_test_and_a_verdict(comparison):
    stored = _stored(comparison)
    arms = {name: arm["metrics"] for name, arm in stored["arms"].items()}
    first = stored["tests"][0]["first"]
    for test in stored["tests"]:
        both = [
            key for key in arms[first] if all(arms[name][key]["mean"] is not None for name in (first, test["second"]))
        ]
        assert list(test["metrics"]) == [key for key in both if key != "mae"]
        for key, found in test["metrics"].items():
            assert found["difference"] == pytest.approx(arms[first][key]["mean"] - arms[test["second"]][key]["mean"])
            assert found["p"] <= found["p_holm"] <= 1
    assert Comparison.from_dict(stored).to_dict()["tests"] == stored["tests"]
    text = (comparison / "comparison.md").read_text()
    rival = stored["arms"][best_rival(Comparison.from_dict(stored))]["label"]
    table = text.split(f"against {rival} by the other metrics")[1].split("\n\n")[1]
    assert [line.split(" | ")[0].strip("| ") for line in table.splitlines()[2:]] == [
        *("Corr", "Acc-7", "Acc-5", "Acc-2 has0", "Acc-2 non0", "F1 has0", "F1 non0")
    ]
    assert "better by the adjusted p" in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"p_holm": 0.01, "difference": -0.3, "low": -0.5, "high": -0.1}, "One has the lower MAE."),
        ({"p_holm": 0.01, "difference": 0.3, "low": 0.1, "high": 0.5}, "Two has the lower MAE."),
        ({"p_holm": 0.3, "difference": -0.1, "low": -0.3, "high": 0.1}, "Undecided."),
        (
            {"p_holm": 0.3, "difference": -0.01, "low": -0.05, "high": 0.03},
            "No difference that matters: the interval lies within ± 0.06.",
        ),
        ({"p_holm": None, "difference": -0.3, "low": -0.5, "high": -0.1}, "No verdict from one seed"),
    ],
)
def test_the_conclusion_is_the_verdict_of_the_adjusted_test(comparison, change, sentence):
    stored = _stored(comparison)
    stored["settings"]["base_model"], stored["dataset"], stored["margin"] = "small", "cmu_mosi", 0.06
    names = [name for name, arm in stored["arms"].items() if arm["trainable_parameters"]]
    for name, label in zip(names, ("One", "Two", "Three"), strict=True):
        stored["arms"][name] |= {"label": label, "valid_mae": [0.5, 0.5] if label != "Three" else [0.9, 0.9]}
    for test in stored["tests"]:
        test |= change
    said = conclusion(Comparison.from_dict(stored))
    assert sentence in said
    assert ("adjusted for" in said) == (change["p_holm"] is not None)


def test_arms_that_learned_little_are_named_with_the_first_and_one_without_error_in_the_constant(comparison):
    stored = _stored(comparison)
    for arm, ratio in zip(stored["arms"].values(), (0.8, 0.6, None), strict=False):
        arm |= {"mae_over_constant": ratio, "trainable_parameters": 9}
    (first, _, third, *_), found = stored["arms"].values(), Comparison.from_dict(stored)
    assert f"that of the constant ({first['label']}; {third['label']})" in conclusion(found)
    ratios = [arm.mae_over_constant for arm in found.arms.values()]
    assert list(metric_table(found)["MAE / constant"]) == [ratio_text(ratio) for ratio in ratios]
    assert ratio_text(None) == ""


def test_a_reader_is_told_of_another_split_of_shared_videos_and_of_what_clips_lack(comparison):
    stored = _stored(comparison)
    stored["settings"]["group_split"] = True
    stored["environment"]["overlap"] = ["train and test share 1 video (4 clips)"]
    stored |= {"without_video": 3, "without_audio": 2}
    text = markdown(Comparison.from_dict(stored))
    assert "The clips were split anew, by video: these are not results on the official split." in text
    assert "The splits are not apart: train and test share 1 video (4 clips)." in text
    assert "test clips, 3 without picture, 2 without sound (text, audio, video)" in text
    apart = markdown(Comparison.from_dict({**_stored(comparison), "without_video": 0, "without_audio": None}))
    assert not {"split anew", "not apart", "without"} & set(
        re.findall("split anew|not apart|without (?=pic|sound)", apart)
    )


def test_p_values_are_shown_with_two_digits():
    assert [p_text(p) for p in (0.5412, 0.00082, 1e-9, 1.0)] == ["0.54", "0.00082", "below 0.0001", "1"]


def test_what_the_uncertainty_covers_is_said(comparison):
    stored = _stored(comparison)
    videos = {row["video_id"] for _, row in read_predictions(comparison / "discriminative" / "seed-0").iterrows()}
    assert stored["videos"] == len(videos) > 1
    assert (
        f"for new videos and new trainings together; they rest on {stored['videos']} videos and 2 seeds."
        in markdown(Comparison.from_dict(stored))
    )
    text = Comparison.from_dict({**stored, "videos": None, "seeds": [0]}).covers
    assert text == (
        f"Intervals hold for new clips, not for new trainings; they rest on {stored['n']} clips and one seed."
        " Clips are taken as independent: their videos are not known, or there is only one."
    )


def test_the_power_of_a_finished_comparison_is_that_of_the_noise_between_two_arms(comparison):
    def table(folder=comparison, *, rival=None, videos=None, **sds):
        return power_of(0.2, folder, rival=rival, videos=videos, seeds=[2, 40], target=0.8, **sds)

    stored = _stored(comparison)
    rival = "generative-trained-expected"
    test = next(test for test in stored["tests"] if test["second"] == rival)
    noise = Noise.of(ArmTest.from_dict(test).paired)
    found, alpha = table(rival=rival), 0.05 / len(stored["tests"])
    assert f"noise between discriminative and {stored['arms'][rival]['label']}" in found
    assert f"| 40 seeds | {power(0.2, noise, videos=stored['videos'], seeds=40, alpha=alpha):.2f} |" in found
    assert f"| power with {stored['videos']} videos | videos for a power of 0.8 |" in found
    assert f"p is adjusted for {len(stored['tests'])} tests" in found
    assert "standard deviation 0.100 between videos and 0.010 between seeds" in table(None, video_sd=0.1, seed_sd=0.01)
    assert "and 0.010 between seeds" in table(seed_sd=0.01)
    assert "power with 7 videos" in table(videos=7)
    with pytest.raises(ValueError, match=r"rival: expected one of generative-trained-greedy, .*, not 'none'"):
        table(rival="none")
    shown = CliRunner().invoke(app, ["power", str(comparison), "--difference", "0.2", "--rival", rival, "--seeds", "2"])
    assert shown.output.splitlines()[:3] == found.splitlines()[:3]
    with pytest.raises(ValueError, match="seeds: a verdict needs at least 2, not 1"):
        power_of(0.2, comparison, seeds=[1, 3], target=0.8)
    with pytest.raises(ValueError, match="rival: name the folder of a finished comparison too"):
        table(None, rival=rival)
    with pytest.raises(ValueError, match="or both --video-sd and --seed-sd"):
        table(None, seed_sd=0.1)
    with pytest.raises(FileNotFoundError, match=r"comparison.json: no such file; expected the folder of a finished"):
        table(comparison / "discriminative")


def test_a_comparison_of_several_targets_is_named_where_one_is_expected(comparison, tmp_path):
    for name in ("arousal", "valence"):
        (tmp_path / "targets" / name).mkdir(parents=True)
        shutil.copy(comparison / "comparison.json", tmp_path / "targets" / name)
    with pytest.raises(FileNotFoundError, match=r"expected one of its targets: \S+/arousal, \S+/valence$"):
        read_comparison(tmp_path / "comparison.json")


def test_tests_of_an_earlier_version_are_refused_with_what_to_do(comparison, tmp_path):
    stored = _stored(comparison)
    del stored["tests"][0]["p"]
    stored["tests"][0] |= {"p_clips": 0.01, "p_seeds": 0.2, "p_clips_holm": 0.02}
    (tmp_path / "comparison.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"comparison.json: written by an earlier version, .* omnisent compare again"):
        read_comparison(tmp_path / "comparison.json")


def test_the_markdown_shows_the_figures_of_the_json(comparison):
    stored, text = _stored(comparison), (comparison / "comparison.md").read_text()
    for arm in stored["arms"].values():
        row = next(line for line in text.splitlines() if line.startswith(f"| {arm['label']} |"))
        assert f" {arm['metrics']['mae']['mean']:.3f} " in row
    assert conclusion(Comparison.from_dict(stored)) in text
    assert " test clips, 1 without picture, 1 without sound (text, audio, video);" in text
    stored["settings"]["genres"] = ["tweets", "editorials"]
    stored |= {"without_video": None, "without_audio": None}
    assert " test clips of tweets, editorials (text, audio, video);" in markdown(Comparison.from_dict(stored))
    assert (comparison / "comparison.png").stat().st_size > 10_000


def test_a_written_comparison_is_read_back_unchanged(comparison):
    text = (comparison / "comparison.json").read_text()
    read = Comparison.from_dict(json.loads(text))
    assert json.dumps(read.to_dict(), indent=2, ensure_ascii=False) + "\n" == text
    assert read == summarise(comparison, [0, 1], DatasetFacts("any", "Any"))
    assert [name for name, arm in read.arms.items() if arm.is_baseline] == list(BASELINES)


def test_finished_runs_are_not_repeated(comparison, short_config, capfd):
    before = {path: path.stat().st_mtime_ns for path in comparison.rglob("metrics.json")}
    compare([str(short_config)], [0, 1], comparison)
    assert {path: path.stat().st_mtime_ns for path in comparison.rglob("metrics.json")} == before
    assert capfd.readouterr().err.count("already finished") == 10


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_frames", 8),
        ("instruction", "Say how it feels."),
        ("lora_alpha", 64),
        ("max_steps", 5),
        ("complete_clips", True),
    ],
)
def test_runs_with_other_data_prompt_adapter_or_budget_are_refused_by_the_field(comparison, short_config, field, value):
    with pytest.raises(ValueError, match=rf"discriminative/seed-0 holds a run with {field} .*give another --out"):
        compare([str(short_config), f"--{field}", str(value)], [0, 1], comparison)


def test_a_run_made_before_a_field_existed_has_its_default(comparison, short_config, tmp_path):
    before = tmp_path / "before"
    shutil.copytree(comparison, before)
    for path in before.rglob("config.yaml"):
        fields = yaml.safe_load(path.read_text())
        del fields["pooling"]
        path.write_text(yaml.safe_dump(fields))
    compare([str(short_config)], [0, 1], before)
    assert json.loads((before / "comparison.json").read_text()) == json.loads(
        (comparison / "comparison.json").read_text()
    )


@pytest.mark.parametrize(
    "names", [OWN_FIELDS, SAME_FOR_ALL, IGNORED_FIELDS, SAME_FIELDS, MAIN_SETTINGS, PRIVATE_FIELDS]
)
def test_lists_of_fields_name_fields_that_a_run_has(short_config, names):
    assert set(names) <= config_dict(*parse_arguments([str(short_config)])).keys()


def test_finished_folders_are_compared_only_when_they_are_comparable(comparison, tmp_path):
    ours, theirs = comparison / "discriminative" / "seed-0", tmp_path / "theirs"
    shutil.copytree(comparison / "generative-trained-greedy" / "seed-0", theirs)
    check_comparable([ours, theirs], OWN_FIELDS)
    config = yaml.safe_load((theirs / "config.yaml").read_text())
    (theirs / "config.yaml").write_text(yaml.safe_dump({**config, "lora_dropout": 0.5}))
    with pytest.raises(ValueError, match=r"theirs and .*seed-0 cannot be compared: lora_dropout is 0.5 in one"):
        check_comparable([ours, theirs], OWN_FIELDS)
    (theirs / "config.yaml").write_text(yaml.safe_dump(config))
    rows = (theirs / "predictions.csv").read_text().splitlines()
    (theirs / "predictions.csv").write_text("\n".join([rows[0], *rows[2:], rows[1]]) + "\n")
    with pytest.raises(ValueError, match=r"the ids and labels in predictions\.csv of their clips differ"):
        check_comparable([ours, theirs], OWN_FIELDS)
    (theirs / "predictions.csv").write_text("\n".join(rows) + "\n")
    environment = read_environment(theirs)
    write_json(
        theirs / "environment.json", {**environment, "fingerprints": {**environment["fingerprints"], "media": "0"}}
    )
    with pytest.raises(ValueError, match="the media of their clips differ"):
        check_comparable([ours, theirs], OWN_FIELDS)
    with pytest.raises(ValueError, match="the media of their clips differ"):  # the same build, made again
        check_comparable([ours, theirs], [*OWN_FIELDS, "dataset"])
    (theirs / "config.yaml").write_text(yaml.safe_dump({**config, "dataset": "another/build"}))
    check_comparable([ours, theirs], [*OWN_FIELDS, "dataset"])
    other_words = {**environment["fingerprints"], "media": "0", "transcripts": "0"}
    write_json(theirs / "environment.json", {**environment, "fingerprints": other_words})
    with pytest.raises(ValueError, match="the transcripts of their clips differ"):
        check_comparable([ours, theirs], [*OWN_FIELDS, "dataset"])


def test_an_arm_may_have_another_build_of_the_same_data_set_only(short_config, tmp_path):
    arms = [Arm("plain", "plain", {}), Arm("denoised", "denoised", {"dataset": "cmu_mosi"})]
    with pytest.raises(
        ValueError, match=r"arm denoised: dataset cmu_mosi is cmu_mosi, not .*clips; expected another build"
    ):
        compare([str(short_config)], [0], tmp_path, arms=arms)


def test_a_comparison_starts_from_the_base_model(short_config, tmp_path):
    with pytest.raises(ValueError, match="adapter: every arm of a comparison starts from the base model"):
        compare([str(short_config), "--adapter", "x"], [0], tmp_path)


def test_a_run_that_fails_is_named_with_its_own_message(short_config, tmp_path):
    with pytest.raises(RuntimeError, match=r"^discriminative, seed 0: 'nowhere' is neither a data set .*of clips; .*$"):
        compare([str(short_config), "--dataset", "nowhere"], [0], tmp_path / "out")


@pytest.mark.slow
def test_a_killed_comparison_resumes_to_the_same_result(comparison, short_config, tmp_path):
    out = tmp_path / "killed"
    for done in ("discriminative/seed-0", "discriminative/seed-1", "generative-trained-greedy/seed-0"):
        shutil.copytree(comparison / done, out / done)  # which are not repeated
    command = [sys.executable, "-c", COMMAND, "compare", str(short_config), "--seeds", "0", "1", "--out", str(out)]
    checkpoint = out / "generative-trained-greedy" / "seed-1" / "checkpoint-2"
    kill_at(checkpoint, command)
    assert not (out / "comparison.json").exists()
    assert not (checkpoint.parent / "metrics.json").exists()
    compare([str(short_config)], [0, 1], out)
    whole, resumed = _stored(comparison), _stored(out)
    for stored in (whole, resumed):
        del stored["costs"]
    assert resumed == whole
