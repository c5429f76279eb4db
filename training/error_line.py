"""An error as the one line that a command ends with."""

import re


def error_line(error: BaseException) -> str:
    """The message in one line. Of an error that a DataLoader worker passes on, what follows its traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        code = max(number for number, line in enumerate(lines) if line.startswith(("Traceback", "  ")))
        lines = lines[code + 1 :]
        lines[:1] = [re.sub(r"^[\w.]+: ", "", line) for line in lines[:1]]  # the class of the error
    return " ".join(" ".join(lines).split()) or type(error).__name__
