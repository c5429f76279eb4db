"""What the model promises: one score a clip, whatever surrounds it, and the same score after saving and loading."""

import json
import random
import shutil

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, BitsAndBytesConfig, Qwen2_5OmniThinkerForConditionalGeneration

from elsewhere import run_elsewhere
from omnisent.heads_omnisent import NotFiniteError
from omnisent.modeling_omnisent import OmniForSentimentRegression, bundle_folder
from omnisent.thinker_inputs_omnisent import TOWER_INPUTS, pixel_values
from omnisent.thinker_omnisent import load_thinker
from omnisent.towers_omnisent import tower_features
from omnisent.training.arguments import ModelArguments
from omnisent.training.backbone import lora_config

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )


def _mixed_clips(planted_clips) -> list[dict]:
    """Eight clips: whole ones of different lengths, silent, without text, without picture, and text alone."""
    whole = [c.to_dict() for c in planted_clips if c.video and c.text]
    silent = {**whole[0], "id": "text only", "video": None}
    mute = [c.to_dict() for c in planted_clips if not c.text][:1]
    heard = [c.to_dict() for c in planted_clips if c.video is None][:1]
    clips = [*whole[1:5], silent, *mute, *heard]
    clips.append({**whole[6], "text": "a much longer thing to say " * 12})
    return clips


def _trained(tiny_backbone, **options) -> OmniForSentimentRegression:
    """A model whose adapter and head are far from their starting values."""
    torch.manual_seed(1)
    model = OmniForSentimentRegression.from_thinker(tiny_backbone, label_mean=0.4, label_std=1.3, **options)
    model.add_lora(LoraConfig(r=4, lora_alpha=8, target_modules=SEVEN))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model.eval()


def test_score_does_not_depend_on_batch_neighbours_padding_or_order(model, processor, planted_clips):
    clips = _mixed_clips(planted_clips)
    assert len(clips) == 8
    with torch.no_grad():
        alone = torch.cat([model(**processor(clip)).scores for clip in clips])
        for side in ("left", "right"):
            order = random.Random(side).sample(range(8), 8)
            together = model(**processor([clips[i] for i in order], padding_side=side)).scores
            assert (together - alone[order]).abs().max() < 1e-4
    assert alone.std() > 0.01


def test_a_score_is_the_denormalised_logit_and_clipped_only_at_inference(model, processor):
    model.config.label_mean, model.config.label_std = 2.0, 4.0
    inputs = processor([{"text": "good"}, {"text": "bad, really bad"}])
    with torch.no_grad():
        free = model.train()(**inputs)
        clipped = model.eval()(**inputs)
    assert torch.allclose(clipped.scores, (clipped.logits * 4 + 2).clamp(-3, 3))
    assert torch.allclose(free.scores, free.logits * 4 + 2)


@pytest.mark.parametrize("name", ["l1", "mse", "huber"])
def test_the_loss_of_the_configuration_is_taken_on_z_scored_labels(model, processor, name):
    model.config.label_mean, model.config.label_std, model.config.loss = 1.0, 2.0, name
    labels = torch.tensor([-3.0, 3.0])
    output = model(**processor([{"text": "good"}, {"text": "bad, really bad"}]), labels=labels)
    apart = (output.logits - (labels - 1.0) / 2.0).abs()
    huber = torch.where(apart < 1, apart**2 / 2, apart - 0.5)
    expected = {"l1": apart, "mse": apart**2, "huber": huber}[name].mean()
    assert output.loss.item() == pytest.approx(expected.item())


def test_the_head_is_float32_and_unquantised_on_an_nf4_backbone(tiny_backbone, processor):
    model = OmniForSentimentRegression.from_thinker(tiny_backbone, quantization_config=_nf4(), dtype=torch.bfloat16)
    kinds = {type(m).__name__ for m in model.model.modules()}
    assert "Linear4bit" in kinds
    assert {type(m) for m in model.score.modules() if hasattr(m, "in_features")} == {torch.nn.Linear}
    assert {p.dtype for p in model.score.parameters()} == {torch.float32}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.eval()(**processor({"text": "fine"})).logits.dtype == torch.float32


@pytest.mark.parametrize(("preset", "in_towers"), [("paper", True), ("llm", False)])
def test_frozen_towers_run_without_autograd(tiny_backbone, processor, whole_clips, preset, in_towers):
    model = OmniForSentimentRegression.from_thinker(tiny_backbone)
    model.add_lora(lora_config(ModelArguments(lora_preset=preset)))
    seen = {}
    for name in ("audio_tower", "visual"):
        tower = getattr(model.model, name)
        tower.register_forward_hook(lambda m, i, out, n=name: seen.update({n: out.last_hidden_state.requires_grad}))
    model(**processor(whole_clips[0].to_dict()), labels=torch.tensor([1.0])).loss.backward()
    assert seen == {"audio_tower": in_towers, "visual": in_towers}
    adapters = [p for n, p in model.named_parameters() if "lora_" in n]
    assert all(p.grad is not None for p in adapters)
    assert any("visual" in n for n, p in model.named_parameters() if p.requires_grad) == in_towers


@pytest.mark.parametrize("preset", ["paper", "llm"])
def test_gradient_checkpointing_changes_no_gradient(tiny_backbone, processor, whole_clips, preset):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(4)
        model = OmniForSentimentRegression.from_thinker(tiny_backbone, head_dropout=0.0).train()
        model.add_lora(lora_config(ModelArguments(lora_preset=preset, lora_dropout=0.0)))
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        inputs = processor([clip.to_dict() for clip in whole_clips[:2]])
        model(**inputs, labels=torch.tensor([1.0, -2.0])).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    plain, recomputed = gradients
    assert all((plain[name] - recomputed[name]).abs().max() < 1e-6 for name in plain)


def test_the_thinker_is_loaded_from_the_full_checkpoint_unchanged(tiny_backbone):
    file = load_file(tiny_backbone / "model.safetensors")
    assert any(name.startswith("talker.") for name in file)
    weights = load_thinker(tiny_backbone).state_dict()
    assert not any("lm_head" in name or "talker" in name for name in weights)
    for ours, theirs in (
        ("language_model.layers.1.mlp.up_proj.weight", "thinker.model.layers.1.mlp.up_proj.weight"),
        ("visual.blocks.0.attn.proj.weight", "thinker.visual.blocks.0.attn.proj.weight"),
        ("audio_tower.layers.1.fc1.weight", "thinker.audio_tower.layers.1.fc1.weight"),
    ):
        assert torch.equal(weights[ours], file[theirs])


def test_a_checkpoint_without_some_thinker_weight_is_refused_by_name(tiny_backbone, tmp_path):
    for file in tiny_backbone.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["thinker.model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 Thinker weights are missing.*layers\.1\.mlp\.up_proj"):
        OmniForSentimentRegression.from_thinker(tmp_path)


def test_a_folder_that_is_not_an_omni_checkpoint_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="has no thinker_config"):
        OmniForSentimentRegression.from_thinker(tmp_path)


LOAD_ELSEWHERE = """
    import torch
    from transformers import AutoModel, AutoProcessor, BitsAndBytesConfig

    folder, clips, quantize = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    options = {"dtype": torch.float32}
    if quantize:
        options["quantization_config"] = BitsAndBytesConfig(**quantize, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, **options)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        scores = model(**processor(clips, return_tensors="pt")).scores
    head = {str(p.dtype) for p in model.score.parameters()} | {type(m).__name__ for m in model.score.layers}
    print(json.dumps({"scores": scores.tolist(), "head": sorted(head), "module": type(model).__module__}))
"""


@pytest.mark.parametrize("quantized", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_saved_model_scores_the_same_where_the_package_is_not_importable(
    tiny_backbone, processor, planted_clips, tmp_path, quantized
):
    model = _trained(tiny_backbone, dtype=torch.float32, **({"quantization_config": _nf4()} if quantized else {}))
    clips = _mixed_clips(planted_clips)
    with torch.no_grad():
        scores = model(**processor(clips)).scores
    model.save_pretrained(tmp_path / "bundle")
    processor.save_pretrained(tmp_path / "bundle")
    assert not (tmp_path / "bundle" / "adapter_config.json").exists()

    options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    arguments = [str(tmp_path / "bundle"), json.dumps(clips), json.dumps(options if quantized else None)]
    there = run_elsewhere(LOAD_ELSEWHERE, tmp_path, *arguments)
    assert there["scores"] == scores.tolist()
    assert "torch.float32" in there["head"]
    assert "Linear4bit" not in there["head"]
    assert there["module"].startswith("transformers_modules.")


def test_a_loaded_model_saves_a_folder_that_loads_again(tiny_backbone, processor, tmp_path):
    model = _trained(tiny_backbone)
    model.save_pretrained(tmp_path / "one")
    OmniForSentimentRegression.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    inputs = processor({"text": "not bad"})
    with torch.no_grad():
        again = OmniForSentimentRegression.from_pretrained(tmp_path / "two")(**inputs).scores
        assert torch.equal(again, model(**inputs).scores)


def test_a_model_without_a_base_is_saved_and_loaded_completely(tiny_backbone, processor, tmp_path):
    torch.manual_seed(2)
    model = OmniForSentimentRegression.from_thinker(tiny_backbone).eval()
    model.config.base_model = None
    model.save_pretrained(tmp_path)
    inputs = processor({"text": "not bad"})
    with torch.no_grad():
        again = OmniForSentimentRegression.from_pretrained(tmp_path)(**inputs).scores
        assert (again - model(**inputs).scores).abs().max() < 1e-6
        quantized = OmniForSentimentRegression.from_pretrained(tmp_path, quantization_config=_nf4())
    assert type(quantized.score.layers[0]) is torch.nn.Linear
    assert type(quantized.model.language_model.layers[0].mlp.up_proj).__name__ == "Linear4bit"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("head.safetensors", lambda w: w.pop("layers.0.weight"), r"head\.safetensors: 1 missing weights"),
        ("head.safetensors", lambda w: w.update(extra=torch.zeros(1)), r"head\.safetensors: 1 unexpected weights"),
        (
            "head.safetensors",
            lambda w: w.update({"layers.0.weight": torch.zeros(2, 2)}),
            r"layers\.0\.weight has shape \(2, 2\), expected \(256, 128\)",
        ),
        (
            "adapter/adapter_model.safetensors",
            lambda w: w.pop(min(w)),
            r"adapter_model\.safetensors: 1 missing weights",
        ),
        (
            "head.safetensors",
            lambda w: w["layers.0.bias"].fill_(torch.nan),
            r"head\.safetensors: layers\.0\.bias has NaN or infinite values",
        ),
        (
            "adapter/adapter_model.safetensors",
            lambda w: w[min(w)].view(-1)[3:4].fill_(torch.inf),
            r"adapter_model\.safetensors: \S+ has NaN or infinite values",
        ),
    ],
)
def test_weights_that_do_not_fit_are_errors_and_never_a_random_head(tiny_backbone, tmp_path, file, change, message):
    _trained(tiny_backbone).save_pretrained(tmp_path)
    weights = load_file(tmp_path / file)
    change(weights)
    save_file(weights, tmp_path / file)
    with pytest.raises(ValueError, match=message):
        OmniForSentimentRegression.from_pretrained(tmp_path)


def test_a_bundle_without_its_head_is_refused(tiny_backbone, tmp_path):
    _trained(tiny_backbone).save_pretrained(tmp_path)
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"head\.safetensors is missing"):
        OmniForSentimentRegression.from_pretrained(tmp_path)


def test_a_bundle_without_the_adapter_that_it_was_saved_with_is_refused(tiny_backbone, tmp_path):
    _trained(tiny_backbone).save_pretrained(tmp_path / "trained")
    shutil.rmtree(tmp_path / "trained" / "adapter")
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json is missing"):
        OmniForSentimentRegression.from_pretrained(tmp_path / "trained")
    OmniForSentimentRegression.from_thinker(tiny_backbone).save_pretrained(tmp_path / "head alone")
    assert not OmniForSentimentRegression.from_pretrained(tmp_path / "head alone").has_adapter


def test_an_incomplete_safetensors_file_is_named(tiny_backbone, tmp_path):
    _trained(tiny_backbone).save_pretrained(tmp_path)
    (tmp_path / "head.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"head\.safetensors: not a complete safetensors file"):
        OmniForSentimentRegression.from_pretrained(tmp_path)


@pytest.mark.parametrize("quantized", [False, True])
def test_a_merged_model_with_a_weight_that_is_not_finite_is_refused(tiny_backbone, tmp_path, quantized):
    model = OmniForSentimentRegression.from_thinker(tiny_backbone)
    model.config.base_model = None
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    weights[name][0, 0] = torch.nan
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    options = {"quantization_config": _nf4()} if quantized else {}
    with pytest.raises(ValueError, match=rf"model\.safetensors: {name} has NaN"):
        OmniForSentimentRegression.from_pretrained(tmp_path, **options)


def test_a_subfolder_has_its_own_weights(tiny_backbone, processor, tmp_path):
    models = {
        "": _trained(tiny_backbone),
        "x": OmniForSentimentRegression.from_thinker(tiny_backbone, label_std=0.5).eval(),
    }
    inputs = processor([{"text": "good"}, {"text": "not that bad"}])
    for place, model in models.items():
        model.save_pretrained(tmp_path / place)
    with torch.no_grad():
        for place, model in models.items():
            found = AutoModel.from_pretrained(tmp_path, subfolder=place, trust_remote_code=True)
            assert torch.equal(found(**inputs).scores, model(**inputs).scores)


def test_the_adapter_is_always_float32(tiny_backbone, tmp_path):
    model = _trained(tiny_backbone)
    model.save_pretrained(tmp_path)
    loaded = OmniForSentimentRegression.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.get_input_embeddings().weight.dtype == torch.bfloat16
    expected = {name: p for name, p in model.named_parameters() if "lora_" in name}
    found = {name: p for name, p in loaded.named_parameters() if "lora_" in name}
    assert found.keys() == expected.keys()
    assert all(p.dtype == torch.float32 and torch.equal(p, expected[name]) for name, p in found.items())


def test_a_score_that_is_not_finite_is_an_error_with_the_other_scores(model, processor):
    inputs = processor([{"text": "good"}, {"text": "bad, really bad"}, {"text": "so"}])
    with torch.no_grad():
        expected = model(**inputs).scores
        of_clip = [set(ids.tolist()) for ids in inputs["input_ids"]]
        word = min(of_clip[1] - of_clip[0] - of_clip[2])
        for bad in (torch.nan, torch.inf):
            model.get_input_embeddings().weight[word, 0] = bad
            with pytest.raises(
                NotFiniteError, match=r"row 1 of 3: no score: the model computes NaN or infinity"
            ) as raised:
                model(**inputs)
            assert raised.value.rows == [1]
            assert raised.value.values.isnan().tolist() == [False, True, False]
            assert torch.equal(raised.value.values[[0, 2]], expected[[0, 2]])
        model.score.layers[-1].bias.fill_(torch.inf)  # would be clipped to the highest score
        with pytest.raises(NotFiniteError, match="row 0, 1, 2 of 3"):
            model(**inputs)


@pytest.mark.parametrize("change", [-2, 2])
def test_numbers_of_features_and_placeholders_must_match(model, processor, whole_clips, change):
    batch = processor([clip.to_dict() for clip in whole_clips[:2]])
    features = tower_features(model.model, **{name: batch.pop(name) for name in TOWER_INPUTS})
    with torch.no_grad():
        model(**batch, **features)
        for name, values in features.items():
            other = values[:change] if change < 0 else torch.cat([values, values[:change]])
            with pytest.raises(
                ValueError, match=rf"{len(other)} audio or video features for {len(values)} placeholders"
            ):
                model(**batch, **{**features, name: other})


def test_adapter_paths_are_those_of_the_generative_class(tiny_backbone):
    arguments = ModelArguments(lora_preset="paper")
    model = OmniForSentimentRegression.from_thinker(tiny_backbone)
    model.add_lora(lora_config(arguments))
    generative = Qwen2_5OmniThinkerForConditionalGeneration(model.config.thinker_config)
    generative.add_adapter(lora_config(arguments))

    def adapters(module):
        return {name for name, _ in module.named_parameters() if "lora_" in name}

    assert adapters(model) == adapters(generative)


def test_inputs_without_position_ids_are_refused(model, processor):
    inputs = processor({"text": "fine"})
    del inputs["position_ids"]
    with pytest.raises(ValueError, match="position_ids are missing"):
        model(**inputs)


def test_attention_implementations_give_the_same_scores(tiny_backbone, processor, planted_clips):
    clips = _mixed_clips(planted_clips)[:3]
    scores = []
    for name in ("sdpa", "eager"):
        torch.manual_seed(0)
        model = OmniForSentimentRegression.from_thinker(tiny_backbone, attn_implementation=name).eval()
        assert model.model.config._attn_implementation == name
        with torch.no_grad():
            scores.append(model(**processor(clips)).scores)
    assert (scores[0] - scores[1]).abs().max() < 1e-5


class _Waits(TorchDispatchMode):
    """Counts the operations that make a CPU wait for a GPU: a value, or a number of elements, is asked for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        asked = {
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.equal.default,
        }
        self.count += function in asked
        return function(*args, **(kwargs or {}))


def test_a_forward_pass_waits_for_the_device_only_to_count_placeholders_and_to_check_scores(
    model, processor, whole_clips
):
    batch = dict(processor([clip.to_dict() for clip in whole_clips[:3]]))
    layout = {name: batch.pop(name) for name in ("input_ids", "attention_mask", "position_ids")}
    embeds = model.get_input_embeddings()(layout["input_ids"])
    with torch.no_grad():
        with _Waits() as theirs:
            model.model.get_audio_features(batch["input_features"], batch["feature_attention_mask"])
            values = pixel_values(batch["video_patches"], batch["video_mean_std"])
            model.model.get_video_features(values, batch["video_grid_thw"])
            model.model.language_model(
                inputs_embeds=embeds,
                attention_mask=layout["attention_mask"],
                position_ids=layout["position_ids"],
                use_cache=False,
            )
        with _Waits() as ours:
            model(**layout, **batch, labels=torch.zeros(3))
    assert theirs.count > 0
    assert ours.count == theirs.count + 6  # sound, pictures, scores; and the longest windows, once for each kind


def test_a_bundle_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(OSError, match=r"^org/nothing: no such folder here, and not available from the Hub: "):
        bundle_folder("org/nothing", local_files_only=True, cache_dir=tmp_path)


def test_a_merged_bundle_has_the_dtype_that_is_asked_for(tiny_backbone, tmp_path):
    """Also where a part of the Thinker's configuration names another."""
    model = OmniForSentimentRegression.from_thinker(tiny_backbone, dtype=torch.float32)
    for part in ("text_config", "audio_config", "vision_config"):
        getattr(model.config.thinker_config, part).dtype = torch.bfloat16
    model.config.base_model = None
    model.save_pretrained(tmp_path)
    for asked in (torch.float32, "float32"):
        loaded = OmniForSentimentRegression.from_pretrained(tmp_path, dtype=asked)
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
