"""Transcripts with times: reads .srt and .vtt files into cues, and finds the words spoken in a segment; the form of cues in them.

Opens no media.

Words have no times of their own in such files, so those of a cue are spread evenly over it.
"""

import codecs
import html
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".srt", ".vtt")
VTT_START = "WEBVTT\n\n"
_STAMP = r"(?:([0-9]{1,4}):)?([0-9]{1,2}):([0-5]?[0-9])[.,]([0-9]{1,3})"
_TIMES = re.compile(rf"\s*{_STAMP}\s*-->\s*{_STAMP}(?:\s.*)?")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")  # <i>, <v Name>, <00:01.500>, {\an8}
_NOT_SPOKEN = re.compile(r"(WEBVTT|NOTE|STYLE|REGION)(\s|$)")
# Chinese and Japanese are written without spaces; there each character counts as a word.
_SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"\s*(?:[{_SPACELESS}]|[^\s{_SPACELESS}]+)")


@dataclass(frozen=True)
class Cue:
    """The words spoken from `start` to `end`, in seconds; one line without markup."""

    start: float
    end: float
    text: str


def read_cues(path: str | os.PathLike[str]) -> list[Cue]:
    """The cues of a .srt or .vtt file, sorted by time, without markup and without empty cues.

    UTF-8 and UTF-16 are recognised; anything else is read as Windows-1252. Where most cues repeat the line before, as rolling
    automatic captions do, each line is kept once.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming file and line, for an invalid cue.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected subtitles that end in {' or '.join(SUFFIXES)}")
    is_vtt = path.suffix.lower() == ".vtt"
    lines = _decode(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if is_vtt and not re.match(r"WEBVTT(\s|$)", lines[0]):
        raise ValueError(f"{path}, line 1: expected WEBVTT, found {lines[0][:40]!r}; is it a .srt file?")
    spoken = sorted(_spoken(path, lines, is_vtt), key=lambda cue: cue[:2])
    cues = [Cue(start, end, " ".join(lines)) for start, end, lines in _without_repeats(spoken)]
    return [cue for cue in cues if cue.text]


def subtitles_beside(path: str | os.PathLike[str]) -> Path | None:
    """The .srt or .vtt file of the same name beside a media file; `None` if there is no such file."""
    return file_beside(path, SUFFIXES)


def file_beside(path: str | os.PathLike[str], suffixes: Sequence[str]) -> Path | None:
    """The file of the same name beside another with the first of these suffixes that there is, in lower or in upper case."""
    spelled = (spelling for suffix in suffixes for spelling in (suffix, suffix.upper()))
    return next((file for one in spelled if (file := Path(path).with_suffix(one)).is_file()), None)


def starting_by(cues: Sequence[Cue], end: float) -> list[Cue]:
    """The cues that start at or before `end`, in seconds."""
    return [cue for cue in cues if cue.start <= end]


def text_within(cues: Sequence[Cue], start: float, end: float) -> str | None:
    """The words spoken in [start, end), in seconds; `None` if there are none.

    Word i of n spans the i-th of n equal parts of its cue, and belongs where its middle is; so adjacent windows neither share nor
    lose a word.
    """
    parts = (_words_within(cue, start, end) for cue in cues if cue.start <= end and cue.end >= start)
    return " ".join(text for text in parts if text) or None


def words_of(cue: Cue) -> list[Cue]:
    """The words of a cue, spread evenly over it; each text with the space before it."""
    words = _WORD.findall(cue.text)
    step = (cue.end - cue.start) / max(len(words), 1)
    return [Cue(cue.start + i * step, cue.start + (i + 1) * step, word) for i, word in enumerate(words)]


def stamp(milliseconds: int, separator: str) -> str:
    """A time as these files have it; before its milliseconds, `","` in .srt and `"."` in .vtt."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{separator}{rest:03d}"


def vtt_cue(start: int, end: int, lines: Sequence[str]) -> str:
    """A cue of a .vtt file, with its times in milliseconds."""
    escaped = (line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in lines)
    return "\n".join([f"{stamp(start, '.')} --> {stamp(end, '.')}", *escaped, "", ""])


def _words_within(cue: Cue, start: float, end: float) -> str:
    within = (word.text for word in words_of(cue) if start <= (word.start + word.end) / 2 < end)
    return "".join(within).strip()


def _decode(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _spoken(path: Path, lines: Sequence[str], is_vtt: bool) -> Iterator[tuple[float, float, list[str]]]:
    """Start, end and lines of each cue, in the file's order; lines lose their markup."""
    cue: tuple[float, float, list[str]] | None = None
    skipping = False
    names: list[tuple[int, str]] = []  # the lines above a line of times, with their numbers
    for number, line in enumerate(lines, 1):
        if "-->" in line:
            if cue is not None:
                if not is_vtt and cue[2] and cue[2][-1].isdecimal():
                    cue[2].pop()  # the next cue's number, where the empty line between the two is missing
                yield cue
            if len(names) > 1:
                raise _no_time(path, *names[0])
            cue, skipping, names = (*_times(path, number, line), []), False, []
        elif not (line if cue else line.strip()):  # automatic captions have lines with a single space within their cues
            if cue is not None:
                yield cue
            elif names:
                raise _no_time(path, *names[0])
            cue, skipping, names = None, False, []
        elif cue is not None:
            cue[2].append(" ".join(html.unescape(_TAG.sub("", line)).split()))
        elif is_vtt and not names and (skipping or _NOT_SPOKEN.match(line)):
            skipping = True
        else:
            names.append((number, line))
    if cue is not None:
        yield cue
    elif names:
        raise _no_time(path, *names[0])


def _times(path: Path, number: int, line: str) -> tuple[float, float]:
    match = _TIMES.fullmatch(line)
    if match is None:
        raise ValueError(
            f"{path}, line {number}: expected times like 00:01:02,500 --> 00:01:04,000, found {line[:60]!r}"
        )
    start, end = (
        int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(part.ljust(3, "0")) / 1000
        for hours, minutes, seconds, part in (match.groups()[:4], match.groups()[4:])
    )
    if end < start:
        raise ValueError(f"{path}, line {number}: the cue ends before it starts: {line[:60]!r}")
    return start, end


def _no_time(path: Path, number: int, line: str) -> ValueError:
    return ValueError(f"{path}, line {number}: expected a cue with its line of times (-->), found {line[:60]!r}")


def _without_repeats(
    cues: Sequence[tuple[float, float, list[str]]],
) -> list[tuple[float, float, list[str]]]:
    """Cues without the lines repeated from the end of the previous cue, if at least half of the cues repeat lines."""
    kept: list[tuple[float, float, list[str]]] = []
    repeats, before = 0, list[str]()
    for start, end, lines in cues:
        filled = [line for line in lines if line]
        same = next((n for n in range(min(len(filled), len(before)), 0, -1) if filled[:n] == before[-n:]), 0)
        repeats += same > 0
        kept.append((start, end, filled[same:]))
        before = filled or before
    rolls = len(cues) > 2 and 2 * repeats >= len(cues)
    return kept if rolls else [(start, end, [line for line in lines if line]) for start, end, lines in cues]
