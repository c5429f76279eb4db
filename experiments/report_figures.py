"""The figures of the report, each with a caption and, for who cannot see it, what it shows."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..figure_style import BLUE, DPI, GREY, SMALL, line, panel


@dataclass(frozen=True)
class ReportFigure:
    """A figure in the report: its caption, what it shows in words, and its PNG as a data URI."""

    caption: str
    alt: str
    uri: str


def stored_figure(png: bytes, caption: str, finding: str) -> ReportFigure:
    """The figure of a study; `finding` is what the study found."""
    return ReportFigure(caption, f"{caption}. {finding}", data_uri(png, "png"))


def error_figure(name: str, labels: pd.Series, scores: pd.Series) -> ReportFigure:
    """Scatter plot of score against label, and histogram of the errors."""
    errors = scores - labels
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    low, high = min(labels.min(), scores.min()), max(labels.max(), scores.max())
    left.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle="--")
    left.scatter(labels, scores, s=14, alpha=0.6, color=BLUE, edgecolors="none")
    left.set_xlabel("label")
    left.set_ylabel("score")
    beside = 1e-6 * (1 + errors.abs().max())  # bins have a width although all errors are the same
    right.hist(errors, bins=30, range=(errors.min() - beside, errors.max() + beside), color=BLUE)
    right.axvline(0, color=GREY, linewidth=1, linestyle="--")
    right.set_xlabel("score minus label")
    right.set_ylabel("clips")
    for axes in (left, right):
        panel(axes)
    lies = "above" if errors.mean() > 0 else "below"
    alt = (
        f"{name}: scores of {len(labels)} clips against their labels, and their errors. MAE {errors.abs().mean():.3f};"
        f" on average a score lies {abs(errors.mean()):.3f} {lies} its label; half of the errors are within"
        f" {errors.abs().median():.3f}."
    )
    return _drawn(figure, f"Scores against labels, and errors, of {name}", alt)


def layer_figure(weights: Mapping[str, list[list[float]]]) -> ReportFigure:
    """A line for each arm over the layers: the mean of its seeds' weights, with their range."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    for place, (label, seeds) in enumerate(weights.items()):
        layers, style = range(len(seeds[0])), line(place)
        axes.plot(layers, np.mean(seeds, axis=0), markersize=4, label=label, **style)
        axes.fill_between(layers, np.min(seeds, axis=0), np.max(seeds, axis=0), alpha=0.2, color=style["color"])
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True))
    axes.set_xlabel("layer (0: token embeddings)")
    axes.set_ylabel("weight in the mix")
    if len(weights) > 1:
        axes.legend(fontsize=SMALL, frameon=False)
    panel(axes)
    largest = "; ".join(_largest_weight(label, seeds) for label, seeds in weights.items())
    return _drawn(figure, "Weights of the layers that a head reads", f"Weights of the layers. {largest}.")


def _largest_weight(label: str, seeds: Sequence[Sequence[float]]) -> str:
    means = np.mean(seeds, axis=0)
    return f"{label}: the largest is that of layer {int(means.argmax())}, {means.max():.3f}"


def _drawn(figure: Figure, caption: str, alt: str) -> ReportFigure:
    png = io.BytesIO()
    figure.savefig(png, dpi=DPI, format="png")
    return ReportFigure(caption, alt, data_uri(png.getvalue(), "png"))


def data_uri(image: bytes, kind: str) -> str:
    """An image as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
