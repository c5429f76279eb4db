"""What the cells of a table mean: text, a number, a split; or an error that names the place and the column."""

import math
import re
from collections.abc import Mapping
from typing import Any

from .clip import SPLIT_NAMES
from .tables import Unreadable

WHOLE = re.compile(r"[0-9]{1,18}")  # what 64 bits hold
_NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
)  # float() also takes 1_0 and other scripts' digits
_NOT_FINITE = re.compile(r"[+-]?(inf|infinity|nan)", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")

Row = Mapping[str, Any]


def text_of(where: str, row: Row, column: str | None) -> str | None:
    """A cell as text without the blanks around it; `None` for an empty cell, or without a column.

    Raises:
        ValueError: for anything but text and numbers, and for text that is damaged.
    """
    value = None if column is None else row.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list | tuple | dict | bytes | bool | Unreadable):
        found = value.what if isinstance(value, Unreadable) else type(value).__name__
        raise ValueError(f"{where}: column {column}: expected text or a number, found {found}")
    if isinstance(value, float) and math.isinf(value):
        raise ValueError(f"{where}: column {column}: {value} is not finite")
    # Integers become floats in a column with gaps, and an id of 7 must not turn into 7.0.
    whole = isinstance(value, float) and value.is_integer()
    text = str(int(value) if whole else value)
    if "\0" in text:
        raise ValueError(f"{where}: column {column}: a NUL character; the file is damaged")
    if half := re.search("[\ud800-\udfff]", text):
        raise ValueError(
            f"{where}: column {column}: half a character (the surrogate U+{ord(half.group()):X}), which is not valid in UTF-8"
        )
    return text.strip() or None


def number_of(where: str, row: Row, column: str | None, decimal: str = ".") -> float | None:
    """A cell as a finite number; `None` for an empty cell, or without a column.

    Args:
        where, row, column: the cell and its place.
        decimal: what stands before the decimals of a number that is written as text.

    Raises:
        ValueError: for anything else; NaN is no empty cell, since as a label it is more likely a failed computation.
    """
    value = None if column is None else row.get(column)
    text = str(value) if isinstance(value, float) else text_of(where, row, column)
    if text is None:
        return None
    written = text
    if decimal == "," and isinstance(value, str):
        written = text.replace(",", ".") if "." not in text else ""
    if not (_NUMBER.fullmatch(written) or _NOT_FINITE.fullmatch(written)):
        hint = "; leave the cell empty if there is none"
        if decimal == "," and _NUMBER.fullmatch(text):
            hint = ' with a decimal comma; leave out decimal: "," if the table has points'
        elif decimal == "." and _DECIMAL_COMMA.fullmatch(text):
            hint = '; if the table has decimal commas, give decimal: ","'
        raise ValueError(f"{where}: column {column}: {text!r} is not a number{hint}")
    number = float(written)
    if not math.isfinite(number):
        raise ValueError(f"{where}: column {column}: {text!r} is not finite; leave the cell empty if there is none")
    return number


def weight_of(where: str, row: Row, column: str | None, decimal: str = ".") -> float | None:
    """A cell as a finite weight from 0 on; `None` for an empty cell, or without a column.

    Raises:
        ValueError: for anything else.
    """
    weight = number_of(where, row, column, decimal)
    if weight is not None and weight < 0:
        raise ValueError(f"{where}: column {column}: {weight:g} is no weight; expected a number from 0 on")
    return weight


def index_of(where: str, row: Row, column: str | None) -> int | None:
    """A cell as a whole number from 0 on; `None` for an empty cell, or without a column.

    Raises:
        ValueError: for anything else.
    """
    text = text_of(where, row, column)
    if text is None:
        return None
    if not WHOLE.fullmatch(text.removesuffix(".0")):
        raise ValueError(f"{where}: column {column}: {text!r} is not a whole number from 0 on")
    return int(text.removesuffix(".0"))


def split_of(where: str, row: Row, column: str | None) -> str | None:
    """A cell as the name of a split; `None` for an empty cell, or without a column.

    Raises:
        ValueError: for a name that is not in `SPLIT_NAMES`.
    """
    text = text_of(where, row, column)
    if text is None:
        return None
    if text.lower() not in SPLIT_NAMES:
        raise ValueError(f"{where}: column {column}: {text!r} is not a split; expected {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[text.lower()]
