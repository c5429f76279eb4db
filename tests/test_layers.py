"""The structure that docs/MAP.md describes: imports point down, without circles, and no file is too long to read."""

import ast
import graphlib
from pathlib import Path

import omnisent

ROOT = Path(omnisent.__file__).parent
LAYERS = (
    (
        "configuration_omnisent",
        "thinker_omnisent",
        "thinker_inputs_omnisent",
        "towers_omnisent",
        "heads_omnisent",
        "losses_omnisent",
        "adapter_omnisent",
        "lora_omnisent",
        "figure_style",
        "evaluation",
    ),
    ("modeling_omnisent", "processing_omnisent", "data"),
    ("readouts", "pipeline_omnisent", "feeding_omnisent", "loading_omnisent", "serving_omnisent"),
    ("training", "hub", "scoring"),
    ("train",),
    ("experiments",),
    ("cli", "cli_data", "cli_studies"),
)
FOLDERS = ("data", "evaluation", "experiments", "hub", "readouts", "scoring", "training")
FILES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))])
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES if path.name != "__init__.py"}


def imported(module: str) -> set[str]:
    """Modules of the package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("omnisent.") for alias in node.names if alias.name.startswith("omnisent.")
            }
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "omnisent"):
            base = module.split(".")[: -node.level] if node.level else []
            path = [*base, *(node.module or "").removeprefix("omnisent").strip(".").split(".")]
            path = [part for part in path if part]
            found |= {".".join([*path, alias.name]) for alias in node.names} | {".".join(path)}
    return found & MODULES.keys()


def layer(module: str) -> int:
    return next((level for level, names in enumerate(LAYERS) if module.split(".")[0] in names), 0)


def test_imports_point_down():
    upwards = [(module, one) for module in MODULES for one in imported(module) if layer(one) > layer(module)]
    assert upwards == []


def test_there_is_no_circle():
    list(graphlib.TopologicalSorter({module: imported(module) for module in MODULES}).static_order())


def test_a_loading_script_names_every_module_it_needs():
    """datasets 3 copies the modules that a script itself imports from its own folder, and no others."""
    scripts = [
        m for m, path in MODULES.items() if "a loading script under datasets" in path.read_text(encoding="utf-8")
    ]
    assert len(scripts) == 4
    for script in scripts:
        named = imported(script)
        assert {further for module in named for further in imported(module)} <= named, script
        assert {module.split(".")[0] for module in named} == {"data"}, script


def test_files_are_short():
    files = [
        *FILES,
        *(path for folder in ("tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")),
    ]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    limits = {path: 400 if path.parent == ROOT and path.stem.endswith("_omnisent") else 450 for path in files}
    assert {str(path): lines for path, lines in lengths.items() if lines > limits[path]} == {}


def test_the_map_names_every_module():
    text = (ROOT / "docs" / "MAP.md").read_text(encoding="utf-8")
    assert [module for module in MODULES if f"`{module.split('.')[-1]}" not in text] == []
