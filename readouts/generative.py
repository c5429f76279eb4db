"""The generative readout: the Thinker with its own lm_head generates the score as text. The controlled baseline.

It is trained on the answers, by one of `GENERATIVE_LOSSES`, and decoded in one of three ways: `greedy` parses the generated text;
`expected` and `median` are those of the distribution over all numeric answers.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..modeling_omnisent import bundle_folder
from .answer_tree import Answers
from .answers import AnswerGrid, parse_answer
from .base import ModelSource, Predictions, Readout
from .generation_model import OmniForSentimentGeneration
from .generative_losses import GENERATIVE_LOSSES, IGNORED, GenerativeLoss


@dataclass(frozen=True)
class GenerativeReadout(Readout):
    """Scores that [`OmniForSentimentGeneration`] generates.

    Args:
        score_range: label units.
        tokenizer: the base model's.
        max_new_tokens: token limit of a greedy answer.
        answer_step: distance between two answers, label units.
        generative_loss: a name in `GENERATIVE_LOSSES`.
    """

    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int = 8
    answer_step: float = 0.1
    generative_loss: str = "ce"
    name: ClassVar[str] = "generative"
    summary: ClassVar[str] = "score generated as text"
    decoding_fields: ClassVar[tuple[str, ...]] = ("decoding", "max_new_tokens", "answer_step")
    training_fields: ClassVar[tuple[str, ...]] = ("generative_loss",)
    learning_rate_field: ClassVar[str] = "generative_learning_rate"
    uses_lm_head: ClassVar[bool] = True
    asks_each: ClassVar[bool] = True

    @classmethod
    def build(
        cls,
        score_range: tuple[float, float],
        tokenizer: PreTrainedTokenizerBase | None,
        settings: Mapping[str, Any],
    ) -> "GenerativeReadout":
        own = {name: value for name, value in settings.items() if name != "decoding"}
        return DECODINGS[settings["decoding"]](score_range, tokenizer, **own)

    @classmethod
    def build_model(cls, source: ModelSource) -> OmniForSentimentGeneration:
        """The base model, with the bundle's adapter if there is one; the label scale is not used."""
        model = OmniForSentimentGeneration.from_base(source.base_model, revision=source.revision, **source.loading)
        if source.bundle is not None:
            model.load_trained(bundle_folder(source.bundle))
        return model

    def objective(self) -> GenerativeLoss:
        return GENERATIVE_LOSSES[self.generative_loss](self.grid, self.tokenizer)

    def other_decodings(self) -> list[Readout]:
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return [readout(**own) for name, readout in DECODINGS.items() if name != self.decoding]

    @cached_property
    def grid(self) -> AnswerGrid:
        """The scores that can be written."""
        return AnswerGrid(*self.score_range, self.answer_step)

    @cached_property
    def answers(self) -> Answers:
        """Every way to write them, as token ids."""
        return Answers.of(self.grid, self.tokenizer)

    def answer_ids(self, score: float) -> list[int]:
        """The token ids of a score's text, without the end-of-turn token."""
        return self.tokenizer(self.grid.text(score), add_special_tokens=False)["input_ids"]

    def training_inputs(self, label: float) -> dict[str, torch.Tensor]:
        return {"answer_ids": torch.tensor([*self.answer_ids(label), self.tokenizer.eos_token_id])}

    def collate_training_inputs(self, items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        answers = [item["answer_ids"] for item in items]
        return {"answer_ids": torch.nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=IGNORED)}


@dataclass(frozen=True)
class GreedyReadout(GenerativeReadout):
    """Greedy decoding, parsed by `parse_answer`."""

    decoding: ClassVar[str] = "greedy"
    reads: ClassVar[str] = "text"

    def predict(self, model: OmniForSentimentGeneration, batch: Mapping[str, Any]):
        """Token ids (B, max_new_tokens)."""
        return None, model.write_greedily(self.max_new_tokens, self.tokenizer.eos_token_id, **_inputs(batch))

    def decode(self, outputs: np.ndarray) -> Predictions:
        answers = self.tokenizer.batch_decode(outputs, skip_special_tokens=True)
        first, last = ([parse_answer(answer, last=last) for answer in answers] for last in (False, True))
        return Predictions(_numbers(first), answers, last_numbers=_numbers(last))


class DistributionReadout(GenerativeReadout):
    """A figure of the distribution over the answers of the grid; always parsable and in range.

    Probabilities are those among the answers; how much probability falls on other text is reported.
    """

    reads: ClassVar[str] = "distribution"

    @abstractmethod
    def figure(self, probabilities: np.ndarray) -> np.ndarray:
        """Scores (n,) of the probabilities (n, V) of the grid's values."""

    def predict(self, model: OmniForSentimentGeneration, batch: Mapping[str, Any]):
        """Log-probabilities (B, V) of the grid's values."""
        return None, self.answers.of_values(model.answer_log_probabilities(self.answers.tree, **_inputs(batch)))

    def decode(self, outputs: np.ndarray) -> Predictions:
        outputs = outputs.astype(np.float64)
        parts = np.exp(outputs - outputs.max(1, keepdims=True))
        raw = self.figure(parts / parts.sum(1, keepdims=True))
        return Predictions(raw, legal_mass=np.exp(outputs).sum(1))


@dataclass(frozen=True)
class ExpectedReadout(DistributionReadout):
    """The mean of the distribution, which has the least expected squared error."""

    decoding: ClassVar[str] = "expected"

    def figure(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities @ np.array(self.grid.values)


@dataclass(frozen=True)
class MedianReadout(DistributionReadout):
    """The median of the distribution, which has the least expected absolute error (Lukasik et al., EMNLP 2024)."""

    decoding: ClassVar[str] = "median"

    def figure(self, probabilities: np.ndarray) -> np.ndarray:
        below = probabilities.cumsum(1) < 0.5 - 1e-9  # (n, V)
        return np.array(self.grid.values)[below.sum(1)]


DECODINGS: dict[str, type[GenerativeReadout]] = {
    readout.decoding: readout for readout in (GreedyReadout, ExpectedReadout, MedianReadout)
}


def _numbers(parsed: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if number is None else number for number in parsed])


def _inputs(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch.items() if key not in ("labels", "answer_ids", "sample_weight")}
