"""What a new user does with the README alone: the commands of its start and its examples, as pasted, in an empty folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import omnisent
from loopback_hub import OWNER, LoopbackHub
from omnisent.data.tables import read_columns

pytestmark = pytest.mark.slow
README = (Path(omnisent.__file__).parent / "README.md").read_text(encoding="utf-8")
ELSEWHERE = ("/data/", "ratings.csv", "speakers.csv", "lecture.mp4", "app")  # data that are not there, and a server


def commands(section: str) -> list[list[str]]:
    """The arguments of the `omnisent` commands in a section's blocks."""
    text = README.split(f"## {section}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^ {4}omnisent (.+)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines if not any(word in line for word in ELSEWHERE)]


def test_the_readme_can_be_followed(tmp_path):
    with LoopbackHub() as hub:
        environment = hub.environment(tmp_path / "home")

        def run(*command: str) -> str:
            done = subprocess.run(
                [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, (command, done.stderr[-2000:])
            return done.stdout

        said = [run("-m", "omnisent.cli", *arguments) for arguments in commands("Start")]
        (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        score = float(re.search(r"'score': (\S+),", run("-c", block)).group(1))
        assert float(re.search(r"mp4 +(\S+)", said[-1]).group(1)) == pytest.approx(score, abs=0.001)
        (tmp_path / "runs" / "demo").mkdir()
        (tmp_path / "runs" / "demo" / "model").symlink_to(tmp_path / "runs" / "tiny" / "model")
        examples = commands("By task")
        assert {arguments[0] for arguments in examples} >= {"score", "publish", "export"}
        for arguments in examples:
            run("-m", "omnisent.cli", *arguments)
        clips = list((tmp_path / "runs" / "planted" / "media").glob("planted-0000_*.m*"))
        assert len(read_columns(tmp_path / "scores.csv", {"id": str, "score": float})) == len(clips) > 3
        assert len(list(tmp_path.rglob("*.timeline.csv"))) == 1
        assert ("model", f"{OWNER}/name") in hub.repositories
