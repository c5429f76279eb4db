"""Which process this is of those that `accelerate launch` started, and waiting for the others."""

import os
from datetime import timedelta

from accelerate import PartialState

LONGEST = timedelta(days=7)  # a process may have much more to do than another, and by default half an hour is too long


def processes() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_all(share: tuple[int, int]) -> None:
    """Returns when every process has come here."""
    if share[1] > 1:
        PartialState(timeout=LONGEST).wait_for_everyone()
