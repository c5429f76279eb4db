"""How a table of clips is to be read, where it is not in this project's own layout: TableOptions, and its columns as text."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .catalog import LABEL

FIELDS = (
    *("id", "text", "video", "audio", "split", "video_id", "clip_id", "clip_index", "mode", "genre", "speaker"),
    *("sample_weight", "rater_mae", "label_sd"),
)  # our names of columns, besides the targets
NAME = re.compile(r"\w[\w .+-]*")  # of a target
PER_TARGET = "{target}"  # stands for a target's name in a pattern of `raters`


@dataclass(frozen=True)
class TableOptions:
    """How a user's own table is read; the defaults are those of the project's own layout and of MMSA's.

    Attributes:
        targets: columns of labels: the first is `Clip.label`, the others are `Clip.further`, in this order; none for clips that
            are only scored.
        columns: the table's header by the name here, such as `{"text": "Transkript", "valence": "Valenz"}`.
        raters: patterns of columns with single ratings, such as `"rater_*"` or `"{target}_*"`; their mean is the label.
        encoding: of a CSV that is neither UTF-8 nor UTF-16, such as `"latin-1"`.
        decimal: what stands before the decimals of a number: a point, or a comma.

    Raises:
        ValueError: naming the option, for one that no table can be read with.
    """

    targets: tuple[str, ...] = (LABEL,)
    columns: Mapping[str, str] = field(default_factory=dict)
    raters: tuple[str, ...] = ()
    encoding: str | None = None
    decimal: str = "."

    def __post_init__(self) -> None:
        if not all(self.targets) or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets: expected different names of columns, found {', '.join(self.targets) or 'none'}")
        for name in self.targets:
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"targets: {name!r}: expected letters, digits, spaces, dots, dashes or underscores; columns can give a header"
                    " such a name, as in mood=HEADER"
                )
            if name.lower() in FIELDS:
                raise ValueError(f"targets: {name!r} is no label; {', '.join(FIELDS)} have a meaning of their own")
        for name, header in self.columns.items():
            if name not in (*FIELDS, *self.targets):
                known = ", ".join((*FIELDS, *self.targets))
                raise ValueError(
                    f"columns: unknown name {name!r}; expected one of {known}; other labels are named by targets"
                )
            if not isinstance(header, str) or not header.strip():
                raise ValueError(f"columns: {name}: expected the header of a column, found {header!r}")
        for pattern in self.raters:
            if len(self.targets) > 1 and PER_TARGET not in pattern:
                raise ValueError(
                    f"raters: {pattern!r} is for one target, but there are {len(self.targets)}; write"
                    f" {PER_TARGET} where the target's name stands, as in '{PER_TARGET}_*'"
                )
        if self.decimal not in (".", ","):
            raise ValueError(f"decimal: expected '.' or ',', found {self.decimal!r}")
        try:
            _ = "" if self.encoding is None else "".encode(self.encoding)
        except (LookupError, UnicodeError):
            raise ValueError(
                f"encoding: {self.encoding!r} is unknown; write for example latin-1, cp1252 or utf-8"
            ) from None


def parse_columns(text: str) -> dict[str, str]:
    """The table's header by the name here, from JSON or from `text=Transkript,valence=Valenz`.

    Raises:
        ValueError: for anything else.
    """
    text = text.strip()
    try:
        if text.startswith("{"):
            columns = json.loads(text)
        else:
            pairs = [part.split("=", 1) for part in text.split(",")]
            columns = {name.strip(): header.strip() for name, header in pairs}
            if len(columns) < len(pairs):
                raise ValueError
        if not all(isinstance(header, str) and header for header in columns.values()):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"columns: expected text=HEADER,video=HEADER or a JSON object of such pairs, found {text!r}"
        ) from None
    return columns
