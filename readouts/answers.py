"""A score as text and back: the target format of the generative readout, and the rule by which its answers are parsed.

The format is a sign and one decimal (`+1.4`, `-0.3`, `+0.0`), so that all answers have the same length, and none is a prefix of
another. Knows no model and no tokenizer.
"""

import math
import re

_NUMBER = re.compile(r"[+\-\u2212]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")


def format_answer(score: float) -> str:
    """A score in label units as training text, rounded to one decimal.

    Raises:
        ValueError: for a score that is not finite.
    """
    if not math.isfinite(score):
        raise ValueError(f"expected a finite score to write as an answer, found {score}")
    return f"{round(score, 1) + 0.0:+.1f}"


def parse_answer(text: str) -> float | None:
    """The first signed decimal in an answer, label units; `None` when there is none.

    A number is digits 0 to 9 with at most one point, and a plus, hyphen or minus sign right before it. Exponents, decimal
    commas, fractions, number words and other scripts' digits are not parsed: `"-1.5/3"` is -1.5, `"between 1 and 2"` is 1,
    `"1,5"` is 1, and `"minus two"` is unparsable, as is a number too large for a float. The number may lie outside the score range.
    """
    match = _NUMBER.search(text)
    number = None if match is None else float(match.group().replace("\u2212", "-"))
    return None if number is None or math.isinf(number) else number


def numeric_answers(low: float, high: float) -> list[float]:
    """Every possible score in a range, in steps of 0.1, label units.

    Raises:
        ValueError: when `low` and `high` are not finite, or not in this order.
    """
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"answers from {low} to {high}: expected a finite low below a finite high")
    first, last = math.ceil(round(low * 10, 6)), math.floor(round(high * 10, 6))
    return [tenths / 10 for tenths in range(first, last + 1)]
