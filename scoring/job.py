"""Runs `omnisent score`: finds the clips, scores them in this process, in several or on Ray, and writes the rows.

`batch.py` and `ray_engine.py` compute the rows, `timeline.py` those of a long file.
"""

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..configuration_omnisent import OmniSentConfig
from ..feeding_omnisent import MOST_TOKENS, Batching, Statistics
from ..readouts.zero_shot import ZeroShotConfig
from .batch import score_clips, settings_of, sources, windows_of, write_rows
from .clips import find_clips
from .loading import Loading, load_pipeline, read_config
from .options import Engine, ScoreOptions
from .output import Emit, Summary, as_json, as_table, summary, window_columns, window_row
from .processes import Process, current_process, wait_for_all
from .ray_engine import score_on_ray
from .readers import allow_open_files, auto_workers
from .results import ResumableWriter, row_columns
from .transcribe import Transcriber


@dataclass(frozen=True)
class ScoreResult:
    """What the command says at the end.

    Attributes:
        messages: where the scores were written, and warnings; one line each.
        failure: how many clips or windows have no score, each of which has its error in its row; `None` if all have one.
    """

    messages: tuple[str, ...]
    failure: str | None


def score(options: ScoreOptions, notify: Callable[[str], None] = print, emit: Emit = print) -> ScoreResult | None:
    """Score clips, or one file over time, with a bundle, or zero-shot with a base model.

    Args:
        options: see there.
        notify: called with messages before scoring starts, one of them what the model says of itself.
        emit: called with the scores that are printed, as a table or as lines of JSON.

    Returns:
        The result; of several processes, `None` in all but the first.

    Raises:
        ValueError: for options that exclude each other, unusable clips or tables, or a part file with other settings.
        FileNotFoundError, FileExistsError: for a bundle or table that does not exist; for an output that already exists.
    """
    options.check()
    allow_open_files()
    logging.set_verbosity_error()  # the errors of this package say what matters
    how = (options.device, options.dtype, options.quantize, options.attn_implementation)
    loading = Loading(options.model, *how, options.score_range)
    run = _score_clips if options.windows is None else _score_windows
    return run(options, loading, notify, emit)


def _score_clips(
    options: ScoreOptions, loading: Loading, notify: Callable[[str], None], emit: Emit
) -> ScoreResult | None:
    config = read_config(loading)
    readout = config.readout if isinstance(config, ZeroShotConfig) else None
    if readout is not None and options.interval is not None:
        raise ValueError(
            f"--interval: {options.model} is a base model, whose zero-shot scores are not calibrated; train it, or leave --interval"
            " out"
        )
    marks = marks_of(config)
    columns = row_columns(
        options.interval, config.targets, zero_shot=readout is not None, about=config.disclaimer is not None
    )
    clips = find_clips(options.files, options.table, options.text, options.table_options(config.targets))
    process = current_process()
    if process.world_size > 1 and (options.file is None or options.engine is Engine.RAY):
        raise ValueError("several processes need --out, and --engine local")
    batching = Batching(options.batch_size, options.batch_tokens or MOST_TOKENS)
    windows, writer = windows_of(clips, batching, process), None
    if options.file:
        own: dict[str, Any] = {"transcribe": options.transcribe, "interval": options.interval, "readout": readout}
        if readout is not None:
            own["score_range"] = (config.score_min, config.score_max)
        several = {"targets": config.targets} if len(config.targets) > 1 else {}
        settings = settings_of(loading, clips, batching, **own, **several)
        writer = ResumableWriter(
            options.file, settings, sources(loading, windows), columns, process, overwrite=options.overwrite
        )
        if writer.changed:
            notify(f"{writer.changed} clips changed since they were scored, and are scored again")
    if process.rank == 0:
        _introduce(options.model, config, notify)
    remaining = [windows[number] for number in writer.missing] if writer else windows
    common: dict[str, Any] = {"batching": batching, "interval": options.interval}
    statistics, workers = Statistics(), options.readers
    if options.engine is Engine.RAY:
        rows = score_on_ray(loading, remaining, workers=workers, transcribe=options.transcribe, **common)
        rows = _timed(rows, statistics)
    else:
        workers = auto_workers([clip for window in remaining for clip in window]) if workers is None else workers
        transcriber = Transcriber(options.transcribe, loading.resolved().device) if options.transcribe else None
        common |= {"workers": workers, "transcriber": transcriber, "statistics": statistics}
        rows = score_clips(load_pipeline(loading), remaining, **common)
    rows = _marked(rows, marks)
    with closing(rows):  # ends the readers
        if writer is None:
            counts = _print(rows, columns, options, config, emit)
        else:
            write_rows(rows, writer)
    if options.stats:
        _write_stats(options.stats, process, {**statistics.to_dict(), "workers": workers})
    messages: tuple[str, ...] = ()
    if writer is not None:
        wait_for_all(process)
        if process.rank > 0:
            return None
        counts = summary(writer.rows())
        if options.prints_rows:
            for row in writer.rows():
                emit(as_json(row, columns))
        writer.finish()
        messages = (f"{counts.clips - counts.failed} scores in {options.file}",)
    messages += counts.warnings(transcribed=options.transcribe is not None)
    return ScoreResult(messages, counts.failure)


def _print(
    rows: Iterable[dict[str, Any]],
    columns: Mapping[str, type],
    options: ScoreOptions,
    config: OmniSentConfig,
    emit: Emit,
) -> Summary:
    """Print rows as they come, or at the end as a table; returns their counts."""
    done = []
    for row in rows:
        done.append(row)
        if options.prints_rows:
            emit(as_json(row, columns))
    if not options.prints_rows:
        emit(as_table(done, columns))
        if config.disclaimer is not None:
            emit(f"{options.model}: {config.disclaimer}")
    return summary(done)


def _timed(rows: Iterable[dict[str, Any]], statistics: Statistics) -> Generator[dict[str, Any], None, None]:
    """The rows of a cluster, counted; how long its models wait is not known here."""
    started, statistics.waiting_seconds = time.perf_counter(), None
    for row in rows:
        statistics.clips, statistics.seconds = statistics.clips + 1, time.perf_counter() - started
        yield row


def marks_of(config: OmniSentConfig) -> dict[str, str]:
    """The cells of every row that say how its score came about, if that limits what it means."""
    marks = {"readout": config.readout} if isinstance(config, ZeroShotConfig) else {}
    return marks | ({} if config.disclaimer is None else {"about": config.disclaimer})


def _marked(
    rows: Generator[dict[str, Any], None, None], marks: Mapping[str, str]
) -> Generator[dict[str, Any], None, None]:
    """The rows, each with the same further cells."""
    with closing(rows):
        for row in rows:
            yield {**row, **marks}


def _write_stats(path: Path, process: Process, values: dict[str, Any]) -> None:
    """Write the statistics of a process; of several processes, each has a file of its own, NAME-RANK.json."""
    if process.world_size > 1:
        path = path.with_stem(f"{path.stem}-{process.rank}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _score_windows(options: ScoreOptions, loading: Loading, notify: Callable[[str], None], emit: Emit) -> ScoreResult:
    from .timeline import write_timeline  # which imports matplotlib

    path = options.files[0]
    window, stride = options.window_and_stride()
    out, other = options.timeline_paths()
    config = read_config(loading)
    _introduce(options.model, config, notify)
    pipeline = load_pipeline(loading)
    scored = write_timeline(
        path,
        pipeline,
        out,
        window=window,
        stride=stride,
        batch_size=options.batch_size,
        other=(other, options.timeline_format) if other and options.timeline_format else None,
    )
    if options.prints_rows:
        marks, columns = marks_of(config), window_columns(config.targets, marks_of(config))
        for one in scored:
            emit(as_json({**window_row(one, config.targets), **marks}, columns))
    failed = sum(window_score.error is not None for window_score in scored)
    files = [str(file) for file in (out, other, out.with_suffix(".png")) if file]
    messages = [f"{len(scored) - failed} of {len(scored)} windows scored; see {', '.join(files[:-1])} and {files[-1]}"]
    if not any(window_score.text for window_score in scored):
        messages.append(
            "no transcript, which carries most of the signal; put a .srt or .vtt file beside the media file"
        )
    failure = f"{failed} of {len(scored)} windows have no score; the column error says why" if failed else None
    return ScoreResult(tuple(messages), failure)


def _introduce(model: str, config: OmniSentConfig, notify: Callable[[str], None]) -> None:
    if config.about is not None:
        notify(f"{model}: {config.about}")
