"""The commands `omnisent data` and `omnisent cache`, and the options that they share with the others.

Imports no torch, as cli.py.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from .data.built import Denoise
from .data.catalog import DATASETS, ranges_of

data_app = typer.Typer(no_args_is_help=True, help="Check, build and publish data sets.")
cache_app = typer.Typer(no_args_is_help=True, help="Show or empty a folder of tower outputs (feature_cache).")

Folder = Annotated[Path, typer.Option(help="folder to write")]
CacheFolder = Annotated[Path, typer.Argument(help="the feature_cache folder of a config")]
RepoId = Annotated[str, typer.Argument(help="owner/name on the Hub")]
Private = Annotated[bool, typer.Option("--private", help="create the repository as private")]
if TYPE_CHECKING:
    DatasetName: TypeAlias = str
else:  # the choices are those of the table
    DatasetName = Literal[tuple(DATASETS)]


def warn(message: str) -> None:
    typer.echo(message, err=True)


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


@data_app.command("check")
def data_check(
    table: Annotated[
        str,
        typer.Argument(help="a table of clips, a folder with one, a name of a data set, or hf://datasets/OWNER/NAME"),
    ],
    root: Annotated[Path | None, typer.Option(help="the folder of a named data set")] = None,
    columns: Annotated[
        str, typer.Option(help="which header is used for what: text=Transkript,valence=Valenz, or JSON")
    ] = "",
    targets: Annotated[list[str] | None, typer.Option(help="columns of labels")] = None,
    raters: Annotated[
        list[str] | None, typer.Option(help="pattern of columns with single ratings, such as 'rater_*' or '{target}_*'")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="of a CSV that is not UTF-8, such as latin-1")] = None,
    decimal: Annotated[str, typer.Option(help="what stands before decimals: . or ,")] = ".",
    score_range: Annotated[
        list[float] | None, typer.Option(help="lowest and highest label, of all targets or one after the other")
    ] = None,
    auto_split: Annotated[str | None, typer.Option(help="shares of train, valid and test, such as 80/10/10")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG of the labels; by default TABLE.labels.png, in this folder")
    ] = None,
    text_only: Annotated[bool, typer.Option("--text-only", help="ignore media")] = False,
) -> None:
    """Show what a run would use of a table.

    Columns, labels, splits, missing files and what is said twice, and a plot of the labels. No media is opened. The options are
    those of `omnisent train`.
    """
    from .data.check import check_table
    from .data.check_plot import plot_labels
    from .data.table_options import TableOptions, parse_columns

    chosen = TableOptions(
        targets=tuple(targets or TableOptions().targets),
        columns=parse_columns(columns) if columns else {},
        raters=tuple(raters or ()),
        encoding=encoding,
        decimal=decimal,
    )
    ranges = None
    if score_range:
        try:
            ranges = ranges_of(score_range, len(chosen.targets))
        except ValueError as error:
            raise ValueError(f"score_range: {error}") from None
    found = check_table(
        table, root=root, options=chosen, score_ranges=ranges, shares=auto_split, with_media=not text_only
    )
    for line in found.lines:
        typer.echo(line)
    plot = plot or Path(f"{Path(table).stem or 'table'}.labels.png")
    plot_labels(plot, found.labels(), found.ranges, f"Labels of {Path(table).name}, {len(found.clips):,} clips")
    typer.echo(f"\nplot of the labels: {plot}")


@data_app.command("publish")
def data_publish(
    folder: Annotated[Path, typer.Argument(help="output folder of `omnisent data build`")],
    repo_id: RepoId,
    with_media: Annotated[bool, typer.Option("--with-media", help="upload the clips as well")] = False,
    rights: Annotated[
        bool, typer.Option("--i-have-the-rights", help="confirm that you may publish a research set: more than ids")
    ] = False,
    private: Private = False,
) -> None:
    """Upload a built data set to the Hub.

    As Parquet with a data set card; `load_dataset(REPO_ID)` reads it without remote code.
    """
    from .hub.publish_data import media_warning, publish_dataset

    warning = media_warning(folder)
    if warning and with_media:
        warn(warning)
    elif warning and not rights:
        warn("only ids and splits are uploaded; transcripts and labels need --i-have-the-rights")
    typer.echo(publish_dataset(folder, repo_id, with_media=with_media, has_rights=rights, private=private))


@cache_app.command("info")
def cache_show(folder: CacheFolder) -> None:
    """Show what a cache holds, and its size."""
    from .training.feature_store import cache_info

    typer.echo(cache_info(folder).in_words)


@cache_app.command("clear")
def cache_empty(folder: CacheFolder) -> None:
    """Remove all files of a cache, and no other file."""
    from .training.feature_store import clear_cache

    typer.echo(f"removed {clear_cache(folder).in_words}")
