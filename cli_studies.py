"""The commands that compare, tune, ablate and probe, and the options that they share with the others.

Imports no torch, as cli.py.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from .cli_data import Folder
from .experiments.baselines import BASELINES
from .training.field_names import check_names, shipped_arms, shipped_configs

studies = typer.Typer()

FIELDS = {"allow_extra_args": True, "ignore_unknown_options": True}  # --field value, which argparse reads later
A_CONFIG = f"a YAML file, or one of {', '.join(shipped_configs())}"
Config = Annotated[str, typer.Argument(help=f"{A_CONFIG}; then --field value ...")]
Seeds = Annotated[list[int], typer.Option(help="one training run per seed, e.g. --seeds 0 1 2")]
Arms = Annotated[str | None, typer.Option(help=f"a YAML file of ways to score, or one of {', '.join(shipped_arms())}")]
FIVE = [0, 1, 2, 3, 4]
Out = Annotated[Path, typer.Option(help="folder to write; finished runs in it are not repeated")]
PaperSet: TypeAlias = Literal["cmu_mosi", "cmu_mosei"]
Denoiser: TypeAlias = Literal["deepfilternet", "spectral"]
if TYPE_CHECKING:
    BaselineName: TypeAlias = str
else:  # the choices are those of the table
    BaselineName = Literal[tuple(BASELINES)]


def settings_of(config: str, context: typer.Context) -> list[str]:
    """A config and the `--field value` arguments after it; raises a ValueError for an unknown field."""
    arguments = [config, *context.args]
    check_names(arguments)
    return arguments


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise ValueError(f"--predictions {text}: expected NAME=FILE.csv")
    return name, Path(file)


@studies.command(context_settings=FIELDS)
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
    arguments = settings_of(config, context)
    named = dict(_named_file(one) for one in predictions or [])
    from .evaluation.comparison_result import comparison_folder
    from .experiments.arms import default_arms, read_arms
    from .experiments.comparison import compare as run_comparison

    used = default_arms() if arms is None else read_arms(arms)
    comparisons = run_comparison(arguments, seeds, out, arms=used, settings=settings, predictions=named)
    for comparison in comparisons:
        file = comparison_folder(out, comparison.target) / "comparison.md"
        typer.echo(file.read_text(encoding="utf-8"))
        typer.echo(f"Written to {file}, comparison.json and comparison.png.")


@studies.command(context_settings=FIELDS)
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
    arguments = settings_of(config, context)
    if find_spec("optuna") is None:
        raise ImportError("sweep: it needs the package optuna: pip install 'omnisent[sweep]'")
    from .experiments.arms import read_arms
    from .experiments.sweep import sweep as run_sweep

    run_sweep(arguments, out, trials=trials, arms=None if arms is None else read_arms(arms), space=space)
    typer.echo((out / "sweep.md").read_text(encoding="utf-8"))


@studies.command(context_settings=FIELDS)
def ablate(context: typer.Context, config: Config, out: Out, seeds: Seeds = FIVE) -> None:
    """Measure what each modality adds.

    Trains and tests on all seven subsets of text, audio and video, and tests the full model on each subset. An
    interrupted command resumes when started again.
    """
    arguments = settings_of(config, context)
    from .experiments.ablation import ablate as run_ablation
    from .experiments.ablation import conclusion

    result = run_ablation(arguments, seeds, out)
    typer.echo(f"{conclusion(result)}\nSee {out / 'ablation.md'} and ablation.png.")


@studies.command(context_settings=FIELDS)
def baseline(
    context: typer.Context,
    name: Annotated[
        BaselineName, typer.Argument(help="; ".join(f"{key}: {one.description}" for key, one in BASELINES.items()))
    ],
    config: Config,
    out: Annotated[Path, typer.Option(help="run folder to write")],
) -> None:
    """Evaluate a simple baseline on the same clips."""
    arguments = settings_of(config, context)
    from .experiments.baseline_run import run_baseline
    from .training.arguments import parse_arguments

    finished = run_baseline(name, *parse_arguments([*arguments, "--output_dir", str(out)]))
    typer.echo(f"test MAE {finished.mae:.3f}; run folder {finished.folder}")


@studies.command(context_settings=FIELDS)
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
    arguments = settings_of(config, context)
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


@studies.command(context_settings=FIELDS)
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
    arguments = [] if untrained is None else settings_of(untrained, context)
    from .experiments.geometry import conclusion
    from .experiments.geometry import geometry as run_geometry

    result = run_geometry(run, out, untrained=arguments)
    typer.echo(f"{conclusion(result)}\nSee {out / 'geometry.md'}, pca.png and tsne.png.")


@studies.command(context_settings=FIELDS)
def reproduce(
    context: typer.Context,
    name: Annotated[PaperSet, typer.Argument(help="the data set of the paper")],
    out: Out,
    root: Annotated[Path | None, typer.Option(help="folder with its clips")] = None,
    seeds: Annotated[list[int], typer.Option(help="of every study; the paper has four")] = [0, 1, 2, 3],  # noqa: B006
    denoise: Annotated[Denoiser, typer.Option(help="what reduces the noise for the headline")] = "deepfilternet",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what is needed and what is done, and stop")] = False,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="every step with the tiny backbone on made-up clips, in minutes")
    ] = False,
) -> None:
    """Make the paper's tables, beside its figures.

    Data check, comparison of readouts, ablation, denoised sound, cost, hidden space, probe and report. An interrupted command
    goes on when started again. Further --field value apply to every run.
    """
    check_names(context.args)
    from .experiments.reproduce import Reproduction, markdown, needs
    from .experiments.reproduce import reproduce as run_reproduction

    denoiser = "spectral" if tiny else denoise
    job = Reproduction(name, root, out, tuple(seeds), denoiser, tiny, tuple(context.args))
    for line in [*(need.text for need in needs(job)), *job.steps()]:
        typer.echo(line)
    if not dry_run:
        typer.echo(markdown(job, run_reproduction(job)))


@studies.command()
def audit(
    run: Annotated[Path, typer.Argument(help="a finished run folder")],
    groups: Annotated[list[str], typer.Option(help="columns with the groups, e.g. --groups gender language")],
    table: Annotated[
        Path | None,
        typer.Option(help="a table with id and these columns; by default the run's own data set"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder to write; by default the run's")] = None,
) -> None:
    """Compare error, bias and interval coverage by group of speakers.

    Each group is tested against the other clips of the run's test split, by videos. Trains and scores nothing.
    """
    from .experiments.audit import audit as run_audit
    from .experiments.audit import markdown

    folder = run if out is None else out
    typer.echo(
        f"{markdown(run_audit(run, groups, table=table, out=out))}\nWritten to {folder / 'audit.md'}, .json and .png."
    )


@studies.command()
def power(
    difference: Annotated[float, typer.Option(help="the true difference in MAE to be found, label units", min=0)],
    comparison: Annotated[
        Path | None, typer.Argument(help="folder of a finished comparison, which shows how videos and seeds differ")
    ] = None,
    rival: Annotated[
        str | None, typer.Option(help="the arm that the first one is tested against; by default the best on validation")
    ] = None,
    video_sd: Annotated[float | None, typer.Option(help="standard deviation between videos", min=0)] = None,
    seed_sd: Annotated[float | None, typer.Option(help="standard deviation between seeds", min=0)] = None,
    videos: Annotated[int | None, typer.Option(help="by default those of the comparison", min=2)] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="numbers of seeds to show")] = None,
    target: Annotated[float, typer.Option(help="probability of finding it", min=0.05, max=0.999)] = 0.8,
) -> None:
    """Show how many seeds and videos a difference needs.

    Without a comparison, name --video-sd and --seed-sd: how much a video's and a training's mean difference vary.
    """
    from .experiments.power_study import power_of

    typer.echo(
        power_of(
            difference,
            comparison,
            rival=rival,
            video_sd=video_sd,
            seed_sd=seed_sd,
            videos=videos,
            seeds=seeds or [3, 5, 10],
            target=target,
        )
    )


@studies.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="folders of comparisons, ablations, probes, geometry or runs")],
    out: Annotated[Path, typer.Option(help="the HTML file to write")],
    latex: Annotated[Path | None, typer.Option(help="also write the tables of all studies to this .tex file")] = None,
) -> None:
    """Write one HTML file of all results.

    Tables, plots, worst clips, settings and versions. The page loads nothing from the network.
    """
    from .experiments.latex import write_latex
    from .experiments.report import study_tables, write_report

    typer.echo(write_report(folders, out))
    if latex is not None:
        typer.echo(write_latex(study_tables(folders), latex))
