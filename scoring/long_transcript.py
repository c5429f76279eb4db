"""The transcript of a long recording, as a WebVTT file; computed in segments of minutes, so that memory does not grow with it.

What is done is kept in NAME.part, from which an interrupted command resumes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..audio_omnisent import SAMPLE_RATE
from ..data.draft import draft_of
from ..errors_omnisent import MediaError
from ..long_media_omnisent import LongMedia
from .part_file import PartFile
from .sentences import ends_sentence
from .speech_detector import LONGEST_PAUSE
from .subtitles import VTT_START, Cue, vtt_cue
from .timeline_plot import clock
from .transcribe import Transcriber

AT_ONCE_SECONDS = 300.0  # of audio in memory
UNFINISHED_SECONDS = LONGEST_PAUSE + 1  # speech that ends so shortly before the end of a segment may go on after it
CUE_CHARACTERS, CUE_SECONDS, CUE_PAUSE = 42, 5.0, 0.6  # a line of subtitles; a longer pause ends it
_FROM = re.compile(r"^NOTE Transcript of (?P<name>.*) \((?P<size>\d+) bytes\)", re.MULTILINE)


def transcript_beside(table: Path) -> Path:
    """The transcript that belongs to a table of scores over time: `talk.transcript.vtt` for `talk.timeline.csv` and `talk.csv`."""
    return table.with_name(f"{table.stem.removesuffix('.timeline')}.transcript.vtt")


def check_is_of(transcript: Path, media: Path) -> None:
    """Refuse a transcript that was written for another file.

    Raises:
        ValueError: naming both.
    """
    written_for = _FROM.search(transcript.read_text(encoding="utf-8-sig", errors="replace"))
    if written_for is None or (written_for["name"], int(written_for["size"])) == (_name(media), media.stat().st_size):
        return
    raise ValueError(
        f"{transcript} is the transcript of another file, {written_for['name']} with {written_for['size']} bytes, not of {media};"
        " remove it or give another --out"
    )


def write_transcript(
    media: LongMedia,
    out: Path,
    load: Callable[[], Transcriber],
    settings: Mapping[str, Any],
    model: str,
    notify: Callable[[str], None],
) -> None:
    """Transcribe a recording, and write its words with their times, a line of subtitles each.

    Args:
        media: the open file, with audio; a part of it that cannot be decoded is left out, and said.
        out: a .vtt file, which says in a note what it is of.
        load: loads the transcriber, unless all is transcribed already.
        settings: what the transcript depends on beside the media.
        model: name of the recognition model.
        notify: called with what could not be transcribed, and with what was kept.

    Raises:
        ValueError: for a part file with other settings.
    """
    path = Path(media.path)
    status = path.stat()
    header = {"transcript of": _name(path), "bytes": status.st_size, "modified": status.st_mtime_ns, **settings}
    part = PartFile(out.with_name(f"{out.name}.part"), header)
    done = list(part.entries())
    at = done[-1]["until"] if done else 0.0
    if done:
        notify(f"{clock(at)} of {clock(media.duration)} were transcribed before")
    with tqdm(total=round(media.duration), initial=round(at), desc=f"transcribing {path.name}", unit="s") as progress:
        transcriber = load() if at < media.duration else None
        while transcriber is not None and at < media.duration:
            entry = _transcribed(media, at, transcriber)
            part.add(entry)
            done.append(entry)
            progress.update(round(entry["until"]) - round(at))
            at = entry["until"]
    for entry in done:
        if entry["error"]:
            notify(f"not transcribed, {entry['error']}")
    cues = lines_of([Cue(*word) for entry in done for word in entry["words"]])
    note = f"NOTE Transcript of {_name(path)} ({status.st_size} bytes), by {model}"
    _write(out, note, cues)
    part.close()
    part.path.unlink()


def _transcribed(media: LongMedia, start: float, transcriber: Transcriber) -> dict[str, Any]:
    """The words of the segment from `start` on, and where the next one begins."""
    stop = min(start + AT_ONCE_SECONDS, media.duration)
    try:
        audio = media.read(start, stop, video=False, max_sound_seconds=AT_ONCE_SECONDS).audio  # (samples,)
    except MediaError as error:
        return {"until": stop, "words": [], "error": f"{clock(start)} to {clock(stop)}: {error}"}
    if audio is None:
        return {"until": stop, "words": [], "error": None}
    spans, has_ended = transcriber.spans(audio), len(audio) < (stop - start - 0.5) * SAMPLE_RATE
    if stop < media.duration and not has_ended:
        spans, stop = _finished(audio, spans, start)
    words = [
        [round(start + word.start, 3), round(start + word.end, 3), word.text]
        for word in transcriber.words(audio, spans)
    ]
    return {"until": stop, "words": words, "error": None}


def _finished(audio: np.ndarray, spans: list[tuple[int, int]], start: float) -> tuple[list[tuple[int, int]], float]:
    """The spans of speech that have ended within the audio from `start` on, and when the next segment begins, seconds."""
    last = len(audio) - round(UNFINISHED_SECONDS * SAMPLE_RATE)
    if spans and spans[-1][1] > last and spans[-1][0] > 0:
        return spans[:-1], start + spans[-1][0] / SAMPLE_RATE
    return spans, start + max(len(audio) - SAMPLE_RATE, spans[-1][1] if spans else 0) / SAMPLE_RATE


def lines_of(words: Sequence[Cue]) -> list[Cue]:
    """Words as lines of subtitles: a line ends with a sentence, before a pause, or when it is long enough."""
    lines: list[Cue] = []
    line: list[Cue] = []
    for word, following in pairwise([*words, None]):
        assert word is not None
        line.append(word)
        if following is None or _is_full(line, following):
            lines.append(Cue(line[0].start, max(one.end for one in line), "".join(one.text for one in line).strip()))
            line = []
    return lines


def _is_full(line: list[Cue], following: Cue) -> bool:
    length = sum(len(word.text) for word in line) + len(following.text)
    return (
        length > CUE_CHARACTERS
        or following.end - line[0].start > CUE_SECONDS
        or following.start - line[-1].end > CUE_PAUSE
        or ends_sentence(line[-1].text, following.text)
    )


def _write(out: Path, note: str, cues: Sequence[Cue]) -> None:
    """Write cues atomically."""
    blocks = (vtt_cue(round(1000 * cue.start), round(1000 * cue.end), [cue.text]) for cue in cues)
    with draft_of(out) as draft:
        draft.write_text(f"{VTT_START}{note}\n\n" + "".join(blocks), encoding="utf-8", newline="\n")


def _name(media: Path) -> str:
    """The name of a file as one line of text."""
    return " ".join(media.name.encode("utf-8", "backslashreplace").decode().replace("-->", "->").split())
