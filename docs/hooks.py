"""What the site has beside docs/: start page, commands, fields of a config, Python API, and the files that pages link to.

mkdocs calls the functions `on_*` (mkdocs.yml). A link from a page to a file elsewhere in the repository leads to a copy of it
in the site.
"""

import dataclasses
import logging
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "build" / "docs"  # `paths` in mkdocs.yml
OUTSIDE = "repository"  # folder of the site with files that are not in docs/
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)")
FIELDS = """\
Each is a line of a config, and an option of every command that trains: `lora_r: 16`, `--lora_r 16`. Beside these, a config takes
the fields of transformers' `TrainingArguments`; `omnisent train --fields` lists them all."""
API = {
    "scoring": (
        "Load and score",
        "omnisent.register",
        "omnisent.pipeline_omnisent.MultimodalSentimentPipeline",
        "omnisent.modeling_omnisent.OmniForSentimentRegression",
        "omnisent.modeling_omnisent.OmniSentOutput",
        "omnisent.processing_omnisent.OmniSentProcessor",
        "omnisent.configuration_omnisent.OmniSentConfig",
        "omnisent.scoring.job.score",
        "omnisent.scoring.options.ScoreOptions",
        "omnisent.errors_omnisent.OmniSentError",
    ),
    "data": (
        "Data",
        "omnisent.data.clip.Clip",
        "omnisent.data.load.load_clips",
        "omnisent.data.clip.human_mae",
        "omnisent.data.tables.read_rows",
        "omnisent.data.tables.write_table",
    ),
    "evaluation": (
        "Metrics and statistics",
        "omnisent.evaluation.metrics.msa_metrics",
        "omnisent.evaluation.statistics.bootstrap_estimates",
        "omnisent.evaluation.statistics.Estimate",
        "omnisent.evaluation.statistics.paired_test",
        "omnisent.evaluation.statistics.PairedTest",
        "omnisent.evaluation.statistics.holm",
        "omnisent.evaluation.intervals.calibration",
        "omnisent.evaluation.power.Noise",
        "omnisent.evaluation.power.power",
        "omnisent.evaluation.power.videos_needed",
        "omnisent.evaluation.group_tests.group_test",
    ),
}


def on_startup(command: str, dirty: bool) -> None:
    """Copy the package, and nothing else of the clone, to where mkdocstrings looks for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shutil.rmtree(PACKAGE, ignore_errors=True)
    for name in project["tool"]["setuptools"]["packages"]:
        package = PACKAGE.joinpath(*name.split("."))
        package.mkdir(parents=True)
        for path in ROOT.joinpath(*name.split(".")[1:]).glob("*.py"):
            text = path.read_text(encoding="utf-8").replace("    Example:\n", "    Examples:\n")  # as its parser has it
            (package / path.name).write_text(text, encoding="utf-8")


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are made here, and every file that a page links to."""
    made = {"commands.md": commands(), "fields.md": fields()}
    made |= {f"api/{name}.md": api(*words) for name, words in API.items()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    waiting = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in waiting:
        for target in linked(page):
            if site_path(target) not in files.src_uris and target.is_file():
                files.append(File.generated(config, site_path(target), abs_src_path=str(target)))
                waiting += [target] if target.suffix == ".md" else []


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links from one file of the repository to another, as links within the site."""
    source = Path(page.file.abs_src_path or ".")
    if source.suffix != ".md":
        return markdown
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # its section has no other page
    folder = posixpath.dirname(page.file.src_uri)

    def within(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / match[2]))
        return match[1] + posixpath.relpath(site_path(target), folder or ".")

    return LINK.sub(within, markdown)


def linked(page: Path) -> Iterator[Path]:
    """The files of the repository that a page links to."""
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        yield Path(os.path.normpath(page.parent / match[2]))


def site_path(path: Path) -> str:
    """Where a file of the repository is in the site's sources."""
    place = path.relative_to(ROOT)
    if place == Path("README.md"):
        return "index.md"
    return place.relative_to("docs").as_posix() if place.parts[0] == "docs" else f"{OUTSIDE}/{place.as_posix()}"


def commands() -> str:
    """All commands with their arguments and options, from the command line itself."""
    command = [sys.executable, "-m", "typer", "omnisent.cli", "utils", "docs", "--name", "omnisent"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return shown.replace("# `omnisent`", "# Commands", 1)


def fields() -> str:
    """Every field of a config that is ours, with its default, in the order of `omnisent train --fields`."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # as the command: else it says what a GPU could have
    from omnisent.training.arguments import ARGUMENTS  # only now

    lines = ["# Fields of a config", "", FIELDS]
    for kind, title in zip(ARGUMENTS, ("Model", "Data", "Training"), strict=True):
        lines += ["", f"## {title}", "", "| field | default | what it is |", "|---|---|---|"]
        lines += [_row(field) for field in dataclasses.fields(kind) if field.name in kind.__annotations__]
    return "\n".join(lines)


def _row(field: dataclasses.Field[Any]) -> str:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    shown = "" if default in (None, dataclasses.MISSING) else f"`{default}`"
    return f"| `{field.name}` | {shown} | {field.metadata['help'].replace('%%', '%').replace('|', '&#124;')} |"


def api(title: str, *objects: str) -> str:
    """A page of the Python API, from the docstrings of some objects."""
    return "\n\n".join([f"# {title}", *(f"::: {name}" for name in objects)])
