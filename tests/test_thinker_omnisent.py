"""Knowledge of the Thinker lies in one place, and its layout is that of a published checkpoint."""

import ast
from pathlib import Path

import pytest
from safetensors import safe_open

import omnisent
from omnisent.thinker_inputs_omnisent import InputLayout, official_settings
from omnisent.thinker_omnisent import TOWERS, ThinkerWithLMHead, official_weights, thinker_config

ROOT = Path(omnisent.__file__).parent
FAMILY_FILES = {"thinker_omnisent.py", "thinker_inputs_omnisent.py", "towers_omnisent.py"}
COMPARES_WITH_THE_OFFICIAL_PATH = {"benchmarks/preprocessing.py"}


def test_no_other_file_imports_a_class_of_the_thinkers_family():
    naming = set()
    folders = [ROOT, *(file.parent for file in ROOT.glob("*/__init__.py")), ROOT / "benchmarks", ROOT / "examples"]
    for path in (path for folder in folders for path in folder.glob("*.py")):
        name = path.relative_to(ROOT)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if any("qwen2_5_omni" in one.lower().replace("qwen2_5omni", "qwen2_5_omni") for one in (module, *names)):
                naming.add(str(name))
    assert naming == FAMILY_FILES | COMPARES_WITH_THE_OFFICIAL_PATH


def test_weights_have_the_names_of_a_published_checkpoint(tiny_backbone):
    names = official_weights(ThinkerWithLMHead(thinker_config(tiny_backbone)).state_dict()).keys()
    parts = {name.split(".")[1] for name in names}
    assert parts == {*TOWERS, "model", "lm_head"}
    with safe_open(tiny_backbone / "model.safetensors", "pt") as file:
        assert set(names) == {name for name in file.keys() if name.startswith("thinker.")}  # noqa: SIM118


def test_the_default_layout_is_that_of_an_official_checkpoint(tiny_backbone):
    layout = InputLayout()
    for name, value in official_settings(tiny_backbone).items():
        if hasattr(layout, name):
            assert getattr(layout, name) == (tuple(value) if isinstance(value, list) else value), name


@pytest.mark.parametrize(("frames", "pixels", "tokens"), [(16, 768 * 28 * 28, 6144), (4, 128 * 28 * 28, 256)])
def test_a_video_has_a_token_for_two_frames_of_28_by_28_pixels(frames, pixels, tokens):
    assert InputLayout().most_video_tokens(frames, pixels) == tokens
