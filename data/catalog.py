"""The one table of data sets: DATASETS. Everything that depends on a data set's name is read from it.

Only the standard library is imported and nothing is loaded, so that the command line can list the names quickly. To add a data set
in the MMSA layout, add one `research_set` to DATASETS. For another layout, see `sources.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .built import build_record

LABEL = "label"  # the name of the only target, unless another is chosen
RESEARCH_MEDIA = (
    "The raw clips of {title} are other people's recordings, released for research. Do not redistribute them; publish them only"
    " with permission from their owners."
)


@dataclass(frozen=True)
class Target:
    """What is rated: a column of labels.

    Attributes:
        name: of its column.
        score_range: lowest and highest label, label units.
        convention: of its metrics, `mosi`, `sims` or `generic`.
        asks: what is rated, in the words of the prompt.
    """

    name: str = LABEL
    score_range: tuple[float, float] = (-3.0, 3.0)
    convention: str = "mosi"
    asks: str = "the speaker's sentiment"


@dataclass(frozen=True)
class DatasetFacts:
    """Facts about a data set.

    Attributes:
        name: its key in DATASETS; for a user's own table, its path.
        title: its name in text.
        about: one sentence for a data set card.
        paper: the paper to cite; `None` if there is none.
        language: of the transcripts, ISO 639-1.
        score_range: lowest and highest label, label units.
        convention: metric convention, `mosi`, `sims` or `generic`.
        split_counts: official numbers of train, valid and test clips; `None` if there are none.
        genres: those of its clips; empty if it does not tell them apart.
        has_media: whether its clips have audio or video; without, they are sentences.
        media_terms: why its media must not be redistributed; `None` if they may be.
        rights: whose the rows are, for cards; empty if the media terms say it.
        license: of the published rows, in the Hub's spelling.
        published_results: results of the paper that this package reproduces, for orientation.
        source: how it is read, a key of `SOURCES` in `sources.py`; `mmsa` is a folder in the MMSA or the CMU layout.
        synthetic: whether its clips are generated, so that results on it say nothing about sentiment.
        further: targets that it has besides `label`.
    """

    name: str
    title: str
    about: str = ""
    paper: str | None = None
    language: str = "en"
    score_range: tuple[float, float] = (-3.0, 3.0)
    convention: str = "mosi"
    split_counts: tuple[int, int, int] | None = None
    genres: tuple[str, ...] = ()
    has_media: bool = True
    media_terms: str | None = None
    rights: str = ""
    license: str = "other"
    published_results: str | None = None
    source: str = "mmsa"
    synthetic: bool = False
    further: tuple[Target, ...] = ()

    @property
    def targets(self) -> dict[str, Target]:
        """Its targets by name; the first is `label`."""
        return {one.name: one for one in (Target(LABEL, self.score_range, self.convention), *self.further)}

    @property
    def further_ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest label of the targets besides `label`, by name."""
        return {one.name: one.score_range for one in self.further}

    @property
    def documents(self) -> str:
        """What its clips are parts of, in the plural."""
        return "videos" if self.has_media else "documents"

    def units_of(self, modalities: Sequence[str]) -> str:
        """What its clips are parts of for a model that reads these modalities, in the plural."""
        return "documents" if list(modalities) == ["text"] else self.documents


def ranges_of(score_range: Sequence[float], count: int) -> list[tuple[float, float]]:
    """The score range of each of some targets, from two numbers for all of them or two for each.

    Raises:
        ValueError: for another number of numbers, or a range whose low end is not below its high end.
    """
    pairs = [(float(low), float(high)) for low, high in zip(score_range[::2], score_range[1::2], strict=False)]
    if len(score_range) % 2 or len(pairs) not in (1, count):
        raise ValueError("give two numbers for all targets, or two for each in their order")
    if any(not low < high for low, high in pairs):
        raise ValueError("the first number of a range must be below the second")
    return pairs * count if len(pairs) == 1 else pairs


def research_set(
    name: str, title: str, paper: str, split_counts: tuple[int, int, int] | None = None, **facts: Any
) -> DatasetFacts:
    """The facts of a published data set in the MMSA layout, whose media must not be redistributed."""
    return DatasetFacts(
        name,
        title,
        about=f"Transcripts and sentiment labels of {title}, with the official splits.",
        paper=paper,
        split_counts=split_counts,
        media_terms=RESEARCH_MEDIA.format(title=title),
        **facts,
    )


_SIMS = {
    "language": "zh",
    "score_range": (-1.0, 1.0),
    "convention": "sims",
    "further": tuple(
        Target(f"label_{letter}", (-1.0, 1.0), "sims", f"the sentiment of the {part} alone")
        for letter, part in (("T", "words"), ("A", "voice"), ("V", "face"))
    ),
}
_EMOTIONS = tuple(
    Target(name, (0.0, 3.0), "generic", f"the speaker's {name}")
    for name in ("happiness", "sadness", "anger", "fear", "disgust", "surprise")
)
DATASETS = {
    facts.name: facts
    for facts in (
        DatasetFacts(
            "planted",
            "Planted clips",
            about="Synthetic clips whose text, voice and face each carry a known fraction of the label: for tests only, they say"
            " nothing about sentiment.",
            rights="Made by a program; no rights are claimed.",
            license="cc0-1.0",
            source="planted",
            synthetic=True,
        ),
        research_set(
            "cmu_mosi",
            "CMU-MOSI",
            "MOSI: Multimodal Corpus of Sentiment Intensity and Subjectivity Analysis in Online Opinion Videos (2016)",
            (1284, 229, 686),
            published_results="the controlled comparison, MAE .667, Corr .824 (discriminative) and 1.521, .197 (generative,"
            " trained); headline, best seed, denoised audio, MAE .551, Corr .888, mean of four seeds .570",
        ),
        research_set(
            "cmu_mosei",
            "CMU-MOSEI",
            "Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable Dynamic Fusion Graph (ACL 2018)",
            (16326, 1871, 4659),
            published_results="the controlled comparison, MAE .521, Corr .790; headline MAE .506, Corr .790",
            further=_EMOTIONS,
        ),
        research_set(
            "ch_sims",
            "CH-SIMS",
            "CH-SIMS: A Chinese Multimodal Sentiment Analysis Dataset with Fine-grained Annotation of Modality (ACL 2020)",
            (1368, 456, 457),
            **_SIMS,
        ),
        research_set(
            "ch_sims_v2",
            "CH-SIMS v2",
            "Make Acoustic and Visual Cues Matter: CH-SIMS v2.0 Dataset and AV-Mixup Consistent Module (ICMI 2022)",
            (2722, 647, 1034),
            **_SIMS,
        ),
        DatasetFacts(
            "human_ratings",
            "Human ratings of sentences",
            about="Tweets and sentences of film reviews, product reviews and editorials, each with the mean sentiment rating of"
            " 15 to 99 people. The splits are by document, and no sentence is in two of them.",
            paper="VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text (ICWSM 2014)",
            score_range=(-4.0, 4.0),
            convention="generic",
            split_counts=(18689, 2381, 2633),
            genres=("tweets", "film_reviews", "product_reviews", "editorials"),
            has_media=False,
            rights="Sentences and ratings: MIT License, Copyright (c) 2016 C.J. Hutto, from the source archive of vaderSentiment"
            " 3.3.2.",
            license="mit",
            source="rated_sentences",
        ),
    )
}


def dataset_facts(name_or_path: str) -> DatasetFacts:
    """The facts of a named or built data set; for a user's own table, scores in [-3, 3] and the convention of MOSI."""
    record = build_record(name_or_path)
    name = name_or_path if record is None else record.name
    return DATASETS.get(name) or DatasetFacts(name, Path(name).stem)
