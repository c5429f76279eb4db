"""The analysis of a clip as HTML: the score of each target on its scale, what each modality contributes, and the plot over time.

The HTML is self-contained and fetches nothing; user input is escaped. analysis.py computes the numbers.
"""

import base64
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from .analysis import ClipAnalysis
from .scales import Scale, signed
from .timeline_plot import NEGATIVE, POSITIVE, clock, plot_timeline

NAMES = {"text": "Text", "audio": "Audio", "video": "Video"}
CONTRIBUTIONS = (
    '<p class="os-small">Each modality is left out in turn. The contributions need not add up to the score: the model'
    " weighs all modalities together.</p>"
)
STYLE = f"""
.os-result {{ font-size: 16px; line-height: 1.5; }}
.os-result h3 {{ margin: 28px 0 4px; font-size: 17px; }}
.os-result p {{ margin: 6px 0; }}
.os-result .os-small {{ font-size: 14px; opacity: .8; }}
.os-head {{ display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 16px; }}
.os-score {{ font-size: 52px; line-height: 1.15; font-weight: 650; font-variant-numeric: tabular-nums; }}
.os-label {{ font-size: 26px; }}
.os-scale, .os-bar {{ position: relative; background: color-mix(in srgb, currentColor 9%, transparent); }}
.os-scale {{ height: 14px; margin-top: 10px; border-radius: 7px; }}
.os-bar {{ height: 12px; min-width: 72px; }}
.os-scale i, .os-bar i {{ position: absolute; top: 0; bottom: 0; }}
.os-scale .os-band {{ background: color-mix(in srgb, currentColor 16%, transparent); }}
.os-scale .os-mark {{ width: 8px; margin-left: -4px; top: -6px; bottom: -6px; border-radius: 4px; background: currentColor; }}
.os-bar .os-zero {{ left: 50%; width: 1px; background: currentColor; opacity: .6; }}
.os-minus {{ background: {NEGATIVE}; }}
.os-plus {{ background: {POSITIVE}; }}
.dark .os-minus {{ background: color-mix(in srgb, {NEGATIVE} 60%, white); }}
.dark .os-plus {{ background: color-mix(in srgb, {POSITIVE} 50%, white); }}
.os-ends {{ display: flex; justify-content: space-between; font-size: 14px; margin-top: 8px; }}
.os-ends span {{ flex: 1; }}
.os-ends span:nth-child(2) {{ text-align: center; }}
.os-ends span:last-child {{ text-align: right; }}
.os-result table {{ width: 100%; border-collapse: collapse; margin: 8px 0 !important; }}
.os-result table, .os-result tr, .os-result th, .os-result td {{ border: 0 !important; }}
.os-result th, .os-result td {{ padding: 7px 14px 7px 0 !important; text-align: left; }}
.os-result tr {{ border-bottom: 1px solid color-mix(in srgb, currentColor 18%, transparent) !important; }}
.os-result th {{ font-size: 14px; font-weight: 500; vertical-align: bottom; }}
.os-result td {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
.os-result th:last-child, .os-result td:last-child {{ width: 45%; padding-right: 0 !important; }}
.os-plot {{ overflow-x: auto; contain: inline-size; }}
.os-plot img {{ width: 100%; min-width: 640px; max-width: none; display: block; margin: 0; }}
"""


def analysis_html(analysis: ClipAnalysis, *, name: str | None, scales: Sequence[Scale]) -> str:
    """The result as HTML.

    Args:
        analysis: the analysis to render.
        name: of the file, without its folder; `None` for a transcript alone.
        scales: of the targets.
    """
    source = "the text alone"
    if name is not None and analysis.seconds is not None:
        source = f"{escape(name)}, {_length(analysis.seconds)}"
    parts = [_score(score, analysis.label, scale) for score, scale in zip(analysis.scores, scales, strict=True)]
    parts.append(f'<p class="os-small">{source}</p>')
    if "text" not in analysis.modalities:
        parts.append(
            "<p>Scored without a transcript. Text carries most of the signal, so this score is less reliable.</p>"
        )
    if analysis.warning:
        parts.append(f"<p>Only part of the file could be read: {escape(analysis.warning)}.</p>")
    if analysis.without:
        parts += [_modalities(analysis, place, scales) for place in range(len(scales))]
        parts.append(CONTRIBUTIONS)
    return f'<div class="os-result">{"".join(parts)}</div>'


def _score(score: float, label: str | None, scale: Scale) -> str:
    """The score of a target: as a number, and on its scale."""

    def percent(value: float) -> float:
        return 100 * min(max((value - scale.low) / (scale.high - scale.low), 0.0), 1.0)

    band, ends = "", (scale.written_end(scale.low), scale.written_end(scale.middle), scale.written_end(scale.high))
    if scale.neutral_band is not None:
        left, right = percent(-scale.neutral_band), percent(scale.neutral_band)
        band = f'<i class="os-band" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
        ends = (f"{ends[0]} negative", "neutral", f"positive {ends[2]}")
    said = scale.name if scale.neutral_band is None else label or ""
    return (
        f'<div class="os-head"><span class="os-score" title="{score:.6f}">{scale.written(score)}</span>'
        f'<span class="os-label">{escape(said)}</span></div>'
        f'<div class="os-scale">{band}'
        f'<i class="os-mark" style="left:{percent(score):.2f}%"></i></div>'
        f'<div class="os-ends">{"".join(f"<span>{end}</span>" for end in ends)}</div>'
    )


def _length(seconds: float) -> str:
    return clock(round(seconds)) if seconds >= 60 else f"{seconds:.1f} s"


def _modalities(analysis: ClipAnalysis, place: int, scales: Sequence[Scale]) -> str:
    """What each modality adds to the score of a target."""
    scale = scales[place]
    contributions = {name: analysis.contributions(name)[place] for name in analysis.without}
    least = (scale.high - scale.low) / 12 if scale.neutral_band is None else scale.neutral_band
    reach = max(least, *map(abs, contributions.values()))
    rows = []
    for name, contribution in contributions.items():
        width = 50 * abs(contribution) / reach
        side, sign = (50 - width, "minus") if contribution < 0 else (50, "plus")
        rows.append(
            f"<tr><td>{NAMES[name]}</td><td>{scale.written(analysis.without[name][place])}</td>"
            f"<td>{signed(contribution)}</td>"
            f'<td><div class="os-bar"><i class="os-{sign}" style="left:{side:.2f}%;width:{width:.2f}%"></i>'
            '<i class="os-zero"></i></div></td></tr>'
        )
    to = f" to {escape(scale.name)}" if len(scales) > 1 else ""
    return (
        f"<h3>What each modality contributes{to}</h3><table><thead><tr><th>modality</th>"
        "<th>score without it</th><th>contribution</th><th></th></tr>"
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
    )


def timeline_html(analysis: ClipAnalysis, *, name: str | None, scales: Sequence[Scale]) -> str:
    """The plot over time as HTML, empty for a clip without windows; same arguments as `analysis_html`."""
    if not analysis.windows:
        return ""
    first = analysis.windows[0]
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "timeline.png")
        plot_timeline(analysis.windows, image, title=name or "", scales=scales)
        data = base64.b64encode(image.read_bytes()).decode("ascii")
    scored = sum(bool(window.scores) for window in analysis.windows)
    words = ", with the words spoken in it; a transcript without times is spread evenly over the clip"
    return (
        '<div class="os-result"><h3>Over time</h3>'
        f'<div class="os-plot"><img alt="Score over time, {scored} windows" src="data:image/png;base64,{data}"></div>'
        f'<p class="os-small">Each window of {first.end - first.start:g} s is scored separately'
        f"{words if any(window.text for window in analysis.windows) else ''}. The score above is from one pass over the whole"
        " clip, which uses only a few frames of a long clip.</p></div>"
    )
