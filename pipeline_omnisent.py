"""The transformers pipeline "multimodal-sentiment": a file, a clip, or many of them -> score and label.

It only prepares clips and formats results; the processor reads and the model scores. A repository's config.json names it, so that
`pipeline(model="org/omnisent", trust_remote_code=True)` finds it.
"""

import math
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import repeat
from typing import Any, cast

import torch
from torch.utils.data import Dataset
from transformers import BatchFeature, Pipeline

from .errors_omnisent import OmniSentError
from .feeding_omnisent import MOST_TOKENS, Batching, Statistics, read_ahead, score_in_order
from .heads_omnisent import NOT_FINITE
from .losses_omnisent import level_bounds, nested_interval
from .media_omnisent import read_header

LABELS = ("negative", "neutral", "positive")
NOTES = ("warning", "legal_mass")  # of a result, beside its score
ON_ERROR = ("raise", "return")


def has_two_sides(low: float, high: float) -> bool:
    """Whether scores in a range are negative, neutral or positive; other scales, such as 1 to 9, have no such labels."""
    return low < 0 < high


def default_neutral_band(score_max: float) -> float:
    """Scores within this distance of 0 are neutral, label units; `score_max` is the highest score."""
    return 0.1 if score_max <= 1 else 0.5


class MultimodalSentimentPipeline(Pipeline):
    """Scores clips and labels them negative, neutral or positive.

    Inputs are a path of a video or audio file, a clip (a mapping with `text`, `video`, `audio`), or a list, a generator or a
    `datasets` column of either. One input gives one result, a list or column a list, a generator an iterator.

    A result is `{"score": float, "label": str}`: the score in label units, and the label `"neutral"` within `neutral_band` of 0,
    else `"positive"` or `"negative"`. The band is 0.5 for scores in [-3, 3], where such a score rounds to 0, and 0.1 for scores
    in [-1, 1], as CH-SIMS has it. On a scale without two sides, such as 1 to 9, the label is the name of what is rated. With
    several targets a result has `{"scores": {name: float}}`. `warning` is there if part of the clip's files could not be read,
    and `legal_mass` if the model says how much probability all of its answers have.

    Args, of the pipeline or of a call:
        modalities: which of text, audio and video are used; the processor's own by default.
        on_error: `"raise"`, or `"return"` to get `{"error": message}` for a clip that cannot be scored.
        neutral_band: overrides the default, label units.
        interval: a level such as 0.9, to get `low` and `high` too: a prediction interval of that level, calibrated on the
            validation split; of several targets by name.
        pooled: `True` to get `pooled` too: what the head reads of the clip (H,), float32.
        batch_size: most clips of a forward pass; a clip's score does not depend on it.
        batch_tokens: most tokens of a forward pass, with padding.
        num_workers: processes that read media.
        stream: `True` for an iterator, whatever the input.

    Raises:
        OmniSentError: naming the clip that cannot be scored, unless `on_error` is `"return"`.

    Example:
        >>> pipe = pipeline("multimodal-sentiment", model="org/omnisent", trust_remote_code=True)
        >>> pipe({"video": "clip.mp4", "text": "I did not expect to like it."})
    """

    processor: Any  # transformers types it as optional
    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    @property
    def neutral_band(self) -> float:
        """Scores within this distance of 0 are neutral, label units; a call may override it."""
        band = self._postprocess_params.get("neutral_band")
        return default_neutral_band(self.model.config.label_scales[0].high) if band is None else band

    def _sanitize_parameters(
        self,
        modalities: Sequence[str] | None = None,
        on_error: str | None = None,
        neutral_band: float | None = None,
        interval: float | None = None,
        pooled: bool | None = None,
    ) -> tuple[dict, dict, dict]:
        if on_error is not None and on_error not in ON_ERROR:
            raise ValueError(f"on_error must be one of {', '.join(ON_ERROR)}, not {on_error!r}")
        preprocess_params = {"modalities": modalities, "on_error": on_error}
        postprocess_params = {
            "neutral_band": neutral_band,
            "interval": None if interval is None else self._interval(interval),
            "pooled": pooled,
        }
        return _given(preprocess_params), {}, _given(postprocess_params)

    def __call__(
        self,
        inputs: Any,
        *,
        num_workers: int | None = None,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        stream: bool = False,
        **kwargs: Any,
    ):
        preprocess_params, _, postprocess_params = self._sanitize_parameters(**kwargs)
        preprocess_params, postprocess_params = (
            {**self._preprocess_params, **preprocess_params},
            {**self._postprocess_params, **postprocess_params},
        )
        single = isinstance(inputs, str | os.PathLike | Mapping)
        clips = [inputs] if single else inputs
        if not isinstance(clips, Iterable):
            raise TypeError(f"expected a path, a clip, or several of them, not {type(inputs).__name__}")
        found = self._results(
            clips,
            num_workers if num_workers is not None else self._num_workers or 0,
            Batching(
                batch_size if batch_size is not None else self._batch_size or 1,
                batch_tokens if batch_tokens is not None else MOST_TOKENS,
            ),
            preprocess_params,
            postprocess_params,
        )
        if single:
            return next(found)
        return list(found) if hasattr(clips, "__getitem__") and hasattr(clips, "__len__") and not stream else found

    def _results(
        self, clips: Any, num_workers: int, batching: Batching, preprocess_params: dict, postprocess_params: dict
    ) -> Iterator[dict]:
        """Results one by one; media are read ahead, in the workers when there are any."""
        encode = self.encoder(**preprocess_params)
        on_error = preprocess_params.get("on_error", "raise")
        if hasattr(clips, "__getitem__") and hasattr(clips, "__len__"):
            encoded = read_ahead(_Encoded(clips, encode), num_workers, batching)
            sizes, ahead = batching.windows(), num_workers > 0
        else:  # each worker would iterate over the whole stream, which is read no further than results are asked for
            encoded, sizes, ahead = map(encode, clips), repeat(batching.clips), False
        scored = self._scored(encoded, sizes, batching, postprocess_params, ahead=ahead, on_error=on_error)
        return (result for _, result in scored)

    def encoder(self, **kwargs: Any) -> Callable[[Any], dict]:
        """Encodes what `as_clip` takes, also in another process; keywords `modalities` and `on_error`, as in a call."""
        return partial(encode_clip, self.processor, **{**self._preprocess_params, **kwargs})

    def score_read(
        self,
        encoded: Iterable[dict],
        sizes: Iterable[int],
        batching: Batching,
        *,
        ahead: bool = False,
        on_error: str = "raise",
        statistics: Statistics | None = None,
        **kwargs: Any,
    ) -> Generator[tuple[dict, dict], None, None]:
        """Each clip from `encode_clip` with its result, in order.

        Args:
            encoded: the clips.
            sizes: of the windows of clips that are put together by length.
            batching: of a forward pass.
            ahead: prepare batches while the model runs.
            on_error: as in a call.
            statistics: to be counted.
            **kwargs: `neutral_band`, `interval` and `pooled`, as in a call.

        Raises:
            OmniSentError: naming a clip that cannot be scored, unless `on_error` is `"return"`.
        """
        postprocess_params = {**self._postprocess_params, **self._sanitize_parameters(**kwargs)[2]}
        return self._scored(
            encoded, sizes, batching, postprocess_params, ahead=ahead, on_error=on_error, statistics=statistics
        )

    def score_encoded(self, batch: list[dict], *, batching: Batching | None = None, **kwargs: Any) -> list[dict]:
        """Results of clips from `encode_clip`, by default in one forward pass; keywords as in `score_read`."""
        batching = batching or Batching(max(1, len(batch)), sys.maxsize)
        return [result for _, result in self.score_read(batch, [len(batch)], batching, **kwargs)]

    def _scored(
        self,
        encoded: Iterable[dict],
        sizes: Iterable[int],
        batching: Batching,
        postprocess_params: dict,
        *,
        on_error: str,
        **options: Any,
    ) -> Generator[tuple[dict, dict], None, None]:
        pin = self.device.type == "cuda"
        pairs = score_in_order(encoded, sizes, batching, self.processor.pad, self._scores, pin=pin, **options)
        with closing(pairs):
            for clip, scored in pairs:
                result = self.postprocess(scored, **postprocess_params)
                if "error" in result and on_error == "raise":
                    raise OmniSentError(result["error"])
                yield clip, result

    def preprocess(
        self, clip: Any, modalities: Sequence[str] | None = None, on_error: str = "raise"
    ) -> dict[str, torch.Tensor | str]:
        """One clip's inputs, unpadded, or `{"error": message}`."""
        return encode_clip(self.processor, clip, modalities, on_error)

    def _forward(self, inputs: BatchFeature) -> Any:
        """The model's output for a padded batch."""
        return self.model(**inputs)

    def _scores(self, clips: list[dict], inputs: BatchFeature) -> list[dict]:
        """Score of each clip of a padded batch, with its warning if it has one; an error if the score is not finite."""
        rows = masses = states = None
        try:
            output = self.forward(inputs.to(self.device, non_blocking=True))
            scores, rows, masses = output["scores"], output.get("distribution"), output.get("legal_mass")
            states = output.get("pooled")
        except ValueError as error:
            if not _is_a(error, "NotFiniteError"):
                raise
            scores = cast(Any, error).values
        found = scores.reshape(len(clips), -1).tolist()
        results = []
        for place, (clip, own) in enumerate(zip(clips, found, strict=True)):
            if all(map(math.isfinite, own)):
                notes = {"warning": clip.get("warning"), "legal_mass": None if masses is None else masses[place].item()}
                distribution = None if rows is None else rows[place].float()
                pooled = None if states is None else states[place].float()
                results.append({"scores": own, **_given(notes), "distribution": distribution, "pooled": pooled})
            else:
                results.append({"error": f"clip {clip['clip_id']}: {NOT_FINITE}"})
        return results

    def _interval(self, level: float) -> list[tuple[float, dict[float, float]]]:
        """For each target the half-width of a level, and the margins of a distribution's quantiles, by level up to this."""
        if not 0 < level < 1:
            raise ValueError(f"interval: expected a level between 0 and 1 such as 0.9, not {level}")
        return [self._interval_of(target, level) for target in self.model.config.targets]

    def _interval_of(self, target: str, level: float) -> tuple[float, dict[float, float]]:
        calibration = self.model.config.calibration_of(target)
        if calibration and str(level) in calibration["half_widths"]:
            margins = calibration.get("margins") or {}
            lower = {
                float(one): margin for one, margin in margins.items() if str(level) in margins and float(one) <= level
            }
            return calibration["half_widths"][str(level)], lower
        if calibration:
            levels, clips = ", ".join(calibration["half_widths"]), calibration["clips"]
            advice = f"it has those of levels {levels}, from {clips} validation clips"
        else:
            advice = "it is not calibrated; to calibrate it, finish its run again with `--resume_from_checkpoint true`"
        raise ValueError(f"interval: this bundle has no interval of level {level}; {advice}")

    def postprocess(
        self,
        scored: dict,
        neutral_band: float | None = None,
        interval: list[tuple[float, dict[float, float]]] | None = None,
        pooled: bool = False,
    ) -> dict[str, Any]:
        """Score and label of one clip, with its interval if requested, or its error; of several targets the scores by name."""
        if "error" in scored:
            return scored
        config = self.model.config
        scores, distribution = scored["scores"], scored.get("distribution")
        result: dict[str, Any] = {name: value for name, value in scored.items() if name in NOTES}
        if len(scores) == 1:
            result = {"score": scores[0], **result, "label": self._label(scores[0], neutral_band)}
        else:
            result = {"scores": dict(zip(config.targets, scores, strict=True)), **result}
        if pooled:
            result["pooled"] = scored["pooled"]
        if interval is not None:
            ends = [self._ends(place, scores[place], distribution, *one) for place, one in enumerate(interval)]
            for side, values in zip(("low", "high"), zip(*ends, strict=True), strict=True):
                result[side] = values[0] if len(scores) == 1 else dict(zip(config.targets, values, strict=True))
        return result

    def _label(self, score: float, neutral_band: float | None) -> str:
        scale = self.model.config.label_scales[0]
        if not has_two_sides(scale.low, scale.high):
            return self.model.config.targets[0]
        band = self.neutral_band if neutral_band is None else neutral_band
        return LABELS[1 if abs(score) <= band else 2 * (score > 0)]

    def _ends(
        self,
        place: int,
        score: float,
        distribution: torch.Tensor | None,
        half_width: float,
        margins: Mapping[float, float],
    ) -> tuple[float, float]:
        """From where to where the interval of a target reaches."""
        low, high = score - half_width, score + half_width
        if margins and distribution is not None:
            bins = distribution.shape[-1]
            bounds = level_bounds(
                distribution.reshape(-1, 1, bins)[place], self.model.bin_centres.reshape(-1, bins)[place], [*margins]
            )
            low, high = nested_interval(torch.tensor([score]), bounds, torch.tensor([*margins.values()]))[0].tolist()
        scale = self.model.config.label_scales[place]
        return max(low, scale.low), min(high, scale.high)


def as_clip(given: Any) -> Mapping[str, Any]:
    """The clip that a user means: a clip, a path, or a row of a `datasets` media column that is not decoded.

    Raises:
        OmniSentError: for anything else, or for a file that cannot be opened.
    """
    if isinstance(given, Mapping) and "path" in given and not {"text", "video", "audio"} & given.keys():
        if not given["path"]:
            raise OmniSentError("a row without a path: save its bytes to a file first")
        given = given["path"]
    if isinstance(given, Mapping):
        return given
    if isinstance(given, str | os.PathLike):
        return {"video" if read_header(given).has_video else "audio": str(given)}
    raise OmniSentError(
        f"expected a path or a clip with text, video or audio, not {type(given).__name__}; a `datasets` media column must be"
        " cast with decode=False"
    )


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def encode_clip(processor: Any, clip: Any, modalities: Sequence[str] | None = None, on_error: str = "raise") -> dict:
    """Encode what `as_clip` takes; on failure `{"error": message}` with `on_error="return"`, else an exception."""
    try:
        return processor.encode(as_clip(clip), modalities=modalities)
    except ValueError as error:
        if on_error == "raise" or not _is_a(error, "OmniSentError"):
            raise
        return {"error": str(error)}


def _is_a(error: Exception, name: str) -> bool:
    """Compare by name: transformers may load each file of a bundle with its own copies of the error classes."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


class _Encoded(Dataset):
    def __init__(self, clips: Sequence[Any], encode: Callable[[Any], dict]):
        self.clips, self.encode = clips, encode

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        return self.encode(self.clips[index])
