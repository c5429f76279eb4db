"""The targets of named data sets: read by name, in any order, and refused by name where there are none."""

import re
from dataclasses import replace

import pytest

from omnisent.data.build import build_dataset
from omnisent.data.catalog import DATASETS
from omnisent.data.load import load_clips
from omnisent.data.table_options import TableOptions
from rated_archive import use_archive, write_archive

SIMS = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\nv,1,x,-1,-0.8,,0.4,N,train\nv,2,y,1,0.2,0,,P,test\n"
MOSEI = "video_id,clip_id,text,label,mode,Happiness,sad,anger\nv,1,x,-1,train,0,3,1.5\nv,2,y,1,test,2,,0\n"


def root(folder, table):
    (folder / "label.csv").write_text(table)
    return folder


def load(name, folder, *targets, **options):
    chosen = TableOptions(targets, **options)
    return load_clips(name, root=folder, with_media=False, options=chosen)


def test_the_labels_of_each_modality_are_further_targets(tmp_path):
    root(tmp_path, SIMS)
    plain = load_clips("ch_sims", root=tmp_path, with_media=False)
    both = load("ch_sims", tmp_path, "label", "label_T", "label_A")
    assert [clip.labels for clip in both] == [(-1.0, -0.8, None), (1.0, 0.2, 0.0)]
    assert [replace(clip, further=()) for clip in both] == plain
    assert [clip.labels for clip in load("ch_sims", tmp_path, "label_V", "label")] == [(0.4, -1.0), (None, 1.0)]
    assert [clip.labels for clip in load("ch_sims_v2", tmp_path, "label_T")] == [(-0.8,), (0.2,)]


def test_the_emotions_of_mosei_are_further_targets(tmp_path):
    clips = load("cmu_mosei", root(tmp_path, MOSEI), "label", "sadness", "happiness")
    assert [clip.labels for clip in clips] == [(-1.0, 3.0, 0.0), (1.0, None, 2.0)]
    build_dataset("cmu_mosei", tmp_path, tmp_path / "built", with_media=False)
    options = TableOptions(("label", "sadness", "happiness"))
    assert load_clips(str(tmp_path / "built"), options=options) == clips
    with pytest.raises(ValueError, match=r"no clip has a label for the target 'fear'; add its column to label\.csv"):
        load("cmu_mosei", tmp_path, "fear")


def test_an_emotion_outside_its_range_is_a_defect(tmp_path):
    root(tmp_path, MOSEI.replace("1.5", "-0.5"))
    with pytest.raises(ValueError, match=r"label\.csv, line 2, column anger: expected 0 to 3, found -0\.5"):
        load("cmu_mosei", tmp_path, "anger")
    report = build_dataset("cmu_mosei", tmp_path, tmp_path / "built", with_media=False)
    assert [(defect.kind, defect.outcome, defect.id) for defect in report.defects] == [
        ("label out of range", "repaired", "v_1")
    ]
    clips = load_clips(str(tmp_path / "built"), options=TableOptions(("anger",)))
    assert [clip.label for clip in clips] == [None, 0.0]


@pytest.mark.parametrize("name", [name for name, facts in DATASETS.items() if facts.source != "planted"])
def test_a_target_that_a_data_set_lacks_is_refused_with_those_that_it_has(name, tmp_path):
    message = f"{name} has no target 'pain'; its targets are {', '.join(DATASETS[name].targets)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load(name, tmp_path, "label", "pain")


@pytest.mark.parametrize(
    "options", [{"columns": {"text": "x"}}, {"raters": ("r*",)}, {"decimal": ","}, {"encoding": "cp1252"}]
)
def test_how_a_table_is_read_does_not_hold_for_a_named_data_set(options, tmp_path):
    with pytest.raises(ValueError, match="ch_sims: columns, raters, encoding and decimal are for tables of your own"):
        load("ch_sims", root(tmp_path, SIMS), "label", **options)


def test_rated_sentences_have_the_deviation_of_their_ratings(monkeypatch, tmp_path):
    use_archive(monkeypatch, write_archive(tmp_path))
    clips = load_clips("human_ratings", root=tmp_path)
    assert [clip.label_sd for clip in clips[:2]] == pytest.approx([(2 / 3) ** 0.5, 2.0])
    assert load("human_ratings", tmp_path, "label") == clips
