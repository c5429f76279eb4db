"""Rank and world size under `accelerate launch`, and waiting for the other processes."""

import os
from dataclasses import dataclass
from datetime import timedelta

from accelerate import PartialState

LONGEST = timedelta(days=7)  # a process may wait long for another one; the default is half an hour


@dataclass(frozen=True)
class Process:
    """One of `world_size` processes that share the work; `rank` counts from 0."""

    rank: int = 0
    world_size: int = 1


def current_process() -> Process:
    """This process, from the environment variables of the launcher."""
    return Process(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def wait_for_all(process: Process) -> None:
    """Returns when every process has called this."""
    if process.world_size > 1:
        PartialState(timeout=LONGEST).wait_for_everyone()
