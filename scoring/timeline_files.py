"""Writes a timeline for other programs: subtitles of players (SRT, WebVTT), tiers of Praat (TextGrid) and ELAN (EAF 3.0).

In all of them only one thing is shown at a time, so windows that overlap meet in the middle of what they share.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

from ..data.draft import draft_of
from .options import TimelineFormat
from .scales import MINUS, Scale
from .subtitles import VTT_START, stamp, vtt_cue
from .windows import WindowScore

NO_SCORE = "no score"
# Control characters, and bytes of a name that are not UTF-8, as Python has them.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MIME_TYPES = {".mp4": "video/mp4", ".mpg": "video/mpeg", ".mov": "video/quicktime", ".wav": "audio/x-wav"}


@dataclass(frozen=True)
class Segment:
    """What is shown from `start` to `end`, in milliseconds: a text for each target."""

    start: int
    end: int
    texts: tuple[str, ...]


def write_timeline_file(
    out: Path,
    kind: TimelineFormat,
    windows: Sequence[WindowScore],
    scales: Sequence[Scale],
    media: Path,
    seconds: float,
    mark: str = "",
) -> None:
    """Write a timeline for another program, atomically.

    Args:
        out: the file.
        kind: its format; not CSV.
        windows: in order of time. One that could not be scored says so.
        scales: of the targets; each has a tier of its own, or a line of a cue.
        media: the scored file, which ELAN opens.
        seconds: its duration, at which tiers of Praat end.
        mark: of all scores, such as `zero-shot`.
    """
    segments = segments_of(windows, scales)
    names = [f"{scale.name} ({mark})" if mark else scale.name for scale in scales]
    with draft_of(out) as draft:
        text = _WRITERS[kind](segments, names, media, out, round(1000 * seconds))
        draft.write_text(text, encoding="utf-8", newline="\n")


def segments_of(windows: Sequence[WindowScore], scales: Sequence[Scale]) -> list[Segment]:
    """A segment of each window, in order of time and without overlaps; between windows that do not touch there is none.

    Of several windows at one time, as of sentences that were spoken at once, some may have no segment.
    """
    starts, ends = [window.start for window in windows], [window.end for window in windows]
    for left, (before, after) in enumerate(pairwise(windows)):
        if before.end > after.start:
            ends[left] = starts[left + 1] = (min(before.end, after.end) + after.start) / 2
    segments: list[Segment] = []
    for start, end, window in zip(starts, ends, windows, strict=True):
        first = max(round(1000 * start), segments[-1].end if segments else 0)
        if first < round(1000 * end):
            segments.append(Segment(first, round(1000 * end), _texts(window, scales)))
    return segments


def _texts(window: WindowScore, scales: Sequence[Scale]) -> tuple[str, ...]:
    if not window.scores:
        return (NO_SCORE,) * len(scales)
    scores = [scale.written(score).replace(MINUS, "-") for scale, score in zip(scales, window.scores, strict=True)]
    with_label = len(scales) == 1 and scales[0].has_sides and window.label is not None
    return (f"{scores[0]} {window.label}",) if with_label else tuple(scores)


def _lines(segment: Segment, names: Sequence[str]) -> list[str]:
    """The lines of a cue; the scores of a single target without a name of its own have none."""
    if list(names) == ["score"]:
        return list(segment.texts)
    return [f"{name}: {text}" for name, text in zip(names, segment.texts, strict=True)]


def _srt(segments: Sequence[Segment], names: Sequence[str], media: Path, out: Path, end: int) -> str:
    """A tag cannot be escaped in this format, so names have other brackets."""
    names = [name.translate({ord("<"): "\u2039", ord(">"): "\u203a"}) for name in names]
    return "".join(
        "\n".join([str(number), f"{stamp(one.start, ',')} --> {stamp(one.end, ',')}", *_lines(one, names), "", ""])
        for number, one in enumerate(segments, 1)
    )


def _vtt(segments: Sequence[Segment], names: Sequence[str], media: Path, out: Path, end: int) -> str:
    return VTT_START + "".join(vtt_cue(one.start, one.end, _lines(one, names)) for one in segments)


def _textgrid(segments: Sequence[Segment], names: Sequence[str], media: Path, out: Path, end: int) -> str:
    """Intervals of a tier must follow each other without gaps up to the end of the file, so empty ones fill these."""
    last = max(1, end, *(one.end for one in segments[-1:]))
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", *_span(0, last, 0)]
    lines += ["tiers? <exists>", f"size = {len(names)}", "item []:"]
    for place, name in enumerate(names):
        intervals, before = [], 0
        for one in segments:
            intervals += [(before, one.start, "")] if one.start > before else []
            intervals.append((one.start, one.end, one.texts[place]))
            before = one.end
        intervals += [(before, last, "")] if last > before else []
        lines += [f"    item [{place + 1}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}"]
        lines += [*_span(0, last, 8), f"        intervals: size = {len(intervals)}"]
        for number, (start, end, text) in enumerate(intervals, 1):
            lines += [f"        intervals [{number}]:", *_span(start, end, 12), f"            text = {_quoted(text)}"]
    return "\n".join([*lines, ""])


def _span(start: int, end: int, indent: int) -> list[str]:
    return [f"{' ' * indent}{name} = {time / 1000:.3f}" for name, time in (("xmin", start), ("xmax", end))]


def _quoted(text: str) -> str:
    return '"{}"'.format(text.replace('"', '""'))


def _eaf(segments: Sequence[Segment], names: Sequence[str], media: Path, out: Path, end: int) -> str:
    namespace = "http://www.w3.org/2001/XMLSchema-instance"
    ElementTree.register_namespace("xsi", namespace)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    root = ElementTree.Element("ANNOTATION_DOCUMENT", AUTHOR="omnisent", DATE=now, FORMAT="3.0", VERSION="3.0")
    root.set(f"{{{namespace}}}noNamespaceSchemaLocation", "http://www.mpi.nl/tools/elan/EAFv3.0.xsd")
    header = _child(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    _child(
        header,
        "MEDIA_DESCRIPTOR",
        MEDIA_URL=media.resolve().as_uri(),
        MIME_TYPE=_MIME_TYPES.get(media.suffix.lower(), "unknown"),
        RELATIVE_MEDIA_URL=_as_elan_reads(f"./{os.path.relpath(media.resolve(), out.resolve().parent)}"),
    )
    times = _child(root, "TIME_ORDER")
    tiers = [_child(root, "TIER", LINGUISTIC_TYPE_REF="scores", TIER_ID=name) for name in names]
    for number, one in enumerate(segments):
        _annotate(one, number * len(tiers), times, tiers)
    _child(root, "LINGUISTIC_TYPE", GRAPHIC_REFERENCES="false", LINGUISTIC_TYPE_ID="scores", TIME_ALIGNABLE="true")
    ElementTree.indent(root, "    ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _as_elan_reads(path: str) -> str:
    """A relative path as it is, since ELAN decodes no `%20`; of its characters, those that XML cannot hold are percent-encoded."""
    return _NOT_XML.sub(lambda found: quote(os.fsencode(found[0])), path)


def _annotate(segment: Segment, before: int, times: ElementTree.Element, tiers: Sequence[ElementTree.Element]) -> None:
    """Add an annotation with two time slots to each tier; `before` are there of all tiers together."""
    starts = [f"ts{2 * before + place}" for place in range(1, len(tiers) + 1)]
    ends = [f"ts{2 * before + len(tiers) + place}" for place in range(1, len(tiers) + 1)]
    for slots, time in ((starts, segment.start), (ends, segment.end)):  # slots are in order of time
        for slot in slots:
            _child(times, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(time))
    for number, (tier, start, end, text) in enumerate(zip(tiers, starts, ends, segment.texts, strict=True), before + 1):
        annotation = _child(_child(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION")
        annotation.attrib |= {"ANNOTATION_ID": f"a{number}", "TIME_SLOT_REF1": start, "TIME_SLOT_REF2": end}
        _child(annotation, "ANNOTATION_VALUE").text = text


def _child(parent: ElementTree.Element, name: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, name, attributes)


_WRITERS: dict[TimelineFormat, Callable[[Sequence[Segment], Sequence[str], Path, Path, int], str]] = {
    TimelineFormat.SRT: _srt,
    TimelineFormat.VTT: _vtt,
    TimelineFormat.TEXTGRID: _textgrid,
    TimelineFormat.EAF: _eaf,
}
