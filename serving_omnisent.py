"""Answers requests to an endpoint: clips with their files inside -> scores and labels, as the pipeline gives them.

A file comes as base64 text or as bytes; a path or an address is never opened. handler.py passes requests on from Hugging Face
Inference Endpoints, which turn an exception into an answer with its message. Knows no HTTP.
"""

import base64
import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from transformers.utils import logging

from .errors_omnisent import OmniSentError
from .loading_omnisent import load_pipeline
from .media_omnisent import measure, read_header
from .processing_omnisent import MODALITIES, check_modalities

BATCH_SIZE = 8
MAX_CHARACTERS = 100_000  # of a text; more than any model's prompt holds
FULL_HD, FULL_HD_RATE = 1920 * 1080, 30  # a clip may hold as many pixels as the longest one in full HD
FIELDS = ("id", "text", "video", "audio", "context", "instruction")
FILES = ("video", "audio")
PARAMETERS = ("modalities", "interval", "neutral_band", "instruction")
FAULT = "not scored because of an error in the program; see the log of the endpoint"

logger = logging.get_logger(__name__)


class RequestError(OmniSentError):
    """A request, or a clip of it, that cannot be answered; the message is for its sender and names no file of the server."""


@dataclass(frozen=True)
class Limits:
    """What one request may hold.

    Attributes:
        megabytes: of all its files, million bytes.
        seconds: of all its files together. Their videos may also hold no more pixels than one of this length in full HD at 30
            frames a second.
        clips: of a list.

    Raises:
        ValueError: for a limit that is not above 0.
    """

    megabytes: float = 200.0
    seconds: float = 600.0
    clips: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"{_variable(name)} must be a number above 0, not {value}")

    @classmethod
    def from_environment(cls) -> "Limits":
        """The limits in OMNISENT_MAX_MEGABYTES, OMNISENT_MAX_SECONDS and OMNISENT_MAX_CLIPS, else the defaults.

        Raises:
            ValueError: naming a variable that is not such a number.
        """
        given = {}
        for name, default in vars(cls()).items():
            value = os.environ.get(_variable(name))
            try:
                given[name] = default if value is None else type(default)(value)
            except ValueError:
                raise ValueError(f"{_variable(name)} must be a number above 0, not {value!r}") from None
        return cls(**given)


@dataclass
class Spent:
    """What the files of a request hold that were accepted so far: seconds, and pixels of their frames."""

    seconds: float = 0.0
    pixels: int = 0


class Endpoint:
    """Answers the requests to one bundle, one at a time, from any thread.

    A request is `{"inputs": ..., "parameters": {...}}`. The inputs are a text, the bytes of a video or audio file, a clip, or a
    list of these. A clip is a mapping with any of `text`, `video`, `audio`, `id`, `context` and `instruction`; `video` and `audio`
    are files as base64, also as `data:` URLs. Parameters are `modalities`, `interval`, `neutral_band` and `instruction`.

    Args:
        folder: of the bundle.

    Example:
        >>> endpoint = Endpoint("org-omnisent")
        >>> clip = {"text": "I loved it.", "video": base64.b64encode(video).decode()}
        >>> endpoint({"inputs": clip, "parameters": {"interval": 0.9}})
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.limits = Limits.from_environment()
        self.pipeline = load_pipeline(folder)
        self._lock = Lock()  # the memory of one request at a time

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """The pipeline's result; of a list a list in its order, with `{"error": message}` for a clip that cannot be scored.

        Raises:
            RequestError: what is wrong with the request, or with its only clip.
            RuntimeError: for an error in the program, which is logged.
        """
        with self._lock:
            try:
                with tempfile.TemporaryDirectory(prefix="omnisent-") as folder:
                    return self._answer(data, folder)
            except RequestError:
                raise
            except Exception:
                logger.exception("a request could not be answered")
                raise RuntimeError(FAULT) from None

    def _answer(self, data: Any, folder: str) -> dict[str, Any] | list[dict[str, Any]]:
        if not isinstance(data, Mapping):
            raise RequestError(f'expected an object with "inputs", found {_kind(data)}')
        options, instruction = self._options({} if data.get("parameters") is None else data["parameters"])
        inputs = data.get("inputs")
        several = isinstance(inputs, list)
        items = inputs if isinstance(inputs, list) else [inputs]
        self._check_size(items)
        spent = Spent()
        clips = [self._clip(item, place, folder, instruction, spent) for place, item in enumerate(items, start=1)]
        results = iter(
            self.pipeline(
                [clip for clip in clips if "error" not in clip], batch_size=BATCH_SIZE, on_error="return", **options
            )
        )
        answers = [_without_paths(clip if "error" in clip else next(results), folder) for clip in clips]
        if several:
            return answers
        if "error" in answers[0]:
            raise RequestError(answers[0]["error"])
        return answers[0]

    def _options(self, parameters: Any) -> tuple[dict[str, Any], str | None]:
        """The options of the pipeline, checked, and the instruction; in a query string, numbers and lists are texts."""
        if not isinstance(parameters, Mapping):
            raise RequestError(f"parameters: expected an object, found {_kind(parameters)}")
        given = {name: value for name, value in parameters.items() if value is not None}
        if unknown := [name for name in given if name not in PARAMETERS]:
            raise RequestError(f"parameters: unknown {_quoted(unknown[0])}; expected some of {', '.join(PARAMETERS)}")
        instruction = given.pop("instruction", None)
        if instruction is not None:
            _check_text("parameters: instruction", instruction)
        options: dict[str, Any] = {}
        try:
            for name, value in given.items():
                options[name] = _modalities(value) if name == "modalities" else _number(name, value)
            self.pipeline._sanitize_parameters(**options)
        except ValueError as error:
            raise RequestError(f"parameters: {error}") from None
        return options, instruction

    def _check_size(self, items: list[Any]) -> None:
        """Refuse too many clips, or too large files, before anything of them is decoded."""
        if not 1 <= len(items) <= self.limits.clips:
            raise RequestError(f"inputs: expected 1 to {self.limits.clips} clips, found {len(items)}")
        sizes = [
            len(file) * 3 // 4 if isinstance(file, str) else len(file) for item in items for file in _files_of(item)
        ]
        if (megabytes := sum(sizes) / 1e6) > self.limits.megabytes:
            raise RequestError(
                f"inputs: files of {megabytes:.1f} MB, at most {self.limits.megabytes:g} MB are scored here; cut or compress them"
            )

    def _clip(self, given: Any, place: int, folder: str, instruction: str | None, spent: "Spent") -> dict[str, Any]:
        """The clip that an input means, with its files in the folder, or `{"error": message}`."""
        clip_id: Any = place
        try:
            clip = _as_mapping(given)
            _check_field("id", clip.get("id", place))
            clip_id = clip.get("id") or place
            for name, value in clip.items():
                _check_field(name, value)
            files = {
                name: self._file(clip[name], f"{folder}/{place}.{name}", name, spent)
                for name in clip.keys() & {*FILES, "file"}
            }
            if "file" in files:
                path = files.pop("file")
                files["video" if read_header(path).has_video else "audio"] = path
            clip.pop("file", None)
            own = {} if instruction is None else {"instruction": instruction}
            return {**own, **clip, **files, "id": str(clip_id)}
        except OmniSentError as error:
            return {"error": f"clip {clip_id}: {error}"}

    def _file(self, given: str | bytes, path: str, name: str, spent: "Spent") -> str:
        """Write a file of a request, and refuse one that would take too long to read; returns its path."""
        Path(path).write_bytes(_decoded(given, name))
        extent, most = measure(path), self.limits.seconds
        if spent.seconds + extent.seconds > most:
            before = f", after {spent.seconds:.0f} s of other files in the request" if spent.seconds else ""
            raise RequestError(
                f"{name}: it lasts {extent.seconds:.0f} s{before}, at most {most:g} s are scored here; cut it or send less"
            )
        if spent.pixels + extent.frames * extent.frame_pixels > most * FULL_HD_RATE * FULL_HD:
            raise RequestError(
                f"{name}: {extent.frames} frames of {extent.frame_pixels} pixels are more than {most:g} s in full HD at"
                f" {FULL_HD_RATE} frames a second, the most that is scored here; scale it down or cut it"
            )
        spent.seconds += extent.seconds
        spent.pixels += extent.frames * extent.frame_pixels
        return path


def _variable(name: str) -> str:
    return f"OMNISENT_MAX_{name.upper()}"


def _as_mapping(given: Any) -> dict[str, Any]:
    """What an input means: a text, the bytes of a `file` that is video or audio, or a clip, without empty fields."""
    if isinstance(given, str):
        return {"text": given}
    if isinstance(given, bytes):
        return {"file": given}
    if not isinstance(given, Mapping):
        raise RequestError(f"expected a text or a clip with {' or '.join(MODALITIES)}, found {_kind(given)}")
    if unknown := [name for name in given if name not in FIELDS]:
        raise RequestError(f"unknown field {_quoted(unknown[0])}; expected some of {', '.join(FIELDS)}")
    return {name: value for name, value in given.items() if value is not None}


def _check_field(name: str, value: Any) -> None:
    if name == "id":
        if not isinstance(value, str | int) or len(str(value)) > 200:
            raise RequestError(f"id: expected a short text, found {_kind(value)}")
    elif name == "context":
        if not isinstance(value, list):
            raise RequestError(f"context: expected a list of texts, found {_kind(value)}")
        for text in value:
            _check_text("context", text)
    elif name in ("text", "instruction"):
        _check_text(name, value)


def _check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise RequestError(f"{name}: expected a text, found {_kind(text)}")
    if len(text) > MAX_CHARACTERS:
        raise RequestError(f"{name}: {len(text)} characters, at most {MAX_CHARACTERS} are scored here; shorten it")


def _number(name: str, value: Any) -> float:
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise RequestError(f"{name}: expected a number such as 0.9, found {_quoted(value)}")
    return number


def _modalities(value: Any) -> list[str]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(f"modalities must be some of {', '.join(MODALITIES)}, not {_quoted(value)}")
    return check_modalities(names)


def _files_of(given: Any) -> list[str | bytes]:
    """The files of an input, as they came."""
    if isinstance(given, bytes):
        return [given]
    files = [given.get(name) for name in FILES] if isinstance(given, Mapping) else []
    return [file for file in files if isinstance(file, str | bytes)]


def _decoded(given: Any, name: str) -> bytes:
    """The bytes of a file."""
    if isinstance(given, bytes):
        return given
    if not isinstance(given, str):
        raise RequestError(f"{name}: expected a file as base64, found {_kind(given)}")
    head, _, body = given.partition(",") if given.startswith("data:") else ("", "", given)
    try:
        if head and not head.endswith(";base64"):
            raise ValueError("a data: URL of another encoding")
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError:
        raise RequestError(
            f"{name}: expected the file itself as base64, found text that is not; paths and addresses are not opened"
        ) from None


def _without_paths(result: dict[str, Any], folder: str) -> dict[str, Any]:
    """A result whose messages name a file by its field, not by its path."""
    hidden = re.compile(rf"{re.escape(folder)}/\d+\.(\w+)")
    return {name: hidden.sub(r"\1", value) if isinstance(value, str) else value for name, value in result.items()}


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _quoted(value: Any) -> str:
    return repr(value)[:40]
