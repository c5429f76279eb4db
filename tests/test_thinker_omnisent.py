"""Knowledge of the Thinker lies in one place, and its layout is that of a published checkpoint."""

import ast
import re
from pathlib import Path

import pytest
from safetensors import safe_open

import omnisent
from omnisent.families_omnisent import DEFAULT_FAMILY
from omnisent.family_omnisent import TOWERS
from omnisent.thinker_omnisent import thinker_config

ROOT = Path(omnisent.__file__).parent
FAMILY_FILES = {"families_omnisent.py", "thinker_qwen2_5_omni.py", "thinker_qwen3_omni.py"}
COMPARES_WITH_THE_OFFICIAL_PATH = {"benchmarks/preprocessing.py"}


def test_no_other_file_imports_a_class_of_a_family():
    naming = set()
    folders = [ROOT, *(file.parent for file in ROOT.glob("*/__init__.py")), ROOT / "benchmarks", ROOT / "examples"]
    for path in (path for folder in folders for path in folder.glob("*.py")):
        name = path.relative_to(ROOT)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if any(re.search("qwen(2_5|3)_?omni", one.lower()) for one in (module, *names)):
                naming.add(str(name))
    assert naming == FAMILY_FILES | COMPARES_WITH_THE_OFFICIAL_PATH


def test_weights_have_the_names_of_a_published_checkpoint(tiny_backbone):
    names = DEFAULT_FAMILY.official_weights(
        DEFAULT_FAMILY.with_lm_head_class(thinker_config(tiny_backbone)).state_dict()
    ).keys()
    parts = {name.split(".")[1] for name in names}
    assert parts == {*TOWERS, "model", "lm_head"}
    with safe_open(tiny_backbone / "model.safetensors", "pt") as file:
        assert set(names) == {name for name in file.keys() if name.startswith("thinker.")}  # noqa: SIM118


def test_the_default_layout_is_that_of_an_official_checkpoint(tiny_backbone):
    layout = DEFAULT_FAMILY.layout_class()
    for name, value in DEFAULT_FAMILY.official_settings(tiny_backbone, thinker_config(tiny_backbone)).items():
        if hasattr(layout, name):
            assert getattr(layout, name) == (tuple(value) if isinstance(value, list) else value), name


@pytest.mark.parametrize(("frames", "pixels", "tokens"), [(16, 768 * 28 * 28, 6144), (4, 128 * 28 * 28, 256)])
def test_a_video_has_a_token_for_two_frames_of_28_by_28_pixels(frames, pixels, tokens):
    assert DEFAULT_FAMILY.layout_class().most_video_tokens(frames, pixels) == tokens
