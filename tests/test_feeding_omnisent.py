"""Every clip is in one batch, no batch is too large, and results come in the order of the clips."""

import subprocess
import sys
import threading
import time
from itertools import islice

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BatchFeature

from omnisent.feeding_omnisent import Batching, Statistics, read_ahead, score_in_order
from properties import examples


def clip_of(tokens: int, number: int = 0) -> dict:
    return {"input_ids": torch.full((tokens,), number)}


def pad(clips) -> BatchFeature:
    return BatchFeature({"numbers": torch.stack([clip["input_ids"][0] for clip in clips])})


def score(clips, inputs) -> list[dict]:
    return [{"score": float(number)} for number in inputs["numbers"]]


@examples(200)
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 9), st.integers(1, 120))
def test_a_batch_holds_no_more_clips_and_tokens_than_it_may(lengths, most_clips, most_tokens):
    clips = [clip_of(length) for length in lengths]
    batches = Batching(most_clips, most_tokens).batches(clips)
    assert sorted(place for batch in batches for place in batch) == list(range(len(clips)))
    for batch in batches:
        assert len(batch) <= most_clips
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= most_tokens
    longest = [max(lengths[place] for place in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize(
    ("clips", "sizes"), [(1, [1, 1, 1, 1]), (8, [8, 16, 32, 32]), (40, [40, 64, 64, 64]), (100, [100, 100, 100, 100])]
)
def test_windows_grow_from_one_batch(clips, sizes):
    assert list(islice(Batching(clips).windows(), 4)) == sizes


def test_clips_of_other_lengths_share_a_batch_only_if_it_is_small():
    lengths = [3000, 2900, 2200, 900, 120, 60, 10]
    batches = Batching(8).batches([clip_of(length) for length in lengths])
    assert [[lengths[place] for place in batch] for batch in batches] == [[3000, 2900], [2200], [900, 120, 60], [10]]


def test_windows_can_be_smaller_but_hold_a_batch():
    assert list(islice(Batching(8).windows(20), 4)) == [8, 16, 20, 20]
    assert list(islice(Batching(8).windows(3), 2)) == [8, 8]


@pytest.mark.parametrize("field", ["clips", "tokens"])
def test_an_empty_batch_is_refused(field):
    with pytest.raises(ValueError, match="must be at least 1, not 0"):
        Batching(**{field: 0})


@pytest.mark.parametrize("ahead", [False, True])
def test_results_are_in_the_order_of_the_clips(ahead):
    clips = [clip_of(1 + 7 * number % 11, number) for number in range(30)]
    clips[4] = {"error": "no such file"}
    clips[5] = {"error": "damaged"}
    batching, statistics = Batching(2), Statistics()
    found = list(score_in_order(clips, [2, 4, 2, 100], batching, pad, score, ahead=ahead, statistics=statistics))
    assert [clip for clip, _ in found] == clips
    expected = [{"score": float(number)} for number in range(30)]
    expected[4:6] = clips[4:6]
    assert [result for _, result in found] == expected
    assert statistics.clips == 30


def test_a_window_of_errors_alone_is_passed_through():
    clips = [{"error": "a"}, {"error": "b"}]
    assert [result for _, result in score_in_order(clips, [2], Batching(2), pad, score)] == clips


def test_no_clip_is_read_before_it_is_needed():
    read = []

    def clips():
        for number in range(6):
            read.append(number)
            yield clip_of(3, number)

    scored = score_in_order(clips(), [2, 2, 2], Batching(2), pad, score)
    assert read == []
    next(scored)
    assert read == [0, 1]


def test_a_failure_in_the_thread_is_raised_and_its_thread_ends():
    def clips():
        yield clip_of(3, 0)
        raise OSError("the disk is gone")

    scored = score_in_order(clips(), [1, 1], Batching(1), pad, score, ahead=True)
    assert next(scored)[1] == {"score": 0.0}
    with pytest.raises(OSError, match="the disk is gone"):
        next(scored)


def slowly(seconds: float, function):
    def slow(*arguments):
        time.sleep(seconds)
        return function(*arguments)

    return slow


@pytest.mark.parametrize(("reading", "scoring", "low", "high"), [(0.02, 0.0, 0.8, 1.0), (0.0, 0.02, 0.0, 0.2)])
def test_the_share_of_waiting_is_that_of_reading(reading, scoring, low, high):
    statistics = Statistics()
    clips = map(slowly(reading, lambda number: clip_of(3, number)), range(10))
    list(score_in_order(clips, [1] * 10, Batching(1), pad, slowly(scoring, score), statistics=statistics))
    values = statistics.to_dict()
    assert low <= values["waiting_share"] <= high
    assert values["clips_per_second"] == values["clips"] / values["seconds"] == 10 / values["seconds"]


def test_a_generator_that_is_closed_ends_its_thread():
    scored = score_in_order(map(clip_of, [3] * 9), [1] * 9, Batching(1), pad, score, ahead=True)
    next(scored)
    assert any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())
    scored.close()
    assert not any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())


def test_batches_are_prepared_while_the_model_runs():
    alone, ahead = Statistics(), Statistics()
    for statistics, is_ahead in ((alone, False), (ahead, True)):
        clips = map(slowly(0.02, lambda number: clip_of(3, number)), range(10))
        list(
            score_in_order(
                clips, [1] * 10, Batching(1), pad, slowly(0.03, score), ahead=is_ahead, statistics=statistics
            )
        )
    assert ahead.waiting_seconds < 0.5 * alone.waiting_seconds


def test_without_clips_nothing_is_known():
    assert Statistics().to_dict() == {"clips": 0, "seconds": 0.0, "clips_per_second": None, "waiting_share": None}


class Numbers:
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict:
        return clip_of(2, index)


@pytest.mark.parametrize("workers", [0, 1])
def test_items_are_read_in_order(workers):
    assert [int(clip["input_ids"][0]) for clip in read_ahead(Numbers(), workers, Batching())] == list(range(20))


READING = """
import multiprocessing, os, sys, time
import torch
from omnisent.feeding_omnisent import Batching, read_ahead

class Large:  # items that fill the pipe to a parent that does not read them
    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        return {"input_ids": torch.zeros(2), "words": "so " * 50_000, "process": os.getpid()}

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    reading = read_ahead(Large(), 2, Batching())
    print(next(reading)["process"], next(reading)["process"], flush=True)
    time.sleep(300)
"""


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_readers_end_when_their_parent_is_killed(method, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(READING)
    with subprocess.Popen([sys.executable, str(script), method], stdout=subprocess.PIPE, text=True) as parent:
        readers = [psutil.Process(int(number)) for number in parent.stdout.readline().split()]
        assert len(set(readers)) == 2
        assert all(map(psutil.Process.is_running, readers))
        time.sleep(0.5)  # both wait for the pipe
        parent.kill()
        _, left = psutil.wait_procs(readers, timeout=20)
        for reader in left:
            reader.kill()
    assert left == []
