"""Writes the tables of finished studies as LaTeX: those of their .md files, for a paper that loads the package booktabs."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from markdown_it import MarkdownIt
from markdown_it.token import Token

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "²": r"$^2$",
}


def write_latex(files: Sequence[Path], out: Path) -> Path:
    """Write every table of the given Markdown files into one LaTeX file, each with the text before it as its caption.

    Returns:
        The file.

    Raises:
        ValueError: when there is no table.
    """
    tables = [table for file in files for table in _tables(file.read_text(encoding="utf-8"))]
    if not tables:
        raise ValueError("there is no table to write as LaTeX; expected the folder of a comparison or another study")
    out.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(_latex(caption, table) for caption, table in tables)
    out.write_text(f"% Needs \\usepackage{{booktabs}}.\n{text}", encoding="utf-8")
    return out


def _tables(markdown: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each table with the last text before it."""
    caption = ""
    rows: list[list[str]] = []
    cells: list[str] | None = None
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            cells = []
        elif token.type == "inline" and cells is not None:
            cells.append(_shown(token))
        elif token.type == "inline":
            caption = _shown(token)
        elif token.type == "tr_close":
            rows.append(cells or [])
            cells = None
        elif token.type == "table_close":
            yield caption, pd.DataFrame(rows[1:], columns=rows[0])


def _shown(token: Token) -> str:
    """The text of a cell or paragraph as a reader sees it, without what Markdown escapes or marks it with."""
    return "".join("\n" if child.type == "softbreak" else child.content for child in token.children or [])


def _latex(caption: str, table: pd.DataFrame) -> str:
    escaped = table.map(_escaped).rename(columns=_escaped)
    aligned = "l" + "r" * (len(table.columns) - 1)
    return escaped.to_latex(index=False, escape=False, caption=_escaped(caption.rstrip(":")), column_format=aligned)


def _escaped(text: str) -> str:
    """The text as LaTeX shows it, with a minus before numbers."""
    safe = "".join(_SPECIAL.get(sign, sign) for sign in text)
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", safe)
