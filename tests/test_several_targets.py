"""Two targets in a foreign table, without splits: compared, reported, published and scored by the same commands as one."""

import csv
import json
import logging
import re
import shutil

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from omnisent import cli
from omnisent.evaluation.comparison_result import comparison_folders, read_comparison
from omnisent.evaluation.intervals import cross_fitted, half_width
from omnisent.evaluation.metrics import msa_metrics
from omnisent.experiments.comparison import compare
from omnisent.experiments.probe import probe
from omnisent.experiments.report import write_report
from omnisent.hub.card import model_card
from omnisent.hub.card_metadata import eval_results
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.scoring.loading import Loading, load_pipeline
from omnisent.train import run
from omnisent.training import run_folder
from omnisent.training.arguments import parse_arguments
from omnisent.training.data import prepare_data

COLUMNS = {
    "id": "Nr",
    "text": "Äußerung",
    "video": "Datei",
    "video_id": "Sendung",
    "valence": "Valenz",
    "arousal": "Erregung",
}
TARGETS = ["valence", "arousal"]


@pytest.fixture(scope="session")
def foreign(shared, planted_clips):
    """A table as a German spreadsheet writes it: UTF-16, semicolons, decimal commas; every fifth clip has no arousal."""

    def write(path) -> None:
        with path.open("w", encoding="utf-16", newline="") as file:
            rows = csv.writer(file, delimiter=";")
            rows.writerow(COLUMNS.values())
            for place, clip in enumerate(planted_clips):
                numbers = [5 + clip.label * 4 / 3, "" if place % 5 == 0 else 5 - clip.label]
                cells = [f"{number:.2f}".replace(".", ",") if number != "" else "" for number in numbers]
                rows.writerow([clip.id, clip.text, clip.video, clip.video_id, *cells])

    return shared("umfrage.csv", write)


@pytest.fixture(scope="session")
def foreign_config(shared, short_run, tiny_backbone, foreign):
    fields = {
        **short_run,
        "base_model": str(tiny_backbone),
        "dataset": str(foreign),
        "columns": COLUMNS,
        "decimal": ",",
        "targets": TARGETS,
        "score_range": [1, 9],
        "auto_split": "40/40/20",
        "max_pixels": 56 * 56,
        "balance": "inverse_density",
        "target_weights": [1, 2],
    }
    return shared("foreign.yaml", lambda path: path.write_text(yaml.safe_dump(fields, allow_unicode=True)))


@pytest.fixture(scope="session")
def compared(shared, foreign_config):
    return shared("several", lambda out: compare([str(foreign_config)], [0, 1], out))


@pytest.fixture(scope="session")
def folder(compared):
    return compared / "discriminative" / "seed-0"


def test_a_run_has_metrics_and_rows_of_each_target_and_means_over_them(folder):
    metrics = run_folder.read_metrics(folder)
    assert list(metrics["targets"]) == TARGETS
    maes = []
    for place, name in enumerate(TARGETS):
        table, own = run_folder.read_predictions(folder, target=name), metrics["targets"][name]
        expected = msa_metrics(table["score"], table["label"], convention="generic")
        assert {key: own[key] for key in expected} == pytest.approx(expected, nan_ok=True)
        assert own["n"] == len(table) == (metrics["n"] if place == 0 else len(table))
        assert table["score"].between(1, 9).all()
        maes.append(own["mae"])
        valid = run_folder.read_predictions(folder, split="valid", target=name)
        assert own["valid_mae"] == pytest.approx(np.mean(np.abs(valid["score"] - valid["label"])))
    assert metrics["mae"] == pytest.approx(np.mean(maes))
    assert metrics["targets"]["arousal"]["n"] < metrics["n"]
    with pytest.raises(ValueError, match="has the targets valence, arousal; name one of them, not None"):
        run_folder.read_predictions(folder)
    state = json.loads((folder / "trainer_state.json").read_text())
    logged = next(entry for entry in state["log_history"] if "eval_mae" in entry)
    assert logged["eval_mae"] == pytest.approx((logged["eval_valence_mae"] + logged["eval_arousal_mae"]) / 2)


def test_the_clips_are_split_by_video_and_the_split_is_written(folder, planted_clips):
    with (folder / "splits.csv").open(newline="") as file:
        split_of = {row["id"]: row["split"] for row in csv.DictReader(file)}
    assert set(split_of) == {clip.id for clip in planted_clips}
    videos = {}
    for clip in planted_clips:
        videos.setdefault(clip.video_id, set()).add(split_of[clip.id])
    assert {len(splits) for splits in videos.values()} == {1}
    assert set(run_folder.read_predictions(folder, target="valence")["id"]) == {
        name for name, split in split_of.items() if split == "test"
    }


def test_the_bundle_knows_its_targets_and_is_calibrated_for_each(folder):
    config = load_pipeline(Loading(str(folder / "model"))).model.config
    assert (config.num_labels, config.id2label, config.problem_type) == (2, {0: "valence", 1: "arousal"}, "regression")
    assert config.score_min == [1.0, 1.0]
    assert config.target_weights == [1.0, 2.0]
    environment = run_folder.read_environment(folder)
    assert set(environment["targets"]) == set(TARGETS)
    with (folder / "valid_predictions.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    every = {name: np.array([float(row[f"{name}_label"] or "nan") for row in cells]) for name in TARGETS}
    videos = [row["video_id"] for row in cells]
    files = sorted((folder / "validation").glob("*.npy"), key=lambda path: int(path.stem))
    rows = [np.load(path) for path in files]
    assert rows[0].shape == (len(cells), 2, 1)
    for place, name in enumerate(TARGETS):
        valid = run_folder.read_predictions(folder, split="valid", target=name)
        assert config.calibration_of(name)["clips"] == len(valid)
        labels = np.stack([every[one] for one in TARGETS], axis=1)
        fitted = cross_fitted(rows, labels, videos, metric="mae", conventions=["generic", "generic"])[:, place, 0]
        known = ~np.isnan(labels[:, place])
        reach = half_width(fitted[known], labels[known, place], 0.9, list(np.array(videos)[known]))
        assert config.calibration_of(name)["half_widths"]["0.9"] == pytest.approx(reach, abs=1e-5)
        own, test = run_folder.read_metrics(folder, name), run_folder.read_predictions(folder, target=name)
        reach = config.calibration_of(name)["half_widths"]["0.9"]
        assert own["interval_coverage"] == np.mean(np.abs(test["score"] - test["label"]) <= reach)
        ends = np.clip(np.array([test["score"] - reach, test["score"] + reach]), 1, 9)
        assert own["interval_width"] == pytest.approx(np.mean(ends[1] - ends[0]), abs=1e-5)


def test_pipeline_and_command_score_all_targets(folder, foreign, tmp_path):
    pipe: MultimodalSentimentPipeline = load_pipeline(Loading(str(folder / "model"), device="cpu", dtype="float32"))
    result = pipe({"text": "It was good."}, interval=0.5)
    assert result["scores"].keys() == result["low"].keys() == result["high"].keys() == set(TARGETS)
    out, headers = tmp_path / "scores.csv", ",".join(f"{name}={header}" for name, header in COLUMNS.items())
    command = ["score", "--table", str(foreign), "--columns", headers, "--decimal", ",", "--out", str(out)]
    done = CliRunner().invoke(cli.app, [*command, "--model", str(folder / "model")])
    assert done.exit_code == 0, done.output
    with out.open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    for name in TARGETS:
        table = run_folder.read_predictions(folder, target=name)
        again = [float(rows[clip][name]) for clip in table["id"]]
        assert again == pytest.approx(table["score"].tolist(), abs=1e-3)


def test_each_target_is_compared_by_itself(compared, foreign_config):
    folders = comparison_folders(compared)
    assert [folder.name for folder in folders] == sorted(TARGETS)
    for folder in folders:
        comparison, name = read_comparison(folder / "comparison.json"), folder.name
        assert (comparison.target, comparison.convention, comparison.margin) == (name, "generic", 0.08)
        for arm, result in comparison.arms.items():
            seeds = (
                [compared / arm / f"seed-{seed}" for seed in result.seeds]
                if not result.is_baseline
                else [compared / arm]
            )
            maes = [run_folder.read_metrics(one)["targets"][name]["mae"] for one in seeds]
            assert result.mae == pytest.approx(np.mean(maes), abs=1e-6), arm
            valid = [run_folder.read_metrics(one)["targets"][name]["valid_mae"] for one in seeds]
            assert result.valid_mae == valid, arm
        constant = run_folder.read_predictions(compared / "constant", target=name)["score"]
        assert set(constant) == {run_folder.read_environment(compared / "constant", name)["train_median"]}
        assert f"umfrage.csv, {name}" in (folder / "comparison.md").read_text().splitlines()[0]
        assert (folder / "comparison.png").stat().st_size > 10_000
    for file in compared.glob("*/seed-0/answers.csv"):
        assert file.read_text().startswith("id,target,label,answer,parsed")
    again = compare([str(foreign_config)], [0, 1], compared)
    assert [comparison.target for comparison in again] == TARGETS


def test_the_report_has_a_section_for_each_target_and_one_for_a_run(compared, folder, tmp_path):
    text = write_report([compared, folder], tmp_path / "report.html").read_text()
    for name in TARGETS:
        assert f"umfrage.csv, {name}" in text
        assert f"score of {name}" in text
        own = run_folder.read_metrics(folder, name)
        assert f"{name}: MAE {own['mae']:.3f}, correlation {own['corr']:.3f} on {own['n']} test clips." in text


def test_the_card_has_scales_and_results_of_each_target(folder):
    card = model_card(folder, "org/name", base_model="org/base")
    assert "Scores valence and arousal that a speaker expresses" in card
    assert "| valence | 1 | 9 | **" in card
    assert "### arousal: " in card
    of_arousal = card.partition("### arousal: ")[2]
    own = run_folder.read_metrics(folder, "arousal")
    assert f"| this model | {own['mae']:.3f} | {own['rmse']:.3f} |" in of_arousal
    compared = read_comparison(folder.parents[1] / "targets" / "arousal" / "comparison.json").arms["discriminative"]
    assert f"| discriminative | {compared.metrics['mae'].text} ({compared.metrics['mae'].interval}) |" in of_arousal
    assert "neutral" not in card
    front = yaml.safe_load(card.split("---")[1])
    names = [metric["name"] for metric in front["model-index"][0]["results"][0]["metrics"]]
    assert {"MAE of valence", "MAE of arousal"} <= set(names)
    tests = [entry["dataset"]["task_id"] for entry in yaml.safe_load(eval_results(folder))]
    assert {"test_valence_mae", "test_arousal_mae"} <= set(tests)


def test_a_correlation_that_is_not_defined_is_left_empty_on_the_card(folder, tmp_path):
    run = tmp_path / "comparison" / "arm" / "run"
    shutil.copytree(folder, run, ignore=shutil.ignore_patterns("checkpoint*"))
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["targets"]["arousal"]["corr"] = None
    (run / "metrics.json").write_text(json.dumps(metrics))
    predictions = run / run_folder.PREDICTIONS["test"]
    with predictions.open(newline="") as file:
        rows = [{**row, "arousal": "5.0"} for row in csv.DictReader(file)]
    with predictions.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    card = model_card(run, "org/name", base_model="org/base")
    assert re.search(r"^\| arousal \| 1 \| 9 \| \*\*[^|]*\|  \| \d", card, re.MULTILINE)


def test_one_target_on_a_scale_without_two_sides(foreign_config, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    argv = [str(foreign_config), "--targets", "valence", "--target_weights", "1", "--output_dir", str(tmp_path / "run")]
    columns = json.dumps({name: header for name, header in COLUMNS.items() if name != "arousal"})
    run(*parse_arguments([*argv, "--columns", columns, "--max_steps", "2"]))
    metrics = run_folder.read_metrics(tmp_path / "run")
    assert "targets" not in metrics
    assert metrics["ccc"] is not None
    pipe = load_pipeline(Loading(str(tmp_path / "run" / "model"), device="cpu"))
    result = pipe({"text": "It was good."})
    assert result["label"] == "valence"
    assert 1 <= result["score"] <= 9
    card = model_card(tmp_path / "run", "org/name", base_model="org/base")
    assert "as a number in\n[1, 9].\n" in card
    assert "The pipeline's label is `valence`." in card


def test_a_table_without_splits_and_a_scale_that_does_not_fit_get_advice(foreign_config):
    with pytest.raises(ValueError, match=r"no usable clip in the train split.*`auto_split: 80/10/10` splits a table"):
        _prepared(foreign_config, "auto_split")
    with pytest.raises(ValueError, match=r"clips without a label for valence in \[1.0, 5.0\].*set score_range"):
        _prepared(foreign_config, score_range=[1, 5])


def _prepared(config, *without: str, **changes):
    """The clips of the settings in a file without some fields and with others."""
    fields = {name: value for name, value in yaml.safe_load(config.read_text()).items() if name not in without}
    path = config.with_name(f"changed-{'-'.join([*without, *changes])}.yaml")
    path.write_text(yaml.safe_dump({**fields, **changes}, allow_unicode=True))
    return prepare_data(*parse_arguments([str(path)]))


def test_a_probe_refuses_several_targets(foreign_config, tmp_path):
    with pytest.raises(ValueError, match="targets: a probe takes one target, not 2"):
        probe([str(foreign_config)], tmp_path / "probe")
    columns = json.dumps({name: header for name, header in COLUMNS.items() if name != "arousal"})
    one = ["--targets", "valence", "--target_weights", "1", "--columns", columns]
    found = probe([str(foreign_config), *one], tmp_path / "probe")
    assert 0 < found.constant_mae < 4  # on a scale without 0


def test_a_run_goes_on_with_what_it_began_with(folder, foreign_config, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    argv = [str(foreign_config), "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint", "true"]
    for field, values, before in (
        ("score_range", ["0", "10"], r"\[1.0, 9.0\]"),
        ("target_weights", ["1", "1"], r"\[1.0, 2.0\]"),
        ("loss", ["mse"], "l1"),
    ):
        with pytest.raises(ValueError, match=f"run: {field} was {before} when this run began, and is "):
            run(*parse_arguments([*argv, f"--{field}", *values]))
