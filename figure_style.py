"""How all figures look: one palette, one size of letters and the same fonts, markers beside colours.

Every colour has at least three times the contrast of the white ground, and any two of `SERIES` can be told apart with each kind
of colour vision. Draws nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font, get_font_names

BLUE, VERMILLION, WINE, GREEN, BLACK = "#0072B2", "#D55E00", "#882255", "#009E73", "#000000"
GREY = "#767676"  # what is not compared: baselines, reference lines
SERIES = (BLUE, VERMILLION, WINE, GREEN, BLACK)
MARKERS = "os^Dv<>P"
HATCHES = ("", "///", "...", "xxx", "---")
LINES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
NEGATIVE, POSITIVE = "#b35806", "#542788"  # the two sides of a scale, the ends of `SIDES`
SIDES = "PuOr"
SMALL, MEDIUM, LARGE = 9, 10.5, 13  # points: at half of a figure's width still legible
DPI = 150
# For characters that DejaVu Sans lacks.
OTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "SimHei",
)


@dataclass(frozen=True)
class Fonts:
    """The fonts of a plot, and the characters that they have."""

    families: list[str]
    letters: set[str]

    @classmethod
    def available(cls) -> "Fonts":
        """Those of this machine."""
        families = ["DejaVu Sans", *(name for name in OTHER_FONTS if name in set(get_font_names()))]
        return cls(families, {chr(code) for family in families for code in get_font(findfont(family)).get_charmap()})

    def written(self, text: str, most: int) -> str:
        """A text of at most so many characters, with a question mark for each that the fonts lack."""
        text = "".join(letter if letter in self.letters else "?" for letter in text)
        return text if len(text) <= most else f"{text[: most - 1]}…"


def line(place: int) -> dict[str, Any]:
    """Colour and marker of the lines or points of one series, by its place."""
    return {"color": SERIES[place % len(SERIES)], "marker": MARKERS[place % len(MARKERS)]}


def bar(place: int) -> dict[str, Any]:
    """Colour and hatch of the bars of one series, by its place."""
    return {
        "color": SERIES[place % len(SERIES)],
        "hatch": HATCHES[place % len(HATCHES)],
        "edgecolor": "white",
        "linewidth": 0,
    }


def outline(place: int) -> dict[str, Any]:
    """Colour and line style of one series without markers, such as the outline of a histogram, by its place."""
    return {"color": SERIES[place % len(SERIES)], "linestyle": LINES[place % len(LINES)], "linewidth": 1.6}


def panel(axes: Axes) -> None:
    """A panel without the frame above and on the right, with letters that can be read."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    figure.savefig(path, dpi=DPI)
