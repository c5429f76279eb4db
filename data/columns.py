"""Which column of a table is used for what, by its header and `TableOptions`; one that cannot be used gets a proposal."""

import glob
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from .catalog import LABEL
from .cells import Row
from .clip import MODALITIES
from .guess import Guess, columns_option, guess_columns, is_cell
from .table_options import FIELDS, PER_TARGET, TableOptions

SAMPLE = 20  # first rows of a table, for a proposal
MOST_SHOWN = 20  # columns of a header in a message


@dataclass(frozen=True)
class Table:
    """A table that was opened.

    Attributes:
        name: its path or address, for messages.
        kind: what it is, e.g. `CSV, UTF-8, separator ;`.
        root: where relative paths of media start.
        header: its columns.
        sample: gives its first rows.
        rows: the headers that are needed, to each row with its place (for messages) and the name of its part, if it has parts.
    """

    name: str
    kind: str
    root: Path
    header: tuple[str, ...]
    sample: Callable[[], Sequence[Row]]
    rows: Callable[[Collection[str]], Iterator[tuple[str, Row, str | None]]]


@dataclass(frozen=True)
class Columns:
    """Which column of a table is used for what.

    Attributes:
        used: the table's header by our name: fields and targets.
        raters: headers of the single ratings by target; empty if there are none.
        is_mmsa: whether the table is in the MMSA layout, with ids and media by video_id and clip_id.
    """

    used: Mapping[str, str]
    raters: Mapping[str, tuple[str, ...]]
    is_mmsa: bool

    @property
    def headers(self) -> set[str]:
        """All headers that are used."""
        return {*self.used.values(), *(name for names in self.raters.values() for name in names)}


def find_columns(table: Table, options: TableOptions, *, needs_labels: bool = False) -> Columns:
    """Which column of a table is used for what.

    Headers are compared without case and without the blanks around them.

    Args:
        table: the table.
        options: how it is to be read.
        needs_labels: the column `label` must be there too; targets that the user named must be in any case.

    Raises:
        ValueError: in one line that shows the header, and proposes a mapping where one can be guessed.
    """
    used = _used(table, options)
    raters = {target: _raters(table, options, target, used) for target in options.targets} if options.raters else {}
    if not used.keys() & set(MODALITIES):
        raise ValueError(f"{table.name}: no column text, video or audio; {_proposal(table, options, used)}")
    missing = [target for target in options.targets if target not in used and target not in raters]
    if missing and (needs_labels or options.targets != (LABEL,)):
        names = " and ".join(map(repr, missing))
        raise ValueError(
            f"{table.name}: no column{'s' * (len(missing) > 1)} {names} with labels; {_proposal(table, options, used)}"
        )
    has_labels = bool(raters) or any(target in used for target in options.targets)
    is_mmsa = "id" not in used and {"video_id", "clip_id", "text"} <= used.keys()
    is_mmsa = is_mmsa and (has_labels or not used.keys() & {"video", "audio"})
    return Columns(used, raters, is_mmsa)


def _used(table: Table, options: TableOptions) -> dict[str, str]:
    mapped: dict[str, str] = {}
    for name, header in options.columns.items():
        found = [one for one in table.header if one == header] or _alike(table.header, header)
        if not found:
            near = get_close_matches(header.casefold(), [one.casefold() for one in table.header], 1)
            meant = [one for one in table.header if one.casefold() in near]
            hint = f"; did you mean {meant[0]}?" if meant else ""
            raise ValueError(
                f"{table.name}: columns: {name}: there is no column {header!r}; {shown(table.header)}{hint}"
            )
        mapped[name] = _only(table, name, found)
    used = {}
    for name in (*FIELDS, *options.targets):
        found = [one for one in _alike(table.header, name) if one not in mapped.values()]
        if name in mapped:
            used[name] = mapped[name]
        elif found:
            used[name] = _only(table, name, found)
    names: dict[str, str] = {}
    for name, header in used.items():
        if other := names.get(header):
            raise ValueError(
                f"{table.name}: {other} and {name} are both the column {header!r}; give each a column of its own"
            )
        names[header] = name
    return used


def _alike(header: Sequence[str], name: str) -> list[str]:
    return [one for one in header if one.strip().casefold() == name.strip().casefold()]


def _only(table: Table, name: str, found: Sequence[str]) -> str:
    if len(found) > 1:
        names = " and ".join(map(repr, found))
        raise ValueError(
            f"{table.name}: columns {names} could both be {name}; rename one, or say which with"
            f" {columns_option({name: found[0]})}"
        )
    return found[0]


def _raters(table: Table, options: TableOptions, target: str, used: Mapping[str, str]) -> tuple[str, ...]:
    free = [one for one in table.header if one not in used.values()]
    matched: dict[str, None] = {}
    for pattern in options.raters:
        own = pattern.replace(PER_TARGET, glob.escape(target)).casefold()
        found = [one for one in free if fnmatchcase(one.strip().casefold(), own)]
        if not found:
            what = f" for the target {target!r}" if PER_TARGET in pattern else ""
            raise ValueError(f"{table.name}: raters: no column matches {pattern!r}{what}; {shown(table.header)}")
        matched |= dict.fromkeys(found)
    if target in used:
        raise ValueError(
            f"{table.name}: {target} has both a column of labels, {used[target]!r}, and single ratings, {', '.join(matched)};"
            " leave out raters, or remove the column"
        )
    return tuple(matched)


def _proposal(table: Table, options: TableOptions, used: Mapping[str, str]) -> str:
    """The header, and what could be meant."""
    if not used and any(map(is_cell, table.header)):
        return f"its first row is {', '.join(table.header[:MOST_SHOWN])}; put a header above it, such as id, text, video, label"
    ours = {name: header for name, header in used.items() if name in options.columns}
    free = [one for one in table.header if one not in used.values()]
    wanted = [] if options.raters else [target for target in options.targets if target not in used]
    guess = guess_columns(free, table.sample(), known=used, wanted=wanted, lacking=True)
    kept = [target for target in options.targets if target in used] if guess.targets else []
    has_commas = guess.has_commas and options.decimal == "."
    words = Guess({**ours, **guess.columns}, (*kept, *guess.targets), has_commas).in_words()
    return shown(table.header) + (
        f"; try {words}" if words else f"; expected any of {', '.join(MODALITIES)}, and a label"
    )


def shown(header: Sequence[str]) -> str:
    """A header for a message."""
    names = [one.strip() for one in header if one.strip()]
    more = f", and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return f"its header is {', '.join(names[:MOST_SHOWN]) or 'empty'}{more}"
