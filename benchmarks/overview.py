"""Draws the README's picture from benchmarks/results/evidence.json: how a score is read out, what it is, and how far off.

    python benchmarks/overview.py

It measures nothing. benchmarks/evidence.py makes the figures that it shows.
"""

import json
from collections.abc import Mapping
from typing import Any

from common import RESULTS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from omnisent.evaluation.comparison_result import Comparison
from omnisent.figure_style import BLUE, DPI, GREY, VERMILLION

COMPARISON = "CMU-MOSI, text, tuned"
HEAD, WRITTEN, BASELINE = BLUE, VERMILLION, GREY
BOX, LINE, TEXT = "0.94", "0.35", "0.1"
ARMS = {
    "head": ("head", HEAD),
    "written-expected": ("written, mean of all answers", WRITTEN),
    "written": ("written, the likeliest answer", WRITTEN),
    "tfidf-ridge": ("ridge on TF-IDF", BASELINE),
    "constant": ("always the same number", BASELINE),
}
SENTENCES = (
    "I loved every minute of it.",
    "Everyone in my family enjoyed it.",
    "I would happily watch it again tomorrow.",
    "I have rarely been so bored.",
    "It was a waste of two hours.",
)
SMALL, LARGE = 11.5, 13.5


def draw(evidence: Mapping[str, Any]) -> Figure:
    """How a score is read out above; below it scores of single sentences, and the error of each way."""
    figure = Figure(figsize=(12, 6.7))
    draw_readouts(figure.add_axes((0.02, 0.53, 0.96, 0.466)))
    draw_sentences(figure.add_axes((0.305, 0.135, 0.15, 0.28)), evidence["sentences"])
    draw_errors(figure.add_axes((0.745, 0.135, 0.18, 0.28)), evidence["comparisons"][COMPARISON])
    note = "The figures are of text alone and a language model of 135M parameters; head and written: mean of five trainings."
    figure.text(0.02, 0.025, note, fontsize=SMALL - 1, color="0.35")
    return figure


def draw_readouts(axes: Axes) -> None:
    """A clip, the language model, the state of its last token, and the two ways to a number. A unit is 0.12 inches."""
    axes.set(xlim=(0, 96), ylim=(0, 26))
    axes.axis("off")
    axes.text(6.5, 23.6, "a clip", ha="center", fontsize=LARGE, weight="bold", color=TEXT)
    for y, kind in ((16.5, "words"), (9.5, "voice"), (2.5, "face")):
        _box(axes, 0.5, y, 12, 5, kind)
        _arrow(axes, (13, y + 2.5), (19.5, 12 + (y - 9.5) / 3))
    _box(axes, 20, 2.5, 30, 19)
    axes.text(35, 17.4, "omni-modal language model", ha="center", fontsize=LARGE, weight="bold", color=TEXT)
    axes.text(35, 14.4, "Qwen2.5-Omni Thinker, LoRA", ha="center", fontsize=SMALL, color=TEXT)
    for place in range(7):
        axes.add_patch(Circle((23.6 + 3.8 * place, 9.5), 1.3, color=HEAD if place == 6 else "0.72", lw=0))
    axes.text(47.7, 5, "state of the last token", ha="right", fontsize=SMALL, color=HEAD)
    for y, name, how, what, color in (
        (14.5, "regression head", "reads it out: one forward pass", "a number", HEAD),
        (2.5, "the model's own answer", "written token by token, then parsed", "a text", WRITTEN),
    ):
        _box(axes, 60, y, 25, 7, edge=color)
        axes.text(72.5, y + 4.7, name, ha="center", va="center", fontsize=LARGE, weight="bold", color=TEXT)
        axes.text(72.5, y + 2, how, ha="center", va="center", fontsize=SMALL - 1, color=TEXT)
        _arrow(axes, (48.2, 9.5 + (y - 8.5) / 12), (59.5, y + 3.5), color)
        _arrow(axes, (85.4, y + 3.5), (88, y + 3.5), color)
        axes.text(88.5, y + 3.5, what, va="center", fontsize=LARGE, color=TEXT)


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str = "", edge: str = "0.75") -> None:
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=1.2", fc=BOX, ec=edge, lw=1.8)
    axes.add_patch(shape)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=LARGE, color=TEXT)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = LINE) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
    )


def draw_sentences(axes: Axes, scored: list[dict[str, Any]]) -> None:
    """The score of some sentences that are in no data set, as a dot on the scale."""
    scores = {row["text"]: row["score"] for row in scored}
    places = range(len(SENTENCES))[::-1]
    axes.axvline(0, color="0.75", lw=1)
    for place, text in zip(places, SENTENCES, strict=True):
        axes.plot([0, scores[text]], [place, place], color=HEAD, lw=3, solid_capstyle="round")
        axes.plot(scores[text], place, "o", color=HEAD, markersize=9)
        axes.text(4.3, place, f"{scores[text]:+.1f}", va="center", fontsize=SMALL, color=TEXT)
    axes.set(xlim=(-4, 4), ylim=(-0.6, len(SENTENCES) - 0.4), xticks=(-4, 0, 4))
    axes.set_xticklabels(("-4", "0", "+4"), fontsize=SMALL)
    axes.set_yticks(places, [f"“{text}”" for text in SENTENCES], fontsize=SMALL)
    _finish(axes, -1.9, "What it says", "of sentences that are in no data set, from -4 to 4")


def draw_errors(axes: Axes, values: Mapping[str, Any]) -> None:
    """Test MAE of the readouts and of two baselines, with the 95 % interval."""
    comparison = Comparison.from_dict({k: v for k, v in values.items() if k in Comparison.__dataclass_fields__})
    places = range(len(ARMS))[::-1]
    for place, (name, (_, color)) in zip(places, ARMS.items(), strict=True):
        mae = comparison.arms[name].metrics["mae"]
        axes.barh(place, mae.mean, color=color, height=0.6)
        axes.errorbar(mae.mean, place, xerr=[[mae.mean - mae.low], [mae.high - mae.mean]], color="0.2", capsize=3)
        axes.text(1.75, place, f"{mae.mean:.3f}", va="center", fontsize=SMALL, color=TEXT)
    axes.set(xlim=(0, 1.65), ylim=(-0.6, len(ARMS) - 0.4), xticks=(0, 0.5, 1, 1.5))
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.set_yticks(places, [label for label, _ in ARMS.values()], fontsize=SMALL)
    title = f"{comparison.n} transcripts of CMU-MOSI, from -3 to 3, with 95 % interval"
    _finish(axes, -1.25, "How far it is off: mean absolute error", title)


def _finish(axes: Axes, left: float, title: str, subtitle: str) -> None:
    axes.tick_params(length=0, colors=TEXT)
    axes.spines[:].set_visible(False)
    axes.text(left, 1.2, title, transform=axes.transAxes, fontsize=LARGE, weight="bold", color=TEXT)
    axes.text(left, 1.07, subtitle, transform=axes.transAxes, fontsize=SMALL - 1, color="0.35")


def main() -> None:
    evidence = json.loads((RESULTS / "evidence.json").read_text(encoding="utf-8"))
    draw(evidence).savefig(RESULTS / "overview.png", dpi=DPI, facecolor="white", pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
