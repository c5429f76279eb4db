"""Formats an error as the single line that a command prints."""

import re


def error_line(error: BaseException) -> str:
    """The message in one line; for an error from a DataLoader worker, the part after its traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if any(line.endswith("Traceback (most recent call last):") for line in lines):
        code = max(
            number for number, line in enumerate(lines) if line.startswith(("Traceback", "Original Traceback", "  "))
        )
        lines = lines[code + 1 :]
        lines[:1] = [re.sub(r"^[\w.]+: ", "", line) for line in lines[:1]]  # the name of the error class
    return " ".join(" ".join(lines).split()) or type(error).__name__
