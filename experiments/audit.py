"""Are some groups of speakers scored worse? A run's error, bias and interval coverage by group, each against the other clips.

    omnisent audit runs/mosi --groups gender language --table speakers.csv

Writes audit.json, audit.md and audit.png. Trains and scores nothing: the scores are those in the run's predictions.csv.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..configuration_omnisent import OmniSentConfig
from ..data.catalog import dataset_facts
from ..data.clip_columns import Cells, columns_of_dataset, columns_of_table
from ..evaluation.audit_result import MEASURES, NO_COVERAGE, Audit, Group, GroupFigure, difference_text
from ..evaluation.group_tests import MIN_VIDEOS, group_test, mean_with_interval
from ..evaluation.intervals import LEVEL, residuals, share_with_interval
from ..evaluation.markdown_text import escaped
from ..evaluation.statistics import holm
from ..evaluation.variances import p_text
from ..figure_style import BLUE, GREY, MEDIUM, SMALL, VERMILLION, Fonts, panel, save_figure
from ..training import run_folder
from ..training.targets import table_options
from .tables import markdown_table

MOST_GROUPS = 60  # of a column; more are numbers or ids
COLUMN_CHARACTERS, NAME_CHARACTERS = 20, 40  # of names in the figure
COLOURS = {"sure": VERMILLION, "undecided": BLUE, "not compared": GREY}
MARKERS = {"sure": "s", "undecided": "o", "not compared": "x"}
LIMITS = """\
**What this can tell:** whether the scores of this trained model differ between the groups that the column names, for new {units}
like these. *MAE* is the mean absolute error, and *bias* the mean of score minus label: above 0, clips are scored higher than they
were rated. A group is compared with all other clips that have a value in the column, if both have at least {least} {units}; else it
gets no verdict. {dependence} A verdict takes a p below .05, adjusted for all tests
here (Holm).

**What it cannot tell:** *Undecided* is not *equal*: the interval shows how large a difference is still possible. It says nothing of
why. Groups differ in what they say, in how they are recorded and in their labels: a model that plays safe scores a group with high
labels too low (see the mean label). If the raters were unfair to a group, its labels are, and a model that follows them looks fair.
It is about the people in these clips as the column names them, one column at a time, and about this training, not another seed. It
does not show that the model may be used to judge a person."""


def audit(run: Path, columns: Sequence[str], *, table: Path | None = None, out: Path | None = None) -> Audit:
    """Compare the groups of clips that columns of a table name, and write audit.json, .md and .png.

    Args:
        run: a finished run, of either readout or of a baseline.
        columns: of the table.
        table: with an id for each clip; by default the run's own data set.
        out: folder to write; by default the run's.

    Raises:
        FileNotFoundError: for a run that is not finished, or a missing table.
        ValueError: for a missing column, with those that there are; ids of other clips; no groups, or too many.
    """
    if not (run / "metrics.json").is_file():
        raise FileNotFoundError(f"{run}: expected the metrics.json of a finished run")
    columns = list(dict.fromkeys(columns))
    if not columns:
        raise ValueError("--groups: name at least one column, such as gender")
    cells = _cells(run, columns, table)
    result = measure(run, columns, cells, "the data set's table" if table is None else table.name)
    out = run if out is None else out
    out.mkdir(parents=True, exist_ok=True)
    run_folder.write_json(out / "audit.json", result.to_dict())
    (out / "audit.md").write_text(markdown(result), encoding="utf-8")
    plot(result, out / "audit.png")
    return result


def _cells(run: Path, columns: Sequence[str], table: Path | None) -> Cells:
    if table is not None:
        return columns_of_table(table, columns)
    config = run_folder.read_config(run)
    try:
        return columns_of_dataset(
            config["dataset"], columns, root=config["root"], options=table_options(SimpleNamespace(**config))
        )
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{error}; or give another table by --table FILE, with an id for each clip") from error


def measure(run: Path, columns: Sequence[str], cells: Cells, table: str) -> Audit:
    """The audit of a finished run; `cells` are those of `columns` in the table of that name, by clip id."""
    metrics, names = run_folder.read_metrics(run), run_folder.target_names(run)
    clips = {
        name: run_folder.read_predictions(run, split=metrics["split"], target=name)
        for name in ([None] if len(names) == 1 else names)
    }
    ids = {one for predictions in clips.values() for one in predictions["id"]}
    absent = len(ids - cells.keys())
    if absent == len(ids):
        raise ValueError(
            f"{table}: none of its {len(cells)} ids, such as {next(iter(cells), None)!r}, is that of a {metrics['split']} clip of"
            f" {run}, such as {min(ids)!r}; give a table of the same clips"
        )
    for column in columns:
        _check_groups(column, {cells[one].get(column) for one in ids & cells.keys()} - {None})
    widths = {name: _half_width(run, name) for name in clips}
    found = [
        group
        for name, predictions in clips.items()
        for group in _groups(predictions, name, widths[name], columns, cells)
    ]
    groups, tests = with_holm(found)
    known = run_folder.videos_of(next(iter(clips.values()))) is not None
    return Audit(
        dataset=Path(str(metrics["dataset"])).stem,
        split=metrics["split"],
        n=len(ids),
        seed=metrics["seed"],
        units=dataset_facts(metrics["dataset"]).units_of(metrics["modalities"]) if known else "clips",
        table=table,
        columns=list(columns),
        absent=absent,
        least=MIN_VIDEOS,
        tests=tests,
        has_coverage=all(width is not None for width in widths.values()),
        groups=groups,
    )


def _check_groups(column: str, names: Collection[str | None]) -> None:
    if not 2 <= len(names) <= MOST_GROUPS:
        hint = "; cut numbers into ranges first" if len(names) > MOST_GROUPS else ""
        raise ValueError(
            f"column {column!r}: expected 2 to {MOST_GROUPS} groups of the run's clips, found {len(names)}{hint}"
        )


def _half_width(run: Path, target: str | None) -> float | None:
    """Half the width of the run's intervals; `None` if it has none, or their ends follow a distribution of each clip."""
    if run_folder.read_metrics(run, target).get("interval_coverage") is None:
        return None
    config = OmniSentConfig.from_pretrained(run / "model")
    calibration = config.calibration_of(target or config.targets[0]) or {}
    if str(LEVEL) in (calibration.get("margins") or {}):
        return None
    return calibration["half_widths"][str(LEVEL)]


def _groups(
    clips: pd.DataFrame, target: str | None, half_width: float | None, columns: Sequence[str], cells: Cells
) -> Iterator[Group]:
    """All clips of a target, then the groups of each column by name, then the clips that have no value in it."""
    scores, labels = clips["score"].to_numpy(), clips["label"].to_numpy()
    known = run_folder.videos_of(clips)
    videos = np.array(list(clips["id"]) if known is None else known)
    values = {"mae": residuals(scores, labels), "bias": scores - labels}
    if half_width is not None:
        values["coverage"] = (values["mae"] <= half_width).astype(float)

    def group(column: str | None, name: str | None, members: np.ndarray, compared: np.ndarray | None) -> Group:
        own = videos[members]
        figures = {key: _figure(key, one, members, compared, videos) for key, one in values.items()}
        label = float(labels[members].mean())
        return Group(target, column, name, int(members.sum()), len(set(own)), label, figures)

    yield group(None, None, np.ones(len(clips), bool), None)
    for column in columns:
        names = np.array([cells.get(one, {}).get(column) for one in clips["id"]], dtype=object)
        has = np.array([name is not None for name in names])
        for name in sorted(set(names[has])):
            yield group(column, name, has & (names == name), has)
        if not has.all():
            yield group(column, None, ~has, None)


def _figure(
    key: str, values: np.ndarray, members: np.ndarray, compared: np.ndarray | None, videos: np.ndarray
) -> GroupFigure:
    own, of_videos = values[members], list(videos[members])
    test = None if compared is None else group_test(values[compared], members[compared], list(videos[compared]))
    if key == "mae":
        mean, low, high = mean_with_interval(own, of_videos)
        return GroupFigure(mean, None if low is None else max(low, 0.0), high, test)
    if key == "bias":
        return GroupFigure(*mean_with_interval(own, of_videos), test)
    share, low, high = share_with_interval(own == 1, of_videos)
    return GroupFigure(share, low, high, test) if len(set(of_videos)) > 1 else GroupFigure(share, None, None, test)


def with_holm(groups: Sequence[Group]) -> tuple[list[Group], int]:
    """The groups with p adjusted for all tests, and how many those are: two groups of a column have the same ones."""
    compared = [(group.target, group.column) for group in groups if group.is_compared]

    def test_of(group: Group, key: str) -> tuple[str | None, ...]:
        is_pair = compared.count((group.target, group.column)) == 2
        return group.target, group.column, None if is_pair else group.name, key

    known = {
        test_of(group, key): figure.test.p
        for group in groups
        for key, figure in group.figures.items()
        if figure.test is not None
    }
    adjusted = dict(zip(known, holm(list(known.values())), strict=True)) if known else {}
    found = []
    for group in groups:
        figures = {
            key: replace(figure, p_holm=None if figure.test is None else adjusted[test_of(group, key)])
            for key, figure in group.figures.items()
        }
        found.append(replace(group, figures=figures))
    return found, len(known)


def markdown(result: Audit) -> str:
    """The contents of audit.md."""
    by = " and ".join(result.columns)
    seed = "" if result.seed is None else f", seed {result.seed}"
    heading = f"# Audit by {escaped(f'{by}: {result.dataset}')}, {result.split} split{seed}"
    dependence = (
        "Which clips are of one video is not known, so that they are taken as independent."
        if result.units == "clips"
        else f"Intervals and tests treat clips of one of the {result.units} as alike."
    )
    parts = [heading, result.conclusion()]
    for target in result.targets():
        clips = next(group.clips for group in result.groups if group.target == target)
        columns, rows = result.rows(target)
        table = pd.DataFrame([row[1:] for row in rows], columns=columns[1:], index=[row[0] for row in rows])
        of = f" Scores of {escaped(target)}." if target else ""
        parts += [f"{clips} clips; with 95 % intervals, label units.{of}", markdown_table(table)]
    if not result.has_coverage:
        parts.append(NO_COVERAGE)
    if result.tests:
        parts += [f"Each group against the others ({result.tests} different tests):", _tests(result)]
    parts.append(LIMITS.format(units=result.units, least=result.least, dependence=dependence))
    return "\n\n".join(parts) + "\n"


def _tests(result: Audit) -> str:
    rows, names = [], []
    for group in result.groups:
        for key, figure in group.figures.items():
            if figure.test is not None:
                names.append(group.full_title)
                rows.append(
                    {
                        "figure": MEASURES[key].title,
                        "difference (95 % interval)": difference_text(key, figure.test),
                        "p": p_text(figure.test.p),
                        "p (Holm)": "" if figure.p_holm is None else p_text(figure.p_holm),
                        "verdict": figure.verdict(key) or "undecided",
                    }
                )
    return markdown_table(pd.DataFrame(rows, index=names))


def plot(result: Audit, path: Path) -> None:
    """The figures of every group with their intervals; a row of panels for each target."""
    targets, fonts = result.targets(), Fonts.available()
    keys = [key for key in MEASURES if all(key in group.figures for group in result.groups)]
    most = max(sum(group.target == target for group in result.groups) for target in targets)
    figure = Figure(figsize=(3.4 * len(keys) + 2.2, (0.32 * most + 1.1) * len(targets) + 0.7), layout="constrained")
    grid = figure.subplots(len(targets), len(keys), sharey="row", squeeze=False)
    for row, target in zip(grid, targets, strict=True):
        groups = [group for group in result.groups if group.target == target]
        for axes, key in zip(row, keys, strict=True):
            _panel(axes, key, groups)
        names = [_row_name(group, result.units, fonts) for group in groups]
        words = {"fontsize": SMALL, "parse_math": False, "fontfamily": fonts.families}
        row[0].set_yticks(range(len(groups)), names, **words)
        row[0].set_ylim(len(groups) - 0.4, -0.6)
        if target is not None:
            row[0].set_title(fonts.written(target, NAME_CHARACTERS), loc="left", **words)
    states = {"sure": "differs from the others", "undecided": "undecided", "not compared": "not compared"}
    handles = [
        Line2D([], [], color=COLOURS[state], marker=MARKERS[state], linewidth=1, label=words)
        for state, words in states.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
    shown = f"{fonts.written(result.dataset, NAME_CHARACTERS)}, {result.n} {result.split} clips"
    about = f"{shown}; lines: 95 % intervals, those of small groups cut at the edges"
    figure.suptitle(about, fontsize=MEDIUM, parse_math=False, fontfamily=fonts.families)
    save_figure(figure, path)


def _panel(axes: Axes, key: str, groups: Sequence[Group]) -> None:
    scale = 100 if key == "coverage" else 1
    for row, group in enumerate(groups):
        figure = group.figures[key]
        state = "not compared" if figure.test is None else "sure" if figure.is_sure else "undecided"
        low, high = (
            figure.value if figure.low is None else figure.low,
            figure.value if figure.high is None else figure.high,
        )
        axes.plot([scale * low, scale * high], [row, row], color=COLOURS[state], linewidth=1.5)
        axes.plot(scale * figure.value, row, color=COLOURS[state], marker=MARKERS[state], markersize=5)
    shown = [group.figures[key] for group in groups if group.videos >= MIN_VIDEOS]
    ends = [scale * end for one in shown for end in (one.low, one.high) if end is not None]
    ends += [scale * group.figures[key].value for group in groups]
    space = 0.05 * (max(ends) - min(ends)) or 1.0
    axes.set_xlim(min(ends) - space, max(ends) + space)  # the interval of a small group would hide all others
    axes.axvline(scale * groups[0].figures[key].value, color=GREY, linestyle="--", linewidth=0.8)
    unit = " (%)" if key == "coverage" else ": score minus label" if key == "bias" else ", lower is better"
    axes.set_xlabel(f"{MEASURES[key].title}{unit}", fontsize=SMALL)
    panel(axes)


def _row_name(group: Group, units: str, fonts: Fonts) -> str:
    counts = f"{group.clips} clips" + ("" if units == "clips" else f", {group.videos} {units}")
    column = None if group.column is None else fonts.written(group.column, COLUMN_CHARACTERS)
    name = None if group.name is None else fonts.written(group.name, NAME_CHARACTERS)
    return f"{replace(group, column=column, name=name).title} ({counts})"
