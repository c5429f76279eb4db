"""Readouts on frozen states: the states are those that a head reads, every row is fitted, and a planted signal is found."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import yaml

from omnisent.experiments.frozen_fits import ATTENTION, PAPER, Fitting
from omnisent.experiments.frozen_states import PLACES, FrozenStates, frozen_states
from omnisent.experiments.readout_probe import conclusion, probe_readouts
from omnisent.experiments.states import layer_states
from omnisent.heads_omnisent import HEADS
from omnisent.losses_omnisent import LOSSES, LabelScale
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.training.arguments import OmniSentTrainingArguments

KEYS = ("layers", "pooling", "head", "loss")


@pytest.fixture(scope="module")
def clip_processor(tiny_backbone):
    return OmniSentProcessor.from_base(tiny_backbone, modalities=["text"], pool_over="clip")


def _states(folder, model, processor, clips, batch=4):
    args = OmniSentTrainingArguments(
        output_dir=str(folder), per_device_eval_batch_size=batch, use_cpu=True, disable_tqdm=True
    )
    splits = {
        split: [clip for clip in clips if clip.split == split and clip.text][:5] for split in ("train", "valid", "test")
    }
    return frozen_states(
        folder, {"model": "tiny"}, splits, partial(layer_states, model, processor=processor, args=args)
    ), splits


@pytest.mark.parametrize(
    ("layers", "pooling", "pool_over", "place"),
    [
        ("last", "last", "all", "last"),
        ("mix", "mean", "all", "mean, all"),
        ("1", "mean", "clip", "mean, clip"),
        ("mix", "attention", "clip", "attention, clip"),
    ],
)
def test_a_head_on_frozen_states_gives_the_outputs_of_the_whole_model(
    tiny_backbone, clip_processor, planted_clips, tmp_path, layers, pooling, pool_over, place
):
    from omnisent.experiments.frozen_fits import _Reader

    torch.manual_seed(1)
    options = {"layers": layers, "pooling": pooling, "pool_over": pool_over, "loss": "ordinal"}
    model = OmniForSentimentRegression.from_thinker(tiny_backbone, **options).eval()
    with torch.no_grad():
        for name, parameter in model.score.named_parameters():
            if "query" in name or "weights" in name:
                parameter.normal_()
    states, splits = _states(tmp_path, model, clip_processor, planted_clips)
    with torch.no_grad():
        expected = model(**clip_processor([clip.to_dict() for clip in splits["test"]])).logits
        found = _Reader(model.score, layers, place, states).outputs("test", torch.arange(len(splits["test"])))
    assert torch.allclose(found, expected, atol=2e-2 if place in ATTENTION else 1e-4)  # tokens are kept in float16


def test_states_are_computed_once_and_again_for_other_clips(model, clip_processor, planted_clips, tmp_path):
    first, splits = _states(tmp_path, model, clip_processor, planted_clips)
    kept = (tmp_path / "test.npz").stat().st_mtime_ns
    again, _ = _states(tmp_path, model, clip_processor, planted_clips, batch=2)
    assert (tmp_path / "test.npz").stat().st_mtime_ns == kept
    assert again["test"].pooled["last"].shape == (5, 4, 128)
    assert again["test"].tokens.shape[0] == again["test"].starts[-1]
    assert 0 < again["test"].own.sum() < len(again["test"].own)
    other, _ = _states(
        tmp_path, model, clip_processor, [clip for clip in planted_clips if clip is not splits["test"][0]]
    )
    assert other["test"].key != first["test"].key
    assert not np.array_equal(other["test"].pooled["last"], first["test"].pooled["last"])


def test_a_signal_in_one_layer_is_found_there_and_in_the_mix_but_not_with_permuted_labels(tmp_path):
    generator = np.random.default_rng(0)
    states = {}
    for split, n in (("train", 160), ("valid", 60), ("test", 80)):
        labels = generator.uniform(-3, 3, n)
        pooled = generator.normal(size=(n, 5, 16)).astype(np.float32)
        pooled[:, 2, 3] = labels
        none = np.zeros(0)
        states[split] = FrozenStates(dict.fromkeys(PLACES, pooled), None, none, none, labels, ["x"] * n, None, "key")
    fit = Fitting(states, LabelScale(0.0, 1.7, -3.0, 3.0), 32, 31, tmp_path, [0, 1, 2])
    names = list(fit.names(2))
    assert len(names) == 3 * len(PLACES) * len(HEADS) * len(LOSSES)  # attention needs the tokens
    by_name = {name: fit.row(*name) for name in (("2", "last", "mlp", "ordinal"), ("mix", "last", "mlp", "l1"), PAPER)}
    assert by_name["2", "last", "mlp", "ordinal"][2] < 0.5
    assert by_name["mix", "last", "mlp", "l1"][2] < 1.05
    assert by_name[PAPER][2] > 1.2
    assert fit.row("2", "last", "mlp", "ordinal", permuted=True)[2] > 1.2
    test = fit.tests([("2", "last", "mlp", "ordinal"), PAPER])[0]
    assert test["difference"] > 0.8
    assert test["p_holm"] < 0.01
    assert test["verdict"] == "second"


@pytest.fixture(scope="module")
def config(short_config, tmp_path_factory):
    path = tmp_path_factory.mktemp("readouts") / "run.yaml"
    fields = yaml.safe_load(short_config.read_text())
    path.write_text(yaml.safe_dump({**fields, "modalities": ["text"], "on_bad_clip": "skip", "head_hidden_size": 8}))
    return str(path)


def test_every_readout_has_a_row_and_the_report_has_the_probe(config, tmp_path, monkeypatch):
    monkeypatch.setattr("omnisent.experiments.frozen_fits.EPOCHS", 2)
    found = probe_readouts([config], tmp_path, seeds=[0])
    stored = json.loads((tmp_path / "probe.json").read_text())
    assert json.loads(json.dumps(found)) == stored
    assert len(stored["readouts"]) == 3 * 5 * 2 * 5
    assert stored["best_layer"] in (0, 1)
    assert [len(fits) for fits in stored["layers"].values()] == [3, 3, 3]
    best = min(stored["readouts"], key=lambda row: row["valid_mae"])
    assert stored["best"] == [best[key] for key in ("layers", "pooling", "head", "loss")]
    assert len(stored["tests"]) == len(stored["readouts"]) - 1
    assert conclusion(stored) in (tmp_path / "probe.md").read_text()
    assert ("No verdict from one seed." in conclusion(stored)) == (stored["best"] != list(PAPER))
    place = next(at for at, row in enumerate(stored["readouts"]) if [row[key] for key in KEYS] != list(PAPER))
    other = [stored["readouts"][place][key] for key in KEYS]
    test = next(test for test in stored["tests"] if test["second"] == other)
    test |= {"p_holm": 0.012, "verdict": "second"}
    said = conclusion({**stored, "best": other})
    assert "It has the lower MAE (p 0.012, adjusted for 149 tests)." in said
    assert (tmp_path / "probe.png").stat().st_size > 20_000
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "readouts").iterdir()}
    assert probe_readouts([config], tmp_path, seeds=[0])["readouts"] == stored["readouts"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "readouts").iterdir()} == before


def test_a_trained_adapter_and_an_encoder_have_other_states(config, comparison, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr("omnisent.experiments.frozen_fits.EPOCHS", 1)
    monkeypatch.setattr("omnisent.experiments.frozen_fits.HEADS", {"mlp": HEADS["mlp"]})
    monkeypatch.setattr("omnisent.experiments.frozen_fits.LOSSES", {name: LOSSES[name] for name in ("l1", "ordinal")})
    base = probe_readouts([config], tmp_path / "base", seeds=[0])
    adapter = str(comparison / "discriminative" / "seed-0" / "model")
    trained = probe_readouts([config, "--adapter", adapter], tmp_path / "trained", seeds=[0])
    encoder = probe_readouts([config], tmp_path / "encoder", encoder=str(tiny_bert), seeds=[0])
    assert base["layers"]["last"][0] == trained["layers"]["last"][0]  # the token embeddings have no adapter
    assert base["layers"]["last"][2] != trained["layers"]["last"][2]
    assert len(encoder["layers"]["last"]) == 4
    assert encoder["model"] == str(tiny_bert)
    with pytest.raises(ValueError, match="give one of the two"):
        probe_readouts([config, "--adapter", adapter], tmp_path, encoder="x")
