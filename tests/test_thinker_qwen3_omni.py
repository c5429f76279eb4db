"""Qwen3-Omni: inputs and hidden states equal those of transformers' own processor and forward pass; experts, DeepStack, NF4."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from peft.tuners.lora import LoraLayer, ParamWrapper
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoeThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerModel,
    Qwen3OmniMoeVisionEncoder,
)
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import Qwen3OmniMoeProcessor

from elsewhere import run_elsewhere
from omnisent.families_omnisent import FAMILIES
from omnisent.hub.export import export_run
from omnisent.losses_omnisent import LabelScale
from omnisent.media_omnisent import ClipMedia
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.readouts.generation_model import OmniForSentimentGeneration
from omnisent.thinker_inputs_omnisent import pixel_values
from omnisent.thinker_omnisent import language_inputs, load_thinker, read_layers, thinker_config
from omnisent.towers_omnisent import PatchProduct, tower_features
from omnisent.train import run
from omnisent.training.arguments import DataArguments, ModelArguments, OmniSentTrainingArguments, parse_arguments
from omnisent.training.backbone import build_model, lora_config
from omnisent.training.plan import plan
from omnisent.training.tiny_backbone import make_tiny_backbone
from properties import examples

QWEN3 = FAMILIES["qwen3_omni_moe"]
MEL_FRAMES = st.integers(1, 900)
GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))  # pairs of frames, merged rows and columns
TEXT = "I loved every minute."
SCALE = LabelScale(0.0, 1.0, -3.0, 3.0)
FPS = st.sampled_from([0.7, 1.0, 2.0, 4.0])


@pytest.fixture(scope="module")
def backbone(shared) -> Path:
    return shared("tiny-qwen3-omni", lambda folder: make_tiny_backbone(folder, family=QWEN3))


@pytest.fixture(scope="module")
def processor(backbone) -> OmniSentProcessor:
    return OmniSentProcessor.from_base(backbone)


@pytest.fixture(scope="module")
def official(backbone) -> Qwen3OmniMoeProcessor:
    return Qwen3OmniMoeProcessor.from_pretrained(backbone)


@pytest.fixture(scope="module")
def thinker(backbone) -> Qwen3OmniMoeThinkerForConditionalGeneration:
    """Transformers' own, loaded from the folder by its own class."""
    return Qwen3OmniMoeThinkerForConditionalGeneration.from_pretrained(
        backbone, config=thinker_config(backbone), dtype=torch.float32
    ).eval()


@pytest.fixture
def model(backbone) -> OmniForSentimentRegression:
    torch.manual_seed(0)
    return OmniForSentimentRegression.from_thinker(backbone, dtype=torch.float32).eval()


def sound_of(mel_frames: int, rest: int = 0) -> np.ndarray:
    return np.sin(np.arange(160 * mel_frames + rest) / 9).astype(np.float32) / 2


def picture_of(grid: tuple[int, int, int]) -> torch.Tensor:
    pairs, rows, columns = grid
    count = 2 * pairs * 3 * rows * columns * 32 * 32
    return (torch.arange(count) * 7 % 251).to(torch.uint8).reshape(2 * pairs, 3, rows * 32, columns * 32)


def theirs_of(processor, official, *, frames=None, sound=None, fps: float = 2.0):
    """One clip by the official processor."""
    both = frames is not None and sound is not None
    return official(
        text=processor.prompt("good", video=frames is not None, audio=sound is not None),
        videos=None if frames is None else [frames],
        audio=None if sound is None else [sound],
        fps=fps,
        do_sample_frames=False,
        do_resize=False,
        load_audio_from_video=both,
        audio_from_video_indices=[0] if both else None,
        return_tensors="pt",
    )


def positions_of(thinker, inputs) -> torch.Tensor:
    heard = inputs["feature_attention_mask"].sum(1) if "feature_attention_mask" in inputs else None
    grid = inputs.get("video_grid_thw")
    seconds = torch.as_tensor(inputs["video_second_per_grid"]) if grid is not None else None
    with_sound = grid is not None and heard is not None
    return thinker.model.get_rope_index(
        inputs["input_ids"], None, grid, inputs["attention_mask"], with_sound, heard, seconds
    )[0]


@examples(25)
@given(MEL_FRAMES, st.integers(0, 159), GRIDS, FPS, st.sampled_from(["video", "audio", "both"]))
@example(900, 0, (6, 1, 2), 0.7, "both")
@example(100, 80, (2, 1, 1), 2.0, "both")
@example(99, 0, (1, 1, 1), 1.0, "both")
def test_inputs_are_those_of_the_official_processor(processor, official, thinker, mel_frames, rest, grid, fps, what):
    frames = None if what == "audio" else picture_of(grid)
    sound = None if what == "video" else sound_of(mel_frames, rest)
    ours = processor.assemble("good", ClipMedia(frames, 2 / fps, sound, 9.0))
    theirs = theirs_of(processor, official, frames=frames, sound=sound, fps=fps)
    assert ours["input_ids"].tolist() == theirs["input_ids"][0].tolist()
    assert torch.equal(ours["position_ids"], positions_of(thinker, theirs)[:, 0])
    if sound is not None:
        heard = int(theirs["feature_attention_mask"].sum())
        assert heard == mel_frames == processor.layout.mel_frames(len(sound), 160)
        assert torch.equal(ours["input_features"], theirs["input_features"][0, :, :heard])
    if frames is not None:
        assert ours["video_grid_thw"].tolist() == theirs["video_grid_thw"].tolist()
        values = pixel_values(ours["video_patches"], processor.layout.mean_std)
        assert (values - theirs["pixel_values_videos"]).abs().max() < 1e-5


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 200, 201, 400])
def test_sound_that_is_too_short_for_a_spectrum_is_left_out(processor, samples):
    encoded = processor.assemble("good", ClipMedia(None, None, sound_of(0, samples), 0.01))
    assert ("input_features" in encoded) == (samples > 200)
    processor.pad([encoded])


def test_an_audio_tower_with_other_chunks_is_refused(backbone):
    config = thinker_config(backbone)
    config.audio_config.n_window = 100
    with pytest.raises(ValueError, match="n_window of the audio tower is 100; only 50 is supported"):
        QWEN3.official_settings(backbone, config)


def test_audio_has_as_many_tokens_as_the_tower_outputs(thinker, processor):
    for mel_frames in (1, 7, 8, 9, 50, 99, 100, 101, 213, 420):
        inputs = {"input_features": torch.zeros(1, 128, mel_frames), "mask": torch.ones(1, mel_frames).long()}
        assert len(QWEN3.audio_features(thinker.model, **inputs)) == processor.layout.audio_tokens(mel_frames)
    assert processor.layout.audio_tokens(420) == 55
    assert processor.layout.audio_tokens(0) == 0


@pytest.mark.parametrize("what", ["both", "video", "audio", "text"])
def test_hidden_states_are_those_of_the_official_forward(processor, official, thinker, model, what):
    frames = picture_of((3, 2, 3)) if what in ("both", "video") else None
    sound = sound_of(230) if what in ("both", "audio") else None
    theirs = theirs_of(processor, official, frames=frames, sound=sound, fps=4.0)
    heard = {"use_audio_in_video": True} if what == "both" else {}
    with torch.no_grad():
        expected = thinker.model(**theirs, **heard).last_hidden_state  # (1, T, H)
        inputs = processor.pad([processor.assemble("good", ClipMedia(frames, 0.5, sound, 9.0))])
        mask, positions = inputs.pop("attention_mask"), inputs.pop("position_ids")
        read = language_inputs(model.model, **inputs)
        ours = model.model.language_model(**read, attention_mask=mask, position_ids=positions).last_hidden_state
        assert (ours - expected).abs().max() < 1e-4
        if frames is not None:  # DeepStack's features matter
            shallow = {"inputs_embeds": read["inputs_embeds"], "attention_mask": mask, "position_ids": positions}
            assert (model.model.language_model(**shallow).last_hidden_state - expected).abs().max() > 0.01


def test_answers_are_read_as_by_the_official_forward(processor, official, thinker, backbone):
    """Of clips of all kinds in one batch, padded on the left; each alone by the official class."""
    kinds = [(picture_of((2, 1, 2)), sound_of(130)), (picture_of((1, 2, 1)), None), (None, sound_of(90)), (None, None)]
    answer = torch.tensor([processor.tokenizer("+1.5")["input_ids"]])  # (1, A)
    generator = OmniForSentimentGeneration.from_base(backbone, dtype=torch.float32)
    encoded = [processor.assemble("good", ClipMedia(frames, 0.5, sound, 9.0)) for frames, sound in kinds]
    with torch.no_grad():
        ours = generator.answer_logits(answer.expand(len(kinds), -1), **processor.pad(encoded))
        for row, (frames, sound) in enumerate(kinds):
            theirs = theirs_of(processor, official, frames=frames, sound=sound, fps=4.0)
            for name, more in (("input_ids", answer[:, :-1]), ("attention_mask", torch.ones_like(answer[:, :-1]))):
                theirs[name] = torch.cat([theirs[name], more], dim=1)
            heard = {"use_audio_in_video": True} if frames is not None and sound is not None else {}
            expected = thinker(**theirs, **heard).logits[0, -answer.shape[1] :]
            assert (ours[row] - expected).abs().max() < 1e-4


def clips_of(lengths: list[int]) -> list[ClipMedia]:
    """Clips with sound of so many log-mel frames; each third also has a picture."""
    pictures = [picture_of((1 + place, 1, 2)) if place % 3 == 0 else None for place in range(len(lengths))]
    return [
        ClipMedia(frames, 0.5, sound_of(mel_frames), 9.0) for frames, mel_frames in zip(pictures, lengths, strict=True)
    ]


def test_a_score_does_not_depend_on_the_batch(processor, model):
    encoded = [processor.assemble("good", media) for media in clips_of([30, 250, 45, 100, 99, 7, 300])]
    with torch.no_grad():
        together = [model(**processor.pad(encoded, padding_side=side)).scores for side in ("left", "right")]
        alone = torch.cat([model(**processor.pad([clip])).scores for clip in encoded])
    for scores in together:
        assert torch.allclose(scores, alone, atol=2e-6)
    assert len(set(alone.tolist())) == len(encoded)


def test_every_layer_reads_the_same_in_training_and_evaluation(processor, model):
    inputs = processor.pad([processor.assemble("good", clips_of([120])[0])])
    mask, positions = inputs.pop("attention_mask"), inputs.pop("position_ids")
    with torch.no_grad():
        read = {**language_inputs(model.model, **inputs), "attention_mask": mask, "position_ids": positions}
        states = [read_layers(model.model.train(mode), _keep, **read) for mode in (True, False)]
    assert len(states[0]) == model.model.config.text_config.num_hidden_layers + 1
    for one, other in zip(*states, strict=True):
        assert torch.equal(one, other)


def _keep(found, layer, states):
    return states[None] if found is None else torch.cat([found, states[None]])


def test_the_vision_tower_is_sped_up_and_equal(processor, model, thinker):
    patches, grid = processor.layout.patches(picture_of((4, 2, 2)))
    inputs = {"video_patches": patches, "video_mean_std": processor.layout.mean_std, "video_grid_thw": grid}
    with torch.no_grad():
        ours = tower_features(model.model, **inputs)["video_embeds"]
        theirs = QWEN3.video_features(thinker.model, pixel_values(patches, inputs["video_mean_std"]), grid)
    assert isinstance(model.model.visual.patch_embed, PatchProduct)
    assert type(thinker.model.visual) is Qwen3OmniMoeVisionEncoder
    assert not isinstance(thinker.model.visual.patch_embed, PatchProduct)
    depth = len(model.model.config.vision_config.deepstack_visual_indexes)
    assert ours.shape == (int(grid.prod()) // 4, (1 + depth) * model.model.config.text_config.hidden_size)
    assert (ours - theirs).abs().max() < 1e-5


def test_each_expert_has_weights_of_its_own_in_the_checkpoint(backbone, thinker):
    with safe_open(backbone / "model.safetensors", "pt") as file:
        names = set(file.keys())
        first = file.get_tensor("thinker.model.layers.1.mlp.experts.3.up_proj.weight")
    assert not any("gate_up_proj" in name for name in names)
    width = thinker.config.text_config.moe_intermediate_size
    layer = thinker.model.language_model.layers[1].mlp.experts
    assert torch.equal(layer.gate_up_proj[3, width:], first)
    assert AutoConfig.from_pretrained(backbone).model_type == "qwen3_omni_moe"


@pytest.mark.parametrize("preset", ["paper", "llm", "attention"])
def test_lora_reaches_experts_without_dropout(backbone, model, preset):
    model.add_lora(lora_config(ModelArguments(lora_r=4, lora_dropout=0.1, lora_preset=preset), QWEN3))
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    of_experts = {layer.parameter_name for layer in layers.values() if isinstance(layer, ParamWrapper)}
    assert of_experts == (set() if preset == "attention" else {"gate_up_proj", "down_proj"})
    assert any("audio_tower" in name for name in layers) == (preset == "paper")
    for layer in layers.values():
        dropout = layer.lora_dropout["default"]
        assert isinstance(dropout, nn.Identity) if isinstance(layer, ParamWrapper) else dropout.p == 0.1
        assert layer.r["default"] == 4


def test_an_adapter_of_experts_is_trained_saved_loaded_and_merged(backbone, processor, model, tmp_path):
    batch = processor.pad([processor.assemble("good", media) for media in clips_of([120, 130])])
    model.add_lora(lora_config(ModelArguments(lora_r=4), QWEN3))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    model.train()(**batch, labels=torch.tensor([3.0, 3.0])).loss.backward()
    trained = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.any())
    }
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
    with torch.no_grad():
        scores = model.eval()(**batch).scores
        model.save_pretrained(tmp_path)
        again = OmniForSentimentRegression.from_pretrained(tmp_path, dtype=torch.float32)
        assert torch.equal(again(**batch).scores, scores)
        again.merge_lora()
        assert torch.allclose(again(**batch).scores, scores, atol=1e-5)
        assert not any("lora" in name or "base_layer" in name for name, _ in again.named_parameters())
        again.config.base_model = None
        again.save_pretrained(tmp_path / "merged")
        merged = OmniForSentimentRegression.from_pretrained(tmp_path / "merged", dtype=torch.float32)
        assert torch.allclose(merged(**batch).scores, again(**batch).scores, atol=1e-6)
    # PEFT itself can read the adapter's configuration: it refuses dropout on experts.
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["lora_dropout"] == 0.0


def test_both_readouts_adapt_the_same_weights(backbone):
    names = []
    for readout in ("discriminative", "generative"):
        arguments = ModelArguments(
            base_model=str(backbone), readout=readout, quantization="none", dtype="float32", lora_r=4, lora_preset="llm"
        )
        model = build_model(arguments, scales=[SCALE])
        names.append({(name, tuple(p.shape)) for name, p in model.named_parameters() if "lora_" in name})
    assert names[0] == names[1]
    assert not any("tower" in name for name, _ in names[0])


def test_nf4_leaves_the_experts_as_they_are_and_says_so(backbone, caplog):
    arguments = ModelArguments(base_model=str(backbone), dtype="float32", lora_r=4)
    model = build_model(arguments, scales=[SCALE])
    layer = model.model.language_model.layers[0]
    assert layer.self_attn.q_proj.base_layer.weight.dtype == torch.uint8
    assert layer.mlp.experts.get_base_layer().gate_up_proj.dtype == torch.float32
    experts = 2 * 4 * 3 * 64 * 128 * 4
    assert f"the experts of Qwen3-Omni are not quantised: {experts / 1e9:.1f} GB" in caplog.text
    caplog.clear()
    build_model(ModelArguments(base_model=str(backbone), dtype="float32", quantization="none"), scales=[SCALE])
    assert "experts" not in caplog.text


def test_the_thinker_without_towers_reads_what_they_gave(backbone, processor, model):
    batch = processor.pad([processor.assemble("good", media) for media in clips_of([120, 130, 90])])
    with torch.no_grad():
        scores = model(**batch).scores
        towers = load_thinker(backbone, without=("language_model",), dtype=torch.float32).eval()
        given = ("input_features", "feature_attention_mask", "video_patches", "video_mean_std", "video_grid_thw")
        features = tower_features(towers, **{name: batch.pop(name) for name in given})
        assert torch.allclose(model(**batch, **features).scores, scores, atol=1e-6)


SCORE_BY_REMOTE_CODE = """
from transformers import pipeline
pipe = pipeline("multimodal-sentiment", model=sys.argv[1], trust_remote_code=True)
print(json.dumps([type(pipe.model).__module__, *(result["score"] for result in pipe(json.loads(sys.argv[2])))]))
"""


@pytest.mark.slow
def test_a_run_is_trained_and_its_bundle_loads_by_its_own_code(backbone, settings, whole_clips, tmp_path):
    short = {"max_steps": 2, "eval_steps": 1, "save_steps": 1}
    metrics = run(*parse_arguments([settings(base_model=str(backbone), head="linear", **short)]))
    assert metrics["mae"] > 0
    bundle = tmp_path / "run" / "model"
    assert json.loads((bundle / "processor_config.json").read_text())["family"] == "qwen3_omni_moe"
    clips = [clip.to_dict() for clip in whole_clips[:4]]
    module, *scores = run_elsewhere(SCORE_BY_REMOTE_CODE, tmp_path, str(bundle), json.dumps(clips))
    assert module.startswith("transformers_modules.")
    with torch.no_grad():
        processor = OmniSentProcessor.from_pretrained(bundle)
        model = OmniForSentimentRegression.from_pretrained(bundle, dtype=torch.float32)
        expected = [model(**processor(clip)).scores.item() for clip in clips]
        assert scores == pytest.approx(expected, abs=1e-5)
        assert len(set(scores)) == len(clips)
        export_run(tmp_path / "run", tmp_path / "official", layout="official")
        inputs = processor({"text": TEXT})
        theirs, info = Qwen3OmniMoeThinkerModel.from_pretrained(tmp_path / "official", output_loading_info=True)
        assert not info["missing_keys"]
        score = load_file(tmp_path / "official" / "score.safetensors")
        state = theirs.eval()(**inputs).last_hidden_state[:, -1]
        weight, bias = (score[f"thinker.language_model.score.{name}"] for name in ("weight", "bias"))
        assert float(state @ weight.T + bias) == pytest.approx(model(**inputs).scores.item(), abs=1e-5)


def test_the_plan_counts_what_adapted_experts_keep(backbone):
    """Measured once of a step without checkpointing, four layers of 64 experts: 213 MB were kept, of which experts were 201 MB."""

    def planned(preset: str, *, checkpointing: bool = False):
        training = OmniSentTrainingArguments(use_cpu=True, activation_checkpointing=checkpointing)
        model = ModelArguments(base_model=str(backbone), dtype="float32", lora_preset=preset, quantization="none")
        return plan(model, DataArguments(modalities=["text"]), training)

    experts = 4 * 3 * 4 * 128 * 64  # bytes of a layer
    kept = planned("llm").kept_bytes - planned("attention").kept_bytes
    assert kept == 2 * experts
    bound = (
        planned("llm", checkpointing=True).activation_bytes - planned("attention", checkpointing=True).activation_bytes
    )
    assert bound >= 2 * experts
