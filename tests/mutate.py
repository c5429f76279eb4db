"""Mutation testing: breaks the code in one small place after another and counts which breaks the tests notice.

Runs mutmut on copies under runs/mutation, laid out as it expects them, for the code whose errors would be wrong numbers. Not
part of the default tests: it takes from minutes to an hour. What it cannot break: decorated functions and constants of modules.

    make mutate                          or one part: .venv/bin/python tests/mutate.py evaluation
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "runs/mutation"
NOT_COPIED = (".*", "runs", "tests", "build", "dist", "docs", "benchmarks", "configs", "examples", "*.egg-info")
SURVIVED, UNTESTED, NOT_RUN = 0, 33, None  # mutmut's exit codes
PROCESSOR = (
    *("log_mel", "patches", "expand", "position_ids", "pad", "check_placeholders", "audio_tokens", "_replace"),
    *("assemble", "prompt", "check_modalities", "plain_text", "as_sentence"),
)

# Made once, not once a mutant.
FIXTURES = """

@pytest.fixture(scope="session")
def tiny_backbone() -> Path:
    return Path({backbone!r})


@pytest.fixture(scope="session")
def planted_root() -> Path:
    return Path({clips!r})
"""


@dataclass(frozen=True)
class Part:
    """Some of the code, and the tests that are to notice what is broken in it.

    Attributes:
        aim: share of mutants to be killed.
        files: patterns of source files, in the package.
        tests: files of tests.
        functions: the only functions to break; all for none.
        options: of pytest.
    """

    aim: float
    files: tuple[str, ...]
    tests: tuple[str, ...]
    functions: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


PARTS = {
    "evaluation": Part(
        0.90,
        ("evaluation/*.py",),
        ("evaluation",),
        options=("--noconftest", "-k", "not loaded_module and not loading_without and not points_at"),
    ),
    "answers": Part(
        0.90,
        ("readouts/answers.py",),
        ("readouts/test_answers.py", "readouts/test_answers_properties.py"),
        options=("--noconftest",),
    ),
    "readouts": Part(
        0.90,
        ("readouts/base.py", "readouts/discriminative.py", "readouts/generative.py"),
        ("readouts/test_predictions.py", "readouts/test_generative.py"),
    ),
    "results": Part(
        0.85,
        ("scoring/results.py",),
        ("scoring/test_results.py", "scoring/test_results_properties.py"),
        options=("--noconftest",),
    ),
    "processor": Part(
        0.85,
        ("processing_omnisent.py", "text_omnisent.py", "thinker_inputs_omnisent.py"),
        ("test_processing_tokens.py", "test_text_omnisent.py"),
        functions=PROCESSOR,
    ),
}


def main() -> None:
    """Break each part that is named, print what was noticed, and fail where less than the aim was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all for none")
    names = parser.parse_args().parts or list(PARTS)
    found = {name: run(name, PARTS[name]) for name in names}
    print(f"\n{'module':<28}{'mutants':>9}{'killed':>9}{'survived':>10}{'share':>8}{'aim':>7}")
    for name, files in found.items():
        for file, results in files.items():
            print(row(file, list(results.values()), PARTS[name].aim))
    for files in found.values():
        for results in files.values():
            for mutant, code in results.items():
                if not killed(code):
                    print("survived" if code == SURVIVED else "no test", mutant)
    if any(share(list(all_of(files).values())) < PARTS[name].aim for name, files in found.items()):
        sys.exit(1)


def run(name: str, part: Part) -> dict[str, dict[str, int]]:
    """By file, the exit code of the tests by mutant."""
    tree = OUT / name
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT, tree / "omnisent", ignore=shutil.ignore_patterns(*NOT_COPIED, "__pycache__"))
    shutil.copytree(ROOT / "tests", tree / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    if "--noconftest" not in part.options:
        with open(tree / "tests/conftest.py", "a") as file:
            file.write(FIXTURES.format(**made_once(tree)))
    settings = {
        "source_paths": ["omnisent"],
        "only_mutate": [f"omnisent/{file}" for file in part.files],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", *part.options],
        "pytest_add_cli_args_test_selection": [f"tests/{file}" for file in part.tests],
    }
    lines = [f"{key} =\n" + "".join(f"    {value}\n" for value in values) for key, values in settings.items()]
    (tree / "setup.cfg").write_text("[mutmut]\n" + "".join(lines))
    mutants = [f"*{one}__mutmut_*" for one in part.functions]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_PROFILE": "mutation",
    }
    mutmut = Path(sys.executable).with_name("mutmut")
    subprocess.run([mutmut, "run", "--max-children", "1", *mutants], cwd=tree, env=environment, check=True)
    found = {}
    for meta in sorted((tree / "mutants").rglob("*.meta")):
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        if codes := {mutant: code for mutant, code in codes.items() if code is not NOT_RUN}:
            found[str(meta.relative_to(tree / "mutants/omnisent")).removesuffix(".meta")] = codes
    return found


def made_once(tree: Path) -> dict[str, str]:
    """The folders of the tiny backbone and of the planted clips, as conftest.py makes them."""
    from omnisent.data.planted import make_planted_clips
    from omnisent.training.tiny_backbone import make_tiny_backbone

    folders = {"backbone": str(tree / "backbone"), "clips": str(tree / "clips")}
    make_tiny_backbone(folders["backbone"])
    make_planted_clips(folders["clips"], n_train=32, n_valid=16, n_test=16, seed=3)
    return folders


def killed(code: int) -> bool:
    """Whether the tests failed, or ran for too long."""
    return code not in (SURVIVED, UNTESTED)


def share(codes: list[int]) -> float:
    return sum(map(killed, codes)) / len(codes)


def all_of(files: dict[str, dict[str, int]]) -> dict[str, int]:
    return {mutant: code for results in files.values() for mutant, code in results.items()}


def row(name: str, codes: list[int], aim: float) -> str:
    dead = sum(map(killed, codes))
    return f"{name:<28}{len(codes):>9}{dead:>9}{len(codes) - dead:>10}{dead / len(codes):>8.1%}{aim:>7.0%}"


if __name__ == "__main__":
    main()
