"""A run's settings: the file, the command line over it, and clear words for what is wrong."""

import pytest
import yaml

from omnisent.training.arguments import parse_arguments
from omnisent.training.field_names import shipped_configs


def test_the_command_line_wins_over_the_file(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"learning_rate": 0.1, "lora_r": 4, "modalities": ["text"], "use_cpu": True}))
    model, data, training = parse_arguments([str(config), "--lora_r", "8", "--modalities", "audio", "video"])
    assert training.learning_rate == 0.1
    assert model.lora_r == 8
    assert data.modalities == ["audio", "video"]


def test_the_defaults_are_the_published_recipe():
    model, _, training = parse_arguments(["--use_cpu"])
    assert (model.lora_r, model.lora_alpha, model.lora_dropout, model.lora_preset) == (32, 32, 0.1, "paper")
    assert (model.head, model.head_hidden_size, model.head_dropout, model.loss) == ("mlp", 256, 0.2, "l1")
    assert (training.learning_rate, training.head_learning_rate) == (2e-4, 1e-3)
    assert model.quantization == "nf4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", r"run\.yaml: there is no field 'learning_rat'"),
        ("- a\n- b", r"run\.yaml: expected `field: value` lines, found a list"),
        ("a: [1", r"run\.yaml is not YAML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    config = tmp_path / "run.yaml"
    config.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_arguments([str(config)])


def test_a_choice_in_the_file_is_checked_as_on_the_command_line(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("lora_preset: both\n")
    with pytest.raises(ValueError, match=r"run\.yaml: lora_preset must be one of paper, llm, attention, not 'both'"):
        parse_arguments([str(config)])


@pytest.mark.parametrize("name", shipped_configs())
def test_the_configs_that_come_with_the_project_are_read(name):
    model, data, training = parse_arguments([name, "--use_cpu"])
    datasets = {"tiny": "planted", "mosei": "cmu_mosei", "small": "human_ratings"}
    assert data.dataset == datasets.get(name, "cmu_mosi")
    assert training.metric_for_best_model == "mae"
    assert model.quantization == ("none" if model.base_model == "small" else "nf4")
