"""Scores clips on one machine, from a loaded bundle to rows: in order, in batches, with progress, and gone on with after a stop.

It adds nothing to a score: the pipeline makes it.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..data.clip import Clip
from ..media_omnisent import OmniSentError, longest_seconds, read_header
from ..modeling_omnisent import OmniForSentimentRegression
from ..pipeline_omnisent import MultimodalSentimentPipeline
from ..processing_omnisent import OmniSentProcessor
from ..training.arguments import DTYPES, QUANTIZATIONS, ModelArguments
from ..training.backbone import quantization_config
from .clips import transcript_of
from .results import Journal
from .transcribe import Transcriber

ON_GPU, ON_CPU = "bfloat16", "float32"
BATCHES_AT_ONCE = 32


@dataclass(frozen=True)
class Loading:
    """How a bundle is loaded.

    Attributes:
        model: Hub id or folder.
        device: such as `"cuda:1"` or `"cpu"`; the process's own GPU where there is one.
        dtype: bfloat16, float16 or float32; bfloat16 on a GPU and float32 elsewhere.
        quantize: `"nf4"` for 4-bit weights.
    """

    model: str
    device: str | None = None
    dtype: str | None = None
    quantize: str | None = None

    def resolved(self) -> "Loading":
        """The same, with what was left open.

        Raises:
            ValueError: for a dtype or quantisation that is not one of those above.
        """
        for name, value, known in (("dtype", self.dtype, DTYPES), ("quantize", self.quantize, QUANTIZATIONS)):
            if value is not None and value not in known:
                raise ValueError(f"--{name} must be one of {', '.join(known)}, not {value!r}")
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        device = self.device or (gpu if torch.cuda.is_available() else "cpu")
        return Loading(
            self.model, device, self.dtype or (ON_CPU if device == "cpu" else ON_GPU), self.quantize or "none"
        )


@dataclass(frozen=True)
class Summary:
    """Of n clips, how many have no score, and how many were scored without a transcript."""

    clips: int
    failed: int
    without_text: int


def load_pipeline(loading: Loading) -> MultimodalSentimentPipeline:
    """A bundle, ready to score; the code is this package's, none of the bundle's is run.

    Raises:
        FileNotFoundError: for a folder that does not exist or holds no bundle.
        ValueError: for weights that do not fit.
    """
    wanted = loading.resolved()
    path = Path(wanted.model)
    if (path.is_absolute() or wanted.model.startswith(".") or wanted.model.count("/") != 1) and not path.is_dir():
        raise FileNotFoundError(
            f"--model {wanted.model}: no such folder; give a bundle's folder or the id of one on the Hub"
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"--model {wanted.model}: no config.json in this folder; is it a run folder? Its bundle is model/"
        )
    arguments = ModelArguments(dtype=wanted.dtype, quantization=wanted.quantize)
    options: dict[str, Any] = {"dtype": getattr(torch, wanted.dtype), "device_map": {"": wanted.device}}
    if wanted.quantize != "none":
        options["quantization_config"] = quantization_config(arguments)
    model = OmniForSentimentRegression.from_pretrained(wanted.model, **options).eval()
    processor = OmniSentProcessor.from_pretrained(wanted.model)
    return MultimodalSentimentPipeline(model=model, processor=processor)


def described(loading: Loading, clips: Sequence[Clip], batch_size: int, **settings: Any) -> dict[str, Any]:
    """What rows depend on: they go on in a journal only where all of it is the same."""
    names = hashlib.sha256(json.dumps([asdict(clip) for clip in clips]).encode()).hexdigest()
    wanted = loading.resolved()
    return {
        **asdict(wanted),
        "device": torch.device(wanted.device).type,
        "weights": _weights(loading.model),
        "batch_size": batch_size,
        **settings,
        "clips": len(clips),
        "list of clips": names,
    }


def score_clips(
    pipeline: MultimodalSentimentPipeline,
    clips: Sequence[Clip],
    *,
    batch_size: int = 8,
    workers: int = 0,
    transcriber: Transcriber | None = None,
    interval: float | None = None,
) -> Iterator[dict[str, Any]]:
    """One row a clip, in order: id, score, label, seconds, text, and error where there is no score.

    Args:
        pipeline: its modalities and neutral band are used.
        clips: with paths of media, texts or both; a text beside a media file is found.
        batch_size: clips a forward pass.
        workers: processes that read media; none reads in this one.
        transcriber: writes a text for clips that have none.
        interval: a level such as 0.9, for `low` and `high` beside the score.
    """
    for start in range(0, len(clips), batch_size * BATCHES_AT_ONCE):
        some = clips[start : start + batch_size * BATCHES_AT_ONCE]
        read = [with_text(clip, transcriber) for clip in some]
        inputs = [None if error else clip.to_dict() for clip, error in read]
        results = pipeline(
            inputs, batch_size=batch_size, num_workers=workers, on_error="return", stream=True, interval=interval
        )
        for (clip, error), result in zip(read, results, strict=True):
            yield as_row(clip, result, error)


def write_rows(rows: Iterator[dict[str, Any]], journal: Journal, clips: int) -> None:
    """Keeps the rows that a journal lacks of so many clips, batch by batch."""
    first = journal.share[0] == 0
    with tqdm(
        total=clips, initial=journal.done, desc="scoring", unit="clip", disable=None if first else True
    ) as progress:
        while batch := list(islice(rows, journal.batch)):
            journal.add(batch)
            progress.update(len(batch))


def share_of(clips: Sequence[Clip], batch_size: int, share: tuple[int, int]) -> list[Clip]:
    """The clips of one process of several: every so many-th batch, so that each has its part of what is long."""
    process, processes = share
    starts = range(process * batch_size, len(clips), processes * batch_size)
    return [clip for start in starts for clip in clips[start : start + batch_size]]


def summary(rows: Iterator[Mapping[str, Any]]) -> Summary:
    """Counts of rows."""
    clips = failed = without_text = 0
    for row in rows:
        clips += 1
        failed += row.get("error") is not None
        without_text += row.get("error") is None and not row.get("text")
    return Summary(clips, failed, without_text)


def as_row(clip: Clip, result: Mapping[str, Any], error: str | None) -> dict[str, Any]:
    """The row of a clip: what the pipeline says of it, or why its text cannot be read."""
    row = {"id": clip.id, **result, "seconds": _seconds(clip), "text": clip.text}
    return {**row, "error": error} if error else row


def with_text(clip: Clip, transcriber: Transcriber | None) -> tuple[Clip, str | None]:
    """The clip with its transcript, and why there is none where it cannot be read."""
    try:
        text = transcript_of(clip)
    except (ValueError, OSError) as error:
        return clip, str(error)
    if not text and transcriber is not None:
        text = transcriber(clip)
    return Clip(**{**asdict(clip), "text": text}), None


def _seconds(clip: Clip) -> float | None:
    """The duration that a clip's files state."""
    try:
        return longest_seconds(read_header(path) for path in (clip.video, clip.audio) if path)
    except OmniSentError:
        return None


def _weights(model: str) -> str | None:
    """What tells one folder's weights from another's: names, sizes and times; `None` for an id on the Hub."""
    if not os.path.isdir(model):
        return None
    files = sorted(path for path in Path(model).rglob("*") if path.suffix in (".safetensors", ".json"))
    stamps = [(str(path.relative_to(model)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
