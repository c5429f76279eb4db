"""Under which licence a model may be published: by its base model, its data and what the publisher says."""

import pytest

from omnisent.data.catalog import DATASETS, dataset_facts
from omnisent.hub.licence import APACHE, BASES, Licence, licence_of, notice, pipeline_tag
from omnisent.hub.upload import PublishError

QWEN_7B, QWEN_3B = "Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-3B"


def test_free_data_and_a_free_base_need_no_word_of_the_publisher():
    for base in (QWEN_7B, "small", "tiny"):
        assert licence_of(base, DATASETS["human_ratings"], None) == APACHE
    assert licence_of(QWEN_7B, dataset_facts("my_clips.csv"), None) == APACHE


@pytest.mark.parametrize("name", ["cmu_mosi", "cmu_mosei", "ch_sims", "ch_sims_v2"])
def test_a_model_of_research_data_is_not_called_free(name):
    with pytest.raises(
        PublishError, match=r"is for research alone, so the model is not apache-2\.0 by itself; name the"
    ):
        licence_of(QWEN_7B, DATASETS[name], None)
    assert licence_of(QWEN_7B, DATASETS[name], "cc-by-nc-4.0") == Licence("cc-by-nc-4.0")


def test_the_licence_of_the_3b_covers_what_is_derived_from_it():
    found = licence_of(QWEN_3B, DATASETS["cmu_mosi"], None)
    assert (found.id, found.name) == ("other", "qwen-research")
    assert found.link.startswith("https://huggingface.co/Qwen/Qwen2.5-Omni-3B/")
    assert licence_of(QWEN_3B, DATASETS["human_ratings"], "qwen-research") == found
    with pytest.raises(
        PublishError, match=r"derived from Qwen/Qwen2\.5-Omni-3B is under qwen-research .*, not apache-2\.0"
    ):
        licence_of(QWEN_3B, DATASETS["human_ratings"], "apache-2.0")


def test_the_licence_of_an_unknown_base_has_to_be_named():
    with pytest.raises(
        PublishError, match=r"that of org/base is not known here; name the one .* --license apache-2\.0"
    ):
        licence_of("org/base", DATASETS["human_ratings"], None)
    assert licence_of("org/base", DATASETS["cmu_mosi"], "other") == Licence("other")


def test_the_notice_says_whose_the_parts_are():
    facts = DATASETS["cmu_mosi"]
    text = notice(BASES[QWEN_3B], base="the base", base_model=QWEN_3B, facts=facts, merged=False)
    assert "Adapter and head are published under: qwen-research (https://" in text
    assert "Base model: the base, under qwen-research" in text
    assert f"Trained on CMU-MOSI. {facts.media_terms}" in text
    merged = notice(APACHE, base="b", base_model="org/base", facts=dataset_facts("own.csv"), merged=True)
    assert "with a trained adapter merged into them, and head are published under: apache-2.0." in merged
    assert "Base model: b, under its own licence." in merged
    assert merged.endswith("Trained on own.\n")


def test_the_task_on_the_hub_is_that_of_what_is_read():
    assert pipeline_tag(["text", "audio", "video"]) == "video-classification"
    assert pipeline_tag(["text", "audio"]) == "audio-classification"
    assert pipeline_tag(["text"]) == "text-classification"
