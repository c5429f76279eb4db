"""The report: one self-contained file, whose numbers are those of its folders."""

import base64
import dataclasses
import html
import io
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image
from typer.testing import CliRunner

from omnisent.cli import app
from omnisent.data.catalog import DATASETS, DatasetFacts
from omnisent.data.planted import write_video
from omnisent.data.tables import read_columns
from omnisent.evaluation.comparison_result import read_comparison
from omnisent.evaluation.metrics import METRICS, msa_metrics
from omnisent.experiments.comparison import summarise
from omnisent.experiments.comparison_report import conclusion, write_comparison
from omnisent.experiments.latex import write_latex
from omnisent.experiments.report import _details, study_tables, write_report
from omnisent.experiments.report_figures import error_figure
from omnisent.experiments.worst_clips import PICTURE_BYTES, _picture
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
    assert all(source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "#part-")) for source in sources)
    assert "url(" not in text
    assert "default-src 'none'" in text  # a browser would refuse to fetch anything
    assert len(re.findall("<script", text)) == text.count("<script>\n") == 1


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
    section = (
        report.read_text()
        .split("<caption>The 16 clips with the largest error of discriminative")[1]
        .split("</table>")[0]
    )
    assert re.findall(r"<small>(planted[^<]*)</small>", section) == worst
    assert f"<td>{errors[order[0]]:.2f}</td>" in section


def test_the_finding_comes_first_and_stands_in_for_the_figure(report, comparison):
    page = read_comparison(comparison / "comparison.json")
    found = conclusion(page).replace("`", "")
    parts = html.unescape(report.read_text()).split('<section id="part-')
    assert parts[1].index(found[:60]) < parts[1].index("<figure>") < parts[1].index("<table>")
    alts = re.findall(r'<figure>.*?<img alt="(.*?)" src=', parts[1])
    assert alts[0] == f"Each way to score, with its 95 % interval. {found}"
    tables = [read_predictions(comparison / "discriminative" / f"seed-{seed}") for seed in (0, 1)]
    errors = (tables[0]["score"] + tables[1]["score"]) / 2 - tables[0]["label"]
    assert f"MAE {errors.abs().mean():.3f}; on average a score lies {abs(errors.mean()):.3f} " in alts[1]
    assert len(alts) == len(set(alts)) == parts[1].count("<figure>")


def worst_rows(page: str) -> list[str]:
    return re.findall(r'<tr><td class="clip">(.*?)</td>', html.unescape(page), re.DOTALL)


@pytest.fixture
def copied(comparison, planted_root, tmp_path):
    """A run whose data set is a copy, to be damaged."""
    clips, run = tmp_path / "clips", tmp_path / "run"
    shutil.copytree(planted_root, clips)
    shutil.copytree(
        comparison / "discriminative" / "seed-0", run, ignore=shutil.ignore_patterns("checkpoint*", "model")
    )
    config = {**read_config(run), "dataset": str(clips)}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run, clips


def test_a_worst_clip_has_its_words_and_a_small_frame_of_its_video(report, planted_clips):
    rows = worst_rows(report.read_text())
    by_id = {clip.id: clip for clip in planted_clips}
    clips = [by_id[re.search(r"<small>(.*?)</small>", row)[1]] for row in rows]
    assert len(clips) == 2 * 16  # the test clips, in both sections
    for clip, row in zip(clips, rows, strict=True):
        assert (clip.text or "<span> <small>") in row
        assert ("<img" in row) == (clip.video is not None)
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]*)", report.read_text())
    assert len(pictures) == sum(clip.video is not None for clip in clips)
    assert {0 < len(base64.b64decode(one)) <= PICTURE_BYTES for one in pictures} == {True}
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size[0] >= 56
    assert 'class="note"' not in report.read_text()
    assert report.stat().st_size < 2_000_000


def test_the_frame_of_a_video_that_is_hard_to_compress_is_small_too(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 240, 320, 3), np.uint8)
    write_video(tmp_path / "noise.mp4", noise, 8)
    for most in (PICTURE_BYTES, 4_000):
        picture = _picture(str(tmp_path / "noise.mp4"), most)
        assert 1_000 < len(base64.b64decode(picture.partition(",")[2])) <= most
    assert _picture(str(tmp_path / "noise.mp4"), 10) is None


def test_where_the_media_are_gone_the_words_stand_alone_and_that_is_said_once(copied, tmp_path):
    run, clips = copied
    shutil.rmtree(clips / "media")
    page = write_report([run, run], tmp_path / "report.html").read_text()
    notes = re.findall(r'<p class="note">(.*?)</p>', page)
    assert len(notes) == 1
    assert re.fullmatch(
        r"clips: the videos of \d+ of the clips below cannot be read here, and have no picture\.", notes[0]
    )
    assert "image/jpeg" not in page
    assert all(row.startswith("<div><span>") for row in worst_rows(page))
    assert " was " in worst_rows(page)[0]


def test_where_the_data_set_is_gone_or_changed_no_words_are_shown(copied, tmp_path, monkeypatch):
    run, clips = copied
    table = clips / "clips.csv"
    text = table.read_text()
    lines = text.splitlines(keepends=True)
    predictions = read_predictions(run)
    errors = (predictions["score"] - predictions["label"]).abs()
    best, worst = (predictions["id"][place] for place in (errors.idxmin(), errors.idxmax()))
    monkeypatch.setattr("omnisent.experiments.worst_clips.WORST", 8)
    table.write_text("".join(line for line in lines if not line.startswith(f"{worst},")))
    page = write_report([run], tmp_path / "report.html").read_text()
    assert "clips: the words of 1 of the clips below are not shown: removed since the run." in page
    assert " was " in "".join(worst_rows(page))
    # A clip that is not among the worst has another label: as after a row was inserted where ids are row numbers.
    label = next(row["label"] for row in read_columns(table, {"id": str, "label": float}) if row["id"] == best)
    line = next(line for line in lines if line.startswith(f"{best},"))
    table.write_text(text.replace(line, line.replace(f",{label},", f",{label + 0.3:.1f},")))
    assert table.read_text() != text
    page = write_report([run, run], tmp_path / "report.html").read_text()
    assert (
        page.count("clips: clips are shown without words and pictures, as the data set has changed since the run:") == 1
    )
    assert f"<small>{best}" not in "".join(worst_rows(page))
    assert len(worst_rows(page)) == 2 * 8
    assert all("<span> <small>" in row and "<img" not in row for row in worst_rows(page))
    shutil.rmtree(clips)
    page = write_report([run, run], tmp_path / "report.html").read_text()
    assert page.count("clips: clips are shown without words and pictures, as the data set cannot be read:") == 1
    assert len(worst_rows(page)) == 2 * 8
    assert not clips.exists()


def test_a_report_neither_makes_nor_downloads_a_data_set(copied, tmp_path, monkeypatch):
    run, _ = copied
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("planted", "human_ratings", "cmu_mosi"):
        (run / "config.yaml").write_text(yaml.safe_dump({**read_config(run), "dataset": name, "root": None}))
        page = write_report([run], tmp_path / "report.html").read_text()
        assert f"{name}: clips are shown without words and pictures" in page
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "cache").exists()


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
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_label_with_signs_of_markdown_is_shown_as_it_is(comparison, tmp_path):
    label, out = 'head <b>mlp</b> | *x*, y"', tmp_path / "named"
    shutil.copytree(comparison, out, ignore=shutil.ignore_patterns("checkpoint*", "*.safetensors"))
    stored = read_comparison(out / "comparison.json")
    arms = {**stored.arms, "discriminative": dataclasses.replace(stored.arms["discriminative"], label=label)}
    write_comparison(dataclasses.replace(stored, arms=arms), out)
    mae = arms["discriminative"].metrics["mae"].text
    page = write_report([out], tmp_path / "report.html").read_text()
    assert f"<td>{html.escape(label)}</td>\n<td>2</td>\n<td>{mae}</td>" in page
    assert f"for “{html.escape(label)}”" in page
    text = write_latex(study_tables([out]), tmp_path / "tables.tex").read_text()
    assert f"{label} & 2 & {mae}".replace("±", r"$\pm$") in text
    assert rf"\caption{{Paired tests of {label} against every other row" in text
    card = (
        MarkdownIt("commonmark")
        .enable("table")
        .render(model_card(out / "discriminative" / "seed-0", "org/name", base_model="org/base"))
    )
    assert f"<td>{html.escape(label)}</td>\n<td>{mae} " in card
    assert f"for “{html.escape(label)}”" in card


def test_settings_and_columns_are_shown_as_they_were_given(tmp_path):
    given = {"raters": ["rater_*", "other_*"], "instruction": "Rate *strongly*\n[now](x)", "root": r"C:\temp\_x_"}
    shown = html.unescape(_details(given, {}))
    for text in ("rater_*, other_*", "Rate *strongly* [now](x)", r"C:\temp\_x_"):
        assert f"<td>{text}</td>" in shown


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
    words = re.sub(r"data:image/\w+;base64,[^\"]*", "", page)  # a picture's letters can spell anything
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


@pytest.mark.parametrize("error", [0.0, 0.1, 1e8])
def test_errors_that_differ_by_rounding_alone_are_drawn(error):
    labels = pd.Series([0.1, 0.2, 0.3])
    assert error_figure("run", labels, labels + error).uri.startswith("data:image/png;base64,")
