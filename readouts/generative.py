"""The generative readout: the Thinker with its own lm_head generates the score as text. The controlled baseline.

It is trained on the answer's tokens only. Two decodings: `greedy` parses the generated text; `expected` is the mean of all numeric
answers, weighted by the probability of their text. Both start with one pass over the prompt.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DynamicCache, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from ..adapter_omnisent import AdaptedThinker
from ..heads_omnisent import check_finite
from ..modeling_omnisent import bundle_folder
from ..thinker_omnisent import (
    ThinkerConfig,
    ThinkerWithLMHead,
    copy_loading_info,
    embed_clips,
    load_thinker,
    pinned_revision,
)
from .answers import format_answer, numeric_answers, parse_answer
from .base import ModelSource, Predictions, Readout

IGNORED = -100


class OmniForSentimentGeneration(AdaptedThinker):
    """The Thinker with its lm_head; its inputs are those of [`OmniSentProcessor`].

    `model` and `lm_head` are those of a [`ThinkerWithLMHead`], under the same names. Prompts are padded on
    the left, so that each is directly followed by its answer.

    Args:
        thinker: the loaded Thinker.
        base_name: Hub id or folder that it was loaded from.
        base_revision: branch, tag or commit of a Hub id.
    """

    config_class = ThinkerConfig

    def __init__(
        self,
        thinker: ThinkerWithLMHead,
        base_name: str | os.PathLike,
        base_revision: str | None = None,
    ):
        super().__init__(thinker.config)
        self.model, self.lm_head = thinker.model, thinker.lm_head
        self.base_name, self.base_revision = str(base_name), base_revision
        self.post_init()
        copy_loading_info(self, thinker)

    @classmethod
    def from_base(
        cls, base_model: str | os.PathLike, *, revision: str | None = None, **options: Any
    ) -> "OmniForSentimentGeneration":
        """The Thinker and lm_head of an official full checkpoint.

        Args:
            base_model: Hub id or folder.
            revision: branch, tag or commit.
            **options: dtype, quantization_config, device_map, attn_implementation.

        Raises:
            ValueError: when the checkpoint lacks weights of the Thinker.
        """
        thinker = load_thinker(base_model, revision=revision, thinker_class=ThinkerWithLMHead, **options)
        return cls(thinker, base_model, pinned_revision(base_model, revision)).eval()

    def save_pretrained(self, save_directory: str | os.PathLike, *, is_main_process: bool = True, **kwargs) -> None:
        """Write the adapter to `adapter/`; the base weights are not saved."""
        if is_main_process:
            self.save_lora(save_directory, self.base_name, self.base_revision)

    def load_trained(self, folder: str | os.PathLike) -> None:
        """Load what `save_pretrained` wrote, strictly; see `load_lora` for what it raises."""
        self.load_lora(folder)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        answer_ids: torch.Tensor,
        labels: torch.Tensor | None = None,
        **media: torch.Tensor,
    ) -> ModelOutput:
        """Cross-entropy of B answers after their prompts: the mean over clips of each answer's mean over tokens.

        Args:
            input_ids: (B, T) prompts, padded on the left.
            attention_mask: (B, T).
            position_ids: (3, B, T).
            answer_ids: (B, A), padded with -100 on the right.
            labels: (B,), ignored: the answers encode them.
            **media: inputs of the towers, as for `embed_clips`.
        """
        given = answer_ids != IGNORED  # (B, A)
        answers = answer_ids.clamp(min=0)
        embeds = torch.cat(
            [embed_clips(self.model, input_ids, **media), self.get_input_embeddings()(answers[:, :-1])], dim=1
        )
        steps = answers.shape[1]
        hidden = self.model.language_model(
            inputs_embeds=embeds,
            attention_mask=torch.cat([attention_mask, given[:, :-1].long()], dim=1),
            position_ids=torch.cat([position_ids, next_positions(position_ids, steps - 1)], dim=2),
            use_cache=False,
        ).last_hidden_state  # (B, T + A - 1, H)
        logits = self.lm_head(hidden[:, -steps:]).float()  # (B, A, vocabulary)
        losses = F.cross_entropy(logits.transpose(1, 2), answer_ids, ignore_index=IGNORED, reduction="none")  # (B, A)
        return ModelOutput(loss=(losses.sum(1) / given.sum(1)).mean())

    def read_prompt(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, **media: torch.Tensor
    ) -> tuple[torch.Tensor, DynamicCache]:
        """One pass over B prompts: logits (B, vocabulary) of the first answer token, and the cache to continue from."""
        if not bool(attention_mask[:, -1].all()):
            raise ValueError("prompts must be padded on the left, so that each is directly followed by its answer")
        cache = DynamicCache(config=self.config.text_config)
        hidden = self.model.language_model(
            inputs_embeds=embed_clips(self.model, input_ids, **media),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state  # (B, T, H)
        return self.lm_head(hidden[:, -1]).float(), cache

    def write_greedily(
        self,
        max_new_tokens: int,
        eos_token_id: int,
        *,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        **inputs: torch.Tensor,
    ) -> torch.Tensor:
        """Greedy decoding: token ids (B, max_new_tokens), filled up with `eos_token_id` after the end.

        Raises:
            NotFiniteError: when a clip's logits are not finite.
        """
        logits, cache = self.read_prompt(attention_mask=attention_mask, position_ids=position_ids, **inputs)
        positions = next_positions(position_ids, max_new_tokens)  # (3, B, max_new_tokens)
        generated = torch.full((logits.shape[0], max_new_tokens), eos_token_id, device=logits.device)
        ended = torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
        for step in range(max_new_tokens):
            generated[:, step] = torch.where(ended, eos_token_id, check_finite(logits).argmax(-1))
            ended |= generated[:, step] == eos_token_id
            if step + 1 == max_new_tokens or bool(ended.all()):
                break
            attention_mask = F.pad(attention_mask, (0, 1), value=1)
            hidden = self.model.language_model(
                inputs_embeds=self.get_input_embeddings()(generated[:, step : step + 1]),
                attention_mask=attention_mask,
                position_ids=positions[:, :, step : step + 1],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state  # (B, 1, H)
            logits = self.lm_head(hidden[:, -1]).float()
        return generated

    def answer_log_probabilities(
        self,
        answers: Sequence[Sequence[int]],
        *,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        **inputs: torch.Tensor,
    ) -> torch.Tensor:
        """Exact log-probabilities (B, N) that the generated text starts with each of N answers, given as token ids.

        Answers that differ only in their last token share a row, computed from the prompt's cache.

        Raises:
            ValueError: when one answer is a prefix of another, so that both could be true.
            NotFiniteError: when a clip's log-probabilities are not finite.
        """
        _check_exclusive(answers)
        logits, cache = self.read_prompt(attention_mask=attention_mask, position_ids=position_ids, **inputs)
        clips = logits.shape[0]
        stems = sorted({tuple(answer[:-1]) for answer in answers})
        longest = max(map(len, stems))
        table = [logits.log_softmax(-1)[:, None, None].expand(-1, len(stems), 1, -1)]  # (B, S, 1, vocabulary)
        if longest:
            rows = torch.tensor(
                [[*stem, *[0] * (longest - len(stem))] for stem in stems], device=logits.device
            )  # (S, L)
            cache.batch_repeat_interleave(len(stems))
            hidden = self.model.language_model(
                inputs_embeds=self.get_input_embeddings()(rows.repeat(clips, 1)),
                attention_mask=F.pad(attention_mask.repeat_interleave(len(stems), 0), (0, longest), value=1),
                position_ids=next_positions(position_ids, longest).repeat_interleave(len(stems), 1),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state  # (B * S, L, H)
            table.append(self.lm_head(hidden).float().log_softmax(-1).unflatten(0, (clips, len(stems))))
        steps = torch.cat(table, dim=2)  # (B, S, 1 + L, vocabulary)
        row_of = {stem: row for row, stem in enumerate(stems)}
        zeros = steps.new_zeros(clips)
        columns = [
            sum((steps[:, row_of[tuple(answer[:-1])], step, token] for step, token in enumerate(answer)), zeros)
            for answer in answers
        ]
        return check_finite(torch.stack(columns, dim=1))


def next_positions(position_ids: torch.Tensor, count: int) -> torch.Tensor:
    """Positions (3, B, count) of text that follows prompts with positions (3, B, T), padded on the left."""
    following = torch.arange(1, count + 1, device=position_ids.device)
    return position_ids[:, :, -1:].amax(0, keepdim=True).expand(3, -1, -1) + following


@dataclass(frozen=True)
class GenerativeReadout(Readout):
    """Scores that [`OmniForSentimentGeneration`] generates.

    Args:
        score_range: label units.
        tokenizer: the base model's.
        max_new_tokens: token limit of a greedy answer.
    """

    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int = 8
    name: ClassVar[str] = "generative"
    summary: ClassVar[str] = "score generated as text"
    decoding_fields: ClassVar[tuple[str, ...]] = ("decoding", "max_new_tokens")
    learning_rate_field: ClassVar[str] = "generative_learning_rate"
    uses_lm_head: ClassVar[bool] = True

    @classmethod
    def build(
        cls,
        score_range: tuple[float, float],
        tokenizer: PreTrainedTokenizerBase | None,
        settings: Mapping[str, Any],
    ) -> "GenerativeReadout":
        return DECODINGS[settings["decoding"]](score_range, tokenizer, settings["max_new_tokens"])

    @classmethod
    def build_model(cls, source: ModelSource) -> OmniForSentimentGeneration:
        """The base model, with the bundle's adapter if there is one; the label scale is not used."""
        model = OmniForSentimentGeneration.from_base(source.base_model, revision=source.revision, **source.loading)
        if source.bundle is not None:
            model.load_trained(bundle_folder(source.bundle))
        return model

    def answer_ids(self, score: float) -> list[int]:
        """The token ids of a score's text, without the end-of-turn token."""
        return self.tokenizer(format_answer(score), add_special_tokens=False)["input_ids"]

    def training_inputs(self, label: float) -> dict[str, torch.Tensor]:
        return {"answer_ids": torch.tensor([*self.answer_ids(label), self.tokenizer.eos_token_id])}

    def collate_training_inputs(self, items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        answers = [item["answer_ids"] for item in items]
        return {"answer_ids": torch.nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=IGNORED)}


@dataclass(frozen=True)
class GreedyReadout(GenerativeReadout):
    """Greedy decoding, parsed by `parse_answer`."""

    decoding: ClassVar[str] = "greedy"

    def predict(self, model: OmniForSentimentGeneration, batch: Mapping[str, Any]):
        """Token ids (B, max_new_tokens)."""
        return None, model.write_greedily(self.max_new_tokens, self.tokenizer.eos_token_id, **_inputs(batch))

    def decode(self, outputs: np.ndarray) -> Predictions:
        answers = self.tokenizer.batch_decode(outputs, skip_special_tokens=True)
        parsed = [parse_answer(answer) for answer in answers]
        return Predictions(np.array([np.nan if score is None else score for score in parsed]), answers)


@dataclass(frozen=True)
class ExpectedReadout(GenerativeReadout):
    """The mean of all numeric answers in the range, weighted by probability; always parsable and in range."""

    decoding: ClassVar[str] = "expected"

    @cached_property
    def candidates(self) -> list[tuple[float, list[int]]]:
        """Each possible score, and its token ids."""
        return [(score, self.answer_ids(score)) for score in numeric_answers(*self.score_range)]

    def predict(self, model: OmniForSentimentGeneration, batch: Mapping[str, Any]):
        """Expected scores (B,), label units."""
        scores, answers = zip(*self.candidates, strict=True)
        log_probabilities = model.answer_log_probabilities(answers, **_inputs(batch))  # (B, N)
        return None, log_probabilities.softmax(-1) @ torch.tensor(scores, device=log_probabilities.device)

    def decode(self, outputs: np.ndarray) -> Predictions:
        return Predictions(outputs)


DECODINGS: dict[str, type[GenerativeReadout]] = {"greedy": GreedyReadout, "expected": ExpectedReadout}


def _inputs(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch.items() if key not in ("labels", "answer_ids")}


def _check_exclusive(answers: Sequence[Sequence[int]]) -> None:
    all_answers = {tuple(answer) for answer in answers}
    for answer in all_answers:
        for length in range(1, len(answer)):
            if answer[:length] in all_answers:
                raise ValueError(f"answer {answer[:length]} is a prefix of {answer}; answers must exclude each other")
