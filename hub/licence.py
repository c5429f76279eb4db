"""Under which licence a trained model may be published, and what its LICENSE and NOTICE say.

This is no legal advice: the publisher decides.
"""

from dataclasses import dataclass

from ..data.catalog import DatasetFacts
from ..training.choices import SMALL, is_tiny
from .upload import PublishError


@dataclass(frozen=True)
class Licence:
    """A licence: `id` in the Hub's spelling; for `other`, its name and the address of its text."""

    id: str
    name: str | None = None
    link: str | None = None

    @property
    def title(self) -> str:
        """Its name in text."""
        unnamed = "terms that the publisher names beside the model" if self.id == "other" else self.id
        return f"{self.name or unnamed}{f' ({self.link})' if self.link else ''}"


APACHE, UNSTATED = Licence("apache-2.0"), Licence("other")
BASES = {
    "Qwen/Qwen2.5-Omni-7B": APACHE,
    "Qwen/Qwen2.5-Omni-3B": Licence(
        "other", "qwen-research", "https://huggingface.co/Qwen/Qwen2.5-Omni-3B/blob/main/LICENSE"
    ),
    SMALL: APACHE,
}


def licence_of(base_model: str, facts: DatasetFacts, given: str | None) -> Licence:
    """The licence of an adapter and head that were trained on a base model and a data set.

    Args:
        base_model: the setting of the run.
        facts: of the data set.
        given: by the publisher, in the Hub's spelling.

    Raises:
        PublishError: when nothing is given, and the base is not known here or the data are for research alone; or when something
            else is given for a base whose own licence covers what is derived from it.
    """
    base = APACHE if is_tiny(base_model) else BASES.get(base_model)
    if base is not None and base.id == "other":
        if given not in (None, base.id, base.name):
            raise PublishError(f"license: what is derived from {base_model} is under {base.title}, not {given}")
        return base
    if given is not None:
        return Licence(given)
    if base is None:
        raise PublishError(
            f"license: that of {base_model} is not known here; name the one under which you publish, as --license apache-2.0"
        )
    if facts.media_terms is not None:
        raise PublishError(
            f"license: {facts.title} is for research alone, so the model is not {base.id} by itself; name the licence that the"
            " terms of the data allow, as --license cc-by-nc-4.0"
        )
    return base


def notice(licence: Licence, *, base: str, base_model: str, facts: DatasetFacts, merged: bool) -> str:
    """The text of NOTICE: whose the code, the base model and the training data are.

    Args:
        licence: of the trained weights.
        base: the base model in words.
        base_model: the setting of the run.
        facts: of the data set.
        merged: whether the base model's weights are included.
    """
    own = BASES.get(base_model)
    terms = own.title if own else "its own licence"
    weights = (
        "The weights are those of the base model, with a trained adapter merged into them," if merged else "Adapter"
    )
    return (
        "\n\n".join(
            (
                "The code (all *.py) is part of omnisent and under the Apache License 2.0, whose text is in LICENSE.",
                f"{weights} and head are published under: {licence.title}.",
                f"Base model: {base}, under {terms}.",
                f"Trained on {facts.title}. {data_terms(facts)}".strip(),
            )
        )
        + "\n"
    )


def data_terms(facts: DatasetFacts) -> str:
    """The terms of the training data, in a sentence or two; empty if they are not known."""
    return facts.media_terms or facts.rights


def pipeline_tag(modalities: list[str]) -> str:
    """The Hub's task that fits what a model reads."""
    if "video" in modalities:
        return "video-classification"
    return "audio-classification" if "audio" in modalities else "text-classification"
