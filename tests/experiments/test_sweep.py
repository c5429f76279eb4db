"""Tuning: the same number of trials for each arm, validation alone, resumed after a kill, and used by a comparison."""

import json
import sys

import optuna
import pytest
import yaml

from omnisent.evaluation.comparison_result import Comparison
from omnisent.experiments.arms import Arm, read_arms
from omnisent.experiments.comparison import compare
from omnisent.experiments.report import write_report
from omnisent.experiments.sweep import read_space, sweep
from omnisent.experiments.tuned import tuned_arms
from omnisent.training.run_folder import read_config, read_metrics
from runs import kill_at

ARMS = [
    Arm("head", "head", {}),
    Arm("written", "written", {"readout": "generative", "decoding": "expected"}),
    Arm("written-median", "median", {"readout": "generative", "decoding": "median", "evaluate_only": True}, "written"),
]
SPACE = "learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}\nlora_r: {choices: [2, 4]}\n"


@pytest.fixture(scope="module")
def config(short_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    fields = {**yaml.safe_load(short_config.read_text()), "modalities": ["text"], "on_bad_clip": "skip"}
    (folder / "run.yaml").write_text(yaml.safe_dump(fields))
    (folder / "space.yaml").write_text(SPACE)
    return folder / "run.yaml"


@pytest.fixture(scope="module")
def swept(config):
    out = config.parent / "out"
    return out, sweep([str(config)], out, trials=2, arms=ARMS, space=config.parent / "space.yaml")


def test_every_arm_that_trains_has_the_same_number_of_trials_on_validation_alone(swept):
    out, found = swept
    assert json.loads((out / "sweep.json").read_text()) == json.loads(json.dumps(found))
    assert list(found["arms"]) == ["head", "written"]
    for name, arm in found["arms"].items():
        assert [one["trial"] for one in arm["trials"]] == [0, 1]
        best = min((one for one in arm["trials"] if one["value"] is not None), key=lambda one: one["value"])
        assert arm["best"] == {"trial": best["trial"], "value": best["value"], "settings": best["settings"]}
        assert arm["seconds"] == pytest.approx(sum(one["seconds"] for one in arm["trials"]))
        for one in arm["trials"]:
            folder = out / name / f"trial-{one['trial']}"
            assert not (folder / "predictions.csv").exists()
            assert (folder / "valid_predictions.csv").exists()
            metrics, used = read_metrics(folder), read_config(folder)
            assert metrics["split"] == "valid"
            assert metrics["valid_mae"] == metrics["mae"] == one["value"]
            assert {field: used[field] for field in one["settings"]} == one["settings"]
    first = [arm["trials"][0]["settings"] for arm in found["arms"].values()]
    assert first[0] == first[1]  # no arm has luckier first settings
    assert "The test split was not touched." in (out / "sweep.md").read_text()
    assert "Tuning of 2 arms" in write_report([out], out / "report.html").read_text()


def test_a_finished_sweep_runs_nothing_again_and_more_trials_are_added(swept, config):
    out, found = swept
    before = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}
    again = sweep([str(config)], out, trials=2, arms=ARMS, space=config.parent / "space.yaml")
    assert again["arms"] == found["arms"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")} == before


@pytest.mark.slow
def test_a_comparison_uses_the_best_settings_of_each_arm(swept, config):
    out, found = swept
    tuned = tuned_arms(ARMS, out / "sweep.json", [str(config)])
    for arm, by in zip(tuned, ("head", "written", "written"), strict=True):
        assert {**arm.fields, **found["arms"][by]["best"]["settings"]} == arm.fields
    (compared,) = compare([str(config)], [0], out / "compared", arms=ARMS, settings=out / "sweep.json")
    assert {name: tuning.best for name, tuning in compared.tuning.items()} == {
        name: arm["best"]["value"] for name, arm in found["arms"].items()
    }
    assert Comparison.from_dict(compared.to_dict()) == compared
    assert "Tuning, on validation alone" in (out / "compared" / "comparison.md").read_text()
    used = read_config(out / "compared" / "written-median" / "seed-0")
    assert used["lora_r"] == found["arms"]["written"]["best"]["settings"]["lora_r"]
    with pytest.raises(ValueError, match="has not tuned the arm head with these fields"):
        tuned_arms([Arm("head", "head", {"loss": "mse"})], out / "sweep.json", [str(config)])
    with pytest.raises(FileNotFoundError, match=r"expected the sweep.json"):
        tuned_arms(ARMS, out / "none.json", [str(config)])
    with pytest.raises(ValueError, match=r"it was tuned with dataset .*, not 'planted'"):
        tuned_arms(ARMS, out / "sweep.json", [str(config), "--dataset", "planted"])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"lora_alpha": 64}, "lora_alpha"),
        ({"space": "lora_r: {choices: [2]}"}, "space"),
        ({"arm": {"loss": "mse"}}, "arm"),
    ],
)
def test_a_folder_with_trials_of_something_else_is_refused(swept, config, tmp_path, change, what):
    out, _ = swept
    space, arms = config.parent / "space.yaml", ARMS
    if "space" in change:
        space = tmp_path / "space.yaml"
        space.write_text(change["space"])
    if "arm" in change:
        arms = [Arm("head", "head", change["arm"])]
    options = ["--lora_alpha", "64"] if what == "lora_alpha" else []
    with pytest.raises(ValueError, match=f"holds trials of head with another {what}"):
        sweep([str(config), *options], out, trials=2, arms=arms, space=space)


def test_a_trial_that_fails_counts_and_the_next_one_runs(config, tmp_path, capfd):
    (tmp_path / "space.yaml").write_text("learning_rate: {choices: [1.0e+30, 1.0e-3]}")
    found = sweep([str(config)], tmp_path / "out", trials=4, arms=ARMS[:1], space=tmp_path / "space.yaml")
    states = {(one["settings"]["learning_rate"], one["state"]) for one in found["arms"]["head"]["trials"]}
    assert (1e30, "fail") in states
    assert (1e-3, "complete") in states
    assert "counts as failed" in capfd.readouterr().err


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_the_trial_it_was_in(config, tmp_path):
    code = (
        "import sys; from omnisent.experiments.sweep import sweep; from omnisent.experiments.arms import read_arms;"
        "sweep(sys.argv[1:2], sys.argv[2], trials=2, arms=read_arms(sys.argv[3]), space=sys.argv[4])"
    )
    (tmp_path / "arms.yaml").write_text(
        "arms:\n  - name: head\n  - name: zero\n    readout: generative\n    evaluate_only: true\n"
    )
    space = str(config.parent / "space.yaml")
    command = [sys.executable, "-c", code, str(config), str(tmp_path / "out"), str(tmp_path / "arms.yaml"), space]
    kill_at(tmp_path / "out" / "head" / "trial-0" / "checkpoint-2", command)
    found = sweep([str(config)], tmp_path / "out", trials=2, arms=read_arms(tmp_path / "arms.yaml"), space=space)
    assert [one["state"] for one in found["arms"]["head"]["trials"]] == ["complete", "complete"]
    assert sorted(path.name for path in (tmp_path / "out" / "head").iterdir() if path.is_dir()) == [
        "trial-0",
        "trial-1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("looss: {low: 1, high: 2}", "looss: there is no field"),
        ("lora_r: 3", "lora_r: expected `low` and `high`"),
        ("learning_rate: {low: x, high: 2}", "learning_rate must be a number"),
        ("learning_rate: {low: 2.0, high: 1.0}", "learning_rate: "),
        ("", "expected at least one field"),
    ],
)
def test_a_wrong_space_is_refused_by_the_field(tmp_path, text, message):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"space\.yaml: .*{message}"):
        read_space(tmp_path / "space.yaml")
    (tmp_path / "space.yaml").write_text(SPACE)
    space = read_space(tmp_path / "space.yaml")
    assert space["lora_r"] == optuna.distributions.CategoricalDistribution([2, 4])
    assert space["learning_rate"].log
    (tmp_path / "space.yaml").write_text("lora_r: {low: 4, high: 64, log: true}")
    assert read_space(tmp_path / "space.yaml")["lora_r"] == optuna.distributions.IntDistribution(4, 64, log=True)
