"""Runs code in a process that cannot import the package, as on the machine of a user who has only a bundle."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

WITHOUT_PACKAGE = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "omnisent":
            raise ImportError("omnisent is not installed here")

sys.meta_path.insert(0, Refuse())
"""


def run_elsewhere(code: str, home: Path, *arguments: str, timeout: int = 300) -> Any:
    """What the code prints last, as JSON; `home` holds the caches."""
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1", "HOME": str(home)}
    command = [sys.executable, "-c", WITHOUT_PACKAGE + textwrap.dedent(code), *arguments]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
