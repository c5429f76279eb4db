"""The audit of a run by groups: it finds a planted bias, says what it left out, and reaches report and model card."""

import csv
import html
import shutil
import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from omnisent import cli
from omnisent.command_line import one_flag_per_group
from omnisent.configuration_omnisent import OmniSentConfig
from omnisent.data.catalog import DATASETS
from omnisent.data.clip import Clip, Rating
from omnisent.evaluation.audit_result import read_audit
from omnisent.evaluation.statistics import holm
from omnisent.experiments.audit import _row_name, audit
from omnisent.experiments.latex import write_latex
from omnisent.experiments.report import write_report
from omnisent.figure_style import Fonts
from omnisent.hub.card import model_card
from omnisent.hub.card_results import _units
from omnisent.training import run_folder
from omnisent.training.arguments import parse_arguments

HALF_WIDTH = 1.0


def make_run(folder, *, videos=40, shift=0.0, targets=("label",), known=True, modalities=("video",), **fields):
    """The files of a finished run; `shift` is added to the scores of the even videos."""
    generator = np.random.default_rng(5)
    arguments = ["tiny", "--output_dir", str(folder), "--targets", *targets]
    for name, values in fields.items():
        arguments += [f"--{name}", *values]
    folder.mkdir(parents=True)
    run_folder.write_config(folder, *parse_arguments(arguments))
    clips, scores = [], []
    for video in range(videos):
        common = generator.normal(0, 0.2)
        for index in range(3):
            labels = generator.uniform(-2, 2, len(targets))
            clip = Clip(f"v{video}_{index}", video_id=f"v{video}" if known else None, split="test", label=labels[0])
            clips.append(
                Clip(**{**vars(clip), "further": tuple(Rating(one) for one in labels[1:])})
                if len(targets) > 1
                else clip
            )
            scores.append(labels + common + generator.normal(0, 0.4) + shift * (video % 2 == 0))
    values = {
        "dataset": "planted",
        "split": "test",
        "readout": "discriminative",
        "modalities": [*modalities],
        "seed": 0,
    }
    several = {name: {"interval_coverage": None} for name in targets} if len(targets) > 1 else None
    run_folder.write_metrics(
        folder,
        {**values, "n": len(clips), "interval_coverage": 0.9, **({"targets": several} if several else {})},
    )
    run_folder.write_predictions(folder, clips, np.array(scores), np.array(scores), targets=targets)
    calibration = {"clips": 64, "videos": 20, "half_widths": {"0.9": HALF_WIDTH}}
    OmniSentConfig(calibration=calibration).save_pretrained(folder / "model")
    return folder


def write_speakers(path, *, videos=40, missing=(), without=()):
    """A table of the clips of `make_run`: gender by even and odd videos, and four languages of which one is rare."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ID", "Gender", "language"])
        for video in range(videos):
            language = "rare" if video < 3 else ("first", "second", "third")[video // 3 % 3]
            gender = "" if video in missing else ("female", "male")[video % 2]
            for index in range(3):
                if f"v{video}_{index}" not in without:
                    table.writerow([f"v{video}_{index}", gender, language])
    return path


def groups_of(result):
    return {group.title: group for group in result.groups}


def test_a_planted_bias_is_found(tmp_path):
    run = make_run(tmp_path / "run", shift=0.5)
    result = audit(run, ["gender", "language"], table=write_speakers(tmp_path / "speakers.csv"))
    groups = groups_of(result)
    female, male = (groups[f"gender: {name}"].figures for name in ("female", "male"))
    assert female["bias"].verdict("bias") == "scored higher"
    assert male["bias"].verdict("bias") == "scored lower"
    assert female["bias"].test.difference == pytest.approx(0.5, abs=0.2)
    assert female["bias"].test.difference == pytest.approx(-male["bias"].test.difference)
    assert result.verdict(groups["language: first"]) == "undecided"
    assert "gender: female, against the others: " in result.conclusion()
    assert "gender: male" not in result.conclusion()
    predictions = run_folder.read_predictions(run)
    errors = (predictions["score"] - predictions["label"])[predictions["id"].str.match(r"v\d*[02468]_")]
    assert female["mae"].value == pytest.approx(errors.abs().mean())
    assert female["bias"].value == pytest.approx(errors.mean())
    assert female["coverage"].value == pytest.approx((errors.abs() <= HALF_WIDTH).mean())
    assert read_audit(run) == result


def test_no_bias_is_undecided_and_small_groups_have_no_verdict(tmp_path):
    run = make_run(tmp_path / "run")
    result = audit(run, ["gender", "language"], table=write_speakers(tmp_path / "speakers.csv"))
    groups = groups_of(result)
    assert result.verdict(groups["gender: female"]) == "undecided"
    assert result.verdict(groups["language: rare"]) == "too few videos"
    assert (groups["language: rare"].clips, groups["language: rare"].videos) == (9, 3)
    assert "No group is surely scored differently" in result.conclusion()
    assert "Too few videos for a verdict: language: rare." in result.conclusion()
    text = (run / "audit.md").read_text()
    assert "at least 10 videos" in text
    assert "*Undecided* is not *equal*" in text
    with Image.open(run / "audit.png") as image:
        assert image.width > 1000


def test_a_groups_name_is_shown_as_it_is(tmp_path):
    names = ["*s*", "__under__", "[y](http://e.com)", "<unk>", "a|b"]
    rows = "".join(f"v{video}_{index},{names[video % 5]}\n" for video in range(50) for index in range(3))
    (tmp_path / "_shows_.csv").write_text(f"id,*show*\nother,x\n{rows}".replace("v0_0,*s*\n", ""))
    out = tmp_path / "out"
    audit(make_run(tmp_path / "run", videos=50), ["*show*"], table=tmp_path / "_shows_.csv", out=out)
    texts = write_report([out], tmp_path / "report.html").read_text().split("<td>")
    for name in names:
        cell = f"{html.escape(f'*show*: {name}')}</td>"
        assert sum(text.startswith(cell) for text in texts) == 1 + 3  # of the groups and of their tests
    assert "<h2>Audit by *show*: planted, test split" in html.unescape("".join(texts))
    assert "have no row in _shows_.csv;" in html.unescape("".join(texts))
    latex = write_latex([out / "audit.md"], tmp_path / "tables.tex").read_text()
    assert latex.count(r"*show*: \_\_under\_\_ & ") == 1 + 3
    assert "*show*: <unk> & " in latex


def test_the_figure_has_room_for_long_names_and_those_in_other_scripts(tmp_path):
    names = ["a group of speakers " * 12, "costs $5 and $6", "\u4f60\u597d", "\U0001f600"]
    rows = "".join(f"v{video}_{index},{names[video % 4]}\n" for video in range(40) for index in range(3))
    (tmp_path / "shows.csv").write_text(f"id,show\n{rows}")
    run = make_run(tmp_path / "run")
    fonts = Fonts(["DejaVu Sans"], {chr(code) for code in range(128)})
    with warnings.catch_warnings(action="error"):  # of a layout that fails, and of letters that no font has
        result = audit(run, ["show"], table=tmp_path / "shows.csv")
    assert Image.open(run / "audit.png").width > 1000
    rows = [_row_name(replace(group, column="Which show is it from?"), "videos", fonts) for group in result.groups[1:3]]
    assert rows == [
        "Which show is it fr…: a group of speakers a group of speakers… (30 clips, 10 videos)",
        "Which show is it fr…: costs $5 and $6 (30 clips, 10 videos)",
    ]


def test_p_is_adjusted_for_all_tests_and_a_pair_counts_once(tmp_path):
    result = audit(
        make_run(tmp_path / "run", shift=0.2), ["gender", "language"], table=write_speakers(tmp_path / "speakers.csv")
    )
    figures = {
        (title, key): figure for title, group in groups_of(result).items() for key, figure in group.figures.items()
    }
    once = {at: one for at, one in figures.items() if one.test is not None and at[0] != "gender: male"}
    assert result.tests == len(once) == 3 * (1 + 3)
    expected = holm([one.test.p for one in once.values()])
    assert [one.p_holm for one in once.values()] == pytest.approx(expected)
    assert figures["gender: male", "mae"].p_holm == figures["gender: female", "mae"].p_holm


def test_clips_without_a_value_are_a_line_of_their_own(tmp_path):
    table = write_speakers(tmp_path / "speakers.csv", missing={1, 3}, without={"v0_0", "v2_1"})
    result = audit(make_run(tmp_path / "run", shift=0.5), ["gender"], table=table)
    groups = groups_of(result)
    assert groups["gender: no value"].clips == 2 * 3 + 2
    assert groups["gender: female"].clips == 20 * 3 - 2
    assert groups["gender: male"].clips == 18 * 3
    assert groups["gender: no value"].figures["mae"].test is None
    female, male = (groups[f"gender: {name}"].figures["mae"] for name in ("female", "male"))
    assert female.test.difference == pytest.approx(female.value - male.value)
    assert result.absent == 2
    assert "2 of 120 clips have no row in speakers.csv" in result.conclusion()


def test_where_videos_are_not_known_clips_are_the_units_and_it_is_said(tmp_path):
    run = make_run(tmp_path / "run", known=False)
    result = audit(run, ["gender"], table=write_speakers(tmp_path / "speakers.csv"), out=tmp_path / "out")
    assert result.units == "clips"
    assert "taken as independent" in (tmp_path / "out" / "audit.md").read_text()
    assert not (run / "audit.json").exists()


def test_clips_of_text_alone_are_of_documents_in_the_audit_as_in_the_card(tmp_path):
    run = make_run(tmp_path / "run", modalities=["text"])
    assert audit(run, ["gender"], table=write_speakers(tmp_path / "speakers.csv")).units == "documents"
    assert _units(run_folder.read_metrics(run)) == "documents"
    assert DATASETS["planted"].units_of(["text", "video"]) == "videos"


def test_each_target_is_audited(tmp_path):
    fields = {"dataset": ["own.csv"], "score_range": ["-3", "3"]}
    run = make_run(tmp_path / "run", shift=0.5, targets=("valence", "arousal"), **fields)
    result = audit(run, ["gender"], table=write_speakers(tmp_path / "speakers.csv"))
    assert result.targets() == ["valence", "arousal"]
    assert result.tests == 2 * 2
    assert "arousal, gender: female, against the others: " in result.conclusion()
    assert "coverage by group is not known" in (run / "audit.md").read_text()


def test_a_target_whose_clips_are_of_one_group_is_listed_without_tests(tmp_path):
    fields = {"dataset": ["own.csv"], "score_range": ["-3", "3"]}
    run = make_run(tmp_path / "run", targets=("valence", "arousal"), **fields)
    predictions = pd.read_csv(run / "predictions.csv")
    odd = predictions["id"].str.match(r"v\d*[13579]_")
    predictions.loc[odd, "arousal_label"] = np.nan
    predictions.to_csv(run / "predictions.csv", index=False)
    result = audit(run, ["gender"], table=write_speakers(tmp_path / "speakers.csv"))
    verdicts = {group.full_title: result.verdict(group) for group in result.groups}
    assert verdicts == {
        **{"valence, all": "", "valence, gender: female": "undecided", "valence, gender: male": "undecided"},
        **{"arousal, all": "", "arousal, gender: female": "no other group"},
    }
    assert "No other group to compare with: arousal, gender: female." in result.conclusion()
    text = (run / "audit.md").read_text()
    assert "120 clips; with 95 % intervals, label units. Scores of valence." in text
    assert "60 clips; with 95 % intervals, label units. Scores of arousal." in text


def test_a_large_group_is_not_called_too_small_for_its_small_counterpart(tmp_path):
    rows = "".join(f"v{video}_{index},{'one' if video < 3 else 'rest'}\n" for video in range(40) for index in range(3))
    (tmp_path / "shows.csv").write_text("id,size,show\n" + rows.replace("\n", ",a\n").replace("_0,rest,a", "_0,rest,b"))
    result = audit(make_run(tmp_path / "run"), ["size", "show"], table=tmp_path / "shows.csv")
    groups = groups_of(result)
    assert result.verdict(groups["size: one"]) == "too few videos"
    assert result.verdict(groups["size: rest"]) == "too few other videos"
    assert "Too few videos for a verdict: size: one." in result.conclusion()


@pytest.mark.parametrize(
    ("columns", "text", "message"),
    [
        (["sex"], None, r"speakers\.csv: there is no column 'sex'; its header is ID, Gender, language"),
        (["gender"], "id,gender\na,female\nb,male\n", r"none of its 2 ids, such as 'a', .* such as 'v0_0'"),
        (["gender"], "name,gender\na,female\n", "no column id; its header is name, gender"),
        (["gender"], "id,gender\nv0_0,female\nv0_0,male\n", "line 3: 'v0_0' appears twice"),
        (
            ["gender"],
            "id,gender\nv0_0,female\n",
            "column 'gender': expected 2 to 60 groups of the run's clips, found 1",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_one_error(tmp_path, columns, text, message):
    run, table = make_run(tmp_path / "run"), write_speakers(tmp_path / "speakers.csv")
    if text is not None:
        table.write_text(text)
    with pytest.raises(ValueError, match=message):
        audit(run, columns, table=table)
    assert not (run / "audit.json").exists()


def test_the_command_takes_the_columns_of_the_runs_own_data_set(tmp_path, monkeypatch, capsys):
    table = write_speakers(tmp_path / "clips.csv")
    lines = table.read_text().splitlines()
    table.write_text("\n".join(f"{line},{'text' if at == 0 else 'words'}" for at, line in enumerate(lines)))
    run = make_run(tmp_path / "run", shift=0.5, dataset=[str(table)])
    monkeypatch.setattr(sys, "argv", ["omnisent", "audit", str(run), "--groups", "gender", "language"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "| gender: female | 60 | 20 |" in capsys.readouterr().out
    assert read_audit(run).columns == ["gender", "language"]
    table.unlink()
    with pytest.raises(FileNotFoundError, match=r"clips\.csv.*; or give another table by --table FILE"):
        audit(run, ["gender"])


def test_groups_of_other_commands_are_left_alone():
    assert one_flag_per_group(["audit", "run", "--groups", "a", "b", "--out", "c"]) == [
        *("audit", "run", "--groups", "a", "--groups", "b", "--out", "c")
    ]
    assert one_flag_per_group(["train", "--groups", "a", "b"]) == ["train", "--groups", "a", "b"]


def test_the_card_and_the_report_show_it_until_the_run_begins_anew(comparison, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(comparison / "discriminative" / "seed-0", run)
    before = model_card(run, "org/name", base_model="org/base")
    assert "each group against" not in before
    ids = run_folder.read_predictions(run)["id"]
    rows = "".join(f"{one},{'one' if at % 2 else 'two|three'}\n" for at, one in enumerate(ids))
    (tmp_path / "shows.csv").write_text(f"id,show\n{rows}")
    result = audit(run, ["show"], table=tmp_path / "shows.csv")
    card = model_card(run, "org/name", base_model="org/base")
    assert "By show, each group against the other clips" in card
    assert "Scores of" not in card
    assert r"| show: two\|three | 8 |" in card
    assert str(tmp_path) not in card
    page = write_report([run], tmp_path / "report.html").read_text()
    assert "Audit by show" in page
    assert "Run run: discriminative" in page
    several = [replace(group, target=target) for target in ("label", "arousal*") for group in result.groups]
    run_folder.write_json(run / "audit.json", replace(result, groups=several).to_dict())
    card = model_card(run, "org/name", base_model="org/base")
    for name in ("label", r"arousal\*"):
        assert f"\n\nScores of {name}:\n\n| clips of | clips |" in card
    run_folder.begin(run, resumed=False)
    assert read_audit(run) is None
