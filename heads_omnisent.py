"""From hidden states to the outputs of a head: layers, poolings, heads.

To add one, write a function or a small class and put it into its table, which configuration, arguments and help read. Knows no
Thinker and no file.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .errors_omnisent import OmniSentError
from .losses_omnisent import LOSSES


def last_token_index(attention_mask: torch.Tensor) -> torch.Tensor:
    """Index (B,) of the last non-padding token of each row of a (B, T) mask, padded on either side."""
    return attention_mask.shape[1] - 1 - attention_mask.long().flip(1).argmax(1)


def pool_last_token(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """State (B, H) of the last non-padding token of each row of hidden states (B, T, H)."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, last_token_index(attention_mask).to(hidden.device)]


def pool_mean(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean (B, H), in float32, of the non-padding tokens' states in hidden states (B, T, H)."""
    weights = attention_mask.to(hidden.device, torch.float32)  # (B, T)
    return torch.einsum("bt,bth->bh", weights, hidden.float()) / weights.sum(1, keepdim=True)


class FunctionPooling(nn.Module):
    """A pooling without weights: a function of hidden states (B, T, H) and mask (B, T) to (B, H)."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.function = function

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.function(hidden, attention_mask)


class AttentionPooling(nn.Module):
    """Mean (B, H) of the tokens' states, weighted by the softmax of their product with one learnt query.

    The query is zero at first, so that it starts as the mean.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))

    def weights(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Weights (B, T) of the tokens: 0 for padding, and their sum is 1."""
        scores = hidden.float() @ self.query / hidden.shape[-1] ** 0.5  # (B, T)
        return scores.masked_fill(attention_mask.to(scores.device) == 0, -torch.inf).softmax(-1)

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bt,bth->bh", self.weights(hidden, attention_mask), hidden.float())


def mlp(width: int, hidden_size: int, dropout: float, outputs: int = 1) -> nn.Sequential:
    """Linear, LayerNorm, ReLU, dropout, Linear."""
    return nn.Sequential(
        nn.Linear(width, hidden_size),
        nn.LayerNorm(hidden_size),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden_size, outputs),
    )


def linear(width: int, hidden_size: int, dropout: float, outputs: int = 1) -> nn.Sequential:
    """Dropout and Linear; without a hidden layer, so `hidden_size` is ignored."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, outputs))


# Width H -> a module from hidden states (B, T, H) and attention mask (B, T) to (B, H).
POOLINGS: dict[str, Callable[[int], nn.Module]] = {
    "last": lambda width: FunctionPooling(pool_last_token),
    "mean": lambda width: FunctionPooling(pool_mean),
    "attention": AttentionPooling,
}
POOL_OVER = ("all", "clip")
# Width H, hidden size, dropout and number of outputs K -> a module from (B, H) to (B, K).
HEADS: dict[str, Callable[[int, int, float, int], nn.Module]] = {"mlp": mlp, "linear": linear}
LAYERS = ("last", "mix")  # or the index of one layer


class LayerReader(nn.Module):
    """What a head reads of the language model's layers, given one by one: the last, one other, or a mix of all.

    Layer 0 are the token embeddings; the last of the L layers is after the final norm and is read as it is. The states of the
    other layers differ in size, so in a mix, or where one of them is read, each token's state is divided by its root mean
    square. A mix has a softmax weight for each layer and one scale (Peters et al., 2018).

    Args:
        layers: `"last"`, `"mix"` or the index of a layer.
        count: L.
    """

    def __init__(self, layers: str | int, count: int):
        super().__init__()
        self.count, self.mixes = count, layers == "mix"
        self.only = None if self.mixes else count if layers == "last" else int(layers)
        if self.mixes:
            self.weights, self.scale = nn.Parameter(torch.zeros(count + 1)), nn.Parameter(torch.ones(1))

    @property
    def reads_last_alone(self) -> bool:
        """Whether no layer but the last is read."""
        return self.only == self.count

    def shares(self) -> torch.Tensor:
        """The weights (L + 1,) of the layers in the mix; their sum is 1."""
        return self.weights.softmax(0)

    def forward(self, total: torch.Tensor | None, layer: int, states: torch.Tensor) -> torch.Tensor | None:
        """Add a layer's states (B, T, H) to what was read of the layers before it."""
        if not self.mixes:
            return total if layer != self.only else states if layer == self.count else unit_size(states)
        # Computed again in the backward pass: else autograd would keep two float32 copies of the states of each layer.
        part = (
            checkpoint(self._weighted, layer, states, use_reentrant=False)
            if torch.is_grad_enabled()
            else self._weighted(layer, states)
        )
        return part if total is None else total + part

    def _weighted(self, layer: int, states: torch.Tensor) -> torch.Tensor:
        return unit_size(states) * (self.shares()[layer] * self.scale)


def unit_size(states: torch.Tensor) -> torch.Tensor:
    """States (..., H) divided by their root mean square, in float32."""
    return F.rms_norm(states.float(), states.shape[-1:], eps=1e-6)


class RegressionHead(nn.Module):
    """Hidden states -> outputs, always in float32.

    Args:
        width: H.
        head: a name in `HEADS`.
        hidden_size: of the head's hidden layer.
        dropout: a probability in [0, 1).
        loss: a name in `LOSSES`, which decides the number of outputs for a target.
        bins: of a loss with bins.
        targets: how many numbers are predicted.
        pooling: a name in `POOLINGS`.
        layers: `"last"`, `"mix"` or the index of a layer.
        layer_count: of the language model.
    """

    def __init__(
        self,
        width: int,
        *,
        head: str,
        hidden_size: int,
        dropout: float,
        loss: str = "l1",
        bins: int = 2,
        targets: int = 1,
        pooling: str = "last",
        layers: str | int = "last",
        layer_count: int = 0,
    ):
        super().__init__()
        self.reader = LayerReader(layers, layer_count)
        self.pool = POOLINGS[pooling](width)
        self.layers = HEADS[head](width, hidden_size, dropout, targets * LOSSES[loss].outputs(bins))

    @classmethod
    def from_settings(cls, settings: Any, width: int, layer_count: int, *, targets: int = 1) -> "RegressionHead":
        """The head that a configuration, or the arguments of a run, describe, for a language model's width and layers."""
        names = ("head", "loss", "bins", "pooling", "layers")
        return cls(
            width,
            hidden_size=settings.head_hidden_size,
            dropout=settings.head_dropout,
            layer_count=layer_count,
            targets=targets,
            **{name: getattr(settings, name) for name in names},
        )

    def set_dropout(self, dropout: float) -> None:
        """Change the dropout; a probability in [0, 1)."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pooled states (B, H) and outputs (B, K) of hidden states (B, T, H); `mask` (B, T) is 0 for tokens that are not read."""
        with torch.autocast(hidden.device.type, enabled=False):
            pooled = self.pool(hidden, mask)
            return pooled, self.layers(pooled.float())


NOT_FINITE = (
    "no score: the model computes NaN or infinity; its weights or the clip's inputs are damaged, or the number format overflows"
    " (try float32)"
)


class NotFiniteError(OmniSentError):
    """Clips of a batch for which the model computes NaN or infinity instead of a score.

    Attributes:
        rows: their indices in the batch.
        values: (B, ...) of all clips; the other rows are valid.
    """

    def __init__(self, rows: Sequence[int], values: torch.Tensor):
        self.rows, self.values = list(rows), values
        super().__init__(f"row {', '.join(map(str, self.rows))} of {len(values)}: {NOT_FINITE}")


def check_finite(values: torch.Tensor) -> torch.Tensor:
    """Return the values (B, ...) of B clips unchanged.

    Raises:
        NotFiniteError: when one is NaN or infinite.
    """
    finite = values.isfinite().reshape(len(values), -1).all(1)  # (B,)
    if not bool(finite.all()):
        raise NotFiniteError((~finite).nonzero().flatten().tolist(), values)
    return values
