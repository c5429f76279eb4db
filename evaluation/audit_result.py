"""What audit.json holds, as types, and its table and conclusion in words: the study writes them, the model card reads them.

Computes nothing; see experiments/audit.py for where the figures come from.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .group_tests import GroupTest
from .intervals import LEVEL
from .markdown_text import escaped
from .variances import ALPHA, p_text

NO_COVERAGE = (
    "The coverage by group is not known: the run has no calibrated intervals, or their ends follow the distribution of each clip,"
    " which predictions.csv does not have."
)
MISSING = "no value"  # name of the clips that have none in a column
ALONE = "no other group"  # why a group has no test


@dataclass(frozen=True)
class Measure:
    """What is compared between groups: its name, and what a group has whose figure is above or below that of the others."""

    title: str
    above: str
    below: str


MEASURES = {
    "mae": Measure("MAE", "larger error", "smaller error"),
    "bias": Measure("bias", "scored higher", "scored lower"),
    "coverage": Measure(
        f"coverage of the {LEVEL:.0%} interval".replace("%", " %"), "covered more often", "covered less often"
    ),
}


@dataclass(frozen=True)
class GroupFigure:
    """A figure of a group: its mean over the clips.

    Attributes:
        value: label units; the coverage in [0, 1].
        low, high: 95 % interval for new videos; `None` with one video.
        test: against the other clips that have a value in the column; `None` if there is none.
        p_holm: its p adjusted for all tests of the audit.
    """

    value: float
    low: float | None
    high: float | None
    test: GroupTest | None = None
    p_holm: float | None = None

    @property
    def is_sure(self) -> bool:
        """Whether the group differs from the others, by the adjusted p."""
        return self.p_holm is not None and self.p_holm < ALPHA

    def verdict(self, key: str) -> str | None:
        """What the group surely has, such as `larger error`; `None` if nothing is sure."""
        if self.test is None or not self.is_sure:
            return None
        return MEASURES[key].above if self.test.difference > 0 else MEASURES[key].below

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "GroupFigure":
        """What `asdict` gave."""
        test = values["test"]
        return cls(**{**values, "test": None if test is None else GroupTest(**test)})


@dataclass(frozen=True)
class Group:
    """A group of clips.

    Attributes:
        target: whose scores these are; `None` if there is one.
        column: of the table; `None` for all clips.
        name: the value in the column; `None` for the clips that have none.
        clips, videos: how many.
        label: mean label.
        figures: by key of `MEASURES`; without the coverage if it is not known.
    """

    target: str | None
    column: str | None
    name: str | None
    clips: int
    videos: int
    label: float
    figures: dict[str, GroupFigure]

    @property
    def is_compared(self) -> bool:
        """Whether it was to be compared with the others."""
        return self.column is not None and self.name is not None

    @property
    def is_tested(self) -> bool:
        """Whether there are videos enough on both sides."""
        return any(figure.test is not None for figure in self.figures.values())

    @property
    def title(self) -> str:
        """Such as `gender: female`; plain text in one line."""
        if self.column is None:
            return "all"
        text = f"{self.column}: {MISSING if self.name is None else self.name}"
        return " ".join(text.split())

    @property
    def full_title(self) -> str:
        """The title, after the target if there are several."""
        return f"{self.target}, {self.title}" if self.target else self.title


@dataclass(frozen=True)
class Audit:
    """A finished audit of a run.

    Attributes:
        dataset, split, n, seed: as in metrics.json.
        units: what the intervals and tests are for, in the plural: `videos` or `documents`; `clips` if they are not known.
        table: name of the table that has the columns.
        columns: of the groups.
        absent: how many clips have no row in the table.
        least: units that a group, and the others, need for a test.
        tests: how many p is adjusted for.
        has_coverage: whether the coverage is known.
        groups: of each target all clips, then those of each column.
    """

    dataset: str
    split: str
    n: int
    seed: int | None
    units: str
    table: str
    columns: list[str]
    absent: int
    least: int
    tests: int
    has_coverage: bool
    groups: list[Group]

    def to_dict(self) -> dict[str, Any]:
        """The contents of audit.json."""
        return asdict(self)

    def targets(self) -> list[str | None]:
        """Those that were audited, in their order."""
        return list(dict.fromkeys(group.target for group in self.groups))

    def conclusion(self) -> str:
        """What was found, in a few sentences of Markdown."""
        shown = [group for group in self.groups if not self._is_mirrored(group)]
        sentences = [sentence for sentence in map(_finding, shown) if sentence]
        if not self.tests:
            sentences = [
                f"No group can be compared: that takes {self.least} {self.units} in it and as many in the others."
            ]
        elif not sentences:
            sentences = [
                "No group is surely scored differently from the others. This does not show that all are scored alike."
            ]
        for why, said in (
            (self._few, f"Too few {self.units} for a verdict"),
            (ALONE, "No other group to compare with"),
        ):
            names = [escaped(group.full_title) for group in self.groups if self._why_untested(group) == why]
            if names and self.tests:
                sentences.append(f"{said}: {'; '.join(names)}.")
        if self.absent:
            sentences.append(
                f"{self.absent} of {self.n} clips have no row in {escaped(self.table)}; they count as `{MISSING}`."
            )
        return " ".join(sentences)

    def _compared(self, group: Group) -> list[Group]:
        """The groups of its column and target that were to be compared."""
        return [
            one for one in self.groups if one.is_compared and (one.target, one.column) == (group.target, group.column)
        ]

    def _is_mirrored(self, group: Group) -> bool:
        """Whether it is the second of two groups of a column, whose differences are those of the first with the other sign."""
        alike = self._compared(group)
        return len(alike) == 2 and alike[1] is group

    @property
    def _few(self) -> str:
        return f"too few {self.units}"

    def _why_untested(self, group: Group) -> str | None:
        """Why a group that was to be compared has no test; else `None`."""
        if not group.is_compared or group.is_tested:
            return None
        if len(self._compared(group)) == 1:
            return ALONE
        return self._few if group.videos < self.least else f"too few other {self.units}"

    def rows(self, target: str | None) -> tuple[list[str], list[list[str]]]:
        """The header and the rows of the table of one target, plain text."""
        groups = [group for group in self.groups if group.target == target]
        keys = [key for key in MEASURES if key in groups[0].figures]
        header = ["clips of", "clips", *([] if self.units == "clips" else [self.units]), "mean label"]
        rows = []
        for group in groups:
            counts = [group.clips] if self.units == "clips" else [group.clips, group.videos]
            figures = [figure_text(key, group.figures[key]) for key in keys]
            rows.append([group.title, *map(str, counts), f"{group.label:+.2f}", *figures, self.verdict(group)])
        return [*header, *(MEASURES[key].title for key in keys), "than the others"], rows

    def verdict(self, group: Group) -> str:
        """In a few words; empty for what is not compared."""
        if not group.is_compared:
            return ""
        if why := self._why_untested(group):
            return why
        found = [figure.verdict(key) for key, figure in group.figures.items()]
        return ", ".join(one for one in found if one) or "undecided"


def read_audit(folder: Path) -> Audit | None:
    """The audit.json of a folder; `None` without one."""
    file = folder / "audit.json"
    if not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    groups = [
        Group(**{**one, "figures": {key: GroupFigure.from_dict(figure) for key, figure in one["figures"].items()}})
        for one in values["groups"]
    ]
    return Audit(**{**values, "groups": groups})


def _finding(group: Group) -> str:
    """What a group surely has, in a sentence of Markdown; empty if nothing is sure."""
    found = [
        f"{verdict} ({MEASURES[key].title} {difference_text(key, figure.test)}, adjusted p {p_text(figure.p_holm)})"
        for key, figure in group.figures.items()
        if figure.test is not None and figure.p_holm is not None and (verdict := figure.verdict(key))
    ]
    return f"{escaped(group.full_title)}, against the others: {'; '.join(found)}." if found else ""


def figure_text(key: str, figure: GroupFigure) -> str:
    """A figure with its interval, for tables."""
    if figure.low is None or figure.high is None:
        return _number(key, figure.value)
    return f"{_number(key, figure.value)} ({_number(key, figure.low)} to {_number(key, figure.high)})"


def difference_text(key: str, test: GroupTest) -> str:
    """The difference of a group's figure from that of the others, with its interval."""
    scale, unit, digits = (100, " points", 1) if key == "coverage" else (1, "", 3)
    low, middle, high = (f"{scale * value:+.{digits}f}" for value in (test.low, test.difference, test.high))
    return f"{middle}{unit} ({low} to {high})"


def _number(key: str, value: float) -> str:
    if key == "coverage":
        return f"{100 * value:.1f} %"
    return f"{value:+.3f}" if key == "bias" else f"{value:.3f}"
