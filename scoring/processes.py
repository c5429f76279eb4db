"""Which process this is of those that `accelerate launch` started, and waiting for the others."""

import os
from dataclasses import dataclass
from datetime import timedelta

from accelerate import PartialState

LONGEST = timedelta(days=7)  # a process may have much more to do than another, and by default half an hour is too long


@dataclass(frozen=True)
class Process:
    """One of `world_size` processes that do the same work together; `rank` is its number from 0 on."""

    rank: int = 0
    world_size: int = 1


def current_process() -> Process:
    """This process, by the variables that a launcher sets."""
    return Process(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def wait_for_all(process: Process) -> None:
    """Returns when every process has called this."""
    if process.world_size > 1:
        PartialState(timeout=LONGEST).wait_for_everyone()
