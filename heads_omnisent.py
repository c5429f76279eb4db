"""From hidden states to a prediction: poolings, heads, losses, and the scale between logits and label units.

To add one, write a function and put it into its table, which configuration, arguments and help read. Knows no Thinker and no file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .errors_omnisent import OmniSentError


def last_token_index(attention_mask: torch.Tensor) -> torch.Tensor:
    """Index (B,) of the last non-padding token of each row of a (B, T) mask, padded on either side."""
    return attention_mask.shape[1] - 1 - attention_mask.long().flip(1).argmax(1)


def pool_last_token(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """State (B, H) of the last non-padding token of each row of hidden states (B, T, H)."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, last_token_index(attention_mask).to(hidden.device)]


def mlp(width: int, hidden_size: int, dropout: float) -> nn.Sequential:
    """Linear, LayerNorm, ReLU, dropout, Linear."""
    return nn.Sequential(
        nn.Linear(width, hidden_size),
        nn.LayerNorm(hidden_size),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden_size, 1),
    )


def linear(width: int, hidden_size: int, dropout: float) -> nn.Sequential:
    """Dropout and Linear; without a hidden layer, so `hidden_size` is ignored."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, 1))


# Hidden states (B, T, H) and attention mask (B, T) -> (B, H).
POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"last": pool_last_token}
# Width H, hidden size and dropout -> a module from (B, H) to (B, 1).
HEADS: dict[str, Callable[[int, int, float], nn.Module]] = {"mlp": mlp, "linear": linear}
# Logits (B,) and z-scored labels (B,) -> scalar.
LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "huber": F.huber_loss,
}


class RegressionHead(nn.Module):
    """Hidden state (B, H) -> logit (B,), always in float32.

    Args:
        width: H.
        head: a name in `HEADS`.
        hidden_size: of the head's hidden layer.
        dropout: a probability in [0, 1).
    """

    def __init__(self, width: int, *, head: str, hidden_size: int, dropout: float):
        super().__init__()
        self.layers = HEADS[head](width, hidden_size, dropout)

    def set_dropout(self, dropout: float) -> None:
        """Change the dropout; a probability in [0, 1)."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        with torch.autocast(pooled.device.type, enabled=False):
            return self.layers(pooled.float()).squeeze(-1)  # (B,)


@dataclass(frozen=True)
class LabelScale:
    """Converts between logits, which are z-scored, and label units.

    Attributes:
        mean: of the training labels, label units; a logit of 0 is this score.
        std: standard deviation of the training labels, label units.
        low: lowest score, label units.
        high: highest score, label units.
    """

    mean: float
    std: float
    low: float
    high: float

    def to_logits(self, labels: torch.Tensor) -> torch.Tensor:
        """Target logits (B,) of labels (B,) in label units."""
        return (labels - self.mean) / self.std

    def to_label_units(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (B,) in label units, not clipped."""
        return logits * self.std + self.mean

    def clip(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B,) within the range; NaN for one that is not finite."""
        return scores.clamp(self.low, self.high).where(scores.isfinite(), torch.nan)


class NotFiniteError(OmniSentError):
    """Clips of a batch for which the model computes NaN or infinity instead of a score.

    Attributes:
        rows: their indices in the batch.
        values: (B, ...) of all clips; the other rows are valid.
        reason: possible causes, and what to do.
    """

    def __init__(self, rows: Sequence[int], values: torch.Tensor):
        self.rows, self.values = list(rows), values
        self.reason = (
            "no score: the model computes NaN or infinity; its weights or the clip's inputs are damaged, or the number format"
            " overflows (try float32)"
        )
        super().__init__(f"row {', '.join(map(str, self.rows))} of {len(values)}: {self.reason}")


def check_finite(values: torch.Tensor) -> torch.Tensor:
    """Return the values (B, ...) of B clips unchanged.

    Raises:
        NotFiniteError: when one is NaN or infinite.
    """
    finite = values.isfinite().reshape(len(values), -1).all(1)  # (B,)
    if not bool(finite.all()):
        raise NotFiniteError((~finite).nonzero().flatten().tolist(), values)
    return values
