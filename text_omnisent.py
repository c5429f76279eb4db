"""A transcript as it is written into the prompt: checked, without special tokens, and in the case that a setting asks for."""

import re
import unicodedata
from collections.abc import Callable

from .errors_omnisent import OmniSentError

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
