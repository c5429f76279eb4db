"""A file of JSON lines that an interrupted command resumes from: a header with the settings, then entries, each on disk at once.

What an entry holds is not known here.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class PartFile:
    """Opens or starts such a file; it is locked until it is closed.

    Args:
        path: in a folder that is made if it is missing.
        header: the settings that all entries depend on.

    Raises:
        ValueError: for a file that is being written by another process, of something else, or with another header; the first
            setting that differs is named.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b")  # noqa: SIM115 (open as long as entries come)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # this kind of lock is not inherited by workers
        except BlockingIOError as error:
            raise ValueError(
                f"{path} is being written by another process; wait for it or give another --out"
            ) from error
        self._check_header(json.loads(json.dumps(header)))

    def entries(self) -> Iterator[dict[str, Any]]:
        """The entries, in the order in which they were added; an incomplete last line, as after a power cut, is removed."""
        self._file.seek(0)
        end = len(self._file.readline())
        for line in self._file:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if entry is None:
                break
            end += len(line)
            yield entry
        self._file.truncate(end)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append an entry; it is on disk when this returns.

        Raises:
            ValueError: for NaN or infinity; nothing is added.
        """
        self._file.write(
            (json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n").encode(errors="backslashreplace")
        )
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _check_header(self, header: Mapping[str, Any]) -> None:
        self._file.seek(0)
        first = self._file.readline()
        if not first.endswith(b"\n"):
            self._file.truncate(0)
            self.add(header)
            return
        try:
            before = json.loads(first)
        except ValueError:
            before = None
        if not isinstance(before, dict):
            raise ValueError(f"{self.path} is not an unfinished file of scores; remove it or give another --out")
        for name, value in header.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{self.path} was started with {name} {before.get(name)}, now it is {value}; remove it or give another --out"
                )
