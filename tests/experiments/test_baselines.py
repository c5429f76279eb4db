"""The simple baselines: what they predict, which data sets they suit, and what happens without the package that one needs."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from omnisent.data.catalog import DATASETS, DatasetFacts
from omnisent.data.clip import Clip
from omnisent.evaluation.comparison_result import Comparison
from omnisent.experiments.baseline_run import run_baseline
from omnisent.experiments.baselines import BASELINES
from omnisent.experiments.comparison import compare, summarise
from omnisent.training.arguments import parse_arguments
from omnisent.training.run_folder import read_environment, read_json

TRAIN = [
    Clip(str(at), text, label=label)
    for at, (text, label) in enumerate([("A great film!", 9.0), ("bad", 2.0), (None, 6.0)])
]
RATED = [
    ("train", 3.0),
    ("train", 2.0),
    ("valid", 4.0),
    ("test", 0.5),
    ("test", 1.0),
]  # splits and errors of one person


def _scores(train: list[Clip], *texts: str | None) -> list[float]:
    return BASELINES["vader"].score({"train": train, "test": [Clip(str(text), text) for text in texts]}).tolist()


def test_vader_is_its_compound_score_on_a_line_fitted_to_the_training_labels():
    compound = [SentimentIntensityAnalyzer().polarity_scores(clip.text or "")["compound"] for clip in TRAIN]
    slope, at_0 = np.polyfit(compound, [clip.label for clip in TRAIN], 1)
    good, none, bad = _scores(TRAIN, "A great film!", None, "bad")
    assert [good, none, bad] == pytest.approx([slope * compound[0] + at_0, at_0, slope * compound[1] + at_0])
    assert bad < none < good
    scaled = [replace(clip, label=10 * clip.label - 50) for clip in TRAIN]
    assert _scores(scaled, "bad", None) == pytest.approx([10 * bad - 50, 10 * none - 50])


def test_vader_without_words_that_it_knows_is_the_mean_label():
    assert _scores([replace(clip, text="table") for clip in TRAIN], "great", None) == pytest.approx([17 / 3] * 2)


def test_vader_is_for_english_that_is_not_synthetic():
    suited = {name for name, facts in DATASETS.items() if BASELINES["vader"].suits(facts)}
    assert {"cmu_mosi", "cmu_mosei"} <= suited
    assert suited.isdisjoint({"planted", "ch_sims", "ch_sims_v2"})


@pytest.mark.slow
def test_a_comparison_has_the_baselines_that_suit_its_data_set_and_names_the_package_that_is_missing(
    comparison, short_config, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    shutil.copytree(comparison, out, ignore=shutil.ignore_patterns("checkpoint*"))
    for facts in (DATASETS["planted"], DATASETS["ch_sims"]):
        result = summarise(out, [0, 1], facts)
        assert [name for name, arm in result.arms.items() if arm.is_baseline] == ["constant", "tfidf-ridge"]
        assert result.left_out == {}
    absent = replace(BASELINES["vader"], label="Absent", package="a_package_that_is_not_there")
    monkeypatch.setitem(BASELINES, "absent", absent)
    compare([str(short_config)], [0, 1], out)
    said = "it needs the package a_package_that_is_not_there: pip install 'omnisent[real]'"
    assert f"\n\nAbsent is left out: {said}.\n\n" in (out / "comparison.md").read_text()
    stored = read_json(out / "comparison.json")
    assert (stored["left_out"], "absent" in stored["arms"], "vader" in stored["arms"]) == (
        {"Absent": said},
        False,
        True,
    )
    with pytest.raises(ImportError, match=r"^baseline absent: it needs the package a_package"):
        run_baseline("absent", *parse_arguments([str(short_config), "--output_dir", str(out / "absent")]))
    del stored["left_out"]
    assert Comparison.from_dict(stored).left_out == {}
    # A baseline that was run is shown, installed or not.
    shutil.copytree(out / "vader", out / "absent")
    assert "absent" in summarise(out, [0, 1], DatasetFacts("any", "Any")).arms


def test_a_run_records_the_error_of_one_person_on_its_test_clips(settings, tmp_path):
    rows = [f"{at},good,{at % 3},{split},{error}" for at, (split, error) in enumerate(RATED)]
    for name, cells, expected in (("all", rows, 0.75), ("some", [*rows, "9,good,1,test,"], None)):
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,text,label,split,rater_mae", *cells]) + "\n")
        argv = [
            settings(dataset=str(tmp_path / f"{name}.csv"), modalities=["text"]),
            "--output_dir",
            str(tmp_path / name),
        ]
        run_baseline("constant", *parse_arguments(argv))
        assert read_environment(tmp_path / name)["human_mae"] == expected
