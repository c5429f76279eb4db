"""Scores clips on a Ray cluster: actors that read media feed actors that hold the model; rows come back in order.

Needs `pip install 'omnisent[scale]'` on every node, and paths that every node can read. A file that cannot be read, or a process
that dies, leaves only its own rows without a score.
"""

import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from ..data.clip import Clip
from ..pipeline_omnisent import encode_clip
from ..processing_omnisent import OmniSentProcessor
from .batch import Loading, as_row, load_pipeline, with_text
from .transcribe import Transcriber

DEATHS: dict[str, Any] = {
    "max_restarts": 20,
    "max_task_retries": 2,
}  # limits for an actor, and for one batch
DIED = "the process that read or scored it died; score it again alone"


class _Reader:
    """Reads and encodes the clips of a batch, on CPUs."""

    def __init__(self, model: str, transcribe: str | None) -> None:
        self.processor = OmniSentProcessor.from_pretrained(model)
        self.transcriber = Transcriber(transcribe, "cpu") if transcribe else None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        read = [with_text(clip, self.transcriber) for clip in pickle.loads(row["batch"])]
        encoded = [
            encode_clip(self.processor, None if error else clip.to_dict(), on_error="return") for clip, error in read
        ]
        return {"position": row["position"], "batch": pickle.dumps((read, encoded))}


class _Scorer:
    """Scores an encoded batch, on a GPU if there is one."""

    def __init__(self, loading: Loading, interval: float | None) -> None:
        self.pipeline, self.interval = load_pipeline(loading), interval

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        read, encoded = pickle.loads(row["batch"])
        results = self.pipeline.score_encoded(encoded, on_error="return", interval=self.interval)
        rows = [as_row(clip, result, error) for (clip, error), result in zip(read, results, strict=True)]
        return {"position": row["position"], "batch": pickle.dumps(rows)}


def score_on_ray(
    loading: Loading,
    clips: Sequence[Clip],
    *,
    batch_size: int = 8,
    workers: int = 0,
    transcribe: str | None = None,
    interval: float | None = None,
) -> Iterator[dict[str, Any]]:
    """One row per clip, in order, as from `score_clips`; the same batches, so the same scores.

    Args:
        loading: a bundle that every node can read.
        clips: with paths that every node can read.
        batch_size: clips per forward pass.
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
    context.max_errored_blocks = -1  # missing batches are detected below, by their positions
    batches = [clips[start : start + batch_size] for start in range(0, len(clips), batch_size)]
    rows = [{"position": position, "batch": pickle.dumps(list(batch))} for position, batch in enumerate(batches)]
    blocks = min(len(rows), 4 * readers + len(rows) // 4)
    reader: Any = _Reader  # Ray's types know functions only
    scorer: Any = _Scorer
    device: dict[str, Any] = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
    scored = (
        ray.data.from_items(rows, override_num_blocks=blocks)
        .map(reader, fn_constructor_args=(loading.model, transcribe), concurrency=readers, num_cpus=1, **DEATHS)
        .map(
            scorer,
            fn_constructor_args=(loading, interval),
            concurrency=scorers,
            **device,
            **DEATHS,
        )
    )
    expected = 0
    for row in scored.iter_rows():
        yield from _lost(batches[expected : row["position"]])
        yield from pickle.loads(row["batch"])
        expected = row["position"] + 1
    yield from _lost(batches[expected:])


def _lost(batches: Sequence[Sequence[Clip]]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield from (as_row(clip, {}, DIED) for clip in batch)
