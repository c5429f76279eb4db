"""Standard output for scores alone, and silence. Only the standard library is imported."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import UnsupportedOperation
from typing import TextIO


@contextmanager
def scores_alone() -> Iterator[TextIO]:
    """A stream to standard output; whatever else is printed there meanwhile goes to standard error."""
    shown = sys.stdout
    shown.flush()
    try:
        descriptor = shown.fileno()
    except UnsupportedOperation:  # a stream of Python alone, which no library of C and no other process writes to
        with redirect_stdout(sys.stderr):
            yield shown
        return
    kept = os.dup(descriptor)
    try:
        with open(kept, "w", encoding=shown.encoding, errors=shown.errors, closefd=False) as own:
            os.dup2(2, descriptor)
            yield own
    finally:
        shown.flush()
        os.dup2(kept, descriptor)
        os.close(kept)


def be_quiet() -> None:
    """No progress bar and no Python warning in this process and its workers from now on; call it before tqdm is imported."""
    os.environ["TQDM_DISABLE"] = "1"
    warnings.simplefilter("ignore")
