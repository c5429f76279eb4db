"""Prints the lowest version of each direct dependency that pyproject.toml allows, one requirement a line, with what the tests need.

python tests/lowest.py > requirements.txt
"""

import re
import tomllib
from pathlib import Path

TESTS = ("pytest", "pytest-xdist", "hypothesis", "librosa", "noisereduce")


def lowest(dependencies: list[str]) -> list[str]:
    """`name>=1.2,<2` as `name==1.2`.

    Raises:
        ValueError: for a dependency without a lower bound.
    """
    pinned = []
    for dependency in dependencies:
        bound = re.fullmatch(r"([\w-]+)>=([\w.]+)(,.*)?", dependency)
        if bound is None:
            raise ValueError(f"{dependency}: expected name>=version")
        pinned.append(f"{bound[1]}=={bound[2]}")
    return pinned


if __name__ == "__main__":
    project = tomllib.loads(Path(__file__).parent.parent.joinpath("pyproject.toml").read_text())["project"]
    print("\n".join([*lowest(project["dependencies"]), *TESTS]))
