"""LoRA checkpoints as ms-swift and LLaMA-Factory write them, made by PEFT around the official classes: the same hidden states."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniForConditionalGeneration

from elsewhere import run_elsewhere
from omnisent import train
from omnisent.adapter_omnisent import peft_adapter, read_lora_config
from omnisent.configuration_omnisent import OmniSentConfig
from omnisent.data.catalog import Target
from omnisent.family_omnisent import LORA_NAMES, LORA_PRESETS
from omnisent.losses_omnisent import LabelScale
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.readouts.generation_model import OmniForSentimentGeneration
from omnisent.thinker_omnisent import language_inputs
from omnisent.training.arguments import ModelArguments, parse_arguments
from omnisent.training.backbone import build_model, check_adapter, check_same_base

SCALE = LabelScale(0.4, 1.5, -3.0, 3.0)
LEAVES = "|".join(LORA_NAMES)
LLM = rf"^(thinker\.model\.language_model(?=\.).*\.({LEAVES}))$"
# As ms-swift 3 and 4 make them from the linear layers of its groups; `.*` reaches both towers.
ALL = r"^(thinker\.model(?=\.).*\.(q_proj|k_proj|v_proj|o_proj|out_proj|fc1|fc2|proj|qkv|q|k|v|gate_proj|up_proj|down_proj))$"


def names_of(model, leaves: str) -> list[str]:
    """Full names, as LLaMA-Factory lists them with frozen towers."""
    return [name for name, _ in model.named_modules() if re.fullmatch(rf".*language_model.*\.({leaves})", name)]


FORMS = {
    "swift": (False, lambda model: LLM, {}),
    "swift, towers": (False, lambda model: ALL, {}),
    "swift, suffixes": (False, lambda model: list(LORA_NAMES), {}),
    "factory": (True, lambda model: names_of(model, LEAVES), {"lora_alpha": 16}),
    "factory, two": (True, lambda model: names_of(model, "q_proj|v_proj"), {"use_rslora": True}),
    "ranks": (
        True,
        lambda model: names_of(model, LEAVES),
        {
            "rank_pattern": {"layers.0.self_attn.q_proj": 2, "down_proj": 6},
            "alpha_pattern": {r".*layers\.1\.mlp\.up_proj": 40},
        },
    ),
}


@pytest.fixture(scope="session")
def official(tiny_backbone, tmp_path_factory) -> Path:
    """The tiny backbone with the voices that the official class asks for."""
    folder = tmp_path_factory.mktemp("official") / "base"
    shutil.copytree(tiny_backbone, folder)
    torch.save({}, folder / "spk_dict.pt")
    return folder


def trained(official: Path, out: Path, form: str, **changes):
    """The official model with PEFT's adapter of random weights, and its checkpoint."""
    of_thinker, targets, settings = FORMS[form]
    whole = Qwen2_5OmniForConditionalGeneration.from_pretrained(official).eval()
    model = whole.thinker if of_thinker else whole
    lora = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": targets(model), **settings, **changes})
    model = get_peft_model(model, lora).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(out)
    (out / "additional_config.json").write_text('{"lora_dtype": null, "lorap_lr_ratio": null, "lorap_emb_lr": 1e-06}')
    return whole.thinker.model


def with_old_names(checkpoint: Path, out: Path) -> Path:
    """The same as transformers before 5.21 named the Thinker's modules."""
    shutil.copytree(checkpoint, out)

    def old(name: str) -> str:
        return re.sub(r"model\.language_model\.", "model.", re.sub(r"model\.(visual|audio_tower)\.", r"\1.", name))

    file = out / "adapter_model.safetensors"
    prefix = "base_model.model."
    weights = {prefix + old(name.removeprefix(prefix)): weight for name, weight in load_file(file).items()}
    assert not any("language_model" in name for name in weights)
    save_file(weights, file)
    edit(out, target_modules="whatever")
    return out


def edit(checkpoint: Path, **entries) -> Path:
    file = checkpoint / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    return checkpoint


def states(thinker, inputs) -> torch.Tensor:
    inputs = dict(inputs)
    rest = {name: inputs.pop(name) for name in ("attention_mask", "position_ids")}
    with torch.no_grad():
        read = language_inputs(thinker, **inputs)
        return thinker.language_model(**read, use_cache=False, **rest).last_hidden_state


@pytest.fixture
def clips(processor, whole_clips):
    return processor([clip.to_dict() for clip in whole_clips[:2]])


@pytest.fixture
def arguments(official) -> ModelArguments:
    return ModelArguments(
        base_model=str(official), quantization="none", dtype="float32", lora_r=4, lora_alpha=8, lora_dropout=0.0
    )


@pytest.mark.parametrize("form", FORMS)
def test_hidden_states_are_those_of_peft(official, arguments, clips, form, tmp_path):
    expected = states(trained(official, tmp_path / "new", form), clips)
    untrained = OmniForSentimentRegression.from_thinker(official)
    assert (states(untrained.model, clips) - expected).abs().max() > 0.01
    for checkpoint in (tmp_path / "new", with_old_names(tmp_path / "new", tmp_path / "old")):
        for readout in ("discriminative", "generative"):
            wanted = replace(arguments, adapter=str(checkpoint), readout=readout)
            model = build_model(wanted, scales=[SCALE]).eval()
            torch.testing.assert_close(states(model.model, clips), expected, atol=1e-6, rtol=0)
            own = sum("lora_" in name for name, _ in model.named_parameters())
            assert own == len(load_file(checkpoint / "adapter_model.safetensors"))


def test_half_precision_weights_are_used_in_float32(official, arguments, clips, tmp_path):
    trained(official, tmp_path / "c", "swift")
    file = tmp_path / "c" / "adapter_model.safetensors"
    save_file({name: weight.bfloat16() for name, weight in load_file(file).items()}, file)
    model = build_model(replace(arguments, adapter=str(tmp_path / "c")), scales=[SCALE])
    assert {p.dtype for name, p in model.named_parameters() if "lora_" in name} == {torch.float32}


@pytest.mark.parametrize("form", ["swift", "swift, suffixes", "factory", "factory, two"])
def test_what_it_adapts_is_a_preset_if_there_is_one_for_it(official, arguments, form, tmp_path, caplog):
    trained(official, tmp_path / "c", form)
    preset = {"swift": "llm", "swift, suffixes": "paper", "factory": "llm"}.get(form)
    alpha = FORMS[form][2].get("lora_alpha", 8)
    wanted = replace(arguments, adapter=str(tmp_path / "c"), lora_alpha=alpha)
    caplog.set_level("INFO", "omnisent")
    if preset is None:
        check_adapter(wanted, [Target()], training=True)
        assert "adapts layers of its own choice, whatever lora_preset says" in caplog.text
        return
    check_adapter(replace(wanted, lora_preset=preset), [Target()], training=True)
    other = "llm" if preset == "paper" else "paper"
    with pytest.raises(ValueError, match=rf"^lora_preset is '{other}', but '{preset}' in the checkpoint of `adapter`"):
        check_adapter(replace(wanted, lora_preset=other), [Target()], training=True)
    model = build_model(wanted, scales=[SCALE])
    saved = model.peft_config["default"].target_modules
    assert saved == LORA_PRESETS[preset] or set(saved) == set(LORA_PRESETS[preset])


@pytest.mark.parametrize(("field", "value"), [("lora_r", 8), ("lora_alpha", 4)])
def test_a_field_that_contradicts_it_is_named(official, arguments, field, value, tmp_path):
    trained(official, tmp_path / "c", "factory, two")
    wanted = replace(arguments, adapter=str(tmp_path / "c"), **{field: value})
    with pytest.raises(ValueError, match=rf"^{field} is {value}, but {getattr(arguments, field)} in the checkpoint"):
        check_adapter(wanted, [Target()], training=True)


def test_its_base_model_is_checked_as_that_of_a_bundle(official, arguments, tmp_path, caplog):
    trained(official, tmp_path / "c", "factory, two")
    wanted = replace(arguments, adapter=str(tmp_path / "c"))
    check_adapter(wanted, [Target()], training=True)
    assert "does not record its base model; it is taken to be" in caplog.text  # PEFT knows no name of a part of a model
    edit(tmp_path / "c", base_model_name_or_path="Qwen/Qwen2.5-Omni-3B")
    with pytest.raises(ValueError, match=r"but the bundle of `adapter` belongs to Qwen/Qwen2\.5-Omni-3B"):
        check_adapter(wanted, [Target()], training=True)


@pytest.mark.parametrize(
    "recorded",
    [
        "org/base-7.5B",
        "/home/user/.cache/modelscope/hub/models/org/base-7___5B",
        "/mnt/modelscope/hub/org/base-7___5B/",
        "/home/user/.cache/huggingface/hub/models--org--base-7.5B/snapshots/0123abcd",
    ],
)
def test_a_base_model_in_the_cache_of_a_hub_is_known_by_its_id(recorded):
    wanted = ModelArguments(base_model="org/base-7.5B", adapter="a")
    check_same_base(wanted, recorded)
    with pytest.raises(ValueError, match="belongs to"):
        check_same_base(wanted, recorded.replace("base", "other"))


def _add(name: str):
    def change(checkpoint: Path) -> None:
        file = checkpoint / "adapter_model.safetensors"
        save_file({**load_file(file), name: torch.zeros(4, 4)}, file)

    return change


PREFIX = "base_model.model."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _add(f"{PREFIX}talker.model.layers.0.self_attn.q_proj.lora_A.weight"),
            "talker.model.layers.0.* cannot be used",
        ),
        (_add(f"{PREFIX}thinker.lm_head.lora_A.weight"), "thinker.lm_head.lora_A.weight cannot be used"),
        (_add(f"{PREFIX}thinker.lm_head.weight"), r"lm_head.weight cannot be used; .* \(modules_to_save\)"),
        (_add(f"{PREFIX}thinker.model.layers.0.mlp.up_proj.lora_magnitude_vector"), "magnitude_vector cannot be used"),
        (_add(f"{PREFIX}thinker.model.embed_tokens.lora_embedding_A"), "lora_embedding_A cannot be used"),
        (_add(f"{PREFIX}thinker.model.layers.0.self_attn.q_proj.lora_A.weight"), "is there twice"),
        (_add("thinker.model.layers.0.self_attn.q_proj.lora_A.weight"), "^.*safetensors: thinker.model.layers.0"),
        (lambda c: edit(c, use_dora=True), "adapter_config.json: use_dora is True, which is not supported"),
        (lambda c: edit(c, modules_to_save=["lm_head"]), r"modules_to_save is \['lm_head'\]"),
        (lambda c: edit(c, bias="all"), "bias is 'all'"),
        (lambda c: edit(c, init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
        (lambda c: edit(c, of_next_year={"a": 1}), "of_next_year is"),
        (lambda c: edit(c, peft_type="LOHA"), "peft_type is 'LOHA'; expected LORA"),
        (lambda c: (c / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
        (lambda c: (c / "adapter_model.safetensors").write_bytes(b"x" * 40), "not a complete safetensors file"),
    ],
)
def test_what_our_models_do_not_have_is_refused_by_name_before_weights_are_read(
    official, arguments, shared, change, message, tmp_path
):
    made = shared("foreign", lambda out: trained(official, out, "swift"))
    checkpoint = shutil.copytree(made, tmp_path / "c")
    change(checkpoint)
    wanted = replace(arguments, adapter=str(checkpoint), lora_preset="llm")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        check_adapter(wanted, [Target()], training=True)
    assert "\n" not in str(caught.value)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build_model(wanted, scales=[SCALE])


def test_every_weight_must_be_there_and_fit(official, arguments, shared, tmp_path):
    made = shared("foreign", lambda out: trained(official, out, "swift"))
    weights = load_file(made / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    for changed, message in (
        (
            {key: value for key, value in weights.items() if key != name},
            "1 missing weights, first model.language_model",
        ),
        ({**weights, name: weights[name][:-1].clone()}, r"lora_B.weight has shape"),
        ({**weights, name: torch.full_like(weights[name], torch.nan)}, "has NaN or infinite values"),
    ):
        checkpoint = shutil.copytree(made, tmp_path / "c")
        save_file(changed, checkpoint / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=message):
            build_model(replace(arguments, adapter=str(checkpoint)), scales=[SCALE])
        shutil.rmtree(checkpoint)


@pytest.mark.slow
def test_training_adds_a_head_and_trains_both_to_an_ordinary_bundle(settings, official, tmp_path, planted_clips):
    trained(official, tmp_path / "c", "factory, two")
    before = peft_adapter(tmp_path / "c")
    wanted = {"base_model": str(official), "adapter": str(tmp_path / "c"), "lora_alpha": 8}
    metrics = train.run(*parse_arguments([settings(**wanted)]))
    bundle = tmp_path / "run" / "model"
    labels = [clip.label for clip in planted_clips if clip.split == "train"]
    config = OmniSentConfig.from_pretrained(bundle)
    assert config.label_mean == pytest.approx(np.mean(labels), abs=1e-5)
    after = load_file(bundle / "adapter" / "adapter_model.safetensors")
    theirs = {before.names[name]: weight for name, weight in load_file(before.weights_file).items()}
    assert after.keys() == theirs.keys()
    moved = [(after[name] - weight).abs().max().item() for name, weight in theirs.items()]
    assert 0 < min(moved) <= max(moved) < 0.1  # it began with theirs
    assert metrics["trainable_parameters"] == sum(weight.numel() for weight in theirs.values())
    lora = read_lora_config(bundle)
    assert (lora.use_rslora, lora.lora_alpha / math.sqrt(lora.r)) == (True, 4.0)
    here = OmniForSentimentRegression.from_pretrained(bundle)
    code = """
        from transformers import pipeline
        pipe = pipeline("multimodal-sentiment", model=sys.argv[1], trust_remote_code=True, device="cpu")
        print(json.dumps(pipe({"text": "it was fine"})["score"]))
    """
    there = run_elsewhere(code, tmp_path, str(bundle))
    with torch.no_grad():
        assert here(
            **OmniSentProcessor.from_pretrained(bundle)({"text": "it was fine"})
        ).scores.item() == pytest.approx(there, abs=1e-5)
    check_adapter(
        replace(parse_arguments([settings(**wanted)])[0], adapter=str(bundle), base_model=str(official)),
        [Target()],
        training=True,
    )


def test_a_generative_fine_tune_is_evaluated_as_it_is_and_without_a_head_nothing_else_is(
    settings, official, tmp_path, arguments
):
    trained(official, tmp_path / "c", "swift")
    wanted = {"base_model": str(official), "adapter": str(tmp_path / "c"), "lora_alpha": 8, "lora_preset": "llm"}
    alone = {"evaluate_only": True, "output_dir": str(tmp_path / "run")}
    generative = {"readout": "generative", "decoding": "expected"}
    found = train.run(*parse_arguments([settings(**wanted, **alone, **generative)]))
    base = {"base_model": str(official), "output_dir": str(tmp_path / "base")}
    without = train.run(*parse_arguments([settings(**base, **generative, evaluate_only=True)]))
    assert found["mae"] != without["mae"]
    assert found["trainable_parameters"] > 0
    with pytest.raises(ValueError, match="has an adapter but no head, so there is nothing to evaluate"):
        train.run(*parse_arguments([settings(**wanted, **alone)]))
    model = OmniForSentimentGeneration.from_base(official)
    model.load_lora(tmp_path / "c")
    model.save_pretrained(tmp_path / "own")
    assert (tmp_path / "own" / "adapter" / "adapter_model.safetensors").is_file()
