"""`omnisent data check` says what a run would use of a table, and draws its labels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from omnisent import cli
from omnisent.command_line import as_train_has_them
from omnisent.data.check import check_table
from omnisent.data.check_plot import plot_labels
from omnisent.data.table_options import TableOptions

SAID = "I really did not expect that"


@pytest.fixture
def table(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    rows = [
        "Transkript;Datei;speaker;split;Valenz;Erregung;Notiz",
        f"{SAID};a.mp4;S1;train;1,0;9;x",
        f"{SAID}!;b.mp4;S1;test;9,0;;x",
        "So so;;S2;dev;5,5;4;x",
        ";;S2;train;;;x",
    ]
    (tmp_path / "ratings.csv").write_text("\n".join(rows), encoding="utf-16")
    return tmp_path / "ratings.csv"


OPTIONS = TableOptions(
    ("valence", "Erregung"), {"text": "Transkript", "video": "Datei", "valence": "Valenz"}, decimal=","
)


def test_everything_that_a_run_would_use_is_said(table):
    found = check_table(str(table), options=OPTIONS, score_ranges=[(1, 9)] * len(OPTIONS.targets))
    assert (
        "\n".join(found.lines)
        == f"""\
table         {table}
format        CSV, UTF-16, separated by semicolons
columns       text from 'Transkript', video from 'Datei', split, speaker, valence from 'Valenz', Erregung
              no column of ids: the numbers of the rows are used
ignored       Notiz
clips         4
target        valence: n 3, missing 1, min 1, max 9, mean 5.17, SD 3.27
              33.3% of the labels are 1; 33.3% of the labels are 9
target        Erregung: n 2, missing 2, min 4, max 9, mean 6.5, SD 2.5
              0.0% of the labels are 1; 50.0% of the labels are 9
splits        train 2, valid 1, test 1
videos        not known
speakers      2, known for all clips
without       text 1, audio 4, video 2
note          clips with neither text nor media: 1, first 4
media files   2 named, 1 missing, first {table.parent}/b.mp4 (clip 2)
transcripts   1 said more than once, in 2 clips
note          train and valid share 1 speaker (2 clips)
note          train and test share 1 transcript (2 clips) and 1 speaker (2 clips)

labels of valence
    1 to 1.8  1  ########################################
  1.8 to 2.6  0
  2.6 to 3.4  0
  3.4 to 4.2  0
    4.2 to 5  0
    5 to 5.8  1  ########################################
  5.8 to 6.6  0
  6.6 to 7.4  0
  7.4 to 8.2  0
    8.2 to 9  1  ########################################

labels of Erregung
    1 to 1.8  0
  1.8 to 2.6  0
  2.6 to 3.4  0
  3.4 to 4.2  1  ########################################
    4.2 to 5  0
    5 to 5.8  0
  5.8 to 6.6  0
  6.6 to 7.4  0
  7.4 to 8.2  0
    8.2 to 9  1  ########################################"""
    )
    np.testing.assert_array_equal(found.labels()["valence"], [1.0, 9.0, 5.5])


def test_labels_outside_the_range_are_counted(table):
    lines = check_table(str(table), options=OPTIONS, score_ranges=[(1, 5)] * len(OPTIONS.targets)).lines
    assert "note          labels of valence outside [1, 5]: 2; correct them, or give another score_range" in lines
    assert "    4.6 to 5  2  ########################################" in lines  # counted at the end
    lines = check_table(str(table), options=OPTIONS).lines
    assert "note          labels of valence outside [-3, 3]: 2; give the scale as score_range" in lines


def test_a_new_split_and_raters_are_described(tmp_path):
    rows = "".join(f"Clip {at},{at % 7},{at % 5},{at // 2}\n" for at in range(40))
    (tmp_path / "t.csv").write_text("text,r1,r2,video_id\n" + rows)
    lines = check_table(str(tmp_path / "t.csv"), options=TableOptions(raters=("r?",)), shares="50/25/25").lines
    assert "columns       text, video_id, label from 2 raters (r1, r2)" in lines
    assert "splits        none; give auto_split, such as 80/10/10, or a column split" in lines
    assert "auto_split    50/25/25: train 20, valid 10, test 10" in lines
    between = np.mean([abs(at % 7 - at % 5) for at in range(40)])
    assert f"              MAE of one rater against the others {between:.3g} (mean over 40 clips)" in lines
    assert f"              SD of the raters {between / 2:.3g} (mean over 40 clips)" in lines


def test_a_named_data_set_is_checked_with_its_own_range(tmp_path):
    (tmp_path / "label.csv").write_text("video_id,clip_id,text,label,label_T,mode\nv,1,x,0.5,-1,train\n")
    options = TableOptions(("label", "label_T"))
    found = check_table("ch_sims", root=tmp_path, options=options, with_media=False)
    assert found.lines[0] == "data set      CH-SIMS"
    assert found.ranges == {"label": (-1.0, 1.0), "label_T": (-1.0, 1.0)}
    assert "without       text 0" in found.lines


def test_the_command_prints_it_and_draws_the_labels(table):
    options = ["--columns", "text=Transkript,video=Datei,valence=Valenz", "--decimal", ",", "--score_range", "1", "9"]
    given = as_train_has_them(["data", "check", "ratings.csv", *options, "--targets", "valence", "Erregung"])
    done = CliRunner().invoke(cli.app, given)
    assert done.exit_code == 0, done.output
    expected = check_table("ratings.csv", options=OPTIONS, score_ranges=[(1, 9)] * len(OPTIONS.targets)).lines
    assert done.output.splitlines() == [*expected, "", "plot of the labels: ratings.labels.png"]
    with Image.open("ratings.labels.png") as image:
        width, height = image.size
        assert width > 2 * height > 900
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {(0x54, 0x27, 0x88), (0xB3, 0x58, 0x06)} <= colours


def test_a_table_that_cannot_be_used_is_one_line(table):
    done = CliRunner().invoke(cli.app, ["data", "check", "ratings.csv"])
    assert done.exit_code == 1
    assert str(done.exception) == (
        "ratings.csv: no column text, video or audio; its header is Transkript, Datei, speaker, split, Valenz, Erregung, Notiz; try"
        " --columns text=Transkript,video=Datei --targets Valenz Erregung --decimal ,"
    )
    assert not Path("ratings.labels.png").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_targets_and_labels_can_be_drawn(count, tmp_path):
    labels = {f"${at}_x 效价": np.zeros(at) for at in range(count)}
    plot_labels(tmp_path / "a.png", labels, dict.fromkeys(labels, (0.0, 0.0)), "A $ title")
    with Image.open(tmp_path / "a.png") as image:
        assert image.height == 150 * (3.6 if count < 4 else 6.8)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [(["9", "1"], "score_range: the first number of a range must be below"), (["1"], "score_range: give two numbers")],
)
def test_a_range_that_cannot_be_is_refused(table, ranges, message):
    given = as_train_has_them(["data", "check", "ratings.csv", "--targets", "Valenz", "--score_range", *ranges])
    done = CliRunner().invoke(cli.app, given)
    assert str(done.exception).startswith(message)
