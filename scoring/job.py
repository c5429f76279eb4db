"""Runs `omnisent score`: finds the clips, scores them in this process, in several or on Ray, and writes the rows.

`batch.py` and `ray_engine.py` compute the rows, `timeline.py` those of a long file.
"""

import json
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..configuration_omnisent import OmniSentConfig
from ..feeding_omnisent import MOST_TOKENS, Batching, Statistics
from ..readouts.zero_shot import ZeroShotConfig
from .batch import Summary, score_clips, settings_of, sources, summary, windows_of, write_rows
from .clips import find_clips
from .loading import Loading, load_pipeline, read_config
from .options import Engine, ScoreOptions
from .processes import Process, current_process, wait_for_all
from .ray_engine import score_on_ray
from .readers import allow_open_files, auto_workers
from .results import ResumableWriter, row_columns
from .transcribe import Transcriber, transcriber_settings


@dataclass(frozen=True)
class ScoreResult:
    """What the command prints at the end.

    Attributes:
        message: the scores as a table, or where they were written.
        warnings: one line each.
        failed: clips or windows without a score; each has its error in its row.
    """

    message: str
    warnings: tuple[str, ...]
    failed: int


def score(options: ScoreOptions, notify: Callable[[str], None] = print) -> ScoreResult | None:
    """Score clips, or one file over time, with a bundle, or zero-shot with a base model.

    Args:
        options: see there.
        notify: called with messages before scoring starts, one of them what the model says of itself.

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
    return (
        _score_clips(options, loading, notify) if options.windows is None else _score_windows(options, loading, notify)
    )


def _score_clips(options: ScoreOptions, loading: Loading, notify: Callable[[str], None]) -> ScoreResult | None:
    config = read_config(loading)
    readout = config.readout if isinstance(config, ZeroShotConfig) else None
    if readout is not None and options.interval is not None:
        raise ValueError(
            f"--interval: {options.model} is a base model, whose zero-shot scores are not calibrated; train it, or leave --interval"
            " out"
        )
    columns = row_columns(options.interval, config.targets, zero_shot=readout is not None)
    clips = find_clips(options.files, options.table, options.text, options.table_options(config.targets))
    process = current_process()
    if process.world_size > 1 and (options.out is None or options.engine is Engine.RAY):
        raise ValueError("several processes need --out, and --engine local")
    batching = Batching(options.batch_size, options.batch_tokens or MOST_TOKENS)
    windows, writer = windows_of(clips, batching, process), None
    if options.out:
        transcription = transcriber_settings(options.transcribe) if options.transcribe else {"transcribe": None}
        own: dict[str, Any] = {**transcription, "interval": options.interval, "readout": readout}
        if readout is not None:
            own["score_range"] = (config.score_min, config.score_max)
        several = {"targets": config.targets} if len(config.targets) > 1 else {}
        settings = settings_of(loading, clips, batching, **own, **several)
        writer = ResumableWriter(options.out, settings, sources(loading, windows), columns, process)
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
    if readout is not None:
        rows = _marked(rows, readout)
    if writer is None:
        all_rows = list(rows)
        counts = summary(all_rows)
        message = _as_text(all_rows, list(columns))
    else:
        with closing(rows):  # ends the readers
            write_rows(rows, writer)
    if options.stats:
        _write_stats(options.stats, process, {**statistics.to_dict(), "workers": workers})
    if writer is not None:
        wait_for_all(process)
        if process.rank > 0:
            return None
        counts = summary(writer.rows())
        writer.finish()
        message = f"{counts.clips - counts.failed} scores in {options.out}"
    return ScoreResult(message, _warnings(counts, options), counts.failed)


def _timed(rows: Iterable[dict[str, Any]], statistics: Statistics) -> Generator[dict[str, Any], None, None]:
    """The rows of a cluster, counted; how long its models wait is not known here."""
    started, statistics.waiting_seconds = time.perf_counter(), None
    for row in rows:
        statistics.clips, statistics.seconds = statistics.clips + 1, time.perf_counter() - started
        yield row


def _marked(rows: Generator[dict[str, Any], None, None], readout: str) -> Generator[dict[str, Any], None, None]:
    """The rows, each with how its score was read out."""
    with closing(rows):
        for row in rows:
            yield {**row, "readout": readout}


def _write_stats(path: Path, process: Process, values: dict[str, Any]) -> None:
    """Write the statistics of a process; of several processes, each has a file of its own, NAME-RANK.json."""
    if process.world_size > 1:
        path = path.with_stem(f"{path.stem}-{process.rank}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _score_windows(options: ScoreOptions, loading: Loading, notify: Callable[[str], None]) -> ScoreResult:
    from .timeline_job import score_over_time  # which imports matplotlib

    config = read_config(loading)
    _introduce(options.model, config, notify)
    done = score_over_time(options, loading, config, notify)
    failed, files = sum(window.error is not None for window in done.windows), [str(file) for file in done.files]
    message = f"{len(done.windows) - failed} of {len(done.windows)} windows scored; see {', '.join(files[:-1])} and {files[-1]}"
    return ScoreResult(message, done.warnings, failed)


def _introduce(model: str, config: OmniSentConfig, notify: Callable[[str], None]) -> None:
    if config.about is not None:
        notify(f"{model}: {config.about}")


def _as_text(rows: list[dict[str, Any]], columns: list[str]) -> str:
    import pandas as pd

    table = pd.DataFrame(rows, columns=columns)
    unused = [name for name in ("seconds", "warning", "error") if table[name].isna().all()]
    table = table.drop(columns=["text", *unused])
    return table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}")


def _warnings(counts: Summary, options: ScoreOptions) -> tuple[str, ...]:
    lines = []
    if counts.without_text:
        hint = "" if options.transcribe else "; use a .txt beside each file, --text or --transcribe MODEL"
        lines.append(
            f"{counts.without_text} of {counts.clips} clips without a transcript, which carries most of the signal{hint}"
        )
    if counts.nothing_said:
        lines.append(f"{counts.nothing_said} of {counts.clips} clips have no speech in their audio to transcribe")
    if counts.partial:
        lines.append(
            f"{counts.partial} of {counts.clips} clips partly unreadable; the column warning says what is missing"
        )
    if counts.failed:
        lines.append(f"{counts.failed} of {counts.clips} clips have no score; the column error says why")
    return tuple(lines)
