"""Rows of scores with what each score rests on: modalities, words, and the seconds of a long file; as values and as text."""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.clip import Clip
from ..errors_omnisent import OmniSentError
from ..pipeline_omnisent import MultimodalSentimentPipeline
from .explanation import Explanation, Scores, explain
from .output import window_row
from .readers import ROW, row_of, scored_row, transcribed, with_text
from .results import interval_of, label_of, score_names
from .scales import Scale, signed
from .subtitles import Cue, read_cues, subtitles_beside
from .timeline import score_timeline
from .transcribe import Transcriber

MOST_SHOWN = 12  # words in a text
BAR = 12  # letters of the longest bar in a text


def explain_clips(
    pipeline: MultimodalSentimentPipeline,
    clips: Sequence[Clip],
    *,
    window: float,
    stride: float,
    transcriber: Transcriber | None = None,
    interval: float | None = None,
) -> Generator[dict[str, Any], None, None]:
    """One row per clip, in order, as from `score_clips`, each with an `explanation`; see `explanation_cells`.

    Args:
        pipeline: its modalities and neutral band are used.
        clips: a transcript file beside a media file is used.
        window: seconds of a window; a longer file is also scored over time.
        stride: seconds from one window's start to the next.
        transcriber: transcribes clips without a transcript.
        interval: a level such as 0.9, for `low` and `high` beside each score.
    """
    targets = pipeline.model.config.targets
    for clip in clips:
        (said,), warnings = transcribed([clip], transcriber)
        said, error = with_text(said)
        row = {ROW: {**row_of(said), "warning": warnings.get(clip.id)}}
        if error is not None:
            yield scored_row(row, {"error": error})
            continue
        try:
            found = explain(pipeline, said.to_dict(), interval=interval)
            cells = explanation_cells(found, targets)
        except OmniSentError as failed:
            yield scored_row(row, {"error": str(failed)})
            continue
        try:
            cells |= _windows(pipeline, said, row[ROW]["seconds"], window, stride)
        except (ValueError, OSError) as failed:  # of a file that cannot be read in windows, or its subtitles
            warning = f"no scores of windows: {failed}"
            row[ROW]["warning"] = "; ".join(one for one in (row[ROW]["warning"], warning) if one)
        yield {**scored_row(row, found.result), "explanation": cells}


def explanation_cells(found: Explanation, targets: Sequence[str]) -> dict[str, Any]:
    """An explanation as JSON has it.

    Returns:
        `modalities`, the contribution of each by its name; `words`, each with its text, its place in the transcript and its
        contribution; `words_together`, how many were left out at once; `windows`, none, and `words_spread`, false, see `_windows`.
        A contribution is a number in label units, or of several targets one by the name of each.
    """

    def cell(contributions: Scores) -> float | dict[str, float]:
        return contributions[0] if len(targets) == 1 else dict(zip(targets, contributions, strict=True))

    return {
        "modalities": {name: cell(found.contributions(name)) for name in found.without},
        "words": [
            {"text": word.text, "start": word.start, "end": word.end, "contribution": cell(word.contributions)}
            for word in found.words
        ],
        "words_together": found.words_together,
        "windows": [],
        "words_spread": False,
    }


def _windows(
    pipeline: MultimodalSentimentPipeline, clip: Clip, seconds: float | None, window: float, stride: float
) -> dict[str, Any]:
    """The scores over time of a clip of one file that is longer than a window, as rows; and whether its words, which have no times,
    were spread evenly over it.
    """
    path = clip.video or clip.audio
    if path is None or (clip.video and clip.audio) or seconds is None or seconds <= window:
        return {}
    beside = subtitles_beside(path)
    cues = read_cues(beside) if beside else []
    is_spread = not cues and bool(clip.text)
    if is_spread:
        cues = [Cue(0.0, seconds, clip.text or "")]
    scored = score_timeline(pipeline, path, window=window, stride=stride, cues=cues)
    return {"windows": [window_row(one, pipeline.model.config.targets) for one in scored], "words_spread": is_spread}


def contributions_of(cell: float | Mapping[str, float]) -> Scores:
    """A contribution as JSON has it, as a number for each target."""
    return tuple(cell.values()) if isinstance(cell, Mapping) else (cell,)


def parts_of(explanation: Mapping[str, Any]) -> list[tuple[str, Scores]]:
    """The modalities and their contributions."""
    return [(name, contributions_of(cell)) for name, cell in explanation["modalities"].items()]


def words_of(explanation: Mapping[str, Any]) -> list[tuple[str, Scores]]:
    """The words and their contributions."""
    return [(word["text"], contributions_of(word["contribution"])) for word in explanation["words"]]


def words_heading(explanation: Mapping[str, Any]) -> str:
    """How words were left out."""
    together = explanation["words_together"]
    return "without each word" if together == 1 else f"without each group of {together} neighbouring words"


def windows_heading(explanation: Mapping[str, Any]) -> str:
    """What the scores of windows are, and what limits them."""
    windows = explanation["windows"]
    failed = sum(one["error"] is not None for one in windows)
    limits = [f"{failed} of {len(windows)} without"] if failed else []
    limits += ["words spread evenly over the file"] if explanation["words_spread"] else []
    return "the score of each window alone" + (f" ({'; '.join(limits)})" if limits else "")


def as_text(row: Mapping[str, Any], scales: Sequence[Scale]) -> str:
    """A row for a terminal: its scores, and bars for what modalities and the strongest words add to each; then windows."""
    lines = [row["id"]]
    if row.get("error"):
        return "\n".join([*lines, f"  no score: {row['error']}"])
    explanation = row["explanation"]
    names = score_names([scale.name for scale in scales])
    for place, (name, scale) in enumerate(zip(names, scales, strict=True)):
        lines.append("  ".join([f"  {scale.name} {scale.written(row[name])}", *beside_score(row, place, scales)]))
        lines += _bars("what each modality adds", parts_of(explanation), place)
        words, heading = words_of(explanation), f"what is added, {words_heading(explanation)}"
        strongest = sorted(range(len(words)), key=lambda at: -abs(words[at][1][place]))[:MOST_SHOWN]
        if len(words) > MOST_SHOWN:
            heading = f"{heading} (the {MOST_SHOWN} strongest of {len(words)})"
        lines += _bars(heading, [words[at] for at in sorted(strongest)], place)
        windows = [(_span(one), (one[name],)) for one in explanation["windows"] if one[name] is not None]
        lines += _bars(windows_heading(explanation), windows, 0)
    failed = [one for one in explanation["windows"] if one["error"] is not None]
    lines += [f"  {_span(one)}  no score: {one['error']}" for one in failed]
    if row.get("warning"):
        lines.append(f"  warning: {row['warning']}")
    return "\n".join(lines)


def beside_score(row: Mapping[str, Any], place: int, scales: Sequence[Scale]) -> list[str]:
    """The label and the interval of a target's score, those that there are."""
    names = score_names([scale.name for scale in scales])
    label, ends = label_of(row, names), interval_of(row, names, place)
    found = [label] if label else []
    return found + ([" to ".join(map(scales[place].written, ends))] if ends else [])


def _bars(heading: str, parts: Sequence[tuple[str, Scores]], place: int) -> list[str]:
    """Lines with a name, a number and a bar; none without parts."""
    if not parts:
        return []
    width = min(28, max(len(name) for name, _ in parts))
    longest = max(abs(values[place]) for _, values in parts) or 1.0
    lines = [f"    {heading}"]
    for name, values in parts:
        bar = "\N{FULL BLOCK}" * round(BAR * abs(values[place]) / longest)
        name = name if len(name) <= width else f"{name[: width - 1]}\N{HORIZONTAL ELLIPSIS}"
        lines.append(f"      {name:{width}}  {signed(values[place], 3):>7}  {bar}".rstrip())
    return lines


def _span(window: Mapping[str, Any]) -> str:
    return f"{window['start']:.1f} to {window['end']:.1f} s"


def picture_paths(clips: Sequence[Clip], out: Path | None) -> list[Path]:
    """Where the picture of each clip goes: OUT.png of a single one, else NAME.explain.png beside `out`, or in the working
    directory.
    """
    if out is not None and len(clips) == 1:
        return [out.with_suffix(".png")]
    taken: set[str] = set()
    paths = []
    for clip in clips:
        stem = Path(clip.video or clip.audio or clip.id).stem or "clip"
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        paths.append((out.parent if out else Path()) / f"{name}.explain.png")
    return paths
