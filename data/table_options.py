"""How a table of clips is to be read, where it is not in this project's own layout: TableOptions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .catalog import LABEL


@dataclass(frozen=True)
class TableOptions:
    """How a user's own table is read; the defaults are those of the project's own layout and of MMSA's.

    Attributes:
        targets: columns of labels: the first is `Clip.label`, the others are `Clip.further`, in this order.
        columns: the table's header by the name here, such as `{"text": "Transkript", "valence": "Valenz"}`.
        raters: patterns of columns with single ratings, such as `"rater_*"` or `"{target}_*"`; their mean is the label.
        encoding: of a CSV that is neither UTF-8 nor UTF-16, such as `"latin-1"`.
        decimal: what stands before the decimals of a number: a point, or a comma.
    """

    targets: tuple[str, ...] = (LABEL,)
    columns: Mapping[str, str] = field(default_factory=dict)
    raters: tuple[str, ...] = ()
    encoding: str | None = None
    decimal: str = "."
