"""What a score rests on: the score of a clip without each of its modalities, and without each of its words.

The file is read once, and its towers run once; `variants.py` scores what is left.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..pipeline_omnisent import MultimodalSentimentPipeline, as_clip
from ..processing_omnisent import MODALITIES
from ..text_omnisent import plain_text
from .scales import scores_of
from .variants import as_variant, score_variants, with_features, without_media

MOST_WORDS = 64  # of a transcript whose words are left out one by one; in a longer one, as many groups of neighbours
# Scripts without spaces between words, whose letters stand for words.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")

Scores = tuple[float, ...]  # of each target, label units


@dataclass(frozen=True)
class Word:
    """What a word, or a group of neighbouring words, of a transcript adds to the scores.

    Attributes:
        text: as the transcript has it.
        start, end: its place in the transcript, in characters.
        contributions: to the score of each target, label units: with all words, minus without these.
    """

    text: str
    start: int
    end: int
    contributions: Scores


@dataclass(frozen=True)
class Explanation:
    """What the scores of one clip rest on.

    Attributes:
        result: of the pipeline, for the whole clip.
        modalities: which of text, audio and video the clip has and the model used.
        without: the scores without a modality, by its name; empty if there is only one.
        words: of the transcript, in their order; empty without one, or where nothing would be left to score.
        words_together: how many words are left out at once.
    """

    result: Mapping[str, Any]
    modalities: tuple[str, ...]
    without: Mapping[str, Scores]
    words: tuple[Word, ...] = ()
    words_together: int = 1

    @property
    def scores(self) -> Scores:
        """Of each target, label units."""
        return scores_of(self.result)

    def contributions(self, modality: str) -> Scores:
        """The scores with all modalities minus the scores without this one, label units."""
        return difference(self.scores, self.without[modality])


def explain(
    pipeline: MultimodalSentimentPipeline,
    clip: Any,
    *,
    modalities: Sequence[str] | None = None,
    words: bool = True,
    interval: float | None = None,
) -> Explanation:
    """Score a clip, and the same without each of its modalities and without each of its words.

    Args:
        pipeline: computes the scores.
        clip: as the pipeline takes it.
        modalities: which are used; by default the pipeline's.
        words: leave out words too.
        interval: a level such as 0.9, for `low` and `high` in the result.

    Raises:
        OmniSentError: naming the clip that cannot be scored.
    """
    processor = pipeline.processor
    clip = as_clip(clip)
    used = list(modalities or modalities_of(pipeline))
    whole = with_features(pipeline, processor.encode(clip, modalities=used))
    has_text = "text" in used and processor.texts(clip)[0] is not None
    present = {"text": has_text, "audio": "input_features" in whole, "video": "video_grid_thw" in whole}
    found = tuple(name for name in MODALITIES if present[name])

    def variant(text: str | None, *left_out: str) -> dict[str, Any]:
        reads_text = "text" in used and "text" not in left_out
        said, before = processor.texts({**clip, "text": text}) if reads_text else (None, None)
        media, instruction = without_media(whole, left_out), plain_text(clip.get("instruction"))
        laid_out = processor.lay_out(said, media, before=before, instruction=instruction)
        return {**as_variant(laid_out), "clip_id": whole["clip_id"]}

    text = clip.get("text") if present["text"] else None
    ablated = found if len(found) > 1 else ()
    together = words_together(text or "")
    spans = word_spans(text, together) if words and text else []
    if len(spans) == 1 and not ablated:
        spans = []  # nothing would be left to score
    variants = [as_variant(whole), *(variant(text, name) for name in ablated)]
    variants += [variant(without_span(text, *span)) for span in spans if text]
    result, *others = score_variants(pipeline, variants, interval=interval)
    scores, without = scores_of(result), list(map(scores_of, others))
    said = [
        Word(text[start:end], start, end, difference(scores, other))
        for (start, end), other in zip(spans, without[len(ablated) :], strict=True)
        if text
    ]
    return Explanation(result, found, dict(zip(ablated, without, strict=False)), tuple(said), together)


def words_together(text: str) -> int:
    """How many neighbouring words of a text are left out at once, so that there are at most MOST_WORDS groups."""
    return max(1, math.ceil(len(_WORD.findall(text)) / MOST_WORDS))


def word_spans(text: str, together: int = 1) -> list[tuple[int, int]]:
    """Start and end of each word, or of each group of so many neighbouring ones; the letters of scripts without spaces count as
    words.
    """
    words = [match.span() for match in _WORD.finditer(text)]
    groups = [words[at : at + together] for at in range(0, len(words), together)]
    return [(group[0][0], group[-1][1]) for group in groups]


def without_span(text: str, start: int, end: int) -> str | None:
    """A text without a part of it and the space after it; `None` if nothing is left."""
    after = text[end:]
    return (text[:start] + (after.lstrip() if not text[:start] or text[start - 1].isspace() else after)).strip() or None


def difference(scores: Scores, others: Scores) -> Scores:
    """What is added from the others to the scores, of each target."""
    return tuple(score - other for score, other in zip(scores, others, strict=True))


def modalities_of(pipeline: MultimodalSentimentPipeline) -> list[str]:
    """The modalities of the pipeline, else those of its processor."""
    return list(pipeline._preprocess_params.get("modalities") or pipeline.processor.modalities)
