"""The tokens of several answers as a tree, so that one pass through the language model gives the probability of each of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from .answers import AnswerGrid


@dataclass(frozen=True)
class AnswerTree:
    """Answers as token ids, none a prefix of another. A node is a beginning that answers share; node 0 is the end of the prompt.

    Attributes:
        tokens: (N,) of the nodes after node 0: the last token of each beginning.
        depths: (N,) its number of tokens.
        ancestors: (N, N) whether a node's beginning contains that of another node, or is the same.
        nodes: (A, L) the node that predicts each token of each of A answers, whose longest has L tokens.
        next_tokens: (A, L) these tokens.
        present: (A, L) whether an answer has so many tokens.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    ancestors: torch.Tensor
    nodes: torch.Tensor
    next_tokens: torch.Tensor
    present: torch.Tensor

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> "AnswerTree":
        """The tree of A answers.

        Raises:
            ValueError: when one answer is a prefix of another, so that both could be true.
        """
        whole = [tuple(answer) for answer in answers]
        starts = sorted(
            {answer[:length] for answer in whole for length in range(1, len(answer))}, key=lambda s: (len(s), s)
        )
        for answer in whole:
            if answer in starts:
                longer = next(other for other in whole if other != answer and other[: len(answer)] == answer)
                raise ValueError(f"answer {answer} is a prefix of {longer}; answers must exclude each other")
        node = {(): 0, **{start: number for number, start in enumerate(starts, start=1)}}
        longest = max(map(len, whole))
        nodes, tokens = (
            torch.zeros(len(whole), longest, dtype=torch.long),
            torch.zeros(len(whole), longest, dtype=torch.long),
        )
        present = torch.zeros(len(whole), longest, dtype=torch.bool)
        for row, answer in enumerate(whole):
            nodes[row, : len(answer)] = torch.tensor([node[answer[:length]] for length in range(len(answer))])
            tokens[row, : len(answer)] = torch.tensor(answer)
            present[row, : len(answer)] = True
        ancestors = [[start[: len(other)] == other for other in starts] for start in starts]
        return cls(
            torch.tensor([start[-1] for start in starts], dtype=torch.long),
            torch.tensor([len(start) for start in starts], dtype=torch.long),
            torch.tensor(ancestors, dtype=torch.bool).reshape(len(starts), len(starts)),
            nodes,
            tokens,
            present,
        )

    def to(self, device: torch.device) -> "AnswerTree":
        """The same on a device."""
        return AnswerTree(*(value.to(device) for value in vars(self).values()))

    def mask(self, prompt_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What is added to the attention scores, (B, 1, T + N, T + N): 0 for what is seen, else the lowest number of the dtype.

        Prompts with a mask (B, T), padded on the left, come first, and then the nodes.
        """
        rows, length = prompt_mask.shape
        size = length + len(self.tokens)
        seen = torch.zeros(rows, size, size, dtype=torch.bool, device=prompt_mask.device)
        seen[:, :, :length] = prompt_mask[:, None].bool()
        seen[:, :length, :length] &= torch.ones(length, length, dtype=torch.bool, device=seen.device).tril()
        seen[:, length:, length:] = self.ancestors
        # Padding sees itself: a softmax over nothing would be NaN.
        seen |= torch.eye(size, dtype=torch.bool, device=seen.device)
        unseen = torch.finfo(dtype).min
        return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, unseen)[:, None]

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B, A) of the answers from the logits (B, 1 + N, vocabulary) at the nodes."""
        of_tokens = logits.log_softmax(-1)[:, self.nodes, self.next_tokens]  # (B, A, L)
        return of_tokens.masked_fill(~self.present, 0.0).sum(-1)


@dataclass(frozen=True)
class Answers:
    """The answers of a grid as token ids.

    Attributes:
        values: (V,) the scores of the grid, label units.
        tree: of every form of each of them.
        value_of: (A,) the score, as an index, that each answer of the tree stands for.
    """

    values: torch.Tensor
    tree: AnswerTree
    value_of: torch.Tensor

    @classmethod
    def of(cls, grid: AnswerGrid, tokenizer: PreTrainedTokenizerBase) -> "Answers":
        """The answers of a grid, as a tokenizer writes them."""
        forms = [(place, form) for place, value in enumerate(grid.values) for form in grid.forms(value)]
        ids = [tokenizer(form, add_special_tokens=False)["input_ids"] for _, form in forms]
        return cls(torch.tensor(grid.values), AnswerTree.of(ids), torch.tensor([place for place, _ in forms]))

    def of_values(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B, V) of the scores, whatever their form, from those of the answers (B, A)."""
        of_value = self.value_of.to(log_probabilities.device)
        lowest = log_probabilities.new_full((len(log_probabilities), len(self.values)), -torch.inf)
        largest = lowest.scatter_reduce(1, of_value.expand_as(log_probabilities), log_probabilities.detach(), "amax")
        parts = (log_probabilities - largest[:, of_value]).exp()  # the largest of each score is 1, so that no sum is 0
        return torch.zeros_like(lowest).index_add(1, of_value, parts).log() + largest
