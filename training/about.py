"""What a bundle says of itself in one line: what it reads, what it was trained on, and its base model."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from ..configuration_omnisent import SAYS_NOTHING
from ..data.catalog import DatasetFacts
from ..families_omnisent import family_of
from ..family_omnisent import LANGUAGE_MODEL, ThinkerConfig
from ..processing_omnisent import check_modalities
from ..thinker_omnisent import text_model_of, thinker_config
from .arguments import DataArguments, ModelArguments
from .backbone import base_of
from .choices import is_tiny

UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))


def about_bundle(arguments: ModelArguments, facts: DatasetFacts, data: DataArguments) -> str:
    """One line of text, e.g. "reads text only; trained on CMU-MOSI; base model Qwen/Qwen2.5-Omni-7B".

    Args:
        arguments: of the run; of its base model, the configuration is read.
        facts: of the data set.
        data: the run's modalities and genres.
    """
    genres = f" ({named_genres(data.genres)})" if data.genres else ""
    parts = [
        _reads(check_modalities(data.modalities)),
        f"{'trained further' if arguments.adapter else 'trained'} on {facts.title}{genres}",
        _base_model(arguments.base_model, *base_of(arguments)),
    ]
    return _line(parts, says_nothing=says_nothing(facts, arguments.base_model))


def about_zero_shot(base_model: str, folder: str, score_range: tuple[float, float], modalities: Sequence[str]) -> str:
    """The same of a base model that is scored without training.

    Args:
        base_model: as it was given.
        folder: where it is, or its Hub id.
        score_range: of its answers, label units.
        modalities: that it reads.
    """
    low, high = score_range
    parts = [
        "zero-shot: no training on sentiment",
        f"expected value over the answers {low:.1f} to {high:.1f}",
        _reads(modalities),
        _base_model(base_model, folder, None),
    ]
    return _line(parts, says_nothing=is_tiny(base_model))


def says_nothing(facts: DatasetFacts, base_model: str) -> bool:
    """Whether scores mean nothing: the clips are synthetic, or the base model is random."""
    return facts.synthetic or is_tiny(base_model)


def joined(names: Sequence[str]) -> str:
    """`"text"`, `"text and video"` or `"text, audio and video"`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def named_genres(genres: Sequence[str] | None) -> str:
    """Genres in words, e.g. "tweets, film reviews"; empty if none were chosen."""
    return ", ".join(genres or ()).replace("_", " ")


def _reads(modalities: Sequence[str]) -> str:
    return f"reads {joined(modalities)}{' only' if len(modalities) == 1 else ''}"


def _line(parts: Sequence[str], *, says_nothing: bool) -> str:
    parts = [*parts, SAYS_NOTHING] if says_nothing else parts
    return "".join(letter if letter.isprintable() else "?" for letter in "; ".join(parts))


def _base_model(given: str, base: str, revision: str | None) -> str:
    text_model = text_model_of(base, revision=revision)
    if is_tiny(given):
        return "random base model"
    if text_model is None:
        return f"base model {Path(base).name if os.path.isdir(base) else base}"
    parameters = _language_parameters(thinker_config(base, revision=revision))
    return f"language model {text_model}, {_rounded(parameters)} parameters"


def _language_parameters(config: ThinkerConfig) -> int:
    with torch.device("meta"):
        thinker = family_of(config).thinker_class(config)
    return sum(parameter.numel() for parameter in getattr(thinker, LANGUAGE_MODEL).parameters())


def _rounded(count: int) -> str:
    """Three digits and a unit: `"135M"`, `"7.07B"`."""
    size, unit = next(((size, unit) for size, unit in UNITS if count >= 0.9995 * size), (1, ""))
    return f"{count / size:.3g}{unit}"
