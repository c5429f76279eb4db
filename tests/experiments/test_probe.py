"""The probe: states are the model's own, ridge finds a planted signal in the layer that holds it, and like is set beside like."""

import json

import numpy as np
import pytest
import torch

from omnisent.experiments.probe import conclusion, fit_layers, probe
from omnisent.experiments.states import last_token_states
from omnisent.readouts.generative import OmniForSentimentGeneration
from omnisent.training.arguments import OmniSentTrainingArguments
from omnisent.training.run_folder import read_metrics


def _arguments(tmp_path, batch: int) -> OmniSentTrainingArguments:
    return OmniSentTrainingArguments(
        output_dir=str(tmp_path), per_device_eval_batch_size=batch, use_cpu=True, disable_tqdm=True
    )


def test_the_last_states_are_those_that_the_head_reads_whatever_the_batch(model, processor, planted_clips, tmp_path):
    clips = [clip for clip in planted_clips if clip.split == "test"][:6]
    with torch.no_grad():
        pooled = torch.cat([model(**processor(clip.to_dict())).pooled for clip in clips]).numpy()
    for batch in (1, 4):
        states = last_token_states(model, clips, processor, _arguments(tmp_path, batch))
        assert states.shape == (3, 6, 128)
        assert np.abs(states[-1] - pooled).max() < 2e-5
    assert np.abs(states[0] - states[0][0]).max() == 0  # every prompt ends with the same token


def test_both_readouts_have_the_same_untrained_states(model, tiny_backbone, processor, whole_clips, tmp_path):
    generator = OmniForSentimentGeneration.from_base(tiny_backbone)
    ours, theirs = (
        last_token_states(one, whole_clips[:3], processor, _arguments(tmp_path, 3)) for one in (model, generator)
    )
    assert np.array_equal(ours, theirs)


def test_ridge_finds_the_layer_that_holds_the_signal():
    generator = np.random.default_rng(0)
    labels = {name: generator.uniform(-3, 3, n) for name, n in (("train", 120), ("valid", 40), ("test", 60))}
    states = {name: generator.normal(size=(3, len(values), 16)) for name, values in labels.items()}
    for name, values in labels.items():
        states[name][1, :, 5] += 4 * values
    fits = fit_layers(states, labels, (-3.0, 3.0))
    assert [fit.layer for fit in fits] == [0, 1, 2]
    assert min(fits, key=lambda fit: fit.valid_mae).layer == 1
    assert fits[1].test_mae < 0.4
    assert min(fits[0].test_mae, fits[2].test_mae) > 1.0
    assert all(np.abs(fit.scores).max() <= 3 for fit in fits)


@pytest.fixture(scope="module")
def probed(short_config, comparison, tmp_path_factory):
    out = tmp_path_factory.mktemp("probe")
    probe([str(short_config)], out, comparison / "discriminative" / "seed-1")
    return out


def test_it_writes_what_its_plot_shows(probed, comparison):
    found = json.loads((probed / "probe.json").read_text())
    assert [entry["layer"] for entry in found["layers"]] == [0, 1, 2]
    chosen = found["layers"][found["chosen_layer"]]
    assert chosen["valid_mae"] == min(entry["valid_mae"] for entry in found["layers"])
    assert found["metrics"]["mae"] == pytest.approx(chosen["test_mae"])
    assert found["constant_mae"] == pytest.approx(read_metrics(comparison / "constant")["mae"])
    assert found["run"]["mae"] == read_metrics(comparison / "discriminative" / "seed-1")["mae"]
    assert found["run"]["seed"] == 1
    assert conclusion(found) in (probed / "probe.md").read_text()
    assert (probed / "probe.png").stat().st_size > 10_000


@pytest.mark.parametrize(("field", "value"), [("max_frames", "8"), ("instruction", "Say."), ("modalities", "text")])
def test_a_run_on_other_inputs_is_refused_by_the_field(short_config, comparison, tmp_path, field, value):
    with pytest.raises(ValueError, match=rf"has {field} .*the same clips, prompt and base model"):
        probe([str(short_config), f"--{field}", value], tmp_path, comparison / "discriminative" / "seed-0")
