"""The report: one self-contained file, whose numbers are those of its folders."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from omnisent.cli import app
from omnisent.data.catalog import DATASETS, DatasetFacts
from omnisent.evaluation.comparison_result import read_comparison
from omnisent.evaluation.metrics import METRICS, msa_metrics
from omnisent.experiments.comparison import summarise
from omnisent.experiments.comparison_report import write_comparison
from omnisent.experiments.latex import write_latex
from omnisent.experiments.report import write_report
from omnisent.hub.card import model_card
from omnisent.hub.card_metadata import eval_results
from omnisent.training.run_folder import read_config, read_json, read_predictions, write_json, write_metrics

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def report(comparison, tmp_path_factory):
    run = comparison / "generative-trained-greedy" / "seed-0"
    return write_report([comparison, run], tmp_path_factory.mktemp("report") / "sub" / "report.html")


def test_it_is_one_file_that_fetches_nothing(report):
    text = report.read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) >= 5
    assert all(source.startswith(("data:image/png;base64,", "#part-")) for source in sources)
    assert "url(" not in text
    assert "<script" not in text


def test_it_shows_the_figures_settings_and_versions_of_its_folders(report, comparison):
    text, stored = report.read_text(), read_json(comparison / "comparison.json")
    for arm in stored["arms"].values():
        assert arm["label"] in text
        assert f"{arm['metrics']['mae']['mean']:.3f}" in text
    assert f"<td>{stored['environment']['versions']['torch']}</td>" in text
    assert f"<td>{stored['environment']['clips_sha256']}</td>" in text
    assert "<td>per_device_train_batch_size</td>" in text


def test_the_worst_clips_are_those_with_the_largest_error(report, comparison):
    tables = [read_predictions(comparison / "discriminative" / f"seed-{seed}") for seed in (0, 1)]
    errors = ((tables[0]["score"] + tables[1]["score"]) / 2 - tables[0]["label"]).abs()
    order = errors.sort_values(ascending=False, kind="stable").index
    worst = [tables[0]["id"][i] for i in order[:20]]
    section = report.read_text().split("largest error of discriminative")[1].split("</table>")[0]
    assert re.findall(r"<tr>\s*<td>(planted[^<]*)</td>", section) == worst
    assert f"<td>{errors[order[0]]:.2f}</td>" in section


def test_the_tables_are_also_written_as_latex(comparison, tmp_path):
    out = tmp_path / "tables.tex"
    given = ["report", str(comparison), "--out", str(tmp_path / "r.html"), "--latex", str(out)]
    assert CliRunner().invoke(app, given).exit_code == 0
    text, arm = out.read_text(), read_comparison(comparison / "comparison.json").arms["discriminative"]
    rows = [line for line in text.splitlines() if line.startswith("discriminative & 2 & ")]
    assert rows[0].split(" & ")[2] == arm.metrics["mae"].text.replace("±", r"$\pm$")
    assert text.count(r"\begin{tabular}") == (comparison / "comparison.md").read_text().count("| --- |\n")
    assert r"95 \% interval" in text
    assert re.search(r"\$-\$\d\.\d{3}", text)  # a difference below 0
    assert not re.search(r"[±²]|& -\d", text)


def test_latex_signs_of_a_text_are_escaped(tmp_path):
    table = "The 5 % of a_b & c:\n\n| | x^2 |\n| --- | --- |\n| 50 % | -1 to ~2 |\n"
    (tmp_path / "one.md").write_text(table)
    text = write_latex([tmp_path / "one.md"], tmp_path / "one.tex").read_text()
    assert r"\caption{The 5 \% of a\_b \& c}" in text
    assert r"50 \% & $-$1 to \textasciitilde{}2 \\" in text
    assert r"x\textasciicircum{}2" in text
    (tmp_path / "none.md").write_text("Nothing here.")
    with pytest.raises(ValueError, match="no table to write as LaTeX"):
        write_latex([tmp_path / "none.md"], tmp_path / "none.tex")


def test_text_from_data_cannot_become_markup(comparison, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(
        comparison / "discriminative" / "seed-0", run, ignore=shutil.ignore_patterns("checkpoint*", "model")
    )
    table = (run / "predictions.csv").read_text().splitlines()
    table[1] = "<script>alert(1)</script>,video,3.0,-3.0,-3.0"
    (run / "predictions.csv").write_text("\n".join(table) + "\n")
    text = write_report([run], tmp_path / "report.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected comparison.json, .* or the metrics.json of a finished run"):
        write_report([tmp_path], tmp_path / "report.html")


@pytest.mark.browser
def test_it_can_be_read_in_a_browser_and_in_print(report, tmp_path):
    assert BROWSER, "this test needs Chromium"
    common = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    picture, printed = tmp_path / "report.png", tmp_path / "report.pdf"
    page = report.as_uri()
    for argument in (f"--screenshot={picture}", f"--print-to-pdf={printed}"):
        subprocess.run(
            [*common, "--window-size=1200,2400", argument, page], check=True, capture_output=True, timeout=120
        )
    dom = subprocess.run([*common, "--dump-dom", page], check=True, capture_output=True, text=True, timeout=120).stdout
    assert dom.count("<table>") >= 6
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape[:2] == (2400, 1200)
    inked = (pixels < 128).any(-1).mean(1)
    assert inked[:2000].reshape(10, -1).max(1).min() > 0, "a tenth of the page is empty"
    assert printed.read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_a_comparison_of_the_generic_convention_shows_its_metrics_everywhere(comparison, tmp_path, monkeypatch):
    out, facts = tmp_path / "generic", DatasetFacts("any", "Any", score_range=(-3.0, 3.0), convention="generic")
    shutil.copytree(comparison, out, ignore=shutil.ignore_patterns("checkpoint*", "*.safetensors"))
    run = out / "discriminative" / "seed-0"
    monkeypatch.setitem(DATASETS, read_config(run)["dataset"], facts)
    for file in out.rglob("metrics.json"):
        table = read_predictions(file.parent, split=read_json(file)["split"])
        mosi = {*METRICS, *(f"{key}_written_sign" for key in METRICS)}
        values = {key: value for key, value in read_json(file).items() if key.removeprefix("valid_") not in mosi}
        write_metrics(file.parent, {**values, **msa_metrics(table["score"], table["label"], "generic")})
    write_comparison(summarise(out, [0, 1], facts), out)

    stored, table = read_json(out / "comparison.json"), (out / "comparison.md").read_text()
    arm = stored["arms"]["discriminative"]
    assert list(arm["metrics"]) == ["mae", "rmse", "corr", "spearman", "ccc"]
    assert "| seeds | MAE | 95 % interval | MAE / constant | RMSE | Corr | Spearman | CCC |" in table
    row = next(line for line in table.splitlines() if line.startswith("| discriminative |"))
    assert all(f"| {arm['metrics'][key]['mean']:.3f} ± " in row for key in ("mae", "rmse", "corr", "spearman", "ccc"))
    constant = next(line for line in table.splitlines() if line.startswith("| constant"))
    assert constant.endswith(" |  |  | 0.000 |")
    assert Image.open(out / "comparison.png").size[0] > 1000

    page = write_report([out, run], tmp_path / "report.html").read_text()
    assert f"<td>{read_json(run / 'metrics.json')['spearman']:.6g}</td>" in page
    assert "<th>CCC</th>" in page
    card = model_card(run, "org/any", base_model="org/base")
    assert (
        "| MAE (95 % interval) | RMSE | Pearson correlation | Spearman correlation | Concordance correlation | seeds |"
        in card
    )
    assert "toolkit" not in card
    assert yaml.safe_load(eval_results(run))[3]["dataset"]["task_id"] == "test_spearman"
    words = re.sub(r"data:image/png;base64,[^\"]*", "", page)  # a picture's letters can spell anything
    assert len(words) < len(page)
    assert not any("Acc" in text for text in (table, words, card))


@pytest.mark.slow
def test_a_comparison_shows_the_error_of_one_person_where_the_single_ratings_are_known(comparison, tmp_path):
    out, line = tmp_path / "rated", "One person against the mean of the others: MAE 0.743 on the same clips."
    shutil.copytree(comparison, out, ignore=shutil.ignore_patterns("checkpoint*", "*.safetensors"))
    file = out / "discriminative" / "seed-0" / "environment.json"
    for known in (None, 0.7428):
        write_json(file, {**read_json(file), "human_mae": known})
        write_comparison(summarise(out, [0, 1], DatasetFacts("any", "Any")), out)
        page = write_report([out], tmp_path / "report.html").read_text()
        for text in ((out / "comparison.md").read_text(), page):
            assert (line in text) == (known is not None)
        assert read_json(out / "comparison.json")["human_mae"] == known
        row = "| one person against the mean of the others | 0.743 |"
        assert (row in model_card(out / "discriminative" / "seed-0", "org/any", base_model="org/base")) == bool(known)
        # The figure has a line and its legend.
        assert ((out / "comparison.png").read_bytes() == (comparison / "comparison.png").read_bytes()) == (
            known is None
        )
    before = {key: value for key, value in read_json(file).items() if key != "human_mae"}
    write_json(file, before)
    assert summarise(out, [0, 1], DatasetFacts("any", "Any")).human_mae is None
