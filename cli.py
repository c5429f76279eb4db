"""The `omnisent` command. It parses, calls one function and prints; all else is in the rooms below.

omnisent --help
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from .training.arguments import parse_arguments
from .training.plan import plan as make_plan

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.splitlines()[0]
)


@app.callback()
def omnisent() -> None:
    """Multimodal sentiment scores, read directly out of an omni-modal LLM's hidden state."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def plan(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="a YAML file as train.py takes it")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """What a run would take, before any download: parameters, weight bytes, expected peak memory.

    Further options override fields of the file, e.g. --lora_preset llm.
    """
    found = make_plan(*parse_arguments([str(config), *context.args])).to_dict()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        shown = value
        if name.endswith("_bytes"):
            shown = f"{value / 1e9:.2f} GB"
        elif name.endswith("_percent"):
            shown = f"{value:.4f} %"
        elif isinstance(value, int):
            shown = f"{value:,}"
        typer.echo(f"{name.replace('_', ' '):22} {shown}")


def main() -> None:
    """Run the command; an error that the user can mend is one line and exit code 1."""
    try:
        app()
    except (ValueError, OSError) as error:
        sys.exit(f"omnisent: {error}")
