"""Arms from a file, scores from elsewhere, and what the comparison says of them."""

import csv
import json

import pytest
import yaml

from omnisent.data.catalog import DatasetFacts
from omnisent.evaluation.comparison_result import Comparison
from omnisent.evaluation.conclusion import BUILT_IN
from omnisent.experiments.arms import default_arms, read_arms
from omnisent.experiments.comparison import compare, import_predictions
from omnisent.experiments.comparison_report import conclusion
from omnisent.experiments.report import write_report
from omnisent.training.field_names import shipped_arms
from omnisent.training.run_folder import read_config, read_metrics, read_predictions

ARMS = """
arms:
  - name: head
  - name: mix
    label: mixed layers
    layers: mix
    loss: ordinal
    learning_rate: 1.0e-3
  - name: raft
    readout: generative
    generative_loss: raft
    decoding: expected
  - name: raft-median
    decoding: median
    adapter_of: raft
  - name: zero-shot
    readout: generative
    instruction: "Say a number:"
    evaluate_only: true
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "arms.yaml"
    path.write_text(ARMS)
    return path


def test_arms_are_read_from_a_file_with_the_fields_that_they_name(file):
    arms = {arm.name: arm for arm in read_arms(file)}
    assert list(arms) == ["head", "mix", "raft", "raft-median", "zero-shot"]
    assert arms["mix"].label == "mixed layers"
    assert arms["mix"].argv == ("--layers", "mix", "--loss", "ordinal", "--learning_rate", "0.001")
    assert arms["raft-median"].fields == {**arms["raft"].fields, "decoding": "median", "evaluate_only": True}
    assert [arm.trains for arm in arms.values()] == [True, True, True, False, False]
    assert [len(arm.own_seeds([0, 1])) for arm in arms.values()] == [2, 2, 2, 2, 1]


def test_the_shipped_arms_can_be_read():
    assert list(shipped_arms()) == ["laboratory", "paper", "trained"]
    for name in shipped_arms():
        assert read_arms(name)[0].fields == {"readout": "discriminative"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms:\n  - name: a\n", "a list of at least two arms"),
        ("arms: {}\nother: 1\n", "expected `arms:` alone"),
        ("arms:\n  - name: A b\n  - name: b\n", "arm A b: name: expected small letters"),
        ("arms:\n  - name: a\n  - name: a\n", "arm a: name: a is taken"),
        ("arms:\n  - name: a\n  - name: b\n    label: a\n", "arm b: label: a is taken"),
        ("arms:\n  - name: a\n  - name: vader\n", "arm vader: name: vader is taken"),
        ("arms:\n  - name: a\n  - name: b\n    looss: l1\n", "arm b: there is no field 'looss'; did you mean loss"),
        ("arms:\n  - name: a\n  - name: b\n    loss: l3\n", "arm b: loss must be one of"),
        ("arms:\n  - name: a\n  - name: b\n    root: x\n", "arm b: root: it is the same for all arms"),
        (
            "arms:\n  - name: a\n  - name: b\n    adapter_of: c\n",
            "arm b: adapter_of: expected an arm before it that trains",
        ),
        ("arms: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_by_the_arm_and_the_reason(tmp_path, text, message):
    path = tmp_path / "arms.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"arms.yaml.*{message}"):
        read_arms(path)
    with pytest.raises(FileNotFoundError, match="expected laboratory, paper, trained, or a YAML file"):
        read_arms(tmp_path / "none.yaml")


@pytest.fixture(scope="module")
def laboratory(short_config, tmp_path_factory, comparison):
    """A comparison of the arms above on transcripts, with scores from elsewhere."""
    folder = tmp_path_factory.mktemp("laboratory")
    (folder / "arms.yaml").write_text(ARMS)
    test = read_predictions(comparison / "discriminative" / "seed-0")
    with (folder / "theirs.csv").open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["id", "score", "note"])
        rows.writerows([(row.id, row.label + 0.25, "x") for row in reversed(list(test.itertuples()))])
    config = yaml.safe_load(short_config.read_text())
    (folder / "run.yaml").write_text(yaml.safe_dump({**config, "modalities": ["text"], "on_bad_clip": "skip"}))
    return folder, [str(folder / "run.yaml")]


def test_arms_of_a_file_are_compared_with_scores_from_elsewhere(laboratory):
    folder, argv = laboratory
    out = folder / "out"
    compare(argv, [0], out, arms=read_arms(folder / "arms.yaml"), predictions={"Theirs": folder / "theirs.csv"})
    stored = json.loads((out / "comparison.json").read_text())
    assert list(stored["arms"])[:5] == ["head", "mix", "raft", "raft-median", "zero-shot"]
    assert stored["arms"]["Theirs"]["metrics"]["mae"]["mean"] == pytest.approx(0.25)
    assert {test["first"] for test in stored["tests"]} == {"head"}
    assert [test["second"] for test in stored["tests"]] == list(stored["arms"])[1:]
    assert read_config(out / "mix" / "seed-0")["layers"] == "mix"
    assert read_config(out / "zero-shot" / "seed-0")["instruction"] == "Say a number:"
    assert read_config(out / "raft-median" / "seed-0")["adapter"] == str(out / "raft" / "seed-0" / "best" / "median")

    weights = read_metrics(out / "mix" / "seed-0")["layer_weights"]
    assert sum(weights) == pytest.approx(1)
    text = (out / "comparison.md").read_text()
    assert "| Theirs | 0 | 0.250 |" in text
    assert "Paired tests of head against every other row" in text
    assert "| probability of all answers |" in text
    assert "Validation, which chose the checkpoints" in text
    assert BUILT_IN not in text  # the clips are in a folder of their own here
    page = write_report([out, out / "mix" / "seed-0"], folder / "report.html").read_text()
    assert page.count("<figcaption>Weights of the layers that a head reads<") == 2  # of the comparison and of the run
    assert "Scores against labels, and errors, of head" in page


def test_scores_from_elsewhere_must_have_every_clip_once(comparison, tmp_path):
    run, file = comparison / "discriminative" / "seed-0", tmp_path / "scores.csv"
    test = read_predictions(run)
    whole = [(row.id, "0.5") for row in test.itertuples()]
    for rows, message in (
        (whole[1:], f"1 test clips have no score, first {whole[0][0]}"),
        ([*whole, whole[0]], f"clip {whole[0][0]} is there twice"),
        ([(whole[0][0], "nan"), *whole[1:]], "line 2: column score: expected a finite number"),
    ):
        file.write_text("id,score\n" + "".join(f"{clip},{score}\n" for clip, score in rows))
        with pytest.raises(ValueError, match=f"scores.csv.*{message}"):
            import_predictions(tmp_path, "theirs", file, of=run)


@pytest.mark.parametrize("cells", ['"id": "a"', '"id": "a", "score": null', '"id": null, "score": "x"'])
def test_scores_from_elsewhere_are_read_before_anything_is_trained(short_config, tmp_path, cells):
    file = tmp_path / "theirs.jsonl"
    file.write_text(f"{{{cells}}}\n")
    with pytest.raises(ValueError, match=r"theirs\.jsonl, line 1: (no column|column) score"):
        compare([str(short_config)], [0], tmp_path / "out", predictions={"Theirs": file})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x", "names a folder"),
        ("discriminative", "another row"),
        ("constant", "another row"),
        ("New", "no such file"),
    ],
)
def test_scores_from_elsewhere_need_a_name_of_their_own_and_a_file(short_config, tmp_path, name, message):
    with pytest.raises((ValueError, FileNotFoundError), match=f"predictions: .*{message}"):
        compare([str(short_config)], [0], tmp_path / "out", predictions={name: tmp_path / "none.csv"})
    assert not (tmp_path / "out").exists()


def test_where_the_ranking_is_built_in_figures_stand_without_a_verdict(comparison):
    stored = json.loads((comparison / "comparison.json").read_text())
    assert BUILT_IN not in conclusion(Comparison.from_dict(stored))
    for change in ({"dataset": "planted"}, {"settings": {**stored["settings"], "base_model": "tiny"}}):
        text = conclusion(Comparison.from_dict({**stored, **change}))
        assert BUILT_IN in text
        assert "clearly better" not in text
        assert "has the lower MAE" not in text


def test_a_comparison_does_not_choose_on_the_test_split(short_config, tmp_path):
    with pytest.raises(ValueError, match="evaluate: a comparison shows test results"):
        compare([str(short_config), "--evaluate", "valid"], [0], tmp_path)
    assert DatasetFacts("any", "Any").name
    assert default_arms()[0].name == "discriminative"
