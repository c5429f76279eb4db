"""README and docs/: every link leads somewhere, every page is in the site's navigation, and every command that they name exists."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

import omnisent
from omnisent.cli import app
from omnisent.training.field_names import field_names

ROOT = Path(omnisent.__file__).parent
OTHERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in OTHERS)])
MADE = {"index.md", "commands.md", "fields.md", "api/scoring.md", "api/data.md", "api/evaluation.md"}  # docs/hooks.py
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
COMMAND = re.compile(r"^(?: {4}|\$ )?(?:\.venv/bin/)?omnisent (.+)$|`omnisent ([^`]+)`", re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its code, in which headings and links are none."""
    return re.sub(r"^ *```.*?^ *```|^ {4}.*?$|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The addresses of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub("`", "", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower())) for heading in headings}


def test_the_navigation_names_every_page():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r": (\S+\.md)$", text.split("\nnav:")[1].split("\n\n")[0], re.MULTILINE)
    written = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    outside = {name.removeprefix("repository/") for name in named if name.startswith("repository/")}
    assert {name for name in named if not name.startswith("repository/")} == written | MADE
    assert len(named) == len(set(named))
    assert all((ROOT / name).is_file() for name in outside)


def test_the_site_fetches_nothing():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["theme"]["font"] is False
    assert not re.search(r"https?://", str(config))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{name_of(page)} links to {target}"
        assert not anchor or anchor in anchors(file), f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_options_exist(page):
    if page.name == "CHANGELOG.md":
        return  # says what once was
    text = re.sub(r"\\\n *", "", page.read_text(encoding="utf-8"))
    for in_block, in_line in COMMAND.findall(text):
        arguments = shlex.split((in_block or in_line).replace("...", ""), comments=True)
        command = typer.main.get_command(app)
        while arguments and arguments[0] in getattr(command, "commands", {}):
            command = command.commands[arguments.pop(0)]
        assert not hasattr(command, "commands") or arguments[:1] in ([], ["--help"], ["--version"]), (page, arguments)
        known = {option.replace("_", "-") for parameter in command.params for option in parameter.opts} | {"--help"}
        if command.context_settings.get("ignore_unknown_options"):  # commands that take the fields of a config
            known |= {f"--{name}".replace("_", "-") for name in field_names()}
        given = {argument.split("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")}
        assert given <= known | {"--debug"}, f"{name_of(page)}: omnisent {in_block or in_line}"
