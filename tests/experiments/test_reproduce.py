"""The paper by one command: what is needed, what is done, and every figure of its tables beside ours."""

import json
import re

import pytest
import torch
import yaml
from typer.testing import CliRunner

from omnisent.cli import app
from omnisent.data.built import REPORT_NAME
from omnisent.experiments.ablation import planned_runs
from omnisent.experiments.arms import read_arms
from omnisent.experiments.paper import ROWS
from omnisent.experiments.reproduce import SEEDS, Figure, Reproduction, _over_seeds, figures_of, needs, reproduce
from omnisent.training.arguments import parse_arguments
from omnisent.training.field_names import CONFIGS
from omnisent.training.run_folder import config_dict

PAPER = sorted((CONFIGS / "paper").glob("*.yaml"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every step, with the tiny backbone and few made-up clips."""
    out = tmp_path_factory.mktemp("paper") / "out"
    command = ["reproduce", "cmu_mosi", "--tiny", "--out", str(out), "--seeds", "0"]
    done = CliRunner().invoke(app, [*command, "--max_steps", "1", "--disable_tqdm", "true"])
    assert done.exit_code == 0, done.output
    return out, done.output


@pytest.mark.slow
def test_every_row_of_the_papers_tables_is_filled(made):
    out, said = made
    stored = json.loads((out / "reproduction.json").read_text())["figures"]
    published = [(row.table, row.row, metric) for row in ROWS["cmu_mosi"] for metric in row.figures]
    assert [(figure["table"], figure["row"], figure["metric"]) for figure in stored] == published
    assert all(figure["ours"] is not None for figure in stored)
    assert {figure["verdict"] for figure in stored} == {""}  # of made-up clips
    assert "These figures say nothing about the paper" in (out / "reproduction.md").read_text()
    assert (out / "reproduction.md").read_text() in said
    assert "<td>best of four seeds</td>" in (out / "report.html").read_text()
    again = figures_of("cmu_mosi", out)
    assert [figure.ours for figure in again] == [figure["ours"] for figure in stored]


def test_what_is_missing_is_said_with_what_to_do(tmp_path):
    job = Reproduction("cmu_mosi", None, tmp_path / "out")
    found = {need.what: need for need in needs(job)}
    assert "--root DIR" in found["the clips of cmu_mosi"].to_do
    assert "Qwen/Qwen2.5-Omni-7B" in "".join(found)
    time = found["time"].found
    assert time.startswith("40 trainings to do")  # three arms and seven subsets, of four seeds
    if not torch.cuda.is_available():
        assert "there is no GPU here" in found["this machine"].found
        assert "--use_cpu true" in found["this machine"].to_do
    assert re.search(r"H100 [\d,]+, RTX 5090 [\d,]+, RTX 4090 [\d,]+, CPU", time)
    done = CliRunner().invoke(app, ["reproduce", "cmu_mosi", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_a_dry_run_shows_the_plan_and_makes_nothing(tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["reproduce", "cmu_mosei", "--root", str(tmp_path), "--out", str(out), "--dry-run"])
    assert done.exit_code == 0, done.output
    for part in (
        "MISSING the clips of cmu_mosei",
        "readouts: 12 trainings, 21 results",
        "reproduction.md and .json, report.html",
    ):
        assert part in done.output
    assert "ablation" not in done.output  # the paper's tables for CMU-MOSEI have none
    assert not out.exists()


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_config_of_a_row_is_that_of_the_reproduction(path, tmp_path):
    """Each file is complete, and differs from what `reproduce` runs in what its row is about."""
    own = config_dict(*parse_arguments([str(path), "--use_cpu", "true"], on_this_machine=False))
    name = f"cmu_{path.stem.split('_')[0]}"
    job = Reproduction(name, None, tmp_path)
    arms = {arm.name: arm for arm in job.arms}
    arm = {"trained": "written", "shot": "zero-shot", "headline": "head-denoised"}.get(path.stem.split("_")[-1], "head")
    argv = [*job.argv, *arms[arm].argv]
    if "_text" in path.stem:
        ablated = {
            run.folder.parent.name: run for run in planned_runs(job.argv, [0], tmp_path) if "train" in run.folder.parts
        }
        argv = list(ablated["-".join(own["modalities"])].argv)
    used = config_dict(*parse_arguments([*argv, "--use_cpu", "true"], on_this_machine=False))
    assert {field for field in own if own[field] != used[field]} <= {"output_dir", "dataset", "root", "run_name"}
    assert re.search(
        r"^# paper: as published \(arXiv 2606\.05713\)\. ours: not published", path.read_text(), re.MULTILINE
    )
    marked = [
        line for line in path.read_text().splitlines() if re.match(r"[a-z_]+:", line) and "output_dir" not in line
    ]
    unmarked = {line.split(":")[0] for line in marked if "# paper" not in line and "# ours" not in line}
    assert unmarked <= {"dataset", "root", "modalities", "readout", "evaluate_only"}
    assert yaml.safe_load(path.read_text())["seed"] == SEEDS[0]


def test_a_figure_agrees_if_the_papers_lies_in_our_interval():
    def verdict(paper, ours, low, high):
        return Figure("t", "r", "mae", paper, ours, low, high, "").verdict

    assert verdict(0.6, 0.65, 0.58, 0.7) == "agrees"
    assert verdict(0.6, 0.65, 0.61, 0.7) == "ours is higher"
    assert verdict(0.6, 0.5, 0.45, 0.59) == "ours is lower"
    assert verdict(0.6, 0.65, None, None) == verdict(0.6, None, None, None) == ""


def test_the_arms_of_the_paper_are_trained_once_each_and_finished_ones_are_not_counted(tmp_path):
    job = Reproduction("cmu_mosi", None, tmp_path)
    assert [arm.name for arm in job.arms] == [*(arm.name for arm in read_arms("paper")), "head-denoised"]
    assert job.trainings() == (3 + 7) * 4
    for folder in (tmp_path / "readouts" / "head" / "seed-1", tmp_path / "ablation" / "train" / "text" / "seed-0"):
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("{}")
    assert job.trainings() == (3 + 7) * 4 - 2


def test_the_interval_is_that_of_other_trainings_and_the_best_seed_has_none():
    mean, low, high = _over_seeds([0.55, 0.57, 0.58, 0.60])
    assert mean == pytest.approx(0.575)
    assert high - mean == pytest.approx(3.182 * 0.02082 / 2, rel=1e-3)  # t of three degrees of freedom
    assert mean - low == pytest.approx(high - mean)
    assert _over_seeds([0.5]) == (0.5, None, None)
    assert _over_seeds([0.5, None]) == (None, None, None)


@pytest.mark.parametrize(("name", "denoise"), [("cmu_mosi", "none"), ("planted", "spectral")])
def test_the_data_of_another_reproduction_are_refused(tmp_path, name, denoise):
    (tmp_path / "data").mkdir()
    record = {"name": name, "denoise": denoise, "with_media": True}
    (tmp_path / "data" / REPORT_NAME).write_text(json.dumps(record))
    job = Reproduction("cmu_mosi", None, tmp_path, denoiser="spectral", tiny=True)
    with pytest.raises(ValueError, match=f"data holds {name} with noise reduction {denoise}, not planted with none"):
        reproduce(job)
