"""Runs `omnisent score`: clips (`clip_job.py`), or one file over time (`timeline.py`)."""

from collections.abc import Callable

from transformers.utils import logging

from .clip_job import ClipJob
from .loading import Loading, load_pipeline, read_config
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
    from .timeline import write_timeline  # which imports matplotlib

    path = options.files[0]
    window, stride = options.window_and_stride()
    out, other = options.timeline_paths()
    config = read_config(loading)
    introduce(options.model, config, notify)
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
