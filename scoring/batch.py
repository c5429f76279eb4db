"""Scores clips on one machine, from a loaded bundle to rows: in order, window by window, and with progress.

The pipeline computes the scores.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from tqdm.auto import tqdm

from ..data.clip import Clip
from ..feeding_omnisent import Batching, Statistics, read_ahead
from ..pipeline_omnisent import MultimodalSentimentPipeline
from .clips import transcript_file
from .embeddings import POOLED, as_cell
from .loading import Loading
from .processes import Process
from .readers import ClipReader, scored_row, transcribed
from .results import ResumableWriter, Source
from .row_sources import digest_of, loading_settings, stamp_of, weights_of
from .subtitles import subtitles_beside
from .transcribe import Transcriber

CLIPS_TRANSCRIBED_AT_ONCE = 256


def settings_of(loading: Loading, clips: Sequence[Clip], batching: Batching, **others: Any) -> dict[str, Any]:
    """The settings that all rows depend on; a command resumes only if they are the same. See `sources` for each row's own."""
    return {
        **loading_settings(loading),
        "batch_size": batching.clips,
        "batch_tokens": batching.tokens,
        **others,
        "clips": len(clips),
        "list of clips": digest_of([clip.id for clip in clips]),
    }


def sources(loading: Loading, windows: Sequence[Sequence[Clip]], *, explained: bool = False) -> list[list[Source]]:
    """What each clip's row depends on: its transcript, the size and time of its files, and the model; an explained one also on
    subtitles, which windows take their words from. Opens no file.
    """
    model = weights_of(loading.place)

    def digest(clip: Clip) -> str:
        media = clip.video or clip.audio
        beside = [subtitles_beside(media)] if explained and media else []
        files = [path and (path, stamp_of(path)) for path in (clip.video, clip.audio, transcript_file(clip), *beside)]
        return digest_of([model, clip.text, [file and (str(file[0]), file[1]) for file in files]])

    return [[Source(clip.id, digest(clip)) for clip in window] for window in windows]


def score_clips(
    pipeline: MultimodalSentimentPipeline,
    windows: Sequence[Sequence[Clip]],
    *,
    batching: Batching = Batching(),  # noqa: B008 (frozen)
    workers: int = 0,
    transcriber: Transcriber | None = None,
    interval: float | None = None,
    statistics: Statistics | None = None,
    pooled: bool = False,
) -> Generator[dict[str, Any], None, None]:
    """One row per clip, in order: id, score and label or the score of each target, seconds, text, a warning if a file is only
    partly readable or nothing is said in a clip that was to be transcribed, an error if there is no score.

    Args:
        pipeline: its modalities and neutral band are used.
        windows: the clips, as `windows_of` divides them, with paths of media, transcripts or both; a transcript file beside a
            media file is used. Clips of a window are put together by length.
        batching: of a forward pass.
        workers: processes that read media; 0: this process.
        transcriber: transcribes clips without a transcript.
        interval: a level such as 0.9, for `low` and `high` beside each score.
        statistics: to be counted, without transcribing.
        pooled: add the states that the head reads, as text, see `embeddings`.
    """
    for some in _portions(windows) if transcriber else [windows]:
        clips, warnings = transcribed([clip for window in some for clip in window], transcriber)
        reader = ClipReader(clips, pipeline.encoder(on_error="return"), warnings)
        scored = pipeline.score_read(
            read_ahead(reader, workers, batching),
            [len(window) for window in some],
            batching,
            ahead=workers > 0,
            on_error="return",
            statistics=statistics,
            interval=interval,
            pooled=pooled or None,
        )
        with closing(scored):
            for clip, result in scored:
                row = scored_row(clip, result)
                yield {**row, POOLED: as_cell(row[POOLED])} if POOLED in row else row


def _portions(windows: Sequence[Sequence[Clip]]) -> Iterator[Sequence[Sequence[Clip]]]:
    """As many windows at once as have CLIPS_TRANSCRIBED_AT_ONCE clips."""
    first = clips = 0
    for end, window in enumerate(windows, start=1):
        clips += len(window)
        if end == len(windows) or clips >= CLIPS_TRANSCRIBED_AT_ONCE:
            yield windows[first:end]
            first, clips = end, 0


def write_rows(rows: Iterator[dict[str, Any]], writer: ResumableWriter) -> None:
    """Write the rows of the batches that a writer is missing, in their order."""
    hidden = None if writer.process.rank == 0 else True
    total = sum(map(len, writer.batches))
    with tqdm(total=total, initial=writer.kept, desc="scoring", unit="clip", disable=hidden) as progress:
        for number in writer.missing:
            batch = list(islice(rows, len(writer.batches[number])))
            writer.add(number, batch)
            progress.update(len(batch))


def windows_of(clips: Sequence[Clip], batching: Batching, process: Process) -> list[list[Clip]]:
    """The windows of one process; with world size W, rank r has the windows r, r + W, r + 2 W, ..., at least four if there are as
    many batches.
    """
    most = len(clips) // (4 * process.world_size) if process.world_size > 1 else None
    rest, sizes = iter(clips), batching.windows(most)
    windows = list(iter(lambda: list(islice(rest, next(sizes))), []))
    return windows[process.rank :: process.world_size]
