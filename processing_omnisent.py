"""OmniSentProcessor: clips (text, audio, video) -> the inputs of OmniForSentimentRegression, one clip at a time, then padded.

It holds the prompt and the settings, and reads the files; the Thinker's input format is in thinker_inputs_omnisent.py. Position ids
are computed per clip, so that clips with and without audio can share a batch. It runs on the CPU, in DataLoader workers.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.utils import cached_file, logging

from .audio_omnisent import SAMPLE_RATE
from .errors_omnisent import ClipError, OmniSentError
from .families_omnisent import DEFAULT_FAMILY, family_of, family_of_type
from .frames_omnisent import VideoSampling
from .heads_omnisent import POOL_OVER
from .long_media_omnisent import LongMedia, read_clip
from .media_omnisent import ClipMedia
from .text_omnisent import CONTEXT, INSTRUCTION, SYSTEM_PROMPT, TEXT_CASES, TRANSCRIPT, plain_text
from .thinker_inputs_omnisent import MODEL_INPUTS, InputLayout, quiet_loading
from .thinker_omnisent import thinker_config

logger = logging.get_logger(__name__)

MODALITIES = ("text", "audio", "video")
# Without the first, transformers silently builds an empty tokenizer; without the last, another prompt.
PROCESSOR_FILES = ("tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja")


class OmniSentProcessor(ProcessorMixin):
    """Turns clips into model inputs.

    A clip is a mapping with `text`, `video` and `audio` (paths; each may be missing or `None`) and, for messages, `id`. With
    `video` set and `audio` unset, the video's own audio is used, if it has any. `context` may list the transcripts of the clips
    before it in its video, the earliest first; `instruction` replaces the processor's own. `start` and `end`, in seconds, take a
    segment of its files; for many segments of one file, give the result of `open` instead of its path.

    Args:
        feature_extractor: the base model's log-mel extractor.
        tokenizer: the base model's tokenizer.
        chat_template: the base model's Jinja template, kept with the processor.
        system_prompt: the system turn; empty for a prompt without one.
        instruction: the sentence that ends the user turn.
        transcript_template: the line with the transcript; contains `{text}`.
        context_template: the line with the preceding transcripts, joined by spaces; contains `{text}`.
        context_clips: how many preceding transcripts are used, if the text modality is; 0 for none.
        examples: pairs of a transcript and the answer to it, which come before the clip as earlier turns of the chat.
        text_case: `"sentence"` writes a transcript that is entirely in capitals as sentences; `"as_is"` changes none.
        pool_over: `"clip"` marks the tokens of transcript, audio and video, for a model that reads these alone.
        modalities: which of text, audio and video are used.
        fps: frames per second that are sampled, before `min_frames` and `max_frames`.
        min_frames: fewest frames of a video.
        max_frames: most frames of a video.
        min_pixels: fewest pixels of a frame after resizing.
        max_pixels: most pixels of a frame after resizing.
        exact_resize: `False` for the faster 8-bit resize, which changes pixels by a few levels.
        max_sound_seconds: longer audio is cut; the reference extractor keeps 300 s.
        patch_size, merge_size, temporal_patch_size: of the vision tower, in pixels, patches and frames.
        image_mean, image_std: of the vision tower, per channel, for pixels in [0, 1].
        position_id_per_seconds, seconds_per_chunk: of the Thinker, for its positions and for interleaving audio and video.
        family: the base model's `model_type`; it says how audio and video become tokens and positions.

    Example:
        >>> processor = AutoProcessor.from_pretrained("org/omnisent", trust_remote_code=True)
        >>> inputs = processor([{"video": "clip.mp4", "text": "I loved it"}], return_tensors="pt")
    """

    if TYPE_CHECKING:  # the settings are attributes

        def __getattr__(self, name: str) -> Any: ...

    def __init__(
        self,
        feature_extractor=None,
        tokenizer=None,
        chat_template: str | None = None,
        system_prompt: str = SYSTEM_PROMPT,
        instruction: str = INSTRUCTION,
        transcript_template: str = TRANSCRIPT,
        context_template: str = CONTEXT,
        context_clips: int = 0,
        examples: Sequence[Sequence[str]] = (),
        text_case: str = "as_is",
        pool_over: str = "all",
        modalities: Sequence[str] = MODALITIES,
        fps: float = VideoSampling.fps,
        min_frames: int = VideoSampling.min_frames,
        max_frames: int = VideoSampling.max_frames,
        min_pixels: int = VideoSampling.min_pixels,
        max_pixels: int = VideoSampling.max_pixels,
        exact_resize: bool = VideoSampling.exact_resize,
        max_sound_seconds: float = 300.0,
        patch_size: int = InputLayout.patch_size,
        merge_size: int = InputLayout.merge_size,
        temporal_patch_size: int = InputLayout.temporal_patch_size,
        image_mean: Sequence[float] = InputLayout.image_mean,
        image_std: Sequence[float] = InputLayout.image_std,
        position_id_per_seconds: float = InputLayout.position_id_per_seconds,
        seconds_per_chunk: int = InputLayout.seconds_per_chunk,
        family: str = DEFAULT_FAMILY.model_type,
    ):
        given = locals()
        for name in SETTINGS:
            setattr(self, name, given[name])
        self.modalities = check_modalities(modalities)
        self.examples: list[Any] = [one if isinstance(one, str) else list(one) for one in examples]
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self._check_settings()
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)

    def _check_settings(self) -> None:
        """Raise a ValueError that names an invalid setting."""
        for name in ("transcript_template", "context_template"):
            if "{text}" not in getattr(self, name):
                raise ValueError(
                    f"{name} must contain {{text}}, where the transcript goes; it is {getattr(self, name)!r}"
                )
        pairs = [example for example in self.examples if isinstance(example, list) and len(example) == 2]
        if len(pairs) < len(self.examples) or not all(isinstance(part, str) for pair in pairs for part in pair):
            raise ValueError(f"examples must be pairs of a transcript and an answer, not {self.examples!r}")
        if self.context_clips < 0:
            raise ValueError(f"context_clips must be at least 0, not {self.context_clips}")
        if self.text_case not in TEXT_CASES:
            raise ValueError(f"text_case must be one of {', '.join(TEXT_CASES)}, not {self.text_case!r}")
        if self.pool_over not in POOL_OVER:
            raise ValueError(f"pool_over must be one of {', '.join(POOL_OVER)}, not {self.pool_over!r}")
        if not 0 < self.max_sound_seconds < math.inf:
            raise ValueError(f"max_sound_seconds must be above 0, not {self.max_sound_seconds}")
        _ = self.video_sampling  # checks its own fields, and the family

    @classmethod
    def from_base(
        cls, base_model: str | os.PathLike, *, revision: str | None = None, **settings: Any
    ) -> "OmniSentProcessor":
        """A processor with the tokenizer, extractor, chat template and vision settings of an official checkpoint.

        Args:
            base_model: Hub id or folder.
            revision: branch, tag or commit.
            **settings: any other argument of the class, e.g. `max_frames=8`.
        """
        config = thinker_config(base_model, revision=revision)
        return cls(**family_of(config).official_settings(base_model, config, revision=revision), **settings)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "OmniSentProcessor":
        """Load a bundle's processor; it runs no code of the bundle unless `trust_remote_code=True`, and never asks.

        Raises:
            OSError: when one of its files is missing, naming it.
        """
        names = ("cache_dir", "force_download", "token", "revision", "local_files_only", "subfolder")
        hub = {key: kwargs[key] for key in names if key in kwargs}
        for name in PROCESSOR_FILES:
            file = os.path.join(pretrained_model_name_or_path, hub.get("subfolder") or "", name)
            if not os.path.isdir(pretrained_model_name_or_path):
                cached_file(pretrained_model_name_or_path, name, **hub)
            elif not os.path.isfile(file):
                raise FileNotFoundError(
                    f"{file} is missing; without it, clips would be encoded differently. Copy the bundle again"
                )
        with quiet_loading():  # the tokenizer warns about an unknown model type
            return super().from_pretrained(pretrained_model_name_or_path, **{"trust_remote_code": False, **kwargs})

    @staticmethod
    def open(path: str | os.PathLike) -> LongMedia:
        """Open a file of any length once, to use it as `video` or `audio` of clips with `start` and `end`.

        Example:
            >>> with processor.open("talk.mp4") as talk:
            ...     inputs = processor([{"video": talk, "start": at, "end": at + 8.0} for at in (0.0, 4.0, 8.0)])
        """
        return LongMedia(path)

    @property
    def video_sampling(self) -> VideoSampling:
        """How many frames are sampled from a video, and their size."""
        own = {field.name: getattr(self, field.name) for field in fields(VideoSampling) if field.name in SETTINGS}
        return VideoSampling(size_factor=self.layout.token_size, **own)

    @property
    def layout(self) -> InputLayout:
        """How video and audio become tokens and positions, as the Thinker expects it."""
        own = {field.name: getattr(self, field.name) for field in fields(InputLayout)}
        return family_of_type(self.family).layout_class(**own)

    @property
    def model_input_names(self) -> list[str]:
        """Keys that a batch may have."""
        return list(MODEL_INPUTS)

    def __call__(
        self,
        clips: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        modalities: Sequence[str] | None = None,
        padding_side: str = "left",
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """A padded batch of clips.

        Args:
            clips: one clip or a list of B clips.
            modalities: which of text, audio and video to use, instead of the processor's own.
            padding_side: `"left"` or `"right"`; scores do not depend on it.
            return_tensors: only `"pt"`.

        Returns:
            What [`OmniForSentimentRegression`] takes; see `pad`. A file that is only partly readable is logged as a warning.

        Raises:
            ClipError: naming the clip, for a clip with nothing to score or with a file that cannot be read.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt', not {return_tensors!r}")
        listed = [clips] if isinstance(clips, Mapping) else clips
        encoded = [self.encode(clip, modalities=modalities) for clip in listed]
        for clip in encoded:
            if "warning" in clip:
                logger.warning("clip %s: %s", clip["clip_id"], clip["warning"])
        return self.pad(encoded, padding_side=padding_side)

    def encode(self, clip: Mapping[str, Any], *, modalities: Sequence[str] | None = None) -> dict[str, Any]:
        """One clip, unpadded.

        Returns:
            input_ids (T,), position_ids (3, T); with audio input_features (mel bins, M); with video video_patches
            (P, patch values) uint8, video_grid_thw (1, 3) and pair_seconds (), from one pair of frames to the next; with
            `pool_over="clip"` clip_mask (T,). Also `clip_id`, and `warning` if a file is only partly readable.

        Raises:
            ClipError: naming the clip.
        """
        used = self.modalities if modalities is None else check_modalities(modalities)
        clip_id = str(clip.get("id") or clip.get("video") or clip.get("audio") or "without id")
        try:
            text, before = self.texts(clip) if "text" in used else (None, None)
            instruction = plain_text(clip.get("instruction"))
            media = read_clip(clip, used, self.video_sampling, self.max_sound_seconds)
        except OmniSentError as error:
            raise ClipError(str(error), clip_id) from error
        encoded: dict[str, Any] = self.assemble(text, media, before=before, instruction=instruction)
        if text is None and not {"input_features", "video_grid_thw"} & encoded.keys():
            have = ", ".join(name for name in MODALITIES if clip.get(name)) or "none"
            if "audio" in used and (clip.get("video") or clip.get("audio")):
                if media.audio is None:
                    have += " without an audio track, or with an empty one"
                else:
                    have += f" with {1000 * len(media.audio) / SAMPLE_RATE:.3g} ms of audio, which is too short"
            raise ClipError(
                f"nothing to score: expected at least one of {', '.join(used)}, found {have}; give it {' or '.join(used)}",
                clip_id,
            )
        tokens = len(encoded["input_ids"])
        if tokens > self.tokenizer.model_max_length:
            raise ClipError(
                f"{tokens} tokens, but at most {self.tokenizer.model_max_length} fit; shorten its text", clip_id
            )
        encoded["clip_id"] = clip_id
        if media.warning:
            encoded["warning"] = media.warning
        return encoded

    def prompt_tokens(self, clip: Mapping[str, Any], **has: bool) -> int:
        """Tokens of a clip's prompt with one placeholder for its media, if it has `video` or `audio`; reads no media."""
        text, before = self.texts(clip) if "text" in self.modalities else (None, None)
        return len(self.tokenizer(self.prompt(text, before, clip.get("instruction"), **has))["input_ids"])

    def assemble(
        self, text: str | None, media: ClipMedia, *, before: str | None = None, instruction: str | None = None
    ) -> dict[str, Any]:
        """The inputs, as from `encode`, of a transcript and media that were already read.

        Args:
            text: transcript, without special tokens.
            media: frames and audio, each `None` where the clip has none.
            before: the preceding transcripts, as one text.
            instruction: instead of the processor's own.
        """
        encoded: dict[str, Any] = {}
        layout = self.layout
        if media.audio is not None:
            features = layout.log_mel(self.feature_extractor, media.audio, SAMPLE_RATE)  # (mel bins, M)
            if layout.audio_tokens(features.shape[1]) > 0:
                encoded["input_features"] = features
        if media.frames is not None:
            encoded["video_patches"], encoded["video_grid_thw"] = layout.patches(media.frames)
            encoded["pair_seconds"] = torch.tensor(media.seconds_per_frame_pair, dtype=torch.float64)
        return self.lay_out(text, encoded, before=before, instruction=instruction)

    def lay_out(
        self, text: str | None, media: Mapping[str, Any], *, before: str | None = None, instruction: str | None = None
    ) -> dict[str, Any]:
        """As `assemble`, of the inputs of media that `assemble` gave, for instance with another transcript."""
        grid, mel_frames = media.get("video_grid_thw"), 0
        if "input_features" in media:
            mel_frames = media["input_features"].shape[1]
        instruction = self.instruction if instruction is None else instruction
        prompt = self.prompt(text, before, instruction, video=grid is not None, audio=bool(mel_frames))
        ids = self.tokenizer(prompt)["input_ids"]
        sizes = (self.tokenizer, mel_frames, grid, None if grid is None else media["pair_seconds"].item())
        input_ids = torch.tensor(self.layout.expand(ids, *sizes))  # (T,)
        encoded = {"input_ids": input_ids, "position_ids": self.layout.position_ids(input_ids, *sizes), **media}
        if self.pool_over == "clip":
            words = self._words(text, before, instruction)
            encoded["clip_mask"] = self._clip_mask(input_ids, prompt, words, text, len(instruction))
        return encoded

    def _clip_mask(
        self, input_ids: torch.Tensor, prompt: str, words: str, text: str | None, instructed: int
    ) -> torch.Tensor:
        """1 for the tokens (T,) of transcript, audio and video, 0 for the rest of the prompt; the words end in an instruction of
        so many letters.
        """
        media = (self.tokenizer.audio_token_id, self.tokenizer.video_token_id)
        mask = torch.isin(input_ids, torch.tensor(media))
        if text is not None:
            after = len(self.transcript_template.rpartition("{text}")[2]) + len("\n") + instructed
            end = prompt.rindex(words) + len(words) - after
            # Media come before the words, so the transcript's tokens are counted from the end of the prompt.
            offsets = self.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
            mask[-len(offsets) :] |= torch.tensor([first < end and last > end - len(text) for first, last in offsets])
        return mask.long()

    def pad(self, encoded: Sequence[Mapping[str, Any]], *, padding_side: str = "left") -> BatchFeature:
        """Pad B encoded clips to a batch; precomputed `audio_embeds` and `video_embeds` (tokens, H) are joined too.

        Returns:
            input_ids, attention_mask (B, T), position_ids (3, B, T); of the A clips with audio input_features (A, mel bins, M)
            and feature_attention_mask (A, M); of the V with video video_patches (P, patch values) uint8,
            video_mean_std (2, channels), video_grid_thw (V, 3).

        Raises:
            ValueError: when a clip's numbers of placeholders and features differ; later clips would get the wrong features.
        """
        return BatchFeature(self.layout.pad(encoded, self.tokenizer, padding_side=padding_side))

    def prompt(
        self, text: str | None, before: str | None = None, instruction: str | None = None, *, video: bool, audio: bool
    ) -> str:
        """The chat prompt of a transcript and preceding ones, with one placeholder for video (with or without audio) or audio."""
        content: list[dict[str, str]] = []
        if video:
            content.append({"type": "video", "video": ""})
        elif audio:
            content.append({"type": "audio", "audio": ""})
        content.append({"type": "text", "text": self._words(text, before, instruction)})
        system = {"role": "system", "content": [{"type": "text", "text": self.system_prompt}]}
        turns = [system]
        for said, answer in self.examples:
            said = plain_text(said, self.text_case) or ""
            for role, words in (("user", self._words(said, None, instruction)), ("assistant", answer)):
                turns.append({"role": role, "content": [{"type": "text", "text": words}]})
        prompt = self._chat([*turns, {"role": "user", "content": content}], add_generation_prompt=True)
        # Without a system message, the official template would write a system turn of its own.
        return prompt if self.system_prompt else prompt.removeprefix(self._chat([system]))

    def _words(self, text: str | None, before: str | None, instruction: str | None) -> str:
        """The text of the user turn: preceding transcripts, transcript and instruction."""
        lines = [] if before is None else [self.context_template.replace("{text}", before)]
        lines += [] if text is None else [self.transcript_template.replace("{text}", text)]
        return "\n".join([*lines, self.instruction if instruction is None else instruction])

    def _chat(self, messages: list[dict], **options: Any) -> str:
        return self.tokenizer.apply_chat_template(messages, chat_template=self.chat_template, tokenize=False, **options)

    def texts(self, clip: Mapping[str, Any]) -> tuple[str | None, str | None]:
        """The clip's transcript, and the last `context_clips` preceding ones as one text."""
        texts = [plain_text(text, self.text_case) for text in clip.get("context") or ()] if self.context_clips else []
        before = " ".join(text for text in texts[-self.context_clips :] if text) or None
        return plain_text(clip.get("text"), self.text_case), before


def check_modalities(modalities: Sequence[str]) -> list[str]:
    """The modalities in their usual order.

    Raises:
        ValueError: for none at all, or a name that is not text, audio or video.
    """
    unknown = [name for name in modalities if name not in MODALITIES]
    if isinstance(modalities, str) or unknown or not modalities:
        raise ValueError(f"modalities must be some of {', '.join(MODALITIES)}, not {modalities!r}")
    return [name for name in MODALITIES if name in modalities]


# Every setting of a processor, with its default: the arguments of the class that are not parts of the base model's processor.
SETTINGS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in signature(OmniSentProcessor).parameters.items()
    if name not in ("feature_extractor", "tokenizer", "chat_template")
}
OmniSentProcessor.register_for_auto_class("AutoProcessor")
