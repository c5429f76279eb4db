"""Scores clips on a Ray cluster: actors that read media feed actors that hold the model; rows come back in order.

Needs `pip install 'omnisent[scale]'` on every node, and paths that every node can read. A file that cannot be read
leaves only its own row without a score, and a process that dies repeatedly those of its window of clips.
"""

import os
import pickle
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from ..data.clip import Clip
from ..feeding_omnisent import Batching
from ..pipeline_omnisent import encode_clip
from .loading import Loading, load_pipeline, load_processor
from .readers import ClipReader, row_of, scored_row, transcribed
from .transcribe import Transcriber

DEATHS: dict[str, Any] = {
    "max_restarts": 20,
    "max_task_retries": 2,
}  # limits for an actor, and for one window
DIED = "the process that read or scored it died; score it again alone"


class _Reader:
    """Reads and encodes the clips of a window, on CPUs."""

    def __init__(self, loading: Loading, transcribe: str | None) -> None:
        self.encode = partial(encode_clip, load_processor(loading), on_error="return")
        self.transcriber = Transcriber(transcribe, "cpu") if transcribe else None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        clips, warnings = transcribed(pickle.loads(row["window"]), self.transcriber)
        encoded = list(map(ClipReader(clips, self.encode, warnings).__getitem__, range(len(clips))))
        return {"position": row["position"], "window": pickle.dumps(encoded)}


class _Scorer:
    """Scores an encoded window, on a GPU if there is one."""

    def __init__(self, loading: Loading, batching: Batching, interval: float | None) -> None:
        self.pipeline, self.batching, self.interval = load_pipeline(loading), batching, interval

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        encoded = pickle.loads(row["window"])
        results = self.pipeline.score_encoded(
            encoded, batching=self.batching, on_error="return", interval=self.interval
        )
        rows = list(map(scored_row, encoded, results))
        return {"position": row["position"], "window": pickle.dumps(rows)}


def score_on_ray(
    loading: Loading,
    windows: Sequence[Sequence[Clip]],
    *,
    batching: Batching = Batching(),  # noqa: B008 (frozen)
    workers: int | None = None,
    transcribe: str | None = None,
    interval: float | None = None,
) -> Iterator[dict[str, Any]]:
    """One row per clip, in order, as from `score_clips`; the same windows, so the same batches and scores.

    Args:
        loading: a model that every node can read.
        windows: clips with paths that every node can read, as `windows_of` divides them.
        batching: of a forward pass.
        workers: actors that read media; by default one per CPU that no scorer needs.
        transcribe: a speech recognition model for clips without a transcript; it runs on the readers' CPUs.
        interval: a level such as 0.9, for `low` and `high`.

    Raises:
        ImportError: without Ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError("--engine ray needs Ray: pip install 'omnisent[scale]'") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False)  # the cluster of RAY_ADDRESS, or this machine
    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    on_gpu = gpus > 0 and loading.device != "cpu"
    scorers = gpus if on_gpu else 1
    readers = workers or max(1, cpus - scorers)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.max_errored_blocks = -1  # missing windows are detected below, by their positions
    rows = [{"position": position, "window": pickle.dumps(list(window))} for position, window in enumerate(windows)]
    blocks = min(len(rows), 4 * readers + len(rows) // 4)
    reader: Any = _Reader  # Ray's types know functions only
    scorer: Any = _Scorer
    device: dict[str, Any] = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
    scored = (
        ray.data.from_items(rows, override_num_blocks=blocks)
        .map(reader, fn_constructor_args=(loading, transcribe), concurrency=readers, num_cpus=1, **DEATHS)
        .map(
            scorer,
            fn_constructor_args=(loading, batching, interval),
            concurrency=scorers,
            **device,
            **DEATHS,
        )
    )
    expected = 0
    for row in scored.iter_rows():
        yield from _lost(windows[expected : row["position"]])
        yield from pickle.loads(row["window"])
        expected = row["position"] + 1
    yield from _lost(windows[expected:])


def _lost(windows: Sequence[Sequence[Clip]]) -> Iterator[dict[str, Any]]:
    for window in windows:
        yield from ({**row_of(clip), "error": DIED} for clip in window)
