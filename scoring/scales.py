"""The scales that a bundle's scores are shown on: names, ends and neutral band of its targets, and scores as text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..data.catalog import LABEL
from ..pipeline_omnisent import MultimodalSentimentPipeline, has_two_sides

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Scale:
    """How the scores of a target are shown.

    Attributes:
        name: of the target; `"score"` for the only one, if it has no name of its own.
        low: lowest possible score, label units.
        high: highest possible score, label units.
        neutral_band: scores within this distance of 0 are neutral, label units; `None` if scores are not called negative,
            neutral or positive.
    """

    name: str
    low: float
    high: float
    neutral_band: float | None = None

    @property
    def has_sides(self) -> bool:
        """Whether scores are above or below 0."""
        return has_two_sides(self.low, self.high)

    @property
    def middle(self) -> float:
        """Halfway from the lowest to the highest possible score."""
        return (self.low + self.high) / 2

    def written(self, score: float) -> str:
        """A score with two decimals, with its sign if the scale has two sides."""
        return signed(score) if self.has_sides else f"{score:.2f}".replace("-", MINUS)

    def written_end(self, score: float) -> str:
        """A score as short as possible, such as an end of the scale: `"+3"`, or `"9"` without two sides."""
        return (f"{score:+g}" if self.has_sides and score else f"{score:g}").replace("-", MINUS)


def scales_of(pipeline: MultimodalSentimentPipeline) -> tuple[Scale, ...]:
    """For each target of a pipeline's model, how its scores are shown."""
    config = pipeline.model.config
    names, scales = config.targets, config.label_scales
    has_labels = len(scales) == 1 and has_two_sides(scales[0].low, scales[0].high)
    band = pipeline.neutral_band if has_labels else None
    shown = ("score",) if names == (LABEL,) else names
    return tuple(Scale(name, scale.low, scale.high, band) for name, scale in zip(shown, scales, strict=True))


def scores_of(result: Mapping[str, Any]) -> tuple[float, ...]:
    """The scores in a result of the pipeline, one for each target; empty if it is an error."""
    if "error" in result:
        return ()
    return tuple(result["scores"].values()) if "scores" in result else (result["score"],)


def signed(score: float, digits: int = 2) -> str:
    """`"+1.73"` or `"-0.50"` with a true minus, and `"0.00"` without a sign."""
    text = f"{score:+.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text[1:]
