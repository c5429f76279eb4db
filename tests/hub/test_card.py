"""The model card fits what its model reads, and names its base model as somebody else can find it."""

import json
import re
import shutil

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from loopback_hub import faults_of_card
from omnisent.evaluation.comparison_result import read_comparison
from omnisent.evaluation.statistics import bootstrap_estimates
from omnisent.experiments.comparison_report import conclusion
from omnisent.hub.card import Drift, _states, model_card
from omnisent.hub.card_metadata import WIDGET, eval_results
from omnisent.hub.licence import UNSTATED
from omnisent.hub.publish import PublishError, assemble, check_run
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.scoring.loading import Loading, load_pipeline
from omnisent.thinker_omnisent import TEXT_MODEL
from omnisent.train import run, summary
from omnisent.training.arguments import parse_arguments
from omnisent.training.run_folder import constant_mae, read_metrics, read_predictions, videos_of

FOR_MEDIA = "clip|video|audio|speak|speech|record|soxr|FFmpeg|frames"
MERGED = {"base_model": None, "drift": Drift(8, 0.001, 0.002)}


@pytest.fixture(scope="module")
def text_run(short_config, tiny_backbone, tmp_path_factory):
    """A run on transcripts alone, whose base model is made from a text model."""
    home = tmp_path_factory.mktemp("card")
    base = home / "small-backbone"
    shutil.copytree(tiny_backbone, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, TEXT_MODEL: "SmallLM-1M"}))
    changes = {"modalities": ["text"], "on_bad_clip": "skip", "base_model": str(base), "output_dir": str(home / "run")}
    (home / "config.yaml").write_text(yaml.safe_dump({**yaml.safe_load(short_config.read_text()), **changes}))
    run(*parse_arguments([str(home / "config.yaml")]))
    return home / "run"


def test_a_merged_model_for_text_speaks_of_text_alone(text_run, tmp_path):
    assemble(text_run, tmp_path, "org/name", licence=UNSTATED, merged=True)
    _, front, card = (tmp_path / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "text-classification"
    assert "Adapter, head" not in (tmp_path / "NOTICE").read_text()
    assert yaml.safe_load(front)["tags"] == [
        *("multimodal-sentiment", "sentiment-analysis", "regression", "text", "custom_code")
    ]
    before, after = card.split("## Results")
    said = before + after.split("## Limits")[1].split("## Training")[0]
    assert set(re.findall(FOR_MEDIA, said, re.IGNORECASE)) == {"clip"}
    assert "Scores the sentiment that a text expresses, from text alone, as a number in\n[-3, 3]" in card
    assert "token of SmallLM-1M, a text model in the layout of the Qwen2.5-Omni Thinker, in one forward pass" in card
    assert "weights of the base model,\nSmallLM-1M in the layout of the Qwen2.5-Omni Thinker; they are saved" in card
    assert " Languages and kinds of text that differ\nfrom the training data were not tested." in card
    assert "huggingface.co" not in card
    assert str(text_run.parent) not in card
    about = json.loads((tmp_path / "config.json").read_text())["about"]
    assert about.startswith("reads text only; ")
    assert f"\n- **This model** {about}.\n" in card
    assert "| without audio |" not in card
    examples = re.findall(r"(?:pipe\(|processor\(\[)({.*?})", card)
    assert examples == ['{"text": "I did not expect to like it."}'] * 2
    pipe = load_pipeline(Loading(str(tmp_path), device="cpu"))
    assert isinstance(pipe, MultimodalSentimentPipeline)
    assert pipe(json.loads(examples[0])).keys() == {"score", "label"}


@pytest.mark.parametrize(
    ("modalities", "scores", "example", "limit"),
    [
        (
            ["text", "audio", "video"],
            "a speaker expresses in a video clip, from text, audio and video together",
            {"video": "clip.mp4", "text": "I did not expect to like it."},
            "At most 16 frames and 300 s of audio of a clip are used.",
        ),
        (
            ["text", "audio"],
            "a speaker expresses in an audio clip, from text and audio together",
            {"audio": "clip.wav", "text": "I did not expect to like it."},
            "At most 300 s of audio of a clip are used.",
        ),
        (
            ["video"],
            "a speaker expresses in a video clip, from video alone",
            {"video": "clip.mp4"},
            "At most 16 frames of a clip are used.",
        ),
    ],
)
def test_words_and_example_fit_the_modalities(text_run, tmp_path, modalities, scores, example, limit):
    shutil.copytree(text_run, tmp_path / "run")
    metrics = json.loads((text_run / "metrics.json").read_text())
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({**metrics, "modalities": modalities}))
    card = model_card(tmp_path / "run", "org/name", **MERGED)
    assert f"Scores the sentiment that {scores}, as" in card
    assert card.count(json.dumps(example)) == 2
    assert limit in card
    assert ("`soxr`" in card) == ("A video's own audio track" in card) == ("audio" in modalities)
    assert ("may be missing" in card) == (len(modalities) > 1)


def test_a_merged_model_without_validation_clips_says_that_its_drift_was_not_measured(text_run):
    card = model_card(text_run, "org/name", base_model=None, drift=None)
    assert "before merging. How much merging changed the scores was not measured: the validation clips" in card
    assert "missing.\n\n## Results" in card
    assert "of 8 validation clips by 0.0010 on\naverage" in model_card(text_run, "org/name", **MERGED)


def test_genres_that_were_chosen_are_named(text_run, tmp_path):
    assert "Test split of clips: " in model_card(text_run, "org/name", **MERGED)
    shutil.copytree(text_run, tmp_path / "run")
    config = yaml.safe_load((text_run / "config.yaml").read_text())
    chosen = {**config, "genres": ["tweets", "film_reviews"]}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(chosen))
    assert "Test split of clips (tweets, film reviews): " in model_card(tmp_path / "run", "org/name", **MERGED)


def test_what_a_text_is_part_of_has_one_name(text_run, tmp_path):
    shutil.copytree(text_run, tmp_path / "run")
    config = yaml.safe_load((text_run / "config.yaml").read_text())
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({**config, "group_split": True}))
    card = model_card(tmp_path / "run", "org/name", **MERGED)
    assert "The clips were split anew, by document: these are not results" in card
    assert "with 95 % intervals for new documents." in card


def test_the_error_of_one_person_stands_below_that_of_the_model(text_run, tmp_path):
    shutil.copytree(text_run, tmp_path / "run")
    file = tmp_path / "run" / "environment.json"
    environment = json.loads(file.read_text())
    for known in (None, 0.7428):
        file.write_text(json.dumps({**environment, "human_mae": known}))
        card = model_card(tmp_path / "run", "org/name", **MERGED)
        assert ("\n| one person against the mean of the others | 0.743 |  |" in card) == (known is not None)
        line = summary(tmp_path / "run", json.loads((text_run / "metrics.json").read_text()), trained=True)
        assert (", one person against the mean of the others 0.743; run folder" in line) == (known is not None)
    file.write_text(json.dumps({key: value for key, value in environment.items() if key != "human_mae"}))
    assert "one person" not in model_card(tmp_path / "run", "org/name", **MERGED)


def test_only_a_hub_id_is_linked(text_run):
    card = model_card(text_run, "org/name", base_model="org/base", base_revision="c0ffee")
    link = "[org/base](https://huggingface.co/org/base) at revision c0ffee"
    assert f"The base model, {link}, SmallLM-1M in the layout of the Qwen2.5-Omni Thinker, is loaded" in card


def test_a_bundle_without_the_line_shows_none(text_run, tmp_path):
    shutil.copytree(text_run, tmp_path / "run")
    file = tmp_path / "run" / "model" / "config.json"
    config = json.loads(file.read_text())
    assert config.pop("about")
    file.write_text(json.dumps(config))
    assert "**This model**" not in model_card(tmp_path / "run", "org/name", **MERGED)


def test_a_base_model_in_a_folder_is_refused_even_where_the_folder_is_gone(text_run, tmp_path):
    shutil.copytree(text_run, tmp_path / "run")
    file = tmp_path / "run" / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model": "/elsewhere/small-backbone"}))
    with pytest.raises(PublishError, match="its base model is a local folder"):
        check_run(tmp_path / "run", merged=False)


@pytest.mark.parametrize(
    ("layers", "pooling", "pool_over", "words"),
    [
        ("last", "last", "all", "the final-layer hidden state of the last token"),
        ("mix", "mean", "clip", "a mix of all layers' hidden states averaged over the tokens of the clip"),
        ("4", "attention", "all", "the hidden state of layer 4 averaged over the tokens with learnt weights"),
    ],
)
def test_the_card_says_which_states_the_head_reads(layers, pooling, pool_over, words):
    assert _states({"layers": layers, "pooling": pooling, "pool_over": pool_over}) == words


def first_screen(card: str) -> str:
    """What stands before the instructions."""
    return card.split("---\n", 2)[2].split("## Use it")[0]


def test_the_first_screen_has_score_with_interval_and_what_it_is_not_for(text_run):
    top = first_screen(model_card(text_run, "org/name", **MERGED))
    clips = read_predictions(text_run)
    found = bootstrap_estimates(np.array([clips["score"]]), clips["label"], "mosi", groups=videos_of(clips))
    mae, corr = found["mae"], found["corr"]
    assert (
        f"MAE **{mae.mean:.3f}** ({mae.low:.3f} to {mae.high:.3f}), Pearson correlation **{corr.mean:.3f}**"
        f" ({corr.low:.3f} to {corr.high:.3f}) on the {len(clips)} test clips of clips"
    ) in top
    assert (
        f"Always answering the training median has a mean absolute error (MAE) of {constant_mae(text_run):.3f}." in top
    )
    assert "**Not for** scoring people for employment, credit, policing or health" in top
    assert "**How good are people?**" not in top
    assert "compare" not in top
    assert len(top.split()) < 230  # about a screen


def test_the_first_screen_says_how_well_people_agree_where_that_is_known(text_run, tmp_path):
    shutil.copytree(text_run, tmp_path / "run")
    file = tmp_path / "run" / "environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "human_mae": 0.7428}))
    top = first_screen(model_card(tmp_path / "run", "org/name", **MERGED))
    assert "One person against the mean of the others has MAE **0.743** on the same clips." in top


def test_the_first_screen_has_the_verdict_of_the_comparison(comparison):
    top = first_screen(model_card(comparison / "discriminative" / "seed-0", "org/name", **MERGED))
    found = read_comparison(comparison / "comparison.json")
    assert f"**Is the head (discriminative) better than a written score (generative)?** {conclusion(found)}\n" in top


def test_the_metadata_is_what_the_hub_expects(text_run, tmp_path):
    card = ModelCard(model_card(text_run, "org/name", **MERGED))
    assert faults_of_card(str(card)) == []
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-classification", "other")
    assert [one["example_title"] for one in data.widget] == ["Positive", "Negative", "Mixed"]
    assert data.metrics[:2] == ["mae", "pearsonr"]
    (mae,) = [one for one in data.eval_results if one.metric_name == "MAE"]
    assert (mae.metric_value, mae.task_type, mae.dataset_split) == (
        read_metrics(text_run)["mae"],
        "text-classification",
        "test",
    )
    assert data.get("language") is data.get("datasets") is None  # a table of the user's own: neither is known
    shutil.copytree(text_run, tmp_path / "run")
    config = yaml.safe_load((text_run / "config.yaml").read_text())
    for dataset, language, datasets in (
        ("ch_sims", "zh", ["ch_sims"]),
        ("cmu_mosi", "en", ["cmu_mosi"]),
        ("hf://datasets/org/talks@v1", None, ["org/talks"]),
    ):
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({**config, "dataset": dataset}))
        data = ModelCard(model_card(tmp_path / "run", "org/name", **MERGED)).data
        assert (data.get("language"), data.datasets) == (language, datasets)
        assert data.widget[0]["text"] == WIDGET[language or "en"]["Positive"]
        assert {one.dataset_type for one in data.eval_results} == set(datasets)
        entries = parse_eval_result_entries(yaml.safe_load(eval_results(tmp_path / "run")))
        assert {one.dataset_id for one in entries} == set(datasets)
        assert "test_mae" in {one.task_id for one in entries}


def test_the_hub_refuses_metadata_that_is_wrong():
    def card(**changes) -> str:
        return f"---\n{yaml.safe_dump({'license': 'mit', 'widget': [{'text': 'a'}], **changes})}---\n"

    assert faults_of_card(card()) == []
    assert faults_of_card(card(language="English"))[0]["message"].startswith("language:")
    assert faults_of_card(card(widget=["a"]))[0]["message"].startswith("widget:")
    assert faults_of_card(card(license="free"))[0]["message"].startswith("license:")
    assert faults_of_card(card(base_model="/home/me/base"))[0]["message"].startswith("base_model:")
    assert faults_of_card(card(**{"model-index": [{"name": "a", "results": [{"task": {}}]}]}))
    assert faults_of_card("---\nlicense: [\n---\n")


def test_a_model_that_reads_no_text_has_no_widget(text_run, tmp_path):
    shutil.copytree(text_run, tmp_path / "run")
    metrics = json.loads((text_run / "metrics.json").read_text())
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({**metrics, "modalities": ["video"]}))
    assert ModelCard(model_card(tmp_path / "run", "org/name", **MERGED)).data.get("widget") is None
