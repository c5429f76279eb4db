"""Plots the labels of a table: a histogram for each target. `check.py` reads them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..figure_style import MEDIUM, NEGATIVE, POSITIVE, SMALL, Fonts, panel, save_figure

BINS = 20
COLUMNS = 3  # of plots, at most
TITLE_CHARACTERS, NAME_CHARACTERS = 80, 30


def plot_labels(
    path: str | Path, labels: Mapping[str, np.ndarray], ranges: Mapping[str, tuple[float, float]], title: str
) -> None:
    """Write a PNG with a histogram of each target's labels, and their mean.

    Args:
        path: the file.
        labels: (n,) by target, label units.
        ranges: lowest and highest label that is shown, by target; labels outside are counted at the ends.
        title: above the plots.
    """
    fonts = Fonts.available()
    columns = min(COLUMNS, len(labels))
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(max(4.2 * columns, 5.5), 3.2 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(labels) :]:
        axes.set_visible(False)
    for axes, (target, values) in zip(grid.flat, labels.items(), strict=False):
        low, high = ranges[target]
        low, high = (low, high) if low < high else (low - 0.5, low + 0.5)
        axes.hist(
            np.clip(values, low, high), bins=BINS, range=(low, high), color=POSITIVE, edgecolor="white", linewidth=0.6
        )
        if len(values):
            axes.axvline(values.mean(), color=NEGATIVE, linewidth=1.6, linestyle="--")
            mean = f"mean {values.mean():.3g}, n {len(values):,}"
            axes.set_title(mean, loc="right", fontsize=SMALL, color=NEGATIVE)
        name = fonts.written(target, NAME_CHARACTERS)
        axes.set_title(name, loc="left", fontsize=MEDIUM, parse_math=False, fontfamily=fonts.families)
        axes.set_xlim(low, high)
        axes.set_xlabel("label")
        panel(axes)
    for axes in grid[:, 0]:
        axes.set_ylabel("clips")
    title = fonts.written(title, TITLE_CHARACTERS)
    figure.suptitle(title, fontsize=MEDIUM, x=0.01, ha="left", parse_math=False, fontfamily=fonts.families)
    save_figure(figure, Path(path))
