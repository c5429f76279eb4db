"""Inputs of a Thinker: patches, log-mel, placeholders and position ids of a clip, and batches.

They equal those of the official processor for the same frames and samples. What differs between families of models is in
subclasses of `InputLayout`. It works on the CPU, reads no file, and knows no weights.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import logging

MEL_FRAMES_PER_SECOND = 100
TOWER_INPUTS = ("input_features", "feature_attention_mask", "video_patches", "video_mean_std", "video_grid_thw")
MODEL_INPUTS = (
    "input_ids",
    "attention_mask",
    "position_ids",
    *TOWER_INPUTS,
    "audio_embeds",
    "video_embeds",
    "clip_mask",
)


@dataclass(frozen=True)
class InputLayout(ABC):
    """How video and audio become tokens and positions. The defaults are those of Qwen2.5-Omni.

    Attributes:
        patch_size: of the vision tower, in pixels.
        merge_size: patches in a row, and in a column, that become one token.
        temporal_patch_size: frames of a patch.
        image_mean: per channel, for pixels in [0, 1].
        image_std: per channel, for pixels in [0, 1].
        position_id_per_seconds: time positions per second.
        seconds_per_chunk: length of the chunks in which video and audio are interleaved.
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    image_mean: Sequence[float] = tuple(OPENAI_CLIP_MEAN)
    image_std: Sequence[float] = tuple(OPENAI_CLIP_STD)
    position_id_per_seconds: float = 25
    seconds_per_chunk: int = 2

    position_dtype: ClassVar[torch.dtype] = torch.long

    @property
    def token_size(self) -> int:
        """Pixels in a row, and in a column, that become one token; heights and widths are multiples of it."""
        return self.patch_size * self.merge_size

    def most_video_tokens(self, max_frames: int, max_pixels: int) -> int:
        """Tokens of a video with `max_frames` frames of `max_pixels` pixels each."""
        return max_frames // self.temporal_patch_size * (max_pixels // self.token_size**2)

    def video_tokens(self, grid: torch.Tensor) -> int:
        """Tokens of a video, from its patches in time, height and width (1, 3)."""
        return int(grid.prod()) // self.merge_size**2

    @property
    def mean_std(self) -> torch.Tensor:
        """Mean and standard deviation (2, channels) of pixels, levels of 0 to 255."""
        return torch.tensor([list(self.image_mean), list(self.image_std)]).mul(255.0)

    def patches(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (P, patch values) uint8 and grid (1, 3) of uint8 frames (F, 3, h, w); see `pixel_values`."""
        count, channels, height, width = frames.shape
        t, p, m = self.temporal_patch_size, self.patch_size, self.merge_size
        grid_h, grid_w = height // p, width // p
        blocks = frames.reshape(count // t, t, channels, grid_h // m, m, p, grid_w // m, m, p)
        patches = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * t * p * p)
        return patches, torch.tensor([[count // t, grid_h, grid_w]])

    def expand(
        self, ids: list[int], tokenizer: Any, mel_frames: int, grid: torch.Tensor | None, pair_seconds: float | None
    ) -> list[int]:
        """Token ids of a prompt, with its placeholder repeated once per tower feature.

        Args:
            ids: of the prompt, with one placeholder for video (with or without audio) or for audio alone.
            tokenizer: has the ids of the placeholders.
            mel_frames: of the audio; 0 without audio.
            grid: (1, 3), of the video's patches; `None` without video.
            pair_seconds: from one pair of frames to the next.

        Raises:
            ValueError: when the prompt does not have exactly one placeholder.
        """
        of_audio = self.audio_tokens(mel_frames)
        audio, video = tokenizer.audio_token_id, tokenizer.video_token_id
        if grid is None or pair_seconds is None:
            return _replace(ids, audio, [audio] * of_audio) if of_audio else ids
        of_video = self.video_tokens(grid)
        if not of_audio:
            return _replace(ids, video, [video] * of_video)
        pairs = int(grid[0, 0])
        is_video = self.order(pairs, of_video // pairs, of_audio, pair_seconds)
        inner = np.where(is_video, video, audio).tolist()
        return _replace(ids, video, [tokenizer.audio_bos_token_id, *inner, tokenizer.audio_eos_token_id])

    def position_ids(
        self,
        input_ids: torch.Tensor,
        tokenizer: Any,
        mel_frames: int,
        grid: torch.Tensor | None,
        pair_seconds: float | None,
    ) -> torch.Tensor:
        """Time, height and width positions (3, T) of one clip with token ids (T,), by the Thinker's own rules; see `expand`."""
        if grid is None or pair_seconds is None:
            return torch.arange(len(input_ids), dtype=self.position_dtype).expand(3, -1)
        return self.media_position_ids(input_ids, tokenizer, mel_frames, grid, pair_seconds)

    @abstractmethod
    def mel_frames(self, samples: int, hop: int) -> int:
        """Number of log-mel frames of so many samples, `hop` samples apart."""

    @abstractmethod
    def log_mel(self, extractor: Any, samples: np.ndarray, sample_rate: int) -> torch.Tensor:
        """Log-mel (mel bins, M) of mono samples (samples,), bit-equal to the official path's for one clip."""

    @abstractmethod
    def audio_tokens(self, mel_frames: int) -> int:
        """Number of audio tokens for a number of log-mel frames."""

    @abstractmethod
    def order(self, pairs: int, tokens_per_pair: int, audio: int, pair_seconds: float) -> np.ndarray:
        """Which of the tokens of a video with sound are video, in their order (tokens,).

        Args:
            pairs: of frames.
            tokens_per_pair: of video.
            audio: tokens.
            pair_seconds: from one pair to the next.
        """

    @abstractmethod
    def media_position_ids(
        self, input_ids: torch.Tensor, tokenizer: Any, mel_frames: int, grid: torch.Tensor, pair_seconds: float
    ) -> torch.Tensor:
        """As `position_ids`, of a clip with video."""

    def position_rules(self, thinker: Any, tokenizer: Any, **others: Any) -> SimpleNamespace:
        """What a Thinker's rules of positions, methods of its class, take from their object; `others` go to its config."""
        config = SimpleNamespace(
            image_token_id=tokenizer.image_token_id,
            video_token_id=tokenizer.video_token_id,
            audio_token_id=tokenizer.audio_token_id,
            vision_start_token_id=tokenizer.vision_bos_token_id,
            audio_start_token_id=tokenizer.audio_bos_token_id,
            position_id_per_seconds=self.position_id_per_seconds,
            seconds_per_chunk=self.seconds_per_chunk,
            **others,
        )
        rules = SimpleNamespace(config=config, spatial_merge_size=self.merge_size)
        rules.get_llm_pos_ids_for_vision = thinker.get_llm_pos_ids_for_vision.__get__(rules)
        return rules

    def position_inputs(
        self, input_ids: torch.Tensor, mel_frames: int, grid: torch.Tensor, pair_seconds: float
    ) -> dict[str, Any]:
        """One clip as arguments of `get_rope_index`, the Thinker's rules of positions."""
        return {
            "input_ids": input_ids[None],
            "video_grid_thw": grid,
            "attention_mask": torch.ones(1, len(input_ids)),
            "use_audio_in_video": mel_frames > 0,
            "audio_seqlens": torch.tensor([mel_frames]) if mel_frames else None,
            "second_per_grids": torch.tensor([pair_seconds]),
        }

    def pad(
        self, encoded: Sequence[Mapping[str, Any]], tokenizer: Any, *, padding_side: str = "left"
    ) -> dict[str, torch.Tensor]:
        """Pad B encoded clips to a batch; see `OmniSentProcessor.pad` for what it returns and raises."""
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side must be 'left' or 'right', not {padding_side!r}")
        if not encoded:
            raise ValueError("no clip to pad: expected at least one encoded clip")
        for clip in encoded:
            self.check_placeholders(clip, tokenizer)
        lengths = [clip["input_ids"].shape[0] for clip in encoded]
        rows, columns = len(encoded), max(lengths)
        input_ids = torch.full((rows, columns), tokenizer.pad_token_id)  # (B, T)
        attention_mask = torch.zeros(rows, columns, dtype=torch.long)
        position_ids = torch.ones(3, rows, columns, dtype=self.position_dtype)
        for row, (clip, length) in enumerate(zip(encoded, lengths, strict=True)):
            span = slice(0, length) if padding_side == "right" else slice(columns - length, columns)
            input_ids[row, span] = clip["input_ids"]
            attention_mask[row, span] = 1
            position_ids[:, row, span] = clip["position_ids"]
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        if "clip_mask" in encoded[0]:
            batch["clip_mask"] = torch.zeros(rows, columns, dtype=torch.long)
            for row, (clip, length) in enumerate(zip(encoded, lengths, strict=True)):
                start = 0 if padding_side == "right" else columns - length
                batch["clip_mask"][row, start : start + length] = clip["clip_mask"]
        spectra = [clip["input_features"] for clip in encoded if "input_features" in clip]
        if spectra:
            longest = max(spectrum.shape[1] for spectrum in spectra)
            features = torch.zeros(len(spectra), spectra[0].shape[0], longest)  # (A, mel bins, M)
            mask = torch.zeros(len(spectra), longest, dtype=torch.long)
            for row, spectrum in enumerate(spectra):
                features[row, :, : spectrum.shape[1]] = spectrum
                mask[row, : spectrum.shape[1]] = 1
            batch |= {"input_features": features, "feature_attention_mask": mask}
        for key in ("video_patches", "video_grid_thw", "audio_embeds", "video_embeds"):
            parts = [clip[key] for clip in encoded if key in clip]
            if parts:
                batch[key] = _joined(parts) if key == "video_patches" else torch.cat(parts)
        if "video_patches" in batch:
            batch["video_mean_std"] = self.mean_std
        return batch

    def check_placeholders(self, clip: Mapping[str, Any], tokenizer: Any) -> None:
        """Check that an encoded clip has one placeholder for each tower feature.

        Raises:
            ValueError: when the numbers differ; later clips of the batch would get the wrong features.
        """
        of_audio = clip["audio_embeds"].shape[0] if "audio_embeds" in clip else 0
        if "input_features" in clip:
            of_audio = self.audio_tokens(clip["input_features"].shape[1])
        of_video = clip["video_embeds"].shape[0] if "video_embeds" in clip else 0
        if "video_grid_thw" in clip:
            of_video = self.video_tokens(clip["video_grid_thw"])
        for kind, token, features in (
            ("audio", tokenizer.audio_token_id, of_audio),
            ("video", tokenizer.video_token_id, of_video),
        ):
            places = int((clip["input_ids"] == token).sum())
            if places != features:
                raise ValueError(
                    f"clip {clip.get('clip_id', 'without id')}: {features} {kind} features for {places} placeholders; encode and"
                    " pad it with the same processor"
                )


def pixel_values(patches: torch.Tensor, mean_std: torch.Tensor) -> torch.Tensor:
    """The patches (P, patch values) as the vision tower takes them: normalised float32, channel after channel.

    Patches stay uint8 until they are on the tower's device: a quarter of the bytes.
    """
    mean, std = mean_std.float().unsqueeze(-1)  # (channels, 1)
    return patches.unflatten(1, (len(mean), -1)).float().sub_(mean).div_(std).flatten(1)


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """As `torch.cat`; numpy's memory is in huge pages, which makes joining patches three times as fast."""
    return torch.from_numpy(np.concatenate([part.numpy() for part in parts]))


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence what transformers says while it loads, where the caller checks the result itself."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _replace(ids: list[int], token: int, by: list[int]) -> list[int]:
    if ids.count(token) != 1:
        raise ValueError(
            f"the chat template must give one placeholder {token} for the clip's media, found {ids.count(token)}"
        )
    at = ids.index(token)
    return [*ids[:at], *by, *ids[at + 1 :]]
