"""The towers' outputs and gradients equal those of transformers' own forward, at the width of a published model."""

import copy

import pytest
import torch
from torch.profiler import profile
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder, Qwen2_5OmniVisionEncoder

from omnisent import towers_omnisent
from omnisent.families_omnisent import DEFAULT_FAMILY
from omnisent.family_omnisent import Thinker, ThinkerConfig
from omnisent.thinker_inputs_omnisent import TOWER_INPUTS, pixel_values
from omnisent.thinker_omnisent import published_config, thinker_config
from omnisent.towers_omnisent import WINDOW_ATTENTION, PatchProduct, speed_up, tower_features

GRIDS = torch.tensor([[2, 6, 10], [1, 8, 8], [3, 12, 4]])  # windows of several lengths


@pytest.fixture(scope="module")
def config() -> ThinkerConfig:
    config = published_config("Qwen/Qwen2.5-Omni-7B")
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = 2, [1]
    config.audio_config.encoder_layers = 1
    return config


def two(tower_class, config, attention="sdpa"):
    """The library's tower, and a copy that is sped up."""
    torch.manual_seed(0)
    ours = tower_class._from_config(copy.deepcopy(config), attn_implementation=attention).eval()
    theirs = copy.deepcopy(ours)
    speed_up(ours, DEFAULT_FAMILY)
    return ours, theirs


def outputs_and_gradient(tower, inputs, **sizes):
    inputs = inputs.clone().requires_grad_()
    output = tower(inputs, **sizes).pooler_output
    output.square().mean().backward()
    return output.detach(), inputs.grad


def test_windows_of_the_vision_tower_give_the_librarys_outputs_and_gradients(config):
    ours, theirs = two(Qwen2_5OmniVisionEncoder, config.vision_config)
    theirs.patch_embed = ours.patch_embed
    patches = torch.randn(int(GRIDS.prod(-1).sum()), 1176)
    for own, expected in zip(
        outputs_and_gradient(ours, patches, grid_thw=GRIDS),
        outputs_and_gradient(theirs, patches, grid_thw=GRIDS),
        strict=True,
    ):
        assert torch.equal(own, expected)


def test_windows_of_the_audio_tower_give_the_librarys_outputs_and_gradients(config):
    ours, theirs = two(Qwen2_5OmniAudioEncoder, config.audio_config)
    lengths = torch.tensor([430, 120, 200])
    spectrum = torch.randn(128, int(lengths.sum()))
    assert ours.config._attn_implementation == WINDOW_ATTENTION
    for own, expected in zip(
        outputs_and_gradient(ours, spectrum, feature_lens=lengths),
        outputs_and_gradient(theirs, spectrum, feature_lens=lengths),
        strict=True,
    ):
        assert torch.equal(own, expected)


def test_the_patch_embedding_is_the_convolution(config):
    ours, theirs = two(Qwen2_5OmniVisionEncoder, config.vision_config)
    assert isinstance(ours.patch_embed, PatchProduct)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    patches = torch.randn(24, 1176)
    assert torch.allclose(ours.patch_embed(patches), theirs.patch_embed(patches), atol=2e-5)


def attention_calls(tower, grids: torch.Tensor) -> int:
    with torch.no_grad(), profile() as profiler:
        tower(torch.randn(int(grids.prod(-1).sum()), 1176), grid_thw=grids)
    return sum(event.count for event in profiler.key_averages() if event.key == "aten::scaled_dot_product_attention")


def test_one_attention_call_for_each_length_of_a_window(config):
    ours, theirs = two(Qwen2_5OmniVisionEncoder, config.vision_config)
    grids = torch.tensor([[1, 16, 16]] * 3)  # 4 windows of 64 patches in each of 3 frames; or 3 of 256
    assert attention_calls(theirs, grids) == 12 + 3
    assert attention_calls(ours, grids) == 2


def test_another_attention_is_left_as_it_is(config):
    ours, _ = two(Qwen2_5OmniVisionEncoder, config.vision_config, attention="eager")
    assert ours.config._attn_implementation == "eager"


@pytest.fixture(scope="module")
def thinker(tiny_backbone) -> Thinker:
    torch.manual_seed(0)
    return DEFAULT_FAMILY.thinker_class(thinker_config(tiny_backbone)).eval().requires_grad_(False)


def videos(count: int) -> dict[str, torch.Tensor]:
    """The vision tower's inputs of videos of different lengths."""
    layout = DEFAULT_FAMILY.layout_class()
    frames = [torch.randint(0, 256, (2 * (1 + video % 3), 3, 56, 84), dtype=torch.uint8) for video in range(count)]
    patches, grids = zip(*map(layout.patches, frames), strict=True)
    mean_std = layout.mean_std
    return {"video_patches": torch.cat(patches), "video_mean_std": mean_std, "video_grid_thw": torch.cat(grids)}


def test_a_frozen_tower_reads_so_many_patches_at_once(thinker, monkeypatch):
    inputs, sizes = videos(5), []
    whole = tower_features(thinker, **inputs)["video_embeds"]
    forward = thinker.visual.register_forward_pre_hook(lambda tower, given: sizes.append(len(given[0])))
    monkeypatch.setattr(towers_omnisent, "MOST_PATCHES", 100)  # videos have 24, 48, 72, 24 and 48 patches
    parts = tower_features(thinker, **inputs)["video_embeds"]
    forward.remove()
    assert sizes == [72, 96, 48]
    assert torch.allclose(parts, whole, atol=1e-6)


def test_patches_are_normalised_per_channel():
    layout = DEFAULT_FAMILY.layout_class(image_mean=(0.1, 0.2, 0.3), image_std=(0.5, 0.6, 0.7))
    frames = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    patches, _ = layout.patches(frames)
    values = pixel_values(patches, layout.mean_std).view(4, 3, 2, 14, 14)  # 2 x 2 patches of two frames
    expected = (frames / 255 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.6, 0.7])[
        :, None, None
    ]
    assert torch.allclose(values[0], expected[:, :, :14, :14].transpose(0, 1), atol=1e-5)
    assert torch.allclose(values[3], expected[:, :, 14:, 14:].transpose(0, 1), atol=1e-5)


def test_a_thinker_can_be_built_again_from_the_configuration_of_a_sped_up_one(thinker):
    tower_features(thinker, **videos(1))
    again = DEFAULT_FAMILY.thinker_class(copy.deepcopy(thinker.config)).eval().requires_grad_(False)
    again.load_state_dict(thinker.state_dict())
    inputs = videos(2)
    assert torch.equal(
        tower_features(again, **inputs)["video_embeds"], tower_features(thinker, **inputs)["video_embeds"]
    )
    assert thinker.config.vision_config._attn_implementation == "sdpa"


def test_the_inputs_of_the_towers_are_those_of_a_batch():
    assert tower_features.__code__.co_varnames[1 : 1 + len(TOWER_INPUTS)] == TOWER_INPUTS
