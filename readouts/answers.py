"""A score as text and back: the answers that the generative readout is trained on, their forms, and how text is parsed.

An answer has as many decimals as its grid, and a sign if that has negative ones (`+1.4`, `-0.3`, `+0.0`), so none is a prefix of
another. Knows no model and no tokenizer.
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

MOST_DECIMALS = 3

_NUMBER = re.compile(r"[+\-\u2212]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")


@dataclass(frozen=True)
class AnswerGrid:
    """The scores that can be written as an answer: the multiples of a step in a range, label units.

    Args:
        low: lowest score.
        high: highest score.
        step: at most `MOST_DECIMALS` decimals.

    Raises:
        ValueError: for a range or step that is not finite, has no multiple of the step, or is not in order.
    """

    low: float
    high: float
    step: float = 0.1

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"answers from {self.low} to {self.high}: expected a finite low below a finite high")
        if not 0 < self.step < math.inf or self._decimals > MOST_DECIMALS:
            raise ValueError(
                f"a step of {self.step} between answers: expected one above 0 with at most {MOST_DECIMALS} decimals"
            )
        if not self.values:
            raise ValueError(f"answers from {self.low} to {self.high}: expected at least one multiple of {self.step}")

    @property
    def _decimals(self) -> int:
        return max(1, -int(Decimal(str(self.step)).normalize().as_tuple().exponent))

    @cached_property
    def values(self) -> list[float]:
        """Every score on the grid, rising."""
        first, last = math.ceil(round(self.low / self.step, 6)), math.floor(round(self.high / self.step, 6))
        return [round(count * self.step, self._decimals) + 0.0 for count in range(first, last + 1)]

    def text(self, score: float) -> str:
        """The answer for a score: the nearest one on the grid, with its sign if there are negative ones.

        Raises:
            ValueError: for a score that is not finite.
        """
        if not math.isfinite(score):
            raise ValueError(f"expected a finite score to write as an answer, found {score}")
        step = Decimal(str(self.step))
        nearest = float(round(Decimal(score) / step) * step)
        return self._signed(min(max(nearest, self.values[0]), self.values[-1]) + 0.0)

    def forms(self, value: float) -> list[str]:
        """Every way to write a score of the grid, first that of `text`: with its sign, a positive one without, and `-0.0`."""
        plain = f"{value:.{self._decimals}f}"
        signed = f"{value:+.{self._decimals}f}"
        return list(dict.fromkeys([self._signed(value), plain, signed, *([f"-{plain}"] if value == 0 else [])]))

    def _signed(self, value: float) -> str:
        sign = "+" if self.low < 0 else ""
        return f"{value:{sign}.{self._decimals}f}"


def parse_answer(text: str, *, last: bool = False) -> float | None:
    """The first signed decimal in an answer, or the last one, label units; `None` when there is none.

    A number is digits 0 to 9 with at most one point, and a plus, hyphen or minus sign right before it. Exponents, decimal
    commas, fractions, number words and other scripts' digits are not parsed: `"-1.5/3"` is -1.5, `"between 1 and 2"` is 1,
    `"1,5"` is 1, and `"minus two"` is unparsable, as is a number too large for a float. The number may lie outside the score
    range. `"-0.0"` is -0.0.
    """
    numbers = _NUMBER.findall(text)
    number = float(numbers[-1 if last else 0].replace("\u2212", "-")) if numbers else None
    return None if number is None or math.isinf(number) else number
