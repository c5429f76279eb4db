"""The wheel: what it holds, and a session with it alone, in an empty folder outside any clone."""

import csv
import json
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import omnisent
from loopback_hub import OWNER, LoopbackHub

ROOT = Path(omnisent.__file__).resolve().parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the files that a clone holds, so that no earlier build gets into it."""
    place = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("needs a git checkout to tell the project's files")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place)]
    subprocess.run([*command, str(place / "source")], check=True, timeout=600)
    return next(place.glob("*.whl"))


@pytest.mark.slow
def test_it_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = [name.removeprefix("omnisent/") for name in file.namelist() if name.startswith("omnisent/")]
        (about,) = (name for name in file.namelist() if name.endswith("METADATA"))
        metadata = Parser().parsestr(file.read(about).decode())
    expected = {path.name for path in ROOT.glob("*.py")}
    for folder in ("data", "evaluation", "experiments", "hub", "readouts", "scoring", "training"):
        expected |= {f"{folder}/{path.name}" for path in (ROOT / folder).glob("*.*")}
    expected |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    expected |= {"model_card.md", "py.typed", "LICENSE"}
    assert set(names) == expected
    assert metadata["Author"] == "omnisent contributors"
    assert metadata["Version"] == omnisent.__version__
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata["Keywords"]
    assert any("https://" in url for url in metadata.get_all("Project-URL"))


@pytest.mark.slow
def test_all_commands_work_from_it_in_an_empty_folder(wheel, planted_root, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    packages = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python, folder = str(tmp_path / "venv" / "bin" / "python"), tmp_path / "empty"
    folder.mkdir()

    def omnisent_(*arguments: str) -> str:
        command = [python, "-c", "from omnisent.cli import main; main()", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    with LoopbackHub() as hub:
        environment = hub.environment(tmp_path / "home")
        environment.pop("PYTHONPATH", None)
        where = [python, "-c", "import omnisent; print(omnisent.__file__)"]
        assert subprocess.check_output(where, cwd=folder, env=environment, text=True).startswith(str(packages))
        assert omnisent_("--version").strip() == omnisent.__version__
        assert "mosi" in omnisent_("train", "--help")
        assert json.loads(omnisent_("plan", "mosi", "--json"))["lora_parameters"] == 103_043_072
        quick = ("--dataset", str(planted_root), "--max_steps", "2", "--eval_steps", "2", "--save_steps", "2")
        quick += (
            "--warmup_steps",
            "1",
            "--dataloader_num_workers",
            "0",
            "--quantization",
            "none",
            "--max_pixels",
            "3136",
        )
        omnisent_("train", "tiny", *quick, "--output_dir", "run")
        assert json.loads((folder / "run" / "environment.json").read_text())["commit"] is None
        omnisent_("compare", "tiny", *quick, "--seeds", "0", "--out", "compared")
        assert set(json.loads((folder / "compared" / "comparison.json").read_text())["arms"]) > {"constant"}
        omnisent_("publish", "run", f"{OWNER}/from-wheel", "--merged")
        published = hub.repositories["model", f"{OWNER}/from-wheel"]
        files = published.commits[published.head]
        assert {"README.md", "config.json", "thinker_omnisent.py", "model.safetensors"} <= files.keys()
        media = next(planted_root.glob("media/*.mp4"))
        omnisent_("score", str(media), "--text", "It was good.", "--model", "run/model", "--out", "scores.csv")
        with (folder / "scores.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert -3 <= float(row["score"]) <= 3
