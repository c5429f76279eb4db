"""The `omnisent` command. It parses, calls one function and prints; all else is in the rooms below.

omnisent --help
"""

import json
import re
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from transformers.utils import logging

from .data.build import build_dataset
from .data.built import Denoise
from .experiments.ablation import ablate as run_ablation
from .experiments.ablation import conclusion as ablation_conclusion
from .experiments.baseline_run import run_baseline
from .experiments.comparison import compare as run_comparison
from .experiments.geometry import conclusion as geometry_conclusion
from .experiments.geometry import geometry as run_geometry
from .experiments.probe import conclusion as probe_conclusion
from .experiments.probe import probe as run_probe
from .experiments.report import write_report
from .hub.publish import publish_run
from .hub.publish_data import media_warning, publish_dataset
from .scoring.batch import Loading, load_pipeline
from .scoring.job import score as run_score
from .scoring.options import Engine, ScoreOptions
from .training.arguments import parse_arguments
from .training.error_line import error_line
from .training.feature_cache import cache_info, clear_cache
from .training.plan import plan as make_plan

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.splitlines()[0]
)
OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
Config = Annotated[Path, typer.Argument(help="a YAML file as train.py takes it")]
Seeds = Annotated[list[int], typer.Option(help="e.g. --seeds 0 1 2")]
Out = Annotated[Path, typer.Option(help="folder to write; what is finished in it is not repeated")]

data_app = typer.Typer(no_args_is_help=True, help="Build data sets that can be trusted.")
app.add_typer(data_app, name="data")
cache_app = typer.Typer(no_args_is_help=True, help="Look at or empty a folder of tower outputs (feature_cache).")
app.add_typer(cache_app, name="cache")
Device = Annotated[str | None, typer.Option(help="cuda, cuda:1, cpu; the first GPU where there is one")]
Dtype = Annotated[str | None, typer.Option(help="bfloat16 (on a GPU), float16 or float32 (elsewhere)")]
Quantize = Annotated[str | None, typer.Option(help="nf4 for 4-bit weights")]
CacheFolder = Annotated[Path, typer.Argument(help="what feature_cache names in a config")]


@app.callback()
def omnisent() -> None:
    """Multimodal sentiment scores, read directly out of an omni-modal LLM's hidden state."""


@app.command(context_settings=OVERRIDES)
def plan(
    context: typer.Context,
    config: Config,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """What a run would take, before any download: parameters, weight bytes, expected peak memory.

    Further options override fields of the file, e.g. --lora_preset llm.
    """
    # A config for a GPU is planned on any machine.
    arguments = parse_arguments([str(config), *context.args, "--use_cpu", "true"], on_this_machine=False)
    found = make_plan(*arguments).to_dict()
    if as_json:
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
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


@app.command(context_settings=OVERRIDES)
def compare(context: typer.Context, config: Config, out: Out, seeds: Seeds = (0, 1, 2)) -> None:  # type: ignore[assignment]
    """Every readout on the same backbone, data, prompt, adapter and budget: is the discriminative one really better?

    Further options override fields of the file. Stopped at any point, it goes on when it is started again.
    """
    run_comparison([str(config), *context.args], seeds, out)
    typer.echo((out / "comparison.md").read_text(encoding="utf-8"))
    typer.echo(f"This is {out / 'comparison.md'}; comparison.json and comparison.png lie beside it.")


@app.command(context_settings=OVERRIDES)
def ablate(context: typer.Context, config: Config, out: Out, seeds: Seeds = (0, 1, 2)) -> None:  # type: ignore[assignment]
    """What each modality adds: all seven subsets of text, audio and video, at training time and at test time.

    Further options override fields of the file. Stopped at any point, it goes on when it is started again.
    """
    found = run_ablation([str(config), *context.args], seeds, out)
    typer.echo(f"{ablation_conclusion(found)}\nSee {out / 'ablation.md'} and ablation.png beside it.")


@app.command(context_settings=OVERRIDES)
def baseline(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="constant or tfidf-ridge")],
    config: Config,
    out: Annotated[Path, typer.Option(help="run folder to write")],
) -> None:
    """A floor on the same clips: the training labels' median, or ridge regression on TF-IDF of the transcript.

    Further options override fields of the file.
    """
    finished = run_baseline(name, *parse_arguments([str(config), *context.args, "--output_dir", str(out)]))
    typer.echo(f"test MAE {finished.mae:.3f}; run folder {finished.folder}")


@app.command(context_settings=OVERRIDES)
def probe(
    context: typer.Context,
    config: Config,
    out: Annotated[Path, typer.Option(help="folder to write")],
    run: Annotated[Path | None, typer.Option(help="a finished run to show beside it")] = None,
) -> None:
    """Is the untrained Thinker's state regression-ready by itself? Ridge regression on the last token's state, by layer.

    Further options override fields of the file.
    """
    found = run_probe([str(config), *context.args], out, run)
    typer.echo(f"{probe_conclusion(found)}\nSee {out / 'probe.md'} and probe.png beside it.")


@app.command()
def geometry(
    run: Annotated[Path, typer.Argument(help="a finished run folder")],
    out: Annotated[Path, typer.Option(help="folder to write")],
) -> None:
    """How clips are laid out in hidden space: PCA, t-SNE, and the labels of nearest neighbours against permuted ones."""
    found = run_geometry(run, out)
    typer.echo(f"{geometry_conclusion(found)}\nSee {out / 'geometry.md'}, pca.png and tsne.png beside it.")


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(help="folders of comparisons, ablations, probes, geometries or runs")
    ],
    out: Annotated[Path, typer.Option(help="the HTML file to write")],
) -> None:
    """One HTML file with tables, plots, worst clips, settings and versions; nothing is fetched when it is opened."""
    typer.echo(write_report(folders, out))


@app.command()
def publish(
    run: Annotated[Path, typer.Argument(help="a finished discriminative run folder")],
    repo_id: Annotated[str, typer.Argument(help="owner/name on the Hub")],
    merged: Annotated[bool, typer.Option("--merged", help="all weights in one repository")] = False,
    private: Annotated[bool, typer.Option("--private", help="for a new repository")] = False,
) -> None:
    """Upload adapter, head, processor, code and card to the Hub, in one commit."""
    typer.echo(publish_run(run, repo_id, merged=merged, private=private))


@app.command()
def score(
    files: Annotated[list[str] | None, typer.Argument(help="files, folders and patterns", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="a bundle: folder, or id on the Hub")] = ...,  # type: ignore[assignment]
    table: Annotated[Path | None, typer.Option(help="clips as CSV, JSONL or Parquet, in place of files")] = None,
    text: Annotated[
        str | None, typer.Option(help="what is said, for one file; else a .txt, .srt or .vtt beside it")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="a .jsonl, .csv or .parquet to write; else a table on the screen")
    ] = None,
    transcribe: Annotated[str | None, typer.Option(help="a speech recognition model for clips without a text")] = None,
    windows: Annotated[
        str | None, typer.Option(help="score a long file over time in windows of so long, e.g. 8s")
    ] = None,
    stride: Annotated[
        str | None, typer.Option(help="from one window's start to the next; half a window by default")
    ] = None,
    interval: Annotated[float | None, typer.Option(help="a level such as 0.9, for columns low and high")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    batch_size: Annotated[int, typer.Option(help="clips a forward pass", min=1)] = 8,
    workers: Annotated[int, typer.Option(help="processes that read media", min=0)] = 0,
    engine: Annotated[Engine, typer.Option(help="local, or ray for a cluster (RAY_ADDRESS)")] = Engine.LOCAL,
) -> None:
    """Scores of clips: one row each with its reason where there is none, and exit code 1 when there is such a row.

    With --out, a command that was stopped, even killed, goes on where it was when it is started again.
    """
    options = ScoreOptions(
        model,
        tuple(files or ()),
        table,
        text,
        out,
        transcribe,
        windows,
        stride,
        interval,
        device,
        dtype,
        quantize,
        batch_size,
        workers,
        engine,
    )
    options.check()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    result = run_score(options, lambda line: typer.echo(line, err=True))
    if result is None:  # the first of several processes speaks for all
        return
    typer.echo(result.message)
    for warning in result.warnings:
        typer.echo(warning, err=True)
    if result.failed:
        raise typer.Exit(1)


@app.command("app")
def serve_page(
    model: Annotated[str, typer.Option(help="a bundle: folder, or id on the Hub")],
    host: Annotated[str, typer.Option(help="address to listen on; there is no password")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 7860,
    max_megabytes: Annotated[int, typer.Option(help="larger files are refused")] = 200,
    max_seconds: Annotated[float, typer.Option(help="longer clips are refused")] = 600.0,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """A page in the browser: upload or record a clip, and see its score and what each modality adds."""
    from .scoring.app import serve  # an optional extra

    logging.set_verbosity_error()
    pipe = load_pipeline(Loading(model, device, dtype, quantize))
    serve(pipe, host=host, port=port, max_megabytes=max_megabytes, max_seconds=max_seconds)


@data_app.command("build")
def data_build(
    name: Annotated[str, typer.Argument(help="cmu_mosi, cmu_mosei, ch_sims, ch_sims_v2 or planted")],
    root: Annotated[Path, typer.Option(help="folder with label.csv and Raw/; for planted, where its clips are made")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    no_media: Annotated[bool, typer.Option("--no-media", help="build from the table alone")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="any defect is an error")] = False,
    workers: Annotated[int, typer.Option(help="processes that open media")] = 2,
    denoise: Annotated[Denoise, typer.Option(help="what the sound goes through")] = "none",
) -> None:
    """From the files that people have to a `datasets` data set, with a report of every row that was kept, repaired or left out."""
    report = build_dataset(name, root, out, with_media=not no_media, strict=strict, workers=workers, denoise=denoise)
    found = ", ".join(f"{count} {kind}" for kind, count in report.defect_counts.items()) or "none"
    typer.echo(
        f"{report.rows} clips of {report.videos} videos in {out}; defects: {found}; see {out / 'build_report.md'}"
    )


@data_app.command("publish")
def data_publish(
    folder: Annotated[Path, typer.Argument(help="what `omnisent data build` wrote")],
    repo_id: Annotated[str, typer.Argument(help="owner/name on the Hub")],
    with_media: Annotated[bool, typer.Option("--with-media", help="upload the clips too")] = False,
    rights: Annotated[bool, typer.Option("--i-have-the-rights", help="to publish the clips of a research set")] = False,
    private: Annotated[bool, typer.Option("--private", help="for a new repository")] = False,
) -> None:
    """Upload a built data set to the Hub as Parquet with a card; `load_dataset(REPO_ID)` reads it without remote code."""
    if with_media and (warning := media_warning(folder)):
        typer.echo(warning, err=True)
    typer.echo(publish_dataset(folder, repo_id, with_media=with_media, has_rights=rights, private=private))


@cache_app.command("info")
def cache_show(folder: CacheFolder) -> None:
    """How many clips a cache holds, and how large it is."""
    info = cache_info(folder)
    typer.echo(f"{info.entries} entries, {info.size / 1e6:.1f} MB")


@cache_app.command("clear")
def cache_empty(folder: CacheFolder) -> None:
    """Remove every entry of a cache, and no other file."""
    info = clear_cache(folder)
    typer.echo(f"removed {info.entries} entries, {info.size / 1e6:.1f} MB")


def main() -> None:
    """Run the command; an error that the user can mend is one line and exit code 1."""
    sys.argv[1:] = one_flag_a_seed(sys.argv[1:])
    try:
        app()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"omnisent: {error_line(error)}")


def one_flag_a_seed(arguments: list[str]) -> list[str]:
    """`--seeds 0 1 2` as `--seeds 0 --seeds 1 --seeds 2`, the form that the parser knows."""
    spread, in_seeds = [], False
    for argument in arguments:
        number = re.fullmatch(r"\d+", argument) is not None
        if in_seeds and number and spread[-1] != "--seeds":
            spread.append("--seeds")
        in_seeds = argument == "--seeds" or (in_seeds and number)
        spread.append(argument)
    return spread


if __name__ == "__main__":
    main()
