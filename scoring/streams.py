"""Standard output for scores alone, and silence. Only the standard library is imported."""

import codecs
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import UnsupportedOperation
from typing import TextIO

AS_JSON = "escaped as in JSON"


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(AS_JSON, _escaped)


@contextmanager
def scores_alone() -> Iterator[TextIO]:
    """A stream to standard output; whatever else is printed there meanwhile goes to standard error.

    What its encoding cannot write is escaped as in JSON. Where standard output is closed, nothing is shown.
    """
    if sys.stdout is None:  # it was closed before this process started
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield nowhere
        return
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
        errors = AS_JSON if shown.errors == "strict" else shown.errors
        with open(kept, "w", encoding=shown.encoding, errors=errors, closefd=False) as own:
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
