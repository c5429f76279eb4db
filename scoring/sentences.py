"""Sentences of a transcript with times: where they end, and when each was spoken. Opens no file.

A sentence ends with a full stop, a question or exclamation mark, an ellipsis, before a pause, or where another voice falls in; one
that is too long is divided.
"""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from .subtitles import Cue, words_of

PAUSE = 2.0  # seconds without a word, which end a sentence
LONGEST, SHORTEST = 30.0, 0.5  # seconds of a sentence
_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f\uff61][\"'\u2019\u201d\u00bb\u300d\u300f)\]]*$")
_ABBREVIATION = re.compile(r"(?:\W*[^\W\d_]|.*\b(?:mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e|z\.b|d\.h))\.", re.IGNORECASE)


def ends_sentence(word: str, following: str) -> bool:
    """Whether a word ends a sentence: not an initial or a title, as in "Dr. No", nor if the next word is in lower case."""
    word, following = word.strip(), following.strip()
    if not _END.search(word) or following[:1].islower():
        return False
    return not _ABBREVIATION.fullmatch(word)


def sentences(cues: Sequence[Cue]) -> list[Cue]:
    """The sentences of a transcript, in order of time; at least SHORTEST and at most about LONGEST seconds each, or a single word.

    The words of a cue are spread evenly over it. Where nothing is said there is no sentence.
    """
    words = [word for cue in cues for word in _separated(words_of(cue))]
    found = [part for sentence in _divided_at_ends(words) for part in _short_enough(sentence)]
    return sorted(map(_sentence, found), key=lambda one: (one.start, one.end))


def _separated(words: list[Cue]) -> list[Cue]:
    """The words of a cue, with a space before the first."""
    return [Cue(words[0].start, words[0].end, f" {words[0].text.lstrip()}"), *words[1:]] if words else []


def _divided_at_ends(words: Sequence[Cue]) -> Iterator[list[Cue]]:
    sentence: list[Cue] = []
    for word, following in pairwise([*words, None]):
        assert word is not None
        sentence.append(word)
        if following is None or _is_apart(word, following) or ends_sentence(word.text, following.text):
            yield sentence
            sentence = []


def _is_apart(word: Cue, following: Cue) -> bool:
    """Whether there is a pause between two words, or the second is of another voice, that began before the first word."""
    return following.start - word.end >= PAUSE or following.start < word.start


def _short_enough(words: list[Cue]) -> Iterator[list[Cue]]:
    """The sentence, or its words in as few parts as are short enough, each with about as many seconds."""
    start = words[0].start
    seconds = max(word.end for word in words) - start
    parts = max(1, math.ceil(seconds / LONGEST))
    for _, some in groupby(words, lambda word: int(parts * (word.start - start) / max(seconds, 1e-9))):
        yield list(some)


def _sentence(words: list[Cue]) -> Cue:
    start, end = words[0].start, max(word.end for word in words)
    return Cue(start, max(end, start + SHORTEST), "".join(word.text for word in words).strip())
