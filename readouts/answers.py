"""A score as text and back: the target format of the generative readout, and the one rule that its answers are parsed by.

The format is a sign and one decimal (`+1.4`, `-0.3`, `+0.0`), so that every answer has as many characters, and none begins
another. Knows no model and no tokenizer.
"""

import re

_NUMBER = re.compile(r"[+\-\u2212]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")


def format_answer(score: float) -> str:
    """A score in label units as the text that is trained on, rounded to one decimal."""
    return f"{round(score, 1) + 0.0:+.1f}"


def parse_answer(text: str) -> float | None:
    """The first signed decimal in an answer, label units; `None` when there is none.

    A number is digits 0 to 9 with at most one point, and a plus, hyphen or minus sign right before it. Exponents, decimal
    commas, fractions, number words and other scripts' digits are not read: `"-1.5/3"` is -1.5, `"between 1 and 2"` is 1,
    `"1,5"` is 1, and `"minus two"` is unparsable. The number may lie outside the score range.
    """
    found = _NUMBER.search(text)
    return None if found is None else float(found.group().replace("\u2212", "-"))


def numeric_answers(low: float, high: float) -> list[float]:
    """Every score that can be answered in a range, in steps of 0.1, label units."""
    return [tenths / 10 for tenths in range(round(low * 10), round(high * 10) + 1)]
