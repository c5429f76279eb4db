"""Feeds a model with batches of encoded clips: of similar length, bounded by tokens, and prepared while the model runs.

Clips are put together within windows, so that results can come in the order of the clips. Knows no model and no score.
"""

import math
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from threading import Thread
from typing import Any

from torch.utils.data import DataLoader
from transformers import BatchFeature

MOST_TOKENS = 16_384
# A clip may be padded by a quarter; by more only in a batch that is too small to keep a GPU busy.
LEAST_FILLED, FEW_TOKENS = 0.75, 2_048
WINDOW_BATCHES, MOST_IN_WINDOW = 4, 64
PREPARED_AHEAD = 2


@dataclass(frozen=True)
class Batching:
    """How many clips one forward pass takes.

    Attributes:
        clips: most of a batch.
        tokens: most of a batch, with its padding; a clip that is longer is a batch of its own.

    Raises:
        ValueError: for less than 1.
    """

    clips: int = 8
    tokens: int = MOST_TOKENS

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.clips), ("batch_tokens", self.tokens)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")

    def windows(self, most: int | None = None) -> Iterator[int]:
        """The sizes of windows of clips that are put together by length: small at first, so that the model starts early.

        Args:
            most: clips of a window of more than one batch.
        """
        batches = WINDOW_BATCHES if self.clips > 1 else 1  # single clips have no padding to save
        most = MOST_IN_WINDOW if most is None else min(most, MOST_IN_WINDOW)
        size, most = self.clips, max(self.clips, min(batches * self.clips, most))
        while True:
            yield size
            size = min(2 * size, most)

    def batches(self, clips: Sequence[dict]) -> list[list[int]]:
        """The places of the clips of each batch, long clips first; clips with an error are in none."""
        lengths = {place: len(clip["input_ids"]) for place, clip in enumerate(clips) if "error" not in clip}
        batches: list[list[int]] = []
        for place in sorted(lengths, key=lambda place: -lengths[place]):
            batch = batches[-1] if batches else []
            longest = lengths[batch[0]] if batch else 0
            fits = 0 < len(batch) < self.clips and longest * (len(batch) + 1) <= self.tokens
            if fits and (lengths[place] >= LEAST_FILLED * longest or longest * len(batch) < FEW_TOKENS):
                batch.append(place)
            else:
                batches.append([place])
        return batches


@dataclass
class Statistics:
    """What scoring took: clips, seconds since the first was asked for, without the start of readers, and in how many of these the
    model waited for clips, if known.
    """

    clips: int = 0
    seconds: float = 0.0
    waiting_seconds: float | None = 0.0

    def to_dict(self) -> dict[str, float | None]:
        """With `clips_per_second` and `waiting_share`, the fraction of the time that the model waited; `None` if not known."""
        rate = share = None
        if self.clips and self.seconds:
            rate = self.clips / self.seconds
            share = None if self.waiting_seconds is None else self.waiting_seconds / self.seconds
        return {"clips": self.clips, "seconds": self.seconds, "clips_per_second": rate, "waiting_share": share}


@dataclass(frozen=True)
class _Prepared:
    """A padded batch: its window, the places of its clips in it, the inputs, and whether it is the last of the window."""

    window: list[dict]
    places: list[int]
    inputs: BatchFeature | None
    is_last: bool


def read_ahead(dataset: Any, workers: int, batching: Batching) -> Iterator[dict]:
    """The items of a map-style data set in order, read ahead by so many processes, which start now; 0: by this one, when asked
    for.
    """
    if workers == 0:
        return map(dataset.__getitem__, range(len(dataset)))
    window = WINDOW_BATCHES * batching.clips
    ahead = max(2, math.ceil(min(window, MOST_IN_WINDOW) / workers))
    return iter(
        DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=ahead,
            collate_fn=_as_it_is,
            worker_init_fn=_end_with_parent,
        )
    )


def score_in_order(
    clips: Iterable[dict],
    sizes: Iterable[int],
    batching: Batching,
    pad: Callable[[Sequence[dict]], BatchFeature],
    score: Callable[[list[dict], BatchFeature], list[dict]],
    *,
    ahead: bool = False,
    pin: bool = False,
    statistics: Statistics | None = None,
) -> Generator[tuple[dict, dict], None, None]:
    """Each encoded clip with its result, in order; a clip with an `error` is its own result.

    Args:
        clips: as `OmniSentProcessor.encode` gives them, or with an `error`.
        sizes: of the windows, one after another.
        batching: within windows.
        pad: the inputs of clips.
        score: the results of clips, from their padded inputs.
        ahead: prepare batches in a thread, while the model runs.
        pin: put inputs into memory from which a GPU copies fast.
        statistics: to be counted.
    """
    counted = statistics or Statistics()
    asked = time.perf_counter()
    started, waited = asked - counted.seconds, counted.waiting_seconds or 0.0
    prepared = _prepare(iter(clips), iter(sizes), batching, pad, pin)
    scored: dict[int, dict] = {}
    batches = _ahead(prepared) if ahead else prepared
    with closing(batches):
        for batch in batches:
            waited += time.perf_counter() - asked
            if batch.inputs is not None:
                own = score([batch.window[place] for place in batch.places], batch.inputs)
                scored.update(zip(batch.places, own, strict=True))
            counted.seconds, counted.waiting_seconds = time.perf_counter() - started, waited
            if batch.is_last:
                counted.clips += len(batch.window)
                for place, clip in enumerate(batch.window):
                    yield clip, {"error": clip["error"]} if "error" in clip else scored[place]
                scored = {}
            asked = time.perf_counter()


def _prepare(
    clips: Iterator[dict], sizes: Iterator[int], batching: Batching, pad: Callable[..., BatchFeature], pin: bool
) -> Generator[_Prepared, None, None]:
    for size in sizes:
        window = list(islice(clips, size))
        if not window:
            return
        batches = batching.batches(window)
        for number, places in enumerate(batches, start=1):
            inputs = pad([window[place] for place in places])
            if pin:
                inputs = BatchFeature({name: values.pin_memory() for name, values in inputs.items()})
            yield _Prepared(window, places, inputs, number == len(batches))
        if not batches:
            yield _Prepared(window, [], None, True)


def _ahead(items: Iterator[Any]) -> Generator[Any, None, None]:
    """The items, PREPARED_AHEAD of them computed in a thread before they are asked for."""
    thread, end = ThreadPoolExecutor(1), object()
    try:
        waiting = deque(thread.submit(next, items, end) for _ in range(PREPARED_AHEAD))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


def _end_with_parent(_: int) -> None:
    """End this worker with the process that started it, however that ends; with unread results, it would wait forever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def _as_it_is(item: Any) -> Any:
    return item
