"""Words from elsewhere, such as the names of arms and groups, in Markdown: they are shown as they were written."""

import re

# The signs that CommonMark and tables give a meaning; `_` only at the edge of a word, `<` and `&` only before letters.
_SIGNS = re.compile(r"[\\`*~|\[\]]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")


def escaped(text: str) -> str:
    """The text as Markdown that shows it unchanged, in one line."""
    return _SIGNS.sub(lambda sign: f"\\{sign[0]}", " ".join(text.split()))
