"""Two clips compared as HTML: both scores on one scale, their difference, and whether their intervals overlap."""

from html import escape

from .analysis_page import ShownClip, scale_html
from .scales import signed

LETTERS = ("A", "B")


def comparison_html(first: ShownClip, second: ShownClip, downloads: str = "") -> str:
    """The section about two clips; `downloads` are its links."""
    parts = [_target(first, second, place) for place in range(len(first.scales))]
    clips = "".join(
        f'<li><b class="os-letter os-{letter.lower()}">{letter}</b> {escape(shown.source)}</li>'
        for letter, shown in zip(LETTERS, (first, second), strict=True)
    )
    said = "; ".join(_difference(first, second, place) for place in range(len(first.scales)))
    return (
        f'<section class="os-card os-compared" aria-label="A and B compared" data-said="{escape(f"Compared: {said}")}">'
        f'<h2>A and B compared</h2><ul class="os-clips">{clips}</ul>{"".join(parts)}{downloads}</section>'
    )


def _difference(first: ShownClip, second: ShownClip, place: int) -> str:
    scale = first.scales[place]
    one, other = first.analysis.scores[place], second.analysis.scores[place]
    name = f"{scale.name}: " if len(first.scales) > 1 else ""
    return f"{name}A {scale.written(one)}, B {scale.written(other)}, B minus A {signed(other - one)}"


def _target(first: ShownClip, second: ShownClip, place: int) -> str:
    scale, pair = first.scales[place], (first, second)
    marks = [
        (letter, shown.analysis.scores[place], shown.ends(place)) for letter, shown in zip(LETTERS, pair, strict=True)
    ]
    difference = second.analysis.scores[place] - first.analysis.scores[place]
    name = f" of {escape(scale.name)}" if len(first.scales) > 1 else ""
    numbers = "".join(
        f'<div><dt><b class="os-letter os-{letter.lower()}">{letter}</b></dt><dd>{scale.written(score)}</dd></div>'
        for letter, score, _ in marks
    )
    numbers += f'<div><dt>B \N{MINUS SIGN} A{name}</dt><dd class="os-difference">{signed(difference)}</dd></div>'
    return (
        f'<dl class="os-pair">{numbers}</dl>{scale_html(scale, marks, _difference(first, second, place))}'
        f"{_overlap(first, second, place)}"
    )


def _overlap(first: ShownClip, second: ShownClip, place: int) -> str:
    """Whether the intervals overlap; empty without intervals."""
    one, other = first.ends(place), second.ends(place)
    if one is None or other is None or first.level is None:
        return ""
    written = first.scales[place].written
    level = f"{100 * first.level:g} %"
    overlap = max(one[0], other[0]) <= min(one[1], other[1])
    said = (
        f"The {level} intervals overlap, so the difference does not show which one people would rate higher."
        if overlap
        else f"The {level} intervals do not overlap."
    )
    return f'<p class="os-small">{said} A {written(one[0])} to {written(one[1])}, B {written(other[0])} to {written(other[1])}.</p>'
