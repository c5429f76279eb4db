"""What a bundle says of itself is what its run knows: modalities, data set, base model and its size."""

import json
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from omnisent.configuration_omnisent import OmniSentConfig
from omnisent.data.catalog import DATASETS
from omnisent.thinker_omnisent import TEXT_MODEL
from omnisent.train import run
from omnisent.training.about import about_bundle
from omnisent.training.arguments import DataArguments, ModelArguments, parse_arguments

MOSI, PLANTED = DATASETS["cmu_mosi"], DATASETS["planted"]
TEXT = DataArguments(modalities=["text"])


@pytest.fixture
def text_backbone(tiny_backbone, tmp_path):
    """The tiny backbone, as if its language model were a text model of that name."""
    folder = tmp_path / "text-backbone"
    shutil.copytree(tiny_backbone, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, TEXT_MODEL: "SmallLM\n-Chat"}))
    return folder


def test_it_names_the_text_model_and_counts_its_parameters(text_backbone):
    weights = load_file(text_backbone / "model.safetensors")
    count = sum(value.numel() for name, value in weights.items() if name.startswith("thinker.model."))
    assert about_bundle(ModelArguments(base_model=str(text_backbone)), MOSI, TEXT) == (
        f"reads text only; trained on CMU-MOSI; language model SmallLM?-Chat, {count / 1000:.0f}k parameters"
    )


def test_it_names_a_base_model_by_its_folder_and_all_modalities(tiny_backbone):
    arguments = ModelArguments(base_model=str(tiny_backbone))
    for modalities, words in (
        (["video", "text", "audio"], "reads text, audio and video; "),
        (["text", "video"], "reads text and video; "),
        (["audio"], "reads audio only; "),
    ):
        said = about_bundle(arguments, MOSI, DataArguments(modalities=modalities))
        assert said == f"{words}trained on CMU-MOSI; base model {tiny_backbone.name}"


def test_it_names_the_genres_that_were_chosen(tiny_backbone):
    facts, arguments = DATASETS["human_ratings"], ModelArguments(base_model=str(tiny_backbone))
    some = replace(TEXT, genres=["tweets", "film_reviews"])
    assert "; trained on Human ratings of sentences (tweets, film reviews); " in about_bundle(arguments, facts, some)
    assert "; trained on Human ratings of sentences; " in about_bundle(arguments, facts, TEXT)


def test_it_says_when_scores_mean_nothing(tiny_backbone, tmp_path, monkeypatch):
    warning = "; its scores say nothing about sentiment"
    assert about_bundle(ModelArguments(base_model=str(tiny_backbone)), PLANTED, TEXT).endswith(warning)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_backbone, "runs/tiny-backbone")
    said = about_bundle(ModelArguments(base_model="tiny"), MOSI, TEXT)
    assert said == f"reads text only; trained on CMU-MOSI; random base model{warning}"


def test_a_run_writes_it_into_its_bundle(settings, text_backbone, planted_root, tmp_path):
    changes = {"base_model": str(text_backbone), "modalities": ["text"], "on_bad_clip": "skip", "max_steps": 2}
    run(*parse_arguments([settings(**changes)]))
    first = OmniSentConfig.from_pretrained(tmp_path / "run" / "model").about
    assert first.startswith(f"reads text only; trained on {planted_root.name}; language model SmallLM")
    again = {"adapter": str(tmp_path / "run" / "model"), "output_dir": str(tmp_path / "again")}
    run(*parse_arguments([settings(**changes, **again)]))
    second = OmniSentConfig.from_pretrained(tmp_path / "again" / "model").about
    assert second == first.replace("trained on", "trained further on")
