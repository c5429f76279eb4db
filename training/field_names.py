"""The names of a run's fields, parsed from source code, so that a typo is reported before torch and transformers are imported."""

import ast
import importlib.util
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}


def shipped_arms() -> dict[str, Path]:
    """The arms of comparisons that come with the package, by name."""
    return {path.stem: path for path in sorted((CONFIGS / "arms").glob("*.yaml"))}


def config_path(config: str) -> str:
    """The file of a shipped config, given by name; any other path unchanged."""
    return str(shipped_configs().get(config, config))


def field_names() -> list[str]:
    """All fields of a run, including those of transformers' TrainingArguments, in no particular order."""
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        raise ImportError("transformers is not installed")
    files = [Path(__file__).with_name("arguments.py"), Path(package.origin).with_name("training_args.py")]
    classes = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    lines = [line for node in classes if isinstance(node, ast.ClassDef) for line in node.body]
    return [line.target.id for line in lines if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]


def check_names(arguments: Sequence[str]) -> None:
    """Check that every option `--field` on a command line is a field.

    Raises:
        ValueError: naming the first unknown one, and a similar field.
    """
    names = set(field_names())
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].split("=")[0].replace("-", "_")
            if name not in names and name.removeprefix("no_") not in names:
                raise ValueError(unknown_name(name, names))


def unknown_name(name: str, names: Collection[str]) -> str:
    """The error message for an unknown field, with a similar one if there is any."""
    near = get_close_matches(name, sorted(names), n=1)
    return f"there is no field {name!r}; " + (
        f"did you mean {near[0]}?" if near else "`omnisent train --fields` lists them all"
    )
