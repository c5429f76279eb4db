"""Writes one self-contained HTML file from result folders: tables, plots, worst clips, settings and versions.

    omnisent report runs/compare runs/ablation --out report.html

Every number is read from files in the folders: the .md and .json of a study, or metrics.json and predictions.csv of a run.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..evaluation.comparison_result import ArmResult, comparison_folders, read_comparison
from ..training import run_folder
from .arms import baseline_folder
from .tables import markdown_table

STUDIES: dict[str, tuple[str, ...]] = {  # name of the study's .json and .md -> its plots
    "comparison": ("comparison.png",),
    "ablation": ("ablation.png",),
    "audit": ("audit.png",),
    "sweep": ("sweep.png",),
    "probe": ("probe.png",),
    "geometry": ("pca.png", "tsne.png"),
    "reproduction": (),
}
WORST = 20


@dataclass(frozen=True)
class Section:
    """One folder of the report; `body` and `details` are HTML, `images` pairs of a caption and a data URI."""

    title: str
    body: str
    images: list[tuple[str, str]]
    details: str


def write_report(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write the report of comparisons, ablations, probes, geometries and run folders, in the order given.

    Returns:
        The file.

    Raises:
        FileNotFoundError: for a folder without a finished study or run.
    """
    sections = [section for folder in folders for one in _parts(Path(folder)) for section in _sections(one)]
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(
        "report.html.j2"
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    out.write_text(template.render(sections=sections, created=created), encoding="utf-8")
    return out


def study_tables(folders: Sequence[str | Path]) -> list[Path]:
    """The Markdown files with the tables of all studies in the folders."""
    return [one / f"{name}.md" for folder in folders for one in _parts(Path(folder)) for name in _studies(one)]


def _parts(folder: Path) -> list[Path]:
    """The folder itself, or of a comparison of several targets the folder of each."""
    return comparison_folders(folder) or [folder]


def _studies(folder: Path) -> list[str]:
    return [name for name in STUDIES if (folder / f"{name}.json").is_file()]


def _sections(folder: Path) -> list[Section]:
    runs = [_run(folder)] if (folder / "metrics.json").is_file() else []
    sections = [*runs, *(_study(folder, name) for name in _studies(folder))]
    if sections:
        return sections
    expected = ", ".join(f"{name}.json" for name in STUDIES)
    raise FileNotFoundError(
        f"{folder}: expected {expected} or the metrics.json of a finished run; run that study first"
    )


def _study(folder: Path, name: str) -> Section:
    result = run_folder.read_json(folder / f"{name}.json")
    title, _, text = (folder / f"{name}.md").read_text(encoding="utf-8").partition("\n")
    images = [(path.stem, _data_uri(path.read_bytes())) for path in _plots(folder, name)]
    body = _html(text)
    if name == "comparison":
        comparison = read_comparison(folder / f"{name}.json")
        arms, target = comparison.arms, comparison.target
        runs = folder if target is None else folder.parents[1]
        scores = _mean_scores(runs, arms, target)
        name, arm = next(iter(arms.items()))
        images.append((f"errors of {arm.label}", _error_plot(scores["label"], scores[name])))
        weights = {
            arm.label: _layer_weights(runs / name, arm.seeds) for name, arm in arms.items() if not arm.is_baseline
        }
        if any(weights.values()):
            shown = {label: seeds for label, seeds in weights.items() if seeds}
            images.append(("weights of the layers", _layer_plot(shown)))
        body += _html(_worst_clips(scores, {name: arm.label for name, arm in arms.items()}))
    return Section(
        title.lstrip("# "), body, images, _details(result.get("settings", {}), result.get("environment", {}))
    )


def _run(folder: Path) -> Section:
    metrics = run_folder.read_metrics(folder)
    of_targets, weights = metrics.pop("targets", None) or {}, metrics.pop("layer_weights", None)
    body = _html(markdown_table(_figures({"": metrics})))
    if of_targets:
        body += _html(markdown_table(_figures(of_targets)))
    images = []
    for target in of_targets or [None]:
        table = run_folder.read_predictions(folder, split=metrics["split"], target=target)
        scores, of = table.rename(columns={"score": "run"}), "" if target is None else f" of {target}"
        body += _html(_worst_clips(scores, {"run": f"score{of}"}))
        images.append((f"errors{of}", _error_plot(scores["label"], scores["run"])))
    if weights:
        images.append(("weights of the layers", _layer_plot({"run": [weights]})))
    details = _details(run_folder.read_config(folder), run_folder.read_environment(folder))
    return Section(f"Run {folder.name}: {metrics['readout']} on {metrics['dataset']}", body, images, details)


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


def _plots(folder: Path, name: str) -> list[Path]:
    return [folder / plot for plot in STUDIES[name] if (folder / plot).is_file()]


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


def _worst_clips(scores: pd.DataFrame, labels: dict[str, str]) -> str:
    """The clips with the largest error of the first arm, with the score of every arm; `labels` are titles by arm name."""
    first = next(iter(labels))
    errors = (scores[first] - scores["label"]).abs()
    worst = scores.assign(error=errors).sort_values("error", ascending=False, kind="stable").head(WORST)
    rows = pd.DataFrame({"label": worst["label"].map("{:+.2f}".format), "error": worst["error"].map("{:.2f}".format)})
    for name, label in labels.items():
        rows[label] = worst[name].map("{:+.2f}".format)
    rows.index = worst["id"]
    caption = f"The {len(worst)} clips with the largest error of {labels[first]} (mean score over seeds, label units):"
    return f"{caption}\n\n{markdown_table(rows)}"


def _error_plot(labels: pd.Series, scores: pd.Series) -> str:
    """Scatter plot of score against label, and histogram of the errors."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    low, high = min(labels.min(), scores.min()), max(labels.max(), scores.max())
    left.plot([low, high], [low, high], color="0.5", linewidth=1, linestyle="--")
    left.scatter(labels, scores, s=12, alpha=0.6, color="#0072B2", edgecolors="none")
    left.set_xlabel("label")
    left.set_ylabel("score")
    right.hist(scores - labels, bins=30, color="#0072B2")
    right.axvline(0, color="0.5", linewidth=1, linestyle="--")
    right.set_xlabel("score minus label")
    right.set_ylabel("clips")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return _drawn(figure)


def _layer_plot(weights: dict[str, list[list[float]]]) -> str:
    """A line for each arm over the layers: the mean of its seeds' weights, with their range."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    for label, seeds in weights.items():
        layers = range(len(seeds[0]))
        axes.plot(layers, np.mean(seeds, axis=0), marker="o", markersize=3, label=label)
        axes.fill_between(layers, np.min(seeds, axis=0), np.max(seeds, axis=0), alpha=0.2)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True))
    axes.set_xlabel("layer (0: token embeddings)")
    axes.set_ylabel("weight in the mix")
    if len(weights) > 1:
        axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _drawn(figure)


def _drawn(figure: Figure) -> str:
    png = io.BytesIO()
    figure.savefig(png, dpi=130, format="png")
    return _data_uri(png.getvalue())


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
    return str(value).replace("|", r"\|").replace("\n", " ")


def _html(markdown: str) -> str:
    return MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
