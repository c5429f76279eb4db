"""The rows of scores on standard output, and what the command says about them at the end."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..configuration_omnisent import OmniSentConfig
from ..readouts.zero_shot import ZeroShotConfig
from .results import score_columns, score_names
from .transcribe import NOTHING_SAID
from .windows import WindowScore

Emit = Callable[[str], None]  # writes a line to standard output


@dataclass(frozen=True)
class ScoreResult:
    """What the command says at the end.

    Attributes:
        messages: where the scores were written, and warnings; one line each.
        failure: how many clips or windows have no score, each of which has its error in its row; `None` if all have one.
    """

    messages: tuple[str, ...]
    failure: str | None


@dataclass(frozen=True)
class Summary:
    """Counts of clips: all, failed, scored without a transcript, scored with a warning, and those that were to be transcribed, but
    in which nothing is said.
    """

    clips: int
    failed: int
    without_text: int
    warned: int
    nothing_said: int

    def warnings(self, *, transcribed: bool) -> tuple[str, ...]:
        """One line for each reason why scores may be worth less; `transcribed` says whether clips without text were."""
        lines = []
        if self.without_text:
            hint = "" if transcribed else "; use a .txt beside each file, --text or --transcribe MODEL"
            lines.append(
                f"{self.without_text} of {self.clips} clips without a transcript, which carries most of the signal{hint}"
            )
        if self.nothing_said:
            lines.append(f"{self.nothing_said} of {self.clips} clips have no speech in their audio to transcribe")
        if self.warned:
            lines.append(f"{self.warned} of {self.clips} clips have a warning; the column warning says what is missing")
        return tuple(lines)

    @property
    def failure(self) -> str | None:
        """How many clips have no score; `None` if all have one."""
        if not self.failed:
            return None
        return f"{self.failed} of {self.clips} clips have no score; the column error says why"


def introduce(model: str, config: OmniSentConfig, notify: Callable[[str], None]) -> None:
    """Say what a model says of itself, if it does."""
    if config.about is not None:
        notify(f"{model}: {config.about}")


def marks_of(config: OmniSentConfig) -> dict[str, str]:
    """The cells of every row that say how its score came about, if that limits what it means."""
    marks = {"readout": config.readout} if isinstance(config, ZeroShotConfig) else {}
    return marks | ({} if config.disclaimer is None else {"about": config.disclaimer})


def summary(rows: Iterable[Mapping[str, Any]]) -> Summary:
    """Counts of rows."""
    clips = failed = without_text = warned = nothing_said = 0
    for row in rows:
        clips += 1
        failed += row.get("error") is not None
        without_text += row.get("error") is None and not row.get("text")
        warning = row.get("warning") or ""
        nothing_said += NOTHING_SAID in warning
        warned += warning not in ("", NOTHING_SAID)
    return Summary(clips, failed, without_text, warned, nothing_said)


def as_json(row: Mapping[str, Any], columns: Iterable[str]) -> str:
    """A row as a line of a .jsonl file."""
    return json.dumps({name: row.get(name) for name in columns}, ensure_ascii=False, allow_nan=False)


def as_table(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> str:
    """Rows in aligned columns, without their transcripts, and without columns that are empty."""
    import pandas as pd

    table = pd.DataFrame(rows, columns=list(columns))
    unused = [name for name in ("seconds", "warning", "error") if table[name].isna().all()]
    aside = [name for name in ("text", "about") if name in table]
    table = table.drop(columns=[*aside, *unused])
    return table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}")


def window_columns(config: OmniSentConfig) -> dict[str, type]:
    """The columns of windows, with their types; see `score_columns` and `marks_of`."""
    after = dict.fromkeys((*marks_of(config), "text", "error", "warning"), str)
    return score_columns(config.targets, {"start": float, "end": float}, after)


def window_row(window: WindowScore, targets: Sequence[str]) -> dict[str, Any]:
    """A window as a row, with the columns of `window_columns` but its marks."""
    names = score_names(targets)
    rest = {name: getattr(window, name) for name in ("start", "end", "label", "text", "error", "warning")}
    return rest | dict(zip(names, window.scores or (None,) * len(names), strict=True))
