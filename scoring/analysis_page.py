"""The analysis of a clip as HTML: its scores on their scales, what each modality and word adds, and its interval.

The HTML fetches nothing but the clip; user input is escaped. analysis.py computes the numbers, page.css styles them, time_strip.py
shows the scores over time, and comparison_page.py two clips side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .analysis import ClipAnalysis
from .scales import Scale, signed
from .timeline_plot import clock

NAMES = {"text": "Text", "audio": "Audio", "video": "Video"}
CONTRIBUTIONS = (
    '<p class="os-small">Each modality is left out in turn, and what that takes from the score is what it adds. The sum need not be'
    " the score: the model weighs them together.</p>"
)
NO_INTERVAL = "This model is not calibrated, so it gives no interval: how far a score may be off is not known."


@dataclass(frozen=True)
class ShownClip:
    """An analysis, and what the page needs to show it.

    Attributes:
        analysis: the numbers.
        name: of the file, without its folder; `None` for a transcript alone.
        scales: of the targets.
        level: of the prediction interval, e.g. 0.9; `None` without one.
    """

    analysis: ClipAnalysis
    name: str | None
    scales: Sequence[Scale]
    level: float | None = None

    @property
    def source(self) -> str:
        """What was scored: the file's name and length, or "the text alone"."""
        if self.name is None or self.analysis.seconds is None:
            return "the text alone"
        return f"{self.name}, {_length(self.analysis.seconds)}"

    def ends(self, place: int) -> tuple[float, float] | None:
        """The ends of a target's interval, label units; `None` without one."""
        return (self.analysis.low[place], self.analysis.high[place]) if self.analysis.low else None

    def said(self) -> str:
        """The scores in one sentence, for a screen reader."""
        return "; ".join(self.said_of(place) for place in range(len(self.scales)))

    def said_of(self, place: int) -> str:
        """The score of a target, its label and its interval in words."""
        scale, label = self.scales[place], self.analysis.label
        named = label if scale.neutral_band is not None and label else scale.name
        text = (
            f"{scale.written(self.analysis.scores[place])}, {named}, on a scale from {scale.written_end(scale.low)} to"
        )
        text += f" {scale.written_end(scale.high)}"
        return f"{text}; {self.interval_of(place)}" if self.ends(place) else text

    def interval_of(self, place: int) -> str:
        """E.g. "90 % interval +0.50 to +1.30"; empty without one."""
        ends = self.ends(place)
        if ends is None or self.level is None:
            return ""
        low, high = map(self.scales[place].written, ends)
        return f"{100 * self.level:g} % interval {low} to {high}"


def percent(scale: Scale, value: float) -> float:
    """Where a value is on its scale, from 0 to 100."""
    return 100 * min(max((value - scale.low) / (scale.high - scale.low), 0.0), 1.0)


def score_html(shown: ShownClip) -> str:
    """What comes first: the score of each target as a number and on its scale."""
    analysis = shown.analysis
    parts = [_score(shown, place) for place in range(len(shown.scales))]
    parts.append(f'<p class="os-small">{escape(shown.source)}</p>')
    if "text" not in analysis.modalities:
        parts.append(
            '<p class="os-note">Scored without a transcript. Text carries most of the signal, so this score is less reliable.</p>'
        )
    if analysis.warning:
        parts.append(f'<p class="os-note">Only part of the file could be read: {escape(analysis.warning)}.</p>')
    said = escape(f"Score: {shown.said()}")
    label = escape(f"Score of {shown.source}")
    return f'<section class="os-card os-result" aria-label="{label}" data-said="{said}">{"".join(parts)}</section>'


def contributions_html(shown: ShownClip) -> str:
    """What each modality and word adds; empty if there is only one modality, and no words are known."""
    parts = [_modalities(shown, place) for place in range(len(shown.scales)) if shown.analysis.without]
    if parts:
        parts.append(CONTRIBUTIONS)
    if shown.analysis.words:
        parts += [_words(shown, place) for place in range(len(shown.scales))]
    return f'<section class="os-card">{"".join(parts)}</section>' if parts else ""


def interval_html(shown: ShownClip) -> str:
    """The interval of each target, or that there is none."""
    if shown.level is None:
        return f'<section class="os-card"><h2>Interval</h2><p>{NO_INTERVAL}</p></section>'
    rows = []
    for place, scale in enumerate(shown.scales):
        ends = shown.ends(place)
        if ends is not None:
            low, high = map(scale.written, ends)
            named = f"{escape(scale.name)}: " if len(shown.scales) > 1 else ""
            rows.append(f'<p class="os-interval">{named}{low} to {high}</p>')
    return (
        f'<section class="os-card"><h2>Interval</h2>{"".join(rows)}<p class="os-small">A {100 * shown.level:g} % prediction'
        " interval: of data like those that the model was calibrated on, about"
        f" {100 * shown.level:g} in 100 have a rating inside it. With other languages, speakers or recordings it may be too"
        " narrow.</p></section>"
    )


def scale_html(scale: Scale, marks: Sequence[tuple[str, float, tuple[float, float] | None]], said: str) -> str:
    """A scale with marks on it.

    Args:
        scale: of the target.
        marks: name ("" for none), score and interval of each; a name is one letter.
        said: the same in words.
    """
    inner, ends = "", (scale.written_end(scale.low), scale.written_end(scale.middle), scale.written_end(scale.high))
    if scale.neutral_band is not None:
        left, right = percent(scale, -scale.neutral_band), percent(scale, scale.neutral_band)
        inner += f'<i class="os-band" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
        ends = (f"{ends[0]} negative", "neutral", f"positive {ends[2]}")
    for row, (name, score, interval) in enumerate(marks):
        kind = f"os-{name.lower()}" if name else f"os-{_side(scale, score)}"
        if interval is not None:
            left, right = percent(scale, interval[0]), percent(scale, interval[1])
            inner += f'<i class="os-range {kind} os-row{row}" style="left:{left:.2f}%;width:{max(right - left, 0.5):.2f}%"></i>'
        inner += f'<i class="os-mark {kind} os-row{row}" style="left:{percent(scale, score):.2f}%"><b>{name}</b></i>'
    rows = f" os-rows{len(marks)}" if len(marks) > 1 else ""
    return (
        f'<div class="os-scale{rows}" role="img" aria-label="{escape(said)}">{inner}</div>'
        f'<div class="os-ends" aria-hidden="true">{"".join(f"<span>{end}</span>" for end in ends)}</div>'
    )


def _side(scale: Scale, score: float) -> str:
    if not scale.has_sides:
        return "plain"
    return "minus" if score < 0 else "plus"


def _score(shown: ShownClip, place: int) -> str:
    scale, score = shown.scales[place], shown.analysis.scores[place]
    said = scale.name if scale.neutral_band is None else shown.analysis.label or ""
    return (
        f'<div class="os-head"><span class="os-score" title="{score:.6f}">{scale.written(score)}</span>'
        f'<span class="os-label">{escape(said)}</span></div>'
        f"{scale_html(scale, [('', score, shown.ends(place))], shown.said_of(place))}"
    )


def _length(seconds: float) -> str:
    return clock(round(seconds)) if seconds >= 60 else f"{seconds:.1f} s"


def _modalities(shown: ShownClip, place: int) -> str:
    """What each modality adds to the score of a target."""
    scale, analysis = shown.scales[place], shown.analysis
    contributions = {name: analysis.contributions(name)[place] for name in analysis.without}
    least = (scale.high - scale.low) / 12 if scale.neutral_band is None else scale.neutral_band
    reach = max(least, *map(abs, contributions.values()))
    rows = []
    for name, contribution in contributions.items():
        width = 50 * abs(contribution) / reach
        side, sign = (50 - width, "minus") if contribution < 0 else (50, "plus")
        rows.append(
            f'<tr><th scope="row">{NAMES[name]}</th><td>{signed(contribution)}</td>'
            f'<td class="os-wide"><div class="os-bar"><i class="os-{sign}" style="left:{side:.2f}%;width:{width:.2f}%"></i>'
            f'<i class="os-zero"></i></div></td><td>{scale.written(analysis.without[name][place])}</td></tr>'
        )
    to = f" to {escape(scale.name)}" if len(shown.scales) > 1 else ""
    return (
        f'<h2>What each modality adds{to}</h2><table class="os-table"><thead><tr><th scope="col">Modality</th>'
        '<th scope="col">Adds</th><th scope="col" class="os-wide"><span class="os-hidden">As a bar</span></th>'
        '<th scope="col">Without it</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _words(shown: ShownClip, place: int) -> str:
    """The transcript with each word coloured by what it adds to the score of a target."""
    scale, words = shown.scales[place], [(word, added[place]) for word, added in shown.analysis.words]
    reach = max(max(abs(added) for _, added in words), (scale.high - scale.low) / 60)
    marked = "".join(
        f'<span class="os-word os-{"minus" if added < 0 else "plus"}" style="--os-weight:{abs(added) / reach:.2f}">'
        f'{escape(word)}<span class="os-hidden"> ({signed(added)})</span></span> '
        for word, added in words
    )
    strongest = sorted(words, key=lambda one: -abs(one[1]))[:5]
    listed = ", ".join(f"{escape(word)} {signed(added)}" for word, added in strongest if abs(added) >= 0.005)
    to = f" to {escape(scale.name)}" if len(shown.scales) > 1 else ""
    return (
        f'<h2>What each word adds{to}</h2><p class="os-words">{marked}</p><p class="os-small">Strongest: {listed or "none"}.'
        " Each word is left out in turn.</p>"
    )
