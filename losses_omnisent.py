"""What a head is trained for: the scale between labels and logits, losses on one number, and losses on a distribution over bins.

To add one, write a function or a small class and put it into `LOSSES`, which configuration, arguments and help read.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F


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


def quantiles(distribution: torch.Tensor, centres: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Quantiles (B, Q) of probabilities (B, bins) of bins at equal distances, each spread evenly over its bin; in their units."""
    width = centres[1] - centres[0]
    below = F.pad(distribution.cumsum(1), (1, 0)).contiguous()  # (B, bins + 1) up to each edge
    wanted = probabilities.to(below).expand(len(below), -1).contiguous()
    bins = torch.searchsorted(below, wanted).clamp(1, distribution.shape[1])  # the first edge that is not below
    before, after = below.gather(1, bins - 1), below.gather(1, bins)
    inside = ((wanted - before) / (after - before).clamp_min(1e-12)).clamp(0, 1)
    return centres[0] + (bins - 1.5 + inside) * width


def level_bounds(distribution: torch.Tensor, centres: torch.Tensor, levels: Sequence[float]) -> torch.Tensor:
    """From which to which quantile (B, levels, 2) each level reaches, such as from .05 to .95 for 0.9; as `quantiles`."""
    ends = torch.tensor([[(1 - level) / 2, (1 + level) / 2] for level in levels]).flatten()
    return quantiles(distribution, centres, ends).unflatten(1, (-1, 2))


def nested_interval(scores: torch.Tensor, bounds: torch.Tensor, margins: torch.Tensor) -> torch.Tensor:
    """The interval (B, 2) of the highest level of bounds (B, levels, 2), each moved outwards by its margin (levels,).

    It has its score (B,) and the intervals of the lower levels in it.
    """
    lows, highs = (bounds[..., 0] - margins).amin(1), (bounds[..., 1] + margins).amax(1)
    return torch.stack([torch.minimum(lows, scores), torch.maximum(highs, scores)], 1)


class Loss(ABC):
    """What a head is trained for, and how its O outputs for a target become a score. It has no weights."""

    @abstractmethod
    def outputs(self, bins: int) -> int:
        """O, the number of the head's outputs for a target."""

    @abstractmethod
    def losses(self, outputs: torch.Tensor, labels: torch.Tensor, scale: LabelScale, bins: int) -> torch.Tensor:
        """The loss (B,) of each clip, or (B, J) parts of it with that mean, for outputs (B, O) and labels (B,) in label units."""

    @abstractmethod
    def scores(self, outputs: torch.Tensor, scale: LabelScale, bins: int) -> torch.Tensor:
        """Scores (B,) in label units, not clipped."""

    def centres(self, scale: LabelScale, bins: int) -> torch.Tensor | None:
        """Centres (bins,) of the bins in label units, at equal distances; `None` for a loss that predicts one number."""
        return None

    def distribution(self, outputs: torch.Tensor) -> torch.Tensor | None:
        """Probabilities (B, bins) of the bins; `None` for a loss that predicts one number."""
        return None

    def spread(self, outputs: torch.Tensor, scale: LabelScale, bins: int) -> torch.Tensor | None:
        """Standard deviation (B,) of the distribution, label units; `None` for a loss that predicts one number."""
        return None


@dataclass(frozen=True)
class PointLoss(Loss):
    """One output, the z-scored label.

    Attributes:
        function: of logits (B,), z-scored labels (B,) and `reduction="none"` to losses (B,).
    """

    function: Callable[..., torch.Tensor]

    def outputs(self, bins: int) -> int:
        return 1

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor, scale: LabelScale, bins: int) -> torch.Tensor:
        return self.function(outputs.squeeze(-1), scale.to_logits(labels), reduction="none")

    def scores(self, outputs: torch.Tensor, scale: LabelScale, bins: int) -> torch.Tensor:
        return scale.to_label_units(outputs.squeeze(-1))


class BinnedLoss(Loss):
    """The probabilities of bins; the score is the mean of their centres, weighted by them."""

    @abstractmethod
    def centres(self, scale: LabelScale, bins: int) -> torch.Tensor: ...

    @abstractmethod
    def distribution(self, outputs: torch.Tensor) -> torch.Tensor: ...

    def scores(self, outputs: torch.Tensor, scale: LabelScale, bins: int) -> torch.Tensor:
        return self.distribution(outputs) @ self.centres(scale, bins).to(outputs.device)

    def spread(self, outputs: torch.Tensor, scale: LabelScale, bins: int) -> torch.Tensor:
        away = self.centres(scale, bins).to(outputs.device) - self.scores(outputs, scale, bins)[:, None]  # (B, bins)
        return (self.distribution(outputs) * away.square()).sum(1).sqrt()


class HLGaussLoss(BinnedLoss):
    """Cross-entropy with a Gaussian around the label (HL-Gauss: Imani and White, 2018; Farebrother et al., 2024).

    The bins go beyond each end of the score range, so that the Gaussian of a label at the end is not cut off and the score is
    not pulled inwards.
    """

    sigma = 0.75  # standard deviation of the Gaussian, in bin widths
    beyond = 3  # bins beyond each end of the range, where 1e-5 of the Gaussian of a label at the end remains

    def outputs(self, bins: int) -> int:
        return bins

    def centres(self, scale: LabelScale, bins: int) -> torch.Tensor:
        margin = self.beyond * (scale.high - scale.low) / (bins - 1 - 2 * self.beyond)
        return torch.linspace(scale.low - margin, scale.high + margin, bins)

    def targets(self, labels: torch.Tensor, scale: LabelScale, bins: int) -> torch.Tensor:
        """Probabilities (B, bins) of labels (B,)."""
        centres = self.centres(scale, bins).to(labels.device)
        width = centres[1] - centres[0]
        edges = torch.cat([centres - width / 2, centres[-1:] + width / 2])  # (bins + 1,)
        below = torch.special.ndtr((edges - labels[:, None]) / (self.sigma * width))  # (B, bins + 1)
        return below.diff(dim=1) / (below[:, -1:] - below[:, :1])

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor, scale: LabelScale, bins: int) -> torch.Tensor:
        return F.cross_entropy(outputs, self.targets(labels, scale, bins), reduction="none")

    def distribution(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.softmax(-1)


class OrdinalLoss(BinnedLoss):
    """Cross-entropy of the probabilities that the label lies above each of `bins - 1` thresholds (cumulative logits).

    The first output is the middle of the logits, and the others are the steps from one logit to the next, kept above 0 by a
    softplus: the logits fall from threshold to threshold, so no bin has a probability below 0. The first and the last bin are
    centred on the ends of the score range.
    """

    span = 10.0  # from the first logit to the last, when all outputs are 0

    def outputs(self, bins: int) -> int:
        return bins - 1

    def centres(self, scale: LabelScale, bins: int) -> torch.Tensor:
        return torch.linspace(scale.low, scale.high, bins)

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Logits (B, bins - 1), falling, that the label lies above each threshold."""
        steps = F.softplus(outputs[:, 1:]) * (self.span / (max(1, outputs.shape[1] - 1) * math.log(2)))
        falling = -F.pad(steps.cumsum(1), (1, 0))  # (B, bins - 1)
        return outputs[:, :1] + falling - falling.mean(1, keepdim=True)

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor, scale: LabelScale, bins: int) -> torch.Tensor:
        # A label between two centres lies above the threshold between them with a probability, so that its mean is the label.
        steps = (labels - scale.low) / (scale.high - scale.low) * (bins - 1)  # (B,)
        above = (steps[:, None] - torch.arange(bins - 1, device=labels.device)).clamp(0, 1)  # (B, bins - 1)
        return F.binary_cross_entropy_with_logits(self.logits(outputs), above, reduction="none")

    def distribution(self, outputs: torch.Tensor) -> torch.Tensor:
        above = F.pad(F.pad(self.logits(outputs).sigmoid(), (1, 0), value=1.0), (0, 1))  # (B, bins + 1)
        return above[:, :-1] - above[:, 1:]


LOSSES: dict[str, Loss] = {
    "l1": PointLoss(F.l1_loss),
    "mse": PointLoss(F.mse_loss),
    "huber": PointLoss(F.huber_loss),
    "hl_gauss": HLGaussLoss(),
    "ordinal": OrdinalLoss(),
}
FEWEST_BINS = 2 * HLGaussLoss.beyond + 2


@dataclass(frozen=True)
class Objective:
    """What a head with K targets is trained for: the same loss for each of them, on its own scale.

    Results for one target have no dimension for targets: scores (B,) instead of (B, K).

    Attributes:
        kind: the loss.
        bins: of a loss with bins.
        scales: K, of the labels of each target.
        target_weights: K, of the targets in the loss, with the mean 1.
    """

    kind: Loss
    bins: int
    scales: tuple[LabelScale, ...]
    target_weights: tuple[float, ...]

    @property
    def outputs(self) -> int:
        """K * O, the number of the head's outputs."""
        return len(self.scales) * self.kind.outputs(self.bins)

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Scalar: the mean over clips and targets, to which a missing label adds nothing.

        Args:
            outputs: (B, K * O).
            labels: (B,) or (B, K), label units; nan where one is missing.
            weights: (B,) of the clips; 1 for `None`.
        """
        total = torch.zeros((), device=outputs.device)
        weights = None if weights is None else weights.to(outputs.device)
        columns = labels.to(outputs.device, torch.float32).reshape(len(labels), -1).unbind(1)
        for part, wanted, scale, weight in zip(
            self._parts(outputs), columns, self.scales, self.target_weights, strict=True
        ):
            missing = wanted.isnan()
            losses = self.kind.losses(part, wanted.where(~missing, scale.mean), scale, self.bins)  # (B,) or (B, J)
            rows = (-1, *[1] * (losses.ndim - 1))
            losses = losses.where(~missing.reshape(rows), 0.0)
            total = total + (losses if weights is None else losses * weights.reshape(rows)).mean() * weight
        return total / len(self.scales)

    def scores(self, outputs: torch.Tensor) -> torch.Tensor:
        """Scores (B,) or (B, K) in label units, not clipped."""
        return self._joined(
            [
                self.kind.scores(part, scale, self.bins)
                for part, scale in zip(self._parts(outputs), self.scales, strict=True)
            ]
        )

    def clip(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B,) or (B, K) within the ranges; NaN for one that is not finite."""
        columns = scores.reshape(len(scores), -1).unbind(1)
        return self._joined([scale.clip(column) for scale, column in zip(self.scales, columns, strict=True)])

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs (B, K * O) as (B,) or (B, K); for a loss with bins (B, O) or (B, K, O)."""
        parts = self._parts(outputs)
        return self._joined([part.squeeze(-1) if self.centres() is None else part for part in parts])

    def centres(self) -> torch.Tensor | None:
        """Centres of the bins in label units, (bins,) or (K, bins); `None` for a loss without bins."""
        found = [self.kind.centres(scale, self.bins) for scale in self.scales]
        return None if found[0] is None else self._joined([one for one in found if one is not None], dim=0)

    def distribution(self, outputs: torch.Tensor) -> torch.Tensor | None:
        """Probabilities of the bins, (B, bins) or (B, K, bins); `None` for a loss without bins."""
        found = [self.kind.distribution(part) for part in self._parts(outputs)]
        return None if found[0] is None else self._joined([one for one in found if one is not None])

    def spread(self, outputs: torch.Tensor) -> torch.Tensor | None:
        """Standard deviations of the distributions, (B,) or (B, K), label units; `None` for a loss without bins."""
        parts = zip(self._parts(outputs), self.scales, strict=True)
        found = [self.kind.spread(part, scale, self.bins) for part, scale in parts]
        return None if found[0] is None else self._joined([one for one in found if one is not None])

    def _parts(self, outputs: torch.Tensor) -> Sequence[torch.Tensor]:
        """The outputs (B, O) for each target."""
        return outputs.reshape(len(outputs), len(self.scales), -1).unbind(1)

    def _joined(self, parts: Sequence[torch.Tensor], dim: int = 1) -> torch.Tensor:
        return parts[0] if len(parts) == 1 else torch.stack(list(parts), dim)
