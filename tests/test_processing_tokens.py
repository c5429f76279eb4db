"""The processor's tokens, positions and padding for any length of audio and video, against the library's own code."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

from omnisent.families_omnisent import DEFAULT_FAMILY
from omnisent.media_omnisent import ClipMedia
from omnisent.processing_omnisent import ClipError, OmniSentProcessor, check_modalities
from omnisent.thinker_inputs_omnisent import pixel_values
from properties import examples

MEL_FRAMES = st.integers(1, 900)
GRIDS = st.tuples(st.integers(1, 8), st.integers(1, 3), st.integers(1, 3))  # pairs of frames, merged rows and columns
NOTHING = ClipMedia(None, None, None, 0.0)
PAIR_SECONDS = st.one_of(st.sampled_from([0.08, 0.5, 1.0, 2.0]), st.floats(0.04, 3))


@pytest.fixture(scope="module")
def base(tiny_backbone) -> Qwen2_5OmniProcessor:
    return Qwen2_5OmniProcessor.from_pretrained(tiny_backbone)


@pytest.fixture(scope="module")
def thinker(processor):
    tokens = processor.tokenizer
    config = Qwen2_5OmniThinkerConfig(
        audio_token_index=tokens.audio_token_id,
        image_token_index=tokens.image_token_id,
        video_token_index=tokens.video_token_id,
        audio_start_token_id=tokens.audio_bos_token_id,
        vision_start_token_id=tokens.vision_bos_token_id,
    )
    with torch.device("meta"):
        return Qwen2_5OmniThinkerForConditionalGeneration(config).model


def sound_of(mel_frames: int) -> np.ndarray:
    return np.sin(np.arange(160 * mel_frames) / 9).astype(np.float32) / 2


def picture_of(grid: tuple[int, int, int], side: int = 28) -> torch.Tensor:
    pairs, rows, columns = grid
    count = 2 * pairs * 3 * rows * columns * side * side
    return (torch.arange(count) * 7 % 251).to(torch.uint8).reshape(2 * pairs, 3, rows * side, columns * side)


def test_audio_has_as_many_tokens_as_the_tower_outputs():
    lengths = torch.arange(1, 3000)
    _, theirs = Qwen2_5OmniAudioEncoder._get_feat_extract_output_lengths(None, lengths)
    assert [DEFAULT_FAMILY.layout_class().audio_tokens(int(length)) for length in lengths] == theirs.clamp(
        min=0
    ).tolist()
    assert [DEFAULT_FAMILY.layout_class().audio_tokens(frames) for frames in (0, 1, 2, 3, 4, 100, 3000)] == [
        0,
        0,
        0,
        1,
        1,
        25,
        750,
    ]


@examples(40)
@given(MEL_FRAMES, GRIDS, PAIR_SECONDS, st.sampled_from(["video", "audio", "both"]))
@example(900, (8, 1, 2), 0.5, "both")
@example(60, (8, 2, 1), 2.0, "both")
@example(2, (2, 1, 1), 1.0, "both")
def test_tokens_and_positions_are_those_of_the_library(processor, base, thinker, mel_frames, grid, seconds, what):
    frames = None if what == "audio" else picture_of(grid)
    sound = None if what == "video" else sound_of(mel_frames)
    heard = DEFAULT_FAMILY.layout_class().audio_tokens(mel_frames) if sound is not None else 0
    encoded = processor.assemble("good", ClipMedia(frames, seconds, sound, 9.0))
    sides = torch.tensor([[grid[0], 2 * grid[1], 2 * grid[2]]])
    videos = {"video_grid_thw": sides, "video_second_per_grid": [torch.tensor(seconds).float().item()]}
    settings = {"position_id_per_seconds": 25, "seconds_per_chunk": 2, "load_audio_from_video": heard > 0}
    if frames is None:
        places = base.audio_token * heard
    else:
        places = base.replace_video_token(videos, 0, {"num_audio_tokens": [heard]}, [0], **settings)
    prompt = processor.prompt("good", video=frames is not None, audio=heard > 0)
    prompt = prompt.replace("<|AUDIO|>" if frames is None else "<|VIDEO|>", places)
    ids = torch.tensor(processor.tokenizer(prompt)["input_ids"])
    assert encoded["input_ids"].tolist() == ids.tolist()
    theirs, _ = thinker.get_rope_index(
        ids[None],
        None,
        None if frames is None else sides,
        torch.ones(1, len(ids), dtype=torch.long),
        frames is not None and heard > 0,
        torch.tensor([mel_frames]) if heard else None,
        torch.tensor(videos["video_second_per_grid"]),
    )
    assert encoded["position_ids"].tolist() == theirs[:, 0].tolist()
    assert encoded["position_ids"].dtype == torch.long
    assert ("input_features" in encoded) == (heard > 0)
    if heard:
        assert encoded["input_features"].shape == (128, mel_frames)
    if frames is not None:
        assert encoded["video_grid_thw"].tolist() == sides.tolist()


@examples(10)
@given(GRIDS)
def test_patches_hold_every_pixel_once_in_the_towers_order(processor, base, grid):
    frames = picture_of(grid)
    patches, sides = processor.layout.patches(frames)
    values = pixel_values(patches, processor.layout.mean_std)
    theirs = base.video_processor([frames], do_resize=False, do_sample_frames=False, return_tensors="pt")
    assert sides.tolist() == theirs["video_grid_thw"].tolist()
    assert values.shape == theirs["pixel_values_videos"].shape
    assert (values - theirs["pixel_values_videos"]).abs().max() < 1e-5


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 30_001])
def test_log_mel_has_a_frame_for_every_started_hop(processor, samples):
    sound = sound_of(250)[:samples]
    features = processor.layout.log_mel(processor.feature_extractor, sound, 16_000)
    assert features.shape == (128, -(-samples // 160))
    whole = processor.feature_extractor(sound, sampling_rate=16000, padding="max_length", return_tensors="pt")
    assert torch.equal(features, whole["input_features"][0, :, : features.shape[1]])


def test_audio_too_short_for_a_token_is_left_out(processor):
    encoded = processor.assemble("good", ClipMedia(None, None, sound_of(2), 0.02))
    alone = processor.assemble("good", NOTHING)
    assert encoded.keys() == alone.keys() == {"input_ids", "position_ids"}
    assert encoded["input_ids"].tolist() == alone["input_ids"].tolist()
    assert alone["position_ids"].tolist() == [list(range(len(alone["input_ids"])))] * 3


def test_the_prompt_is_written_out(processor):
    def user(*said, **media):
        prompt = processor.prompt(*said, **media)
        begin = f"<|im_start|>system\n{processor.system_prompt}<|im_end|>\n<|im_start|>user\n"
        end = f"{processor.instruction}<|im_end|>\n<|im_start|>assistant\n"
        assert prompt.startswith(begin)
        assert prompt.endswith(end)
        return prompt[len(begin) : -len(end)]

    assert user(None, video=False, audio=False) == ""
    assert user("So good.", video=False, audio=False) == 'The speaker says: "So good."\n'
    assert user("{text}", "Well.", video=False, audio=True) == (
        '<|audio_bos|><|AUDIO|><|audio_eos|>Before that, the speaker said: "Well."\nThe speaker says: "{text}"\n'
    )
    for audio in (False, True):
        assert user(None, "Well.", video=True, audio=audio) == (
            '<|vision_bos|><|VIDEO|><|vision_eos|>Before that, the speaker said: "Well."\n'
        )


def test_a_chat_template_without_a_media_placeholder_is_refused(processor, tiny_backbone):
    for template, found in (("{{ 'hello' }}", 0), ("{{ '<|VIDEO|><|VIDEO|>' }}", 2)):
        broken = OmniSentProcessor.from_base(tiny_backbone)
        broken.chat_template = template
        place = broken.tokenizer.video_token_id
        with pytest.raises(ValueError, match=rf"one placeholder {place} for the clip's media, found {found}"):
            broken.assemble("good", ClipMedia(picture_of((1, 1, 1)), 1.0, None, 1.0))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_contains_each_clip_unchanged_and_padding(processor, side):
    alone = [
        processor.assemble("good", ClipMedia(picture_of((1, 1, 2)), 1.0, sound_of(130), 1.0)),
        processor.assemble("very good indeed", NOTHING),
        processor.assemble(None, ClipMedia(None, None, sound_of(70), 1.0)),
        processor.assemble("bad", ClipMedia(picture_of((2, 1, 1)), 0.5, None, 1.0)),
    ]
    batch = processor.pad(alone, padding_side=side)
    longest = max(len(clip["input_ids"]) for clip in alone)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (4, longest)
    assert batch["position_ids"].shape == (3, 4, longest)
    for row, clip in enumerate(alone):
        length = len(clip["input_ids"])
        inside = torch.zeros(longest, dtype=torch.bool)
        inside[slice(longest - length, longest) if side == "left" else slice(0, length)] = True
        assert batch["input_ids"][row][inside].tolist() == clip["input_ids"].tolist()
        assert set(batch["input_ids"][row][~inside].tolist()) <= {processor.tokenizer.pad_token_id}
        assert batch["attention_mask"][row].tolist() == inside.long().tolist()
        assert batch["position_ids"][:, row][:, inside].tolist() == clip["position_ids"].tolist()
        assert set(batch["position_ids"][:, row][:, ~inside].flatten().tolist()) <= {1}
    assert batch["input_features"].shape == (2, 128, 130)
    assert batch["feature_attention_mask"].tolist() == [[1] * 130, [1] * 70 + [0] * 60]
    assert torch.equal(batch["input_features"][0], alone[0]["input_features"])
    assert torch.equal(batch["input_features"][1, :, :70], alone[2]["input_features"])
    assert not batch["input_features"][1, :, 70:].any()
    assert batch["video_grid_thw"].tolist() == [[1, 2, 4], [2, 2, 2]]
    both = torch.cat([alone[0]["video_patches"], alone[3]["video_patches"]])
    assert torch.equal(batch["video_patches"], both)
    assert torch.equal(batch["video_mean_std"], processor.layout.mean_std)
    for name in ("input_ids", "attention_mask", "position_ids", "feature_attention_mask"):
        assert batch[name].dtype == torch.long
    assert (
        processor.pad(alone)["attention_mask"].tolist()
        == processor.pad(alone, padding_side="left")["attention_mask"].tolist()
    )
    assert processor.pad(alone[1:2]).keys() == {"input_ids", "attention_mask", "position_ids"}


def test_precomputed_features_are_joined(processor):
    alone = [processor.assemble(None, ClipMedia(None, None, sound_of(frames), 1.0)) for frames in (8, 12)]
    known = []
    for value, clip in enumerate(alone):
        tokens = DEFAULT_FAMILY.layout_class().audio_tokens(clip.pop("input_features").shape[1])
        known.append({**clip, "audio_embeds": torch.full((tokens, 4), float(value))})
    batch = processor.pad(known)
    assert batch["audio_embeds"].tolist() == [[0.0] * 4] * 2 + [[1.0] * 4] * 3
    assert "input_features" not in batch
    seen = [processor.assemble("good", ClipMedia(picture_of((1, 1, n)), 1.0, None, 1.0)) for n in (1, 2)]
    for value, clip in enumerate(seen):
        sides = clip.pop("video_grid_thw")
        del clip["video_patches"]
        clip["video_embeds"] = torch.full((int(sides.prod()) // 4, 4), float(value))
    batch = processor.pad(seen)
    assert batch["video_embeds"].tolist() == [[0.0] * 4] + [[1.0] * 4] * 2
    assert not {"video_grid_thw", "video_patches", "video_mean_std"} & batch.keys()


def test_one_clip_with_audio_is_a_batch(processor):
    clip = processor.assemble(None, ClipMedia(None, None, sound_of(30), 0.3))
    batch = processor.pad([clip])
    assert torch.equal(batch["input_features"][0], clip["input_features"])
    assert batch["feature_attention_mask"].tolist() == [[1] * 30]


def test_preceding_transcripts_are_in_the_tokens_of_a_clip(processor):
    ids = processor.assemble("good", NOTHING, before="Well.")["input_ids"]
    expected = processor.prompt("good", "Well.", video=False, audio=False)
    assert ids.tolist() == processor.tokenizer(expected)["input_ids"]
    assert len(ids) > len(processor.assemble("good", NOTHING)["input_ids"])


def test_padding_needs_clips_and_a_side(processor):
    with pytest.raises(ValueError, match="no clip to pad"):
        processor.pad([])
    with pytest.raises(ValueError, match="padding_side must be 'left' or 'right', not 'top'"):
        processor.pad([processor.assemble("good", NOTHING)], padding_side="top")


def test_modalities_come_in_their_usual_order():
    assert check_modalities(["video", "text"]) == ["text", "video"]
    assert check_modalities(("video", "audio", "text", "text")) == ["text", "audio", "video"]
    for wrong in ([], "text", "audio", ["text", "smell"], ["Text"]):
        with pytest.raises(ValueError, match="modalities must be some of text, audio, video, not ") as caught:
            check_modalities(wrong)
        assert str(caught.value).endswith(repr(wrong))


def test_an_empty_transcript_is_none(processor):
    def said(text):
        return processor.tokenizer.decode(processor.encode({"text": text})["input_ids"])

    assert 'The speaker says: "so good"' in said("  so good \n")
    assert 'The speaker says: "< |im_end|> < |VIDEO|>"' in said("<|im_end|> <|VIDEO|>")
    for nothing in (None, "", " \n "):
        with pytest.raises(ClipError, match="nothing to score"):
            processor.encode({"text": nothing})
    for wrong, kind in ((7, "int"), (["a"], "list"), (b"a", "bytes")):
        with pytest.raises(ClipError, match=f"text must be a string or None, not {kind}"):
            processor.encode({"text": wrong})
    with pytest.raises(ClipError, match=r"clip c1: text must be valid Unicode: .*surrogates not allowed; correct it"):
        processor.encode({"id": "c1", "text": "so \ud800"})
