"""The root files as remote code: what they import, and that nothing of them is missing from a bundle."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

import omnisent
from loopback_hub import LoopbackHub
from omnisent.configuration_omnisent import AUTO_MAP, CUSTOM_PIPELINES
from omnisent.hub.publish import CODE_FILES

ROOT = Path(omnisent.__file__).parent
FILES = sorted({path.name for pattern in CODE_FILES for path in ROOT.glob(pattern)})
BUNDLED = [*FILES, "handler.py"]
ALLOWED = {
    "torch",
    "torchvision",
    "transformers",
    "peft",
    "numpy",
    "av",
    "qwen_omni_utils",
    "huggingface_hub",
    "safetensors",
}


def _required(package: str) -> set[str]:
    return {re.match(r"[\w.-]+", line).group().lower() for line in importlib.metadata.requires(package) or ()}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_root_file_imports_only_what_a_hub_user_has(name):
    others = set(get_imports(ROOT / name)) - set(sys.stdlib_module_names) - ALLOWED
    assert others <= {"soxr"}
    assert "librosa" in _required("qwen-omni-utils")
    assert "soxr" in _required("librosa")


def test_the_named_files_bring_all_their_imports():
    named = {*AUTO_MAP.values(), *(task["impl"] for task in CUSTOM_PIPELINES.values())}
    named |= set(re.findall(r'"(\w+_omnisent\.\w+)"', (ROOT / "handler.py").read_text()))
    modules = {name.split(".")[0] for name in named}
    closure = {f"{module}.py" for module in modules}
    for module in modules:
        closure |= {Path(path).name for path in get_relative_import_files(ROOT / f"{module}.py")}
    assert closure == set(FILES)
    for name in FILES:
        for node in ast.walk(ast.parse((ROOT / name).read_text(), feature_version=(3, 11))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, name
                assert f"{node.module}.py" in FILES, name


def test_a_bundle_is_used_as_the_documentation_says(comparison, whole_clips, tmp_path):
    """The Python blocks of README and docs/PYTHON.md, in a folder that has the bundle and the clip, without this package."""
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "PYTHON.md").read_text().split("## Metrics")[0]
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    for run in ("demo", "tiny"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "model").symlink_to(comparison / "discriminative" / "seed-0" / "model")
    (tmp_path / "runs" / "planted" / "media").mkdir(parents=True)
    for clip in ("clip.mp4", "runs/planted/media/planted-0000_1.mp4"):
        (tmp_path / clip).symlink_to(whole_clips[0].video)
    refuse = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'omnisent':\n"
        "            raise ImportError('omnisent is not installed here')\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    with LoopbackHub() as hub:
        command = [sys.executable, "-c", refuse + "\n".join(blocks)]
        done = subprocess.run(
            command, cwd=tmp_path, env=hub.environment(tmp_path), capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.strip().splitlines()
    assert len(said) == len(re.findall(r"^\s*print\(", "\n".join(blocks), re.MULTILINE))
    score = float(re.search(r"tensor\(\[(.*?)\]", done.stdout).group(1))
    assert f"'score': {score:.3f}"[:-1] in done.stdout
