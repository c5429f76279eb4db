"""Going on from a bundle: what it contradicts is said, what can be changed is, and nothing is passed over in silence."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft.tuners.lora import LoraLayer

from omnisent.configuration_omnisent import OmniSentConfig
from omnisent.data.catalog import Target
from omnisent.losses_omnisent import LabelScale
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.readouts.generation_model import OmniForSentimentGeneration
from omnisent.thinker_omnisent import load_thinker
from omnisent.training.arguments import ModelArguments
from omnisent.training.backbone import build_model, check_adapter, lora_config

MOSI, SIMS = (-3.0, 3.0), (-1.0, 1.0)


@pytest.fixture
def arguments(tiny_backbone) -> ModelArguments:
    return ModelArguments(
        base_model=str(tiny_backbone),
        quantization="none",
        dtype="float32",
        lora_r=4,
        lora_dropout=0.1,
        head_hidden_size=16,
    )


@pytest.fixture
def bundle(arguments, tmp_path):
    torch.manual_seed(0)
    model = build_model(arguments, scales=[LabelScale(0.4, 1.5, *MOSI)])
    model.save_pretrained(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def generative_bundle(arguments, tmp_path):
    model = OmniForSentimentGeneration.from_base(arguments.base_model)
    model.add_lora(lora_config(arguments))
    model.save_pretrained(tmp_path / "written")
    return tmp_path / "written"


def test_training_continues_from_a_fitting_bundle(arguments, bundle, generative_bundle):
    check_adapter(replace(arguments, adapter=str(bundle)), [Target()], training=True)
    check_adapter(replace(arguments, adapter=str(generative_bundle), readout="generative"), [Target()], training=False)


@pytest.mark.parametrize(
    ("field", "value"),
    [("head", "linear"), ("head_hidden_size", 8), ("lora_r", 8), ("lora_alpha", 16), ("lora_preset", "llm")],
)
def test_a_field_that_contradicts_the_bundle_is_named_with_the_bundles_value(arguments, bundle, field, value):
    wanted = replace(arguments, adapter=str(bundle), **{field: value})
    with pytest.raises(ValueError, match=rf"^{field} is {value!r}, but {getattr(arguments, field)!r} in the bundle"):
        check_adapter(wanted, [Target()], training=True)


@pytest.mark.parametrize("readout", ["discriminative", "generative"])
def test_a_bundle_of_another_base_is_refused(arguments, bundle, generative_bundle, tiny_backbone, tmp_path, readout):
    other = shutil.copytree(tiny_backbone, tmp_path / "other")
    adapter = str(bundle if readout == "discriminative" else generative_bundle)
    wanted = replace(arguments, adapter=adapter, readout=readout, base_model=str(other))
    with pytest.raises(
        ValueError, match=rf"base_model is {other}, but the bundle of `adapter` belongs to {tiny_backbone}"
    ):
        check_adapter(wanted, [Target()], training=True)
    with pytest.raises(ValueError, match="base_model is org/other"):
        check_adapter(replace(wanted, base_model="org/other"), [Target()], training=True)


def test_a_missing_bundle_or_one_without_an_adapter_is_refused(arguments, bundle):
    shutil.rmtree(bundle / "adapter")
    with pytest.raises(FileNotFoundError, match=r"adapter: .*adapter is missing; is .* a merged model\?"):
        check_adapter(replace(arguments, adapter=str(bundle)), [Target()], training=True)
    with pytest.raises(FileNotFoundError, match="no such folder; give a bundle's folder or the id of one on the Hub"):
        check_adapter(replace(arguments, adapter="./nowhere"), [Target()], training=True)


def test_losses_and_dropouts_are_those_of_the_arguments(arguments, bundle):
    wanted = replace(arguments, adapter=str(bundle), loss="mse", head_dropout=0.5, lora_dropout=0.0)
    model = build_model(wanted, scales=[LabelScale(0.0, 1.0, *MOSI)])
    assert (model.config.loss, model.config.head_dropout) == ("mse", 0.5)
    assert [m.p for m in model.score.modules() if isinstance(m, torch.nn.Dropout)] == [0.5]
    dropouts = {type(m.lora_dropout["default"]) for m in model.modules() if isinstance(m, LoraLayer)}
    assert dropouts == {torch.nn.Identity}
    assert (model.config.label_mean, model.config.label_std) == (0.4, 1.5)
    model = build_model(replace(wanted, lora_dropout=0.3), scales=[LabelScale(0.0, 1.0, *MOSI)])
    assert {m.lora_dropout["default"].p for m in model.modules() if isinstance(m, LoraLayer)} == {0.3}


def test_with_another_score_range_z_scores_are_kept_and_mapped_to_it(arguments, bundle, processor):
    file = bundle / "config.json"
    known = {**json.loads(file.read_text()), "calibration": {"clips": 20, "half_widths": {"0.9": 2.0}}}
    file.write_text(json.dumps(known))
    wanted = replace(arguments, adapter=str(bundle))
    model = build_model(wanted, scales=[LabelScale(0.1, 0.5, *SIMS)]).eval()
    config = model.config
    assert (config.score_min, config.score_max, config.label_mean, config.label_std) == (*SIMS, 0.1, 0.5)
    assert config.calibration is None
    inputs = processor([{"text": "good"}])
    before = OmniForSentimentRegression.from_pretrained(bundle)(**inputs)
    assert model(**inputs).logits.item() == pytest.approx(before.logits.item(), abs=1e-6)
    assert model(**inputs).scores.item() == pytest.approx(before.logits.item() * 0.5 + 0.1, abs=1e-6)
    check_adapter(wanted, [Target(score_range=SIMS)], training=True)
    with pytest.raises(ValueError, match=r"scores from -3 to 3, but the labels of this data set lie in \[-1.0, 1.0\]"):
        check_adapter(wanted, [Target(score_range=SIMS)], training=False)


def test_with_another_name_of_the_target_scores_stay_as_they_are(arguments, bundle, processor):
    wanted = replace(arguments, adapter=str(bundle))
    check_adapter(wanted, [Target("mood")], training=False)
    model = build_model(wanted, scales=[LabelScale(0.9, 0.1, *MOSI)], targets=["mood"]).eval()
    assert (model.config.targets, model.config.label2id) == (("mood",), {"mood": 0})
    before = OmniForSentimentRegression.from_pretrained(bundle)
    inputs = processor([{"text": "good"}])
    assert model(**inputs).scores.item() == pytest.approx(before(**inputs).scores.item(), abs=1e-6)


def test_a_bundle_of_other_targets_is_refused(arguments, bundle):
    wanted = replace(arguments, adapter=str(bundle))
    with pytest.raises(ValueError, match="targets: those of the bundle of `adapter` are label, and of this run a, b"):
        check_adapter(wanted, [Target("a"), Target("b")], training=True)
    two = {"id2label": {"0": "a", "1": "b"}, "label_mean": [0, 0], "label_std": [1, 1]}
    two |= {"score_min": [-3, -3], "score_max": [3, 3]}
    file = bundle / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **two}))
    check_adapter(wanted, [Target("a"), Target("b")], training=False)
    with pytest.raises(ValueError, match=r"are a, b, and of this run b, a; give the same in the same order"):
        check_adapter(wanted, [Target("b"), Target("a")], training=False)


def test_weights_are_loaded_on_the_device_of_the_run_even_if_there_is_a_gpu(arguments, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # as with --use_cpu true on a machine with a GPU
    model = build_model(arguments, scales=[LabelScale(0.0, 1.0, *MOSI)], device="cpu")
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_the_tiny_backbone_can_put_nearly_all_probability_on_digits(tiny_backbone, processor):
    rows = load_thinker(tiny_backbone, lm_head=True).lm_head.weight.detach()
    digits = processor.tokenizer.convert_tokens_to_ids(list("0123456789"))
    shared = rows[digits].mean(0)
    state = shared / shared.norm() * len(shared) ** 0.5  # as large as the final norm leaves it
    assert (rows @ state).softmax(0)[digits].sum() > 0.99
    assert (rows[digits] @ state).softmax(0).max() < 0.5  # and which digit is free


def test_a_base_model_that_is_not_there_is_named(tmp_path, bundle):
    """As when a bundle of a base model in a folder is copied to another machine."""
    config = OmniSentConfig.from_pretrained(bundle)
    config.base_model = str(tmp_path / "away")
    with pytest.raises(
        FileNotFoundError, match="away: no such folder; expected the base model of a run or a bundle there"
    ):
        OmniForSentimentRegression.from_pretrained(bundle, config=config)
