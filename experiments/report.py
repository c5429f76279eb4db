"""Writes one self-contained HTML file from result folders: tables, plots, worst clips, settings and versions.

    omnisent report runs/compare runs/ablation --out report.html

Every number is read from files in the folders: the .md and .json of a study, or metrics.json and predictions.csv of a run.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markdown_it import MarkdownIt

from ..evaluation.comparison_result import ArmResult, comparison_folders, read_comparison
from ..evaluation.markdown_text import escaped
from ..training import run_folder
from .arms import baseline_folder
from .report_figures import ReportFigure, error_figure, layer_figure, stored_figure
from .tables import markdown_table
from .worst_clips import ClipLibrary, WorstClips, worst_clips

STUDIES: dict[str, dict[str, str]] = {  # name of the study's .json and .md -> its plots, with their captions
    "comparison": {"comparison.png": "Each way to score, with its 95 % interval"},
    "ablation": {"ablation.png": "MAE by the modalities that are read, and what leaving one out adds"},
    "audit": {"audit.png": "Error, bias and coverage by group, with 95 % intervals"},
    "sweep": {"sweep.png": "Best validation result so far, by trial"},
    "probe": {"probe.png": "MAE of what is read from states that are not trained"},
    "geometry": {
        "pca.png": "Hidden states by their first two principal components, coloured by label",
        "tsne.png": "Hidden states by t-SNE, coloured by label",
    },
    "reproduction": {},
}
TAGS = re.compile(r"<[^>]+>")
BOX = '<div class="scroll" role="group" aria-label="table" tabindex="0">'


@dataclass(frozen=True)
class Section:
    """One folder of the report.

    Attributes:
        title: its heading.
        lead: what was found, HTML; empty if nothing says it.
        body: tables and text, HTML.
        figures: in their order.
        worst: the clips with the largest errors, of each target.
        details: settings and versions, HTML.
    """

    title: str
    lead: str
    body: str
    figures: list[ReportFigure]
    worst: list[WorstClips]
    details: str


def write_report(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write the report of comparisons, ablations, probes, geometries and run folders, in the order given.

    Returns:
        The file.

    Raises:
        FileNotFoundError: for a folder without a finished study or run.
    """
    library = ClipLibrary()
    sections = [section for folder in folders for one in _parts(Path(folder)) for section in _sections(one, library)]
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    page = environment.get_template("report.html.j2").render(
        sections=sections, notes=library.notes, created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    )
    out.write_text(page, encoding="utf-8")
    return out


def study_tables(folders: Sequence[str | Path]) -> list[Path]:
    """The Markdown files with the tables of all studies in the folders."""
    return [one / f"{name}.md" for folder in folders for one in _parts(Path(folder)) for name in _studies(one)]


def _parts(folder: Path) -> list[Path]:
    """The folder itself, or of a comparison of several targets the folder of each."""
    return comparison_folders(folder) or [folder]


def _studies(folder: Path) -> list[str]:
    return [name for name in STUDIES if (folder / f"{name}.json").is_file()]


def _sections(folder: Path, library: ClipLibrary) -> list[Section]:
    runs = [_run(folder, library)] if (folder / "metrics.json").is_file() else []
    sections = [*runs, *(_study(folder, name, library) for name in _studies(folder))]
    if sections:
        return sections
    expected = ", ".join(f"{name}.json" for name in STUDIES)
    raise FileNotFoundError(
        f"{folder}: expected {expected} or the metrics.json of a finished run; run that study first"
    )


def _study(folder: Path, name: str, library: ClipLibrary) -> Section:
    result = run_folder.read_json(folder / f"{name}.json")
    title, lead, body = _read_markdown(folder / f"{name}.md")
    finding = _words(lead)
    figures = [
        stored_figure((folder / plot).read_bytes(), caption, finding)
        for plot, caption in STUDIES[name].items()
        if (folder / plot).is_file()
    ]
    worst: list[WorstClips] = []
    if name == "comparison":
        more, worst = _of_comparison(folder, library)
        figures += more
    details = _details(result.get("settings", {}), result.get("environment", {}))
    return Section(title, lead, body, figures, worst, details)


def _read_markdown(file: Path) -> tuple[str, str, str]:
    """Title of a study, its first paragraph, which says what was found, and the rest, both as HTML."""
    title, _, text = file.read_text(encoding="utf-8").partition("\n")
    first, _, rest = text.strip().partition("\n\n")
    if first.startswith("|"):
        first, rest = "", text
    return _words(_html(title)), _html(first), _html(rest)


def _words(markup: str) -> str:
    """What a reader sees of HTML."""
    return html.unescape(TAGS.sub("", markup)).strip()


def _of_comparison(folder: Path, library: ClipLibrary) -> tuple[list[ReportFigure], list[WorstClips]]:
    """Figures and worst clips of a comparison, from the predictions of its runs."""
    comparison = read_comparison(folder / "comparison.json")
    arms, target = comparison.arms, comparison.target
    runs = folder if target is None else folder.parents[1]
    scores = _mean_scores(runs, arms, target)
    first, arm = next(iter(arms.items()))
    figures = [error_figure(arm.label, scores["label"], scores[first])]
    weights = {arm.label: _layer_weights(runs / name, arm.seeds) for name, arm in arms.items() if not arm.is_baseline}
    if any(weights.values()):
        figures.append(layer_figure({label: seeds for label, seeds in weights.items() if seeds}))
    labels = {name: arm.label for name, arm in arms.items()}
    return figures, [worst_clips(scores, labels, _run_of(runs, first, arm), library, target)]


def _run(folder: Path, library: ClipLibrary) -> Section:
    metrics = run_folder.read_metrics(folder)
    of_targets, weights = metrics.pop("targets", None) or {}, metrics.pop("layer_weights", None)
    body = _html(markdown_table(_figures({"": metrics})))
    if of_targets:
        body += _html(markdown_table(_figures(of_targets)))
    figures, worst = [], []
    for target in of_targets or [None]:
        table = run_folder.read_predictions(folder, split=metrics["split"], target=target)
        scores, name = table.rename(columns={"score": "run"}), "score" if target is None else f"score of {target}"
        worst.append(worst_clips(scores, {"run": name}, folder, library, target))
        figures.append(error_figure(name, scores["label"], scores["run"]))
    if weights:
        figures.append(layer_figure({"run": [weights]}))
    details = _details(run_folder.read_config(folder), run_folder.read_environment(folder))
    title = f"Run {folder.name}: {metrics['readout']} on {metrics['dataset']}"
    in_words = " ".join(_in_words(one, metrics["split"], name) for name, one in (of_targets or {"": metrics}).items())
    return Section(title, _html(in_words), body, figures, worst, details)


def _in_words(metrics: Mapping[str, Any], split: str, target: str) -> str:
    """The main figures of a target, `""` if it is the only one."""
    shown = (("mae", "MAE"), ("corr", "correlation"))
    figures = ", ".join(f"{name} {metrics[key]:.3f}" for key, name in shown if metrics.get(key) is not None)
    return f"{f'{escaped(target)}: ' if target else ''}{figures} on {metrics['n']} {split} clips."


def _figures(columns: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """A table with a column for each mapping, without values that none has."""
    table = {
        title: {key: _formatted(value) for key, value in values.items() if value is not None}
        for title, values in columns.items()
    }
    return pd.DataFrame(table).fillna("")


def _layer_weights(folder: Path, seeds: Sequence[int | None]) -> list[list[float]]:
    """The weights of the layers in each run of an arm that reads a mix of them; else none."""
    found = [run_folder.read_metrics(folder / f"seed-{seed}").get("layer_weights") for seed in seeds]
    return [weights for weights in found if weights]


def _run_of(folder: Path, name: str, arm: ArmResult) -> Path:
    """The first run of an arm of a comparison."""
    return baseline_folder(folder, name) if arm.is_baseline else folder / name / f"seed-{arm.seeds[0]}"


def _mean_scores(folder: Path, arms: dict[str, ArmResult], target: str | None) -> pd.DataFrame:
    """Id, label and each arm's mean score over its seeds, label units; a row for each clip that has a label for the target."""
    columns: dict[str, Any] = {}
    for name, arm in arms.items():
        runs = (
            [baseline_folder(folder, name)]
            if arm.is_baseline
            else [folder / name / f"seed-{seed}" for seed in arm.seeds]
        )
        tables = [run_folder.read_predictions(run, target=target) for run in runs]
        columns |= {"id": tables[0]["id"], "label": tables[0]["label"]}
        columns[name] = np.mean([table["score"] for table in tables], axis=0)
    return pd.DataFrame(columns)


def _details(settings: dict | None, environment: dict | None) -> str:
    """Settings and versions as two tables."""
    parts = []
    for title, values in (("Settings", settings), ("Made with", environment)):
        if values:
            rows = pd.DataFrame(
                {"": {key: _formatted(value) for key, value in _flat(values).items() if value is not None}}
            )
            parts.append(f"### {title}\n\n{markdown_table(rows)}")
    return _html("\n\n".join(parts))


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}: {inner}": item for inner, item in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _formatted(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _html(markdown: str) -> str:
    """HTML of Markdown from files; each table in a box of its own that scrolls, also by keyboard."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: f"{BOX}<table>")
    parser.add_render_rule("table_close", lambda *_: "</table></div>")
    return parser.render(markdown).replace("<th></th>", '<th><span class="hidden">name</span></th>')
