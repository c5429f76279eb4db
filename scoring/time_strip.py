"""The clip's player, and below it the scores over time as a strip that follows playback; a click on a window starts it there.

page.js moves the strip's cursor. The strip is a slider for the keyboard and screen readers, and a table has the same numbers.
"""

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from .analysis_page import ShownClip
from .scales import Scale
from .timeline_plot import clock
from .windows import WindowScore

WORDS = ", with the words spoken in it; a transcript without times is spread evenly over the clip"


def player_html(shown: ShownClip, path: str | None) -> str:
    """The section "Over time"; empty for a text alone.

    Args:
        shown: the clip.
        path: of its file, which the page's server hands out.
    """
    if path is None or shown.analysis.seconds is None:
        return ""
    kind = "video" if "video" in shown.analysis.modalities else "audio"
    source, name = f"gradio_api/file={quote(path)}", escape(shown.name or "the clip")
    parts = [
        f'<h2>Over time</h2><div class="os-course"><{kind} class="os-player" controls preload="metadata" src="{source}"'
        f' aria-label="{name}"></{kind}>'
        '<p class="os-note os-unplayable" hidden>This browser cannot play the file. Its scores are complete.</p>'
    ]
    windows = shown.analysis.windows
    if not windows:
        parts.append('</div><p class="os-small">The clip is no longer than one window, so it has one score.</p>')
        return f'<section class="os-card">{"".join(parts)}</section>'
    parts += [_strip(windows, place, scale, len(shown.scales)) for place, scale in enumerate(shown.scales)]
    first = windows[0]
    spoken = WORDS if any(window.text for window in windows) else ""
    parts.append(
        f'</div><p class="os-small">Each window of {first.end - first.start:g} s is scored separately{spoken}. The score at the'
        " top is from one pass over the whole clip, which uses only a few frames of a long clip.</p>"
        f"{_table(windows, shown.scales)}"
    )
    return f'<section class="os-card">{"".join(parts)}</section>'


def _strip(windows: Sequence[WindowScore], place: int, scale: Scale, targets: int) -> str:
    """A cell for each window, from its start to the next one's; the last one's reaches to the end of the clip."""
    end = windows[-1].end
    starts = [window.start for window in windows]
    reach = _reach(windows, place, scale)
    cells = []
    for window, start, stop in zip(windows, starts, [*starts[1:], end], strict=True):
        said = f"{clock(window.start)} to {clock(window.end)}: {_said(window, place, scale)}"
        cells.append(
            f'<i class="os-cell" style="left:{100 * start / end:.3f}%;width:{100 * (stop - start) / end:.3f}%"'
            f' data-start="{start:g}" data-said="{escape(said)}" title="{escape(said)}">{_bar(window, place, scale, reach)}</i>'
        )
    name = f" of {scale.name}" if targets > 1 else ""
    first = f"{clock(windows[0].start)} to {clock(windows[0].end)}: {_said(windows[0], place, scale)}"
    middle = '<i class="os-axis"></i>' if scale.has_sides else ""
    return (
        f'<div class="os-strip" role="slider" tabindex="0" aria-label="{escape(f"Score over time{name}, by window")}"'
        f' aria-valuemin="1" aria-valuemax="{len(windows)}" aria-valuenow="1" aria-valuetext="{escape(first)}"'
        f' data-seconds="{end:g}">{middle}{"".join(cells)}<i class="os-cursor" style="left:0%"></i></div>'
        f'<div class="os-times" aria-hidden="true"><span>0:00</span><span>{escape(scale.name) if targets > 1 else ""}</span>'
        f"<span>{clock(round(end))}</span></div>"
        f'<p class="os-now" aria-hidden="true">{escape(first)}</p>'
    )


def _reach(windows: Sequence[WindowScore], place: int, scale: Scale) -> float:
    """The score, or distance from the low end of a scale without two sides, that fills the strip's height."""
    if not scale.has_sides:
        return scale.high - scale.low
    highest = max((abs(window.scores[place]) for window in windows if window.scores), default=0.0)
    return max(highest, 2 * (scale.neutral_band or 0.0), (scale.high - scale.low) / 30)


def _bar(window: WindowScore, place: int, scale: Scale, reach: float) -> str:
    if not window.scores:
        return '<b class="os-none"></b>'
    score = window.scores[place]
    if not scale.has_sides:
        return f'<b class="os-plain" style="bottom:0;height:{max(100 * (score - scale.low) / reach, 2):.1f}%"></b>'
    height = max(50 * min(abs(score) / reach, 1.0), 1.5)
    return (
        f'<b class="os-minus" style="top:50%;height:{height:.1f}%"></b>'
        if score < 0
        else f'<b class="os-plus" style="bottom:50%;height:{height:.1f}%"></b>'
    )


def _said(window: WindowScore, place: int, scale: Scale) -> str:
    if not window.scores:
        return f"no score, {window.error}"
    label = f", {window.label}" if scale.neutral_band is not None and window.label else ""
    words = f", “{window.text}”" if window.text else ""
    return f"{scale.written(window.scores[place])}{label}{words}"


def _table(windows: Sequence[WindowScore], scales: Sequence[Scale]) -> str:
    heads = "".join(f'<th scope="col">{escape(scale.name.capitalize())}</th>' for scale in scales)
    rows = "".join(
        f'<tr><th scope="row">{clock(window.start)}\N{EN DASH}{clock(window.end)}</th>'
        + "".join(
            f"<td>{scale.written(window.scores[place]) if window.scores else 'none'}</td>"
            for place, scale in enumerate(scales)
        )
        + f'<td class="os-wide">{escape(window.text or window.error or "")}</td></tr>'
        for window in windows
    )
    return (
        '<details class="os-details"><summary>All windows as a table</summary><div class="os-scroll" tabindex="0" role="region"'
        ' aria-label="Scores of all windows"><table class="os-table"><thead><tr><th scope="col">Time</th>'
        f'{heads}<th scope="col" class="os-wide">Words</th></tr></thead><tbody>{rows}</tbody></table></div></details>'
    )
