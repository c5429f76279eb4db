"""The report: one self-contained file, whose numbers are those of its folders."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from omnisent.experiments.report import write_report
from omnisent.training.run_folder import read_json, read_predictions

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


def test_text_from_data_cannot_become_markup(comparison, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(
        comparison / "discriminative" / "seed-0", run, ignore=shutil.ignore_patterns("checkpoint*", "model")
    )
    table = (run / "predictions.csv").read_text().splitlines()
    table[1] = "<script>alert(1)</script>,3.0,-3.0"
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
