"""Runs `omnisent score`: clips (`clip_job.py`), or one file over time (`timeline_job.py`)."""

from collections.abc import Callable

from transformers.utils import logging

from .clip_job import ClipJob
from .loading import Loading, read_config
from .options import ScoreOptions
from .output import Emit, ScoreResult, as_json, introduce, marks_of, window_columns, window_row
from .readers import allow_open_files


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
    if options.windows is None or options.explain:
        return ClipJob(options, loading, notify, emit).run()
    return _score_windows(options, loading, notify, emit)


def _score_windows(options: ScoreOptions, loading: Loading, notify: Callable[[str], None], emit: Emit) -> ScoreResult:
    from .timeline_job import score_over_time  # which imports matplotlib

    config = read_config(loading)
    introduce(options.model, config, notify)
    done = score_over_time(options, loading, config, notify)
    if options.prints_rows:
        marks, columns = marks_of(config), window_columns(config)
        for window in done.windows:
            emit(as_json({**window_row(window, config.targets), **marks}, columns))
    count, failed = len(done.windows), sum(window.error is not None for window in done.windows)
    files = [str(file) for file in done.files]
    message = f"{count - failed} of {count} windows scored; see {', '.join(files[:-1])} and {files[-1]}"
    failure = f"{failed} of {count} windows have no score; the column error says why" if failed else None
    return ScoreResult((message, *done.warnings), failure)
