"""What the generative readout is trained for. To add one, write a class and put it into `GENERATIVE_LOSSES`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase

from .answer_tree import Answers
from .answers import AnswerGrid

IGNORED = -100
NUMBER_WEIGHT = 0.3  # of the number token loss beside the cross-entropy, as in its paper


class GenerativeLoss(ABC):
    """A loss of [`OmniForSentimentGeneration`] on B clips."""

    @abstractmethod
    def __call__(
        self, model: Any, answer_ids: torch.Tensor, labels: torch.Tensor, **prompts: torch.Tensor
    ) -> torch.Tensor:
        """The loss (B,) of each clip.

        Args:
            model: gives `answer_logits` and `answer_log_probabilities`.
            answer_ids: (B, A) the labels as answers, padded with `IGNORED` on the right.
            labels: (B,) label units.
            **prompts: the other inputs of the model.
        """


class CrossEntropy(GenerativeLoss):
    """Cross-entropy of the answer's tokens: each answer's mean over its tokens."""

    def __call__(
        self, model: Any, answer_ids: torch.Tensor, labels: torch.Tensor, **prompts: torch.Tensor
    ) -> torch.Tensor:
        return cross_entropy(model.answer_logits(answer_ids, **prompts), answer_ids)


@dataclass(frozen=True)
class NumberTokenLoss(GenerativeLoss):
    """Cross-entropy plus `NUMBER_WEIGHT` times the mean distance of the digits from the right one (Zausinger et al., ICML 2025).

    Its Wasserstein form: at each digit of an answer, the distances of the ten digits from it, weighted by their probabilities
    among digits.

    Attributes:
        digits: (10,) the token ids of the digits 0 to 9.
    """

    digits: torch.Tensor

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "NumberTokenLoss":
        """The loss for a tokenizer.

        Raises:
            ValueError: for a tokenizer without a token for each digit.
        """
        ids = [tokenizer(digit, add_special_tokens=False)["input_ids"] for digit in "0123456789"]
        if any(len(one) != 1 for one in ids):
            raise ValueError("generative_loss ntl needs a tokenizer with one token for each digit; use ce or raft")
        return cls(torch.tensor(ids).flatten())

    def __call__(
        self, model: Any, answer_ids: torch.Tensor, labels: torch.Tensor, **prompts: torch.Tensor
    ) -> torch.Tensor:
        logits = model.answer_logits(answer_ids, **prompts)  # (B, A, vocabulary)
        return cross_entropy(logits, answer_ids) + NUMBER_WEIGHT * self.distance(logits, answer_ids)

    def distance(self, logits: torch.Tensor, answer_ids: torch.Tensor) -> torch.Tensor:
        """Mean distance (B,) of the digits from the right ones, from logits (B, A, vocabulary) and token ids (B, A)."""
        is_digit = answer_ids[..., None] == self.digits.to(answer_ids.device)  # (B, A, 10)
        if not bool(is_digit.any()):
            raise ValueError(
                "generative_loss ntl: the tokenizer writes answers without digits of their own; use ce or raft"
            )
        rows = is_digit.any(-1)  # (B, A)
        right = is_digit[rows].long().argmax(-1)  # (D,)
        probabilities = logits[rows][:, self.digits.to(logits.device)].softmax(-1)  # (D, 10)
        away = (torch.arange(10, device=logits.device) - right[:, None]).abs()  # (D, 10)
        distances = torch.zeros(rows.shape, device=logits.device).masked_scatter(rows, (probabilities * away).sum(-1))
        return distances.sum(1) / rows.sum(1).clamp_min(1)


@dataclass(frozen=True)
class RegressionAware(GenerativeLoss):
    """Absolute error of the mean over the answers of the grid, weighted by their probabilities (RAFT; Lukasik et al., ICLR 2025).

    The probabilities are those among the answers of the grid, as decoding `expected` takes them; the paper takes squared errors.
    """

    answers: Answers

    def __call__(
        self, model: Any, answer_ids: torch.Tensor, labels: torch.Tensor, **prompts: torch.Tensor
    ) -> torch.Tensor:
        found = self.answers.of_values(model.answer_log_probabilities(self.answers.tree, **prompts))  # (B, V)
        expected = found.softmax(-1) @ self.answers.values.to(found.device)
        return F.l1_loss(expected, labels.to(found.device, found.dtype), reduction="none")


def cross_entropy(logits: torch.Tensor, answer_ids: torch.Tensor) -> torch.Tensor:
    """Each answer's mean (B,) over its tokens, from logits (B, A, vocabulary) and token ids (B, A)."""
    losses = F.cross_entropy(logits.transpose(1, 2), answer_ids, ignore_index=IGNORED, reduction="none")  # (B, A)
    return losses.sum(1) / (answer_ids != IGNORED).sum(1)


# Name -> a function of the grid and the base model's tokenizer to the loss.
GENERATIVE_LOSSES: dict[str, Callable[[AnswerGrid, PreTrainedTokenizerBase], GenerativeLoss]] = {
    "ce": lambda grid, tokenizer: CrossEntropy(),
    "raft": lambda grid, tokenizer: RegressionAware(Answers.of(grid, tokenizer)),
    "ntl": lambda grid, tokenizer: NumberTokenLoss.of(tokenizer),
}
