"""The words of the prompt: what it asks for, and a transcript, checked, without special tokens and in the case that is set."""

import re
import unicodedata
from collections.abc import Callable, Sequence

from .errors_omnisent import OmniSentError

SYSTEM_PROMPT = "You judge the sentiment that a speaker expresses in a short video clip."
RATING_SYSTEM_PROMPT = "You rate what a speaker expresses in a short video clip."  # for other targets than sentiment
TRANSCRIPT = 'The speaker says: "{text}"'
CONTEXT = 'Before that, the speaker said: "{text}"'


def rating_instruction(scales: Sequence[tuple[str, float, float]]) -> str:
    """The sentences that ask for a score on each scale; every readout uses the same ones.

    Args:
        scales: what is rated, and the ends of its range.
    """
    parts = []
    for what, low, high in scales:
        words = ("", "", "")
        if low < 0 < high and "sentiment" in what:
            words = (" (strongly negative)", " over 0 (neutral)", " (strongly positive)")
        parts.append(f"{what} from {low:g}{words[0]}{words[1]} to {high:g}{words[2]}")
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    number = "a signed number" if any(low < 0 for _, low, _ in scales) else "a number"
    return f"Rate {listed}. Answer with {number} with one decimal{' for each' if len(parts) > 1 else ''}."


INSTRUCTION = rating_instruction([("the speaker's sentiment", -3.0, 3.0)])

_SENTENCE_START = re.compile(r"(?:^|(?<=[^.][.!?])[\"'\u201d\u2019)\]]*\s+)[\"'\u201c\u2018(\[¿¡]*[^\W\d_]")
_PRONOUN = re.compile(r"(?<!\w['\u2019])\bi\b")
_NO_END_MARK = re.compile(r"\w[\"'\u201d\u2019)\]]*$")


def plain_text(text: str | None, case: str = "as_is") -> str | None:
    """A transcript in one of `TEXT_CASES`, which cannot contain special tokens; `None` if it is empty.

    Raises:
        OmniSentError: for what is not text, or not valid Unicode.
    """
    if text is not None and not isinstance(text, str):
        raise OmniSentError(f"text must be a string or None, not {type(text).__name__}")
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise OmniSentError(f"text must be valid Unicode: {error}; correct it") from error
    return TEXT_CASES[case]((text or "").strip()).replace("<|", "< |") or None


def as_sentence(text: str) -> str:
    """A text entirely in Latin capitals as English sentences; any other text unchanged.

    Lower case, with a capital at the start of each sentence and for the pronoun I, and a full stop if the text ends with a letter
    or a digit; an ellipsis ends no sentence. Names and abbreviations cannot be told from words: "OK" becomes "Ok.".
    """
    latin = all(unicodedata.name(letter, "").startswith("LATIN") for letter in text if letter.isalpha())
    if not text.isupper() or not latin:
        return text
    text = _SENTENCE_START.sub(lambda start: start[0].upper(), text.lower())
    text = _PRONOUN.sub("I", text)
    return f"{text}." if _NO_END_MARK.search(text) else text


TEXT_CASES: dict[str, Callable[[str], str]] = {"as_is": str, "sentence": as_sentence}
