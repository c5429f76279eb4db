"""Files of packages on PyPI, fetched with pip: each is pinned by version and SHA-256, and kept, so it is downloaded once.

Only the standard library is imported.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 5  # seconds that pip waits for an answer of the package index


@dataclass(frozen=True)
class PinnedFile:
    """A wheel or source archive of one version of a package.

    Attributes:
        package: its name on PyPI.
        version: of the package.
        name: of the file.
        sha256: of the file, in hex.
        megabytes: its size, for messages.
    """

    package: str
    version: str
    name: str
    sha256: str
    megabytes: float

    def fetch(self, folder: str | Path | None = None) -> Path:
        """The path of the file; downloaded if the folder does not hold it yet.

        Args:
            folder: where it is kept; by default `cache_folder()`.

        Raises:
            OSError: when it cannot be downloaded.
            ValueError: when a file of this name has another content.
        """
        folder = cache_folder() if folder is None else Path(folder)
        path = folder / self.name
        if path.is_file():
            self._check(path)
            return path
        folder.mkdir(parents=True, exist_ok=True)
        print(f"fetching {self.name} ({self.megabytes:g} MB) to {folder}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as draft:
            self._download(draft)
            (Path(draft) / self.name).replace(path)
        return path

    def is_here(self, folder: str | Path | None = None) -> bool:
        """Whether `fetch` would find it without a download."""
        return ((cache_folder() if folder is None else Path(folder)) / self.name).is_file()

    def _download(self, folder: str) -> None:
        kind = ("--only-binary", ":all:") if self.name.endswith(".whl") else ("--no-binary", ":all:")
        options = ("--quiet", "--no-deps", "--disable-pip-version-check", "--retries", "0", "--timeout", str(TIMEOUT))
        # A requirements file is the only place for a hash, which pip checks before it runs a setup.py.
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", *options, *kind, "--dest", folder, "-r", str(wanted)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode or not (Path(folder) / self.name).is_file():
            said = run.stderr.splitlines()
            lines = [line for line in said if line.startswith("ERROR")] or said[-1:] or [f"pip gave no {self.name}"]
            raise OSError(
                f"{self.name} cannot be downloaded ({lines[-1].removeprefix('ERROR: ')}); connect to a package index, or put the"
                f" file into {Path(folder).parent}"
            )

    def _check(self, path: Path) -> None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{path}: expected the file of {self.package} {self.version} with SHA-256 {self.sha256}, found {found}; remove it"
            )


def cache_folder() -> Path:
    """Where downloaded files are kept: `omnisent` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omnisent"
