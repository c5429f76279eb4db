"""Data sets by name, and what is said when a name or a folder is not one."""

from functools import partial

import pytest

from omnisent.data import sources
from omnisent.data.build import build_dataset
from omnisent.data.catalog import DATASETS, dataset_facts, research_set
from omnisent.data.load import load_clips
from omnisent.data.planted import make_planted_clips
from omnisent.hub.publish_data import media_warning

MMSA_TABLE = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\nab,0001,hi,0.2,,,,Positive,test\n"


def test_the_catalog_knows_score_ranges_split_sizes_and_conventions():
    known = {name: (facts.score_range, facts.split_counts, facts.convention) for name, facts in DATASETS.items()}
    assert known == {
        "planted": ((-3.0, 3.0), None, "mosi"),
        "cmu_mosi": ((-3.0, 3.0), (1284, 229, 686), "mosi"),
        "cmu_mosei": ((-3.0, 3.0), (16326, 1871, 4659), "mosi"),
        "ch_sims": ((-1.0, 1.0), (1368, 456, 457), "sims"),
        "ch_sims_v2": ((-1.0, 1.0), (2722, 647, 1034), "sims"),
        "human_ratings": ((-4.0, 4.0), (18689, 2381, 2633), "generic"),
    }
    assert dataset_facts("my.csv").score_range == (-3.0, 3.0)


@pytest.mark.parametrize("name", ["cmu_mosi", "cmu_mosei", "ch_sims", "ch_sims_v2"])
def test_a_named_data_set_is_read_from_the_label_table_of_its_root(name, tmp_path):
    (tmp_path / "label.csv").write_text(MMSA_TABLE)
    (tmp_path / "clips.csv").write_text("id,text\nother,words\n")
    (clip,) = load_clips(name, root=tmp_path, with_media=False)
    assert (clip.id, clip.label, clip.split) == ("ab_0001", 0.2, "test")
    with pytest.raises(FileNotFoundError, match=r"0001\.mp4"):
        load_clips(name, root=tmp_path)


def test_a_root_without_the_expected_layout_is_explained(tmp_path):
    for root in (None, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"label.csv and Raw/<video_id>/<clip_id>.mp4.*authors"):
            load_clips("cmu_mosi", root=root)


def test_an_unknown_name_lists_the_valid_ones():
    with pytest.raises(FileNotFoundError, match=r"'cmu_mosy'.*planted, cmu_mosi, cmu_mosei, ch_sims, ch_sims_v2"):
        load_clips("cmu_mosy")


def test_a_path_is_read_as_a_table(tmp_path):
    (tmp_path / "mine.csv").write_text("id,text,label\na,fine,1\n")
    (clip,) = load_clips(str(tmp_path / "mine.csv"))
    assert (clip.text, clip.label) == ("fine", 1.0)


def test_a_data_set_is_added_by_one_entry(tmp_path, monkeypatch):
    facts = research_set("toy", "Toy", "The Toy Paper (2026)", (0, 0, 1), language="de", score_range=(-2.0, 2.0))
    monkeypatch.setitem(DATASETS, "toy", facts)
    (tmp_path / "label.csv").write_text(MMSA_TABLE)
    (clip,) = load_clips("toy", root=tmp_path, with_media=False)
    assert clip.label == 0.2
    report = build_dataset("toy", tmp_path, tmp_path / "built", with_media=False)
    assert (report.rows, report.is_complete) == (1, True)
    assert dataset_facts(str(tmp_path / "built")) is facts
    assert "Do not redistribute" in media_warning(tmp_path / "built")
    with pytest.raises(FileNotFoundError, match="get the clips from the authors of Toy"):
        load_clips("toy")


def test_planted_clips_are_made_in_the_root_and_read_with_or_without_media(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "make_planted_clips", partial(make_planted_clips, n_train=4, n_valid=2, n_test=2))
    clips = load_clips("planted", root=tmp_path / "made")
    assert len(clips) == 8
    assert all(clip.video or clip.audio for clip in clips)
    text_only = load_clips("planted", root=tmp_path / "made", with_media=False)
    assert [(c.id, c.text, c.label) for c in text_only] == [(c.id, c.text, c.label) for c in clips]
    assert not any(clip.video or clip.audio for clip in text_only)
