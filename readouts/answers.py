"""A score as text and back: the target format of the generative readout, and the one rule that its answers are parsed by.

The format is a sign and one decimal (`+1.4`, `-0.3`, `+0.0`), so that every answer has as many characters, and none begins
another. Knows no model and no tokenizer.
"""

import math
import re

_NUMBER = re.compile(r"[+\-\u2212]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")


def format_answer(score: float) -> str:
    """A score in label units as the text that is trained on, rounded to one decimal.

    Raises:
        ValueError: for a score that is not finite.
    """
    if not math.isfinite(score):
        raise ValueError(f"no answer says {score}; expected a finite score")
    return f"{round(score, 1) + 0.0:+.1f}"


def parse_answer(text: str) -> float | None:
    """The first signed decimal in an answer, label units; `None` when there is none.

    A number is digits 0 to 9 with at most one point, and a plus, hyphen or minus sign right before it. Exponents, decimal
    commas, fractions, number words and other scripts' digits are not read: `"-1.5/3"` is -1.5, `"between 1 and 2"` is 1,
    `"1,5"` is 1, and `"minus two"` is unparsable, as are hundreds of digits that no float holds. The number may lie outside the
    score range.
    """
    match = _NUMBER.search(text)
    number = None if match is None else float(match.group().replace("\u2212", "-"))
    return None if number is None or math.isinf(number) else number


def numeric_answers(low: float, high: float) -> list[float]:
    """Every score that can be answered in a range, in steps of 0.1, label units.

    Raises:
        ValueError: when `low` and `high` are not finite, or not in this order.
    """
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"answers from {low} to {high}: expected a finite low below a finite high")
    first, last = math.ceil(round(low * 10, 6)), math.floor(round(high * 10, 6))
    return [tenths / 10 for tenths in range(first, last + 1)]
