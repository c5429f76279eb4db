"""The probe: states are the model's own, ridge finds a planted signal, and only comparable runs are shown beside it."""

import json
import shutil

import numpy as np
import pytest
import torch

from omnisent.experiments.probe import LayerFit, Probe, TrainedRun, conclusion, fit_layers, probe
from omnisent.experiments.states import last_token_states
from omnisent.readouts.generation_model import OmniForSentimentGeneration
from omnisent.training.arguments import OmniSentTrainingArguments
from omnisent.training.run_folder import read_environment, read_metrics, write_json


def _arguments(tmp_path, batch: int) -> OmniSentTrainingArguments:
    return OmniSentTrainingArguments(
        output_dir=str(tmp_path), per_device_eval_batch_size=batch, use_cpu=True, disable_tqdm=True
    )


def test_the_last_states_are_the_inputs_of_the_head_for_any_batch(model, processor, planted_clips, tmp_path):
    clips = [clip for clip in planted_clips if clip.split == "test"][:6]
    with torch.no_grad():
        pooled = torch.cat([model(**processor(clip.to_dict())).pooled for clip in clips]).numpy()
    for batch in (1, 4):
        states = last_token_states(model, clips, processor, _arguments(tmp_path, batch))
        assert states.shape == (3, 6, 128)
        assert np.abs(states[-1] - pooled).max() < 2e-5
    assert np.abs(states[0] - states[0][0]).max() == 0  # every prompt ends with the same token


def test_the_last_states_alone_are_the_same_bit_for_bit(model, processor, planted_clips, tmp_path):
    clips, args = planted_clips[:5], _arguments(tmp_path, 2)
    alone = last_token_states(model, clips, processor, args, every_layer=False)
    assert alone.shape == (1, 5, 128)
    assert np.array_equal(alone[0], last_token_states(model, clips, processor, args)[-1])
    with torch.no_grad():
        pooled = model(**processor([clip.to_dict() for clip in clips[:2]])).pooled.numpy()
    assert np.array_equal(alone[0, :2], pooled)


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
        states[name][0] = 0.7  # as of token embeddings: every clip the same
        states[name][1, :, 5] += 4 * values
    fits = fit_layers(states, labels, (-3.0, 3.0))
    assert [fit.layer for fit in fits] == [0, 1, 2]
    assert min(fits, key=lambda fit: fit.valid_mae).layer == 1
    assert fits[1].test_mae < 0.4
    assert min(fits[0].test_mae, fits[2].test_mae) > 1.0
    assert fits[1].test_corr == pytest.approx(np.corrcoef(fits[1].scores, labels["test"])[0, 1])
    assert min(fits[1].valid_corr, fits[1].test_corr) > 0.95
    assert fits[0].valid_corr is fits[0].test_corr is None
    assert abs(fits[2].test_corr) < 0.5
    assert all(np.abs(fit.scores).max() <= 3 for fit in fits)


@pytest.fixture(scope="module")
def probed(short_config, comparison, tmp_path_factory):
    out = tmp_path_factory.mktemp("probe")
    return out, probe([str(short_config)], out, comparison / "discriminative" / "seed-1")


def test_the_files_have_the_values_of_the_plot(probed, comparison):
    out, result = probed
    stored = json.loads((out / "probe.json").read_text())
    assert json.loads(json.dumps(result.to_dict())) == stored
    assert [entry["layer"] for entry in stored["layers"]] == [0, 1, 2]
    chosen = stored["layers"][stored["chosen_layer"]]
    assert chosen["valid_mae"] == min(entry["valid_mae"] for entry in stored["layers"])
    assert stored["metrics"]["mae"] == pytest.approx(chosen["test_mae"])
    assert stored["metrics"]["corr"] == pytest.approx(chosen["test_corr"])
    assert stored["environment"]["clips"] == {"train": 32, "valid": 16, "test": 16}
    assert stored["constant_mae"] == pytest.approx(read_metrics(comparison / "constant")["mae"])
    assert stored["run"]["mae"] == read_metrics(comparison / "discriminative" / "seed-1")["mae"]
    assert stored["run"]["seed"] == 1
    assert conclusion(result) in (out / "probe.md").read_text()
    assert (out / "probe.png").stat().st_size > 10_000


@pytest.mark.parametrize(("field", "value"), [("max_frames", "8"), ("instruction", "Say."), ("modalities", "text")])
def test_a_run_on_other_inputs_is_refused_by_the_field(short_config, comparison, tmp_path, field, value):
    with pytest.raises(ValueError, match=rf"has {field} .*the same clips, prompt and base model"):
        probe([str(short_config), f"--{field}", value], tmp_path, comparison / "discriminative" / "seed-0")


def test_a_run_on_clips_that_have_changed_since_is_refused(short_config, comparison, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "metrics.json", "environment.json"):
        shutil.copy(comparison / "discriminative" / "seed-0" / name, run)
    environment = read_environment(run)
    changed = {**environment["fingerprints"], "transcripts": "0" * 64}
    write_json(run / "environment.json", {**environment, "fingerprints": changed})
    with pytest.raises(ValueError, match="the transcripts of its clips are not those of the probe"):
        probe([str(short_config)], tmp_path / "out", run)


def test_only_a_finished_run_with_a_trained_adapter_is_compared_with_the_probe(short_config, comparison, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a finished training run with metrics\.json"):
        probe([str(short_config)], tmp_path / "out", tmp_path)
    for untrained in ("generative-zero-shot-greedy/seed-0", "constant"):
        with pytest.raises(ValueError, match="has no trained adapter"):
            probe([str(short_config)], tmp_path / "out", comparison / untrained)


@pytest.mark.parametrize(
    ("mae", "trained", "message"),
    [
        (1.0, 0.8, "The untrained states alone reach 50 % of the improvement over the constant."),
        (1.3, 0.8, "no better than the constant; the trained discriminative run has 0.800"),
        (1.0, 1.25, "run (1.250) is no better than the constant"),
        (1.0, None, "MAE 1.000, 0.83 times that of the constant (1.200)."),
    ],
)
def test_the_conclusion_follows_from_the_results(mae, trained, message):
    fit = LayerFit(0, 1.0, mae, mae, None, None, np.zeros(1))
    result = Probe(
        **{"dataset": "planted", "split": "test", "modalities": ["text"], "n": 1, "settings": {}, "environment": {}},
        layers=[fit] * 4,
        chosen_layer=2,
        metrics={"mae": mae},
        constant_mae=1.2,
        run=None if trained is None else TrainedRun("discriminative", None, 0, trained, None),
    )
    assert message in conclusion(result)
    assert "layer 2 of 3" in conclusion(result)
