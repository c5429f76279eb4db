"""Runs `omnisent score --windows`: the transcript of a long recording, its windows, and their scores in files.

The transcript is, in this order: a .srt or .vtt file beside the recording; one that an earlier command wrote beside the table; or,
with `--transcribe`, that of a recognition model, which is then written there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..configuration_omnisent import OmniSentConfig
from ..long_media_omnisent import LongMedia
from ..readouts.zero_shot import ZeroShotConfig
from .loading import Loading, load_pipeline
from .long_transcript import check_is_of, transcript_beside, write_transcript
from .options import ScoreOptions
from .results import Source, own_files, refuse_existing
from .row_sources import digest_of, loading_settings, stamp_of, weights_of
from .sentences import sentences
from .subtitles import Cue, read_cues, starting_by, subtitles_beside, words_of
from .timeline import Timeline, TimelineFiles, timeline_windows
from .transcribe import Transcriber, transcriber_settings
from .windows import Window, WindowScore

NO_TRANSCRIPT = (
    "no transcript, which carries most of the signal; put a .srt or .vtt file beside the media file, or give --transcribe"
    " MODEL"
)


@dataclass(frozen=True)
class TimelineResult:
    """All windows, the files that were written, the plot last, and warnings, one line each."""

    windows: list[WindowScore]
    files: list[Path]
    warnings: tuple[str, ...]


def score_over_time(
    options: ScoreOptions, loading: Loading, config: OmniSentConfig, notify: Callable[[str], None]
) -> TimelineResult:
    """Score a recording over time.

    Args:
        options: with `windows`.
        loading: of the model.
        config: of the model.
        notify: called with what is kept of an interrupted command, and which transcript is used.

    Raises:
        OmniSentError: when the file cannot be opened.
        FileExistsError: for files that would be overwritten.
        ValueError: for a part file with other settings, a transcript that is invalid or of another file, and for windows of
            sentences without a transcript.
    """
    table, other = options.timeline_paths()
    files, path = TimelineFiles(table, other, options.timeline_format), Path(options.files[0])
    if not options.overwrite:
        own = own_files(table)
        for file in files.all:
            refuse_existing(file, own)
    with LongMedia(path) as media:
        transcript = _transcript(options, loading, media, table, notify)
        cues = [] if transcript is None else read_cues(transcript)
        _check_sentences(options, cues, transcript, media)
        window, stride = options.window_and_stride()
        windows = timeline_windows(media.duration, window, stride, cues)
        _say_what_is_late(options, cues, transcript, media, notify)
        settings = _settings(options, loading, config)
        timeline = Timeline(
            media,
            windows,
            files,
            config,
            settings,
            _sources(loading, path, windows),
            options.batch_size,
            overwrite=options.overwrite,
        )
        if timeline.changed:
            notify(f"{timeline.changed} windows changed since they were scored, and are scored again")
        elif timeline.kept:
            notify(f"{timeline.kept} of {len(windows)} windows were scored before")
        pipeline = load_pipeline(loading)
        timeline.score(pipeline)
        scored = timeline.finish(pipeline)
        warnings = () if any(one.text for one in scored) else (_why_without_words(options, cues, transcript, media),)
    return TimelineResult(scored, files.all, warnings)


def _transcript(
    options: ScoreOptions, loading: Loading, media: LongMedia, table: Path, notify: Callable[[str], None]
) -> Path | None:
    """The file that the words are read from; it is written if a recognition model is given and there is none."""
    path, own = Path(media.path), transcript_beside(table)
    if beside := subtitles_beside(path):
        return beside
    if own.exists():
        check_is_of(own, path)
        notify(f"the transcript is that of {own}; remove it to transcribe again")
        return own
    if options.transcribe is None or not media.has_audio:
        return None
    model = options.transcribe
    device = loading.resolved().device
    write_transcript(media, own, lambda: Transcriber(model, device), transcriber_settings(model), model, notify)
    notify(f"the transcript is in {own}; correct it, and score again with it")
    return own


def _check_sentences(options: ScoreOptions, cues: list[Cue], transcript: Path | None, media: LongMedia) -> None:
    if not options.is_by_sentence or cues:
        return
    needed = "--windows sentences needs a transcript with times"
    if transcript is not None:
        raise ValueError(f"--windows sentences: {_no_words(transcript)}; give a duration such as 8s")
    if options.transcribe is not None:
        raise ValueError(f"{needed}, and {_no_audio(media)}; give a duration such as 8s")
    raise ValueError(
        f"{needed}, and there is no .srt or .vtt file beside {media.path}; put one there, or give --transcribe MODEL, or a duration"
        " such as 8s"
    )


def _say_what_is_late(
    options: ScoreOptions, cues: list[Cue], transcript: Path | None, media: LongMedia, notify: Callable[[str], None]
) -> None:
    """Say how many sentences of a transcript, or words, start after the end of the file, and refuse if all do."""
    if options.is_by_sentence:
        unit, said = "sentences", sentences(cues)
        kept = [one for one in said if one.start < media.duration]
    else:
        unit, said = "words", _words(cues)
        kept = _words(starting_by(cues, media.duration))
    if len(kept) == len(said):
        return
    late = f"{len(said) - len(kept)} of {len(said)} {unit} of {transcript} start after the file's end, at {media.duration:.1f} s"
    if not kept:
        raise ValueError(f"{late}; is it the transcript of another file?")
    notify(f"{late}, and have no window")


def _words(cues: list[Cue]) -> list[Cue]:
    return [word for cue in cues for word in words_of(cue)]


def _why_without_words(options: ScoreOptions, cues: list[Cue], transcript: Path | None, media: LongMedia) -> str:
    """Why no window has words."""
    if transcript is not None:
        return f"no window has words of {transcript}" if cues else _no_words(transcript)
    if options.transcribe is not None:
        return f"no transcript: {_no_audio(media)}; put a .srt or .vtt file beside it if you have its words"
    return NO_TRANSCRIPT


def _no_words(transcript: Path) -> str:
    return f"the transcript {transcript} has no words"


def _no_audio(media: LongMedia) -> str:
    return f"{media.path} has no audio to transcribe"


def _settings(options: ScoreOptions, loading: Loading, config: OmniSentConfig) -> dict[str, Any]:
    window, stride = options.window_and_stride()
    settings = {
        **loading_settings(loading),
        "batch_size": options.batch_size,
        "windows": window,
        "stride": stride,
        "targets": config.targets,
    }
    if isinstance(config, ZeroShotConfig):
        settings |= {"readout": config.readout, "score_range": (config.score_min, config.score_max)}
    return settings


def _sources(loading: Loading, path: Path, windows: list[Window]) -> list[Source]:
    """Of each window, what its row depends on; opens no file."""
    common = [weights_of(loading.place), str(path), stamp_of(path)]
    return [
        Source(f"{one.start:.3f} to {one.end:.3f}", digest_of([*common, one.start, one.end, one.text]))
        for one in windows
    ]
