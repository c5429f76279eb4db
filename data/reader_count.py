"""How many processes may read files at once."""

import os
import shutil

import psutil

READER_BYTES, MOST_READERS = 1 << 30, 16
SHARED_MEMORY = "/dev/shm"


def possible_readers(processes: int = 1, *, hands_over: bool = False) -> int:
    """How many readers the cores and the free memory of this machine allow; 0 if not even one.

    Args:
        processes: that share the machine.
        hands_over: whether frames are handed over, through shared memory, which containers have little of.
    """
    cores = len(os.sched_getaffinity(0)) // processes
    free = psutil.virtual_memory().available
    if hands_over and os.path.isdir(SHARED_MEMORY):
        free = min(free, shutil.disk_usage(SHARED_MEMORY).free)
    return min(cores, free // READER_BYTES // processes, MOST_READERS)
