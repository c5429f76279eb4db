"""Scores clips on one machine, from a loaded bundle to rows: in order, in batches and with progress.

The pipeline computes the scores.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from tqdm.auto import tqdm

from ..configuration_omnisent import OmniSentConfig
from ..data.clip import Clip
from ..errors_omnisent import OmniSentError
from ..media_omnisent import longest_seconds, read_header
from ..modeling_omnisent import OmniForSentimentRegression, bundle_folder
from ..pipeline_omnisent import MultimodalSentimentPipeline
from ..processing_omnisent import OmniSentProcessor
from ..training.arguments import ModelArguments
from ..training.backbone import quantization_config
from .clips import transcript_file, transcript_of
from .options import check_number_formats
from .processes import Process
from .results import ResumableWriter, Source, score_cells
from .transcribe import Transcriber

ON_GPU, ON_CPU = "bfloat16", "float32"
BATCHES_AT_ONCE = 32


@dataclass(frozen=True)
class Loading:
    """How a bundle is loaded.

    Attributes:
        model: Hub id or folder.
        device: such as `"cuda:1"` or `"cpu"`; by default the process's own GPU, else the CPU.
        dtype: bfloat16, float16 or float32; by default bfloat16 on a GPU, else float32.
        quantize: `"nf4"` for 4-bit weights.
    """

    model: str
    device: str | None = None
    dtype: str | None = None
    quantize: str | None = None

    def resolved(self) -> "ResolvedLoading":
        """The same, with a value for every field.

        Raises:
            ValueError: for a dtype or quantisation that is not one of those above.
        """
        check_number_formats(self.dtype, self.quantize)
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        device = self.device or (gpu if torch.cuda.is_available() else "cpu")
        return ResolvedLoading(
            self.model, device, self.dtype or (ON_CPU if device == "cpu" else ON_GPU), self.quantize or "none"
        )


@dataclass(frozen=True)
class ResolvedLoading:
    """As `Loading`, with a value for every field; `quantize` is `"none"` for weights that are not quantised."""

    model: str
    device: str
    dtype: str
    quantize: str


@dataclass(frozen=True)
class Summary:
    """Counts of clips: all, failed, scored without a transcript, and scored although a file is only partly readable."""

    clips: int
    failed: int
    without_text: int
    partial: int


def read_config(model: str) -> OmniSentConfig:
    """The configuration of a bundle, a folder or an id on the Hub.

    Raises:
        FileNotFoundError: for a folder that does not exist or holds no bundle.
    """
    folder = bundle_folder(model)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"--model {model}: no config.json in this folder; is it a run folder? Its bundle is model/"
        )
    return OmniSentConfig.from_pretrained(folder)


def load_pipeline(loading: Loading) -> MultimodalSentimentPipeline:
    """Load a bundle for scoring, with the code of this package; none of the bundle's code runs.

    Raises:
        FileNotFoundError: for a folder that does not exist or holds no bundle.
        ValueError: for weights that do not fit.
    """
    resolved = loading.resolved()
    config = read_config(resolved.model)
    arguments = ModelArguments(dtype=resolved.dtype, quantization=resolved.quantize)
    options: dict[str, Any] = {"dtype": getattr(torch, resolved.dtype), "device_map": {"": resolved.device}}
    if resolved.quantize != "none":
        options["quantization_config"] = quantization_config(arguments)
    model = OmniForSentimentRegression.from_pretrained(resolved.model, config=config, **options).eval()
    processor = OmniSentProcessor.from_pretrained(resolved.model)
    return MultimodalSentimentPipeline(model=model, processor=processor)


def settings_of(loading: Loading, clips: Sequence[Clip], batch_size: int, **others: Any) -> dict[str, Any]:
    """The settings that all rows depend on; a command resumes only if they are the same. See `sources` for each row's own."""
    resolved = loading.resolved()
    return {
        **asdict(resolved),
        "device": torch.device(resolved.device).type,
        "batch_size": batch_size,
        **others,
        "clips": len(clips),
        "list of clips": _digest([clip.id for clip in clips]),
    }


def sources(loading: Loading, batches: Sequence[Sequence[Clip]]) -> list[list[Source]]:
    """What each clip's row depends on: its transcript, the size and time of its files, and the bundle. Opens no file."""
    bundle = _weights(loading.model)

    def digest(clip: Clip) -> str:
        files = [path and (path, _stamp(path)) for path in (clip.video, clip.audio, transcript_file(clip))]
        return _digest([bundle, clip.text, [file and (str(file[0]), file[1]) for file in files]])

    return [[Source(clip.id, digest(clip)) for clip in batch] for batch in batches]


def score_clips(
    pipeline: MultimodalSentimentPipeline,
    clips: Sequence[Clip],
    *,
    batch_size: int = 8,
    workers: int = 0,
    transcriber: Transcriber | None = None,
    interval: float | None = None,
) -> Iterator[dict[str, Any]]:
    """One row per clip, in order: id, score and label or the score of each target, seconds, text, a warning if a file is only
    partly readable, an error if there is no score.

    Args:
        pipeline: its modalities and neutral band are used.
        clips: with paths of media, transcripts or both; a transcript file beside a media file is used.
        batch_size: clips per forward pass.
        workers: processes that read media; 0: this process.
        transcriber: transcribes clips without a transcript.
        interval: a level such as 0.9, for `low` and `high` beside each score.
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


def write_rows(rows: Iterator[dict[str, Any]], writer: ResumableWriter) -> None:
    """Write the rows of the batches that a writer is missing, in their order."""
    hidden = None if writer.process.rank == 0 else True
    total = sum(map(len, writer.batches))
    with tqdm(total=total, initial=writer.kept, desc="scoring", unit="clip", disable=hidden) as progress:
        for number in writer.missing:
            batch = list(islice(rows, len(writer.batches[number])))
            writer.add(number, batch)
            progress.update(len(batch))


def batches_of(clips: Sequence[Clip], batch_size: int, process: Process) -> list[list[Clip]]:
    """The batches of one process: with world size W, rank r has the batches r, r + W, r + 2 W, ..."""
    starts = range(process.rank * batch_size, len(clips), process.world_size * batch_size)
    return [list(clips[start : start + batch_size]) for start in starts]


def summary(rows: Iterable[Mapping[str, Any]]) -> Summary:
    """Counts of rows."""
    clips = failed = without_text = partial = 0
    for row in rows:
        clips += 1
        failed += row.get("error") is not None
        without_text += row.get("error") is None and not row.get("text")
        partial += row.get("warning") is not None
    return Summary(clips, failed, without_text, partial)


def as_row(clip: Clip, result: Mapping[str, Any], error: str | None) -> dict[str, Any]:
    """The row of a clip: the pipeline's result, or the error of reading its transcript."""
    row = {"id": clip.id, **score_cells(result), "seconds": _seconds(clip), "text": clip.text}
    return {**row, "error": error} if error else row


def with_text(clip: Clip, transcriber: Transcriber | None) -> tuple[Clip, str | None]:
    """The clip with its transcript, and an error if that cannot be read."""
    try:
        text = transcript_of(clip)
    except (ValueError, OSError) as error:
        return clip, str(error)
    if not text and transcriber is not None:
        text = transcriber(clip)
    return Clip(**{**asdict(clip), "text": text}), None


def _seconds(clip: Clip) -> float | None:
    """The duration that the headers of a clip's files state."""
    try:
        return longest_seconds(read_header(path) for path in (clip.video, clip.audio) if path)
    except OmniSentError:
        return None


def _weights(model: str) -> str:
    """Identifies a bundle: the commit of a Hub id, or the names, sizes and times of a folder's files."""
    folder = bundle_folder(model)
    if not os.path.isdir(model):
        return folder.name
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json", ".jinja"))
    return _digest([(str(path.relative_to(folder)), _stamp(path)) for path in files])


def _stamp(path: str | os.PathLike) -> tuple[int, int] | None:
    """Size and modification time; `None` if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
