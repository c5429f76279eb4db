"""The commands `omnisent data` and `omnisent cache`, and the options that they share with the others.

Imports no torch, as cli.py.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from .data.built import Denoise
from .data.catalog import DATASETS

data_app = typer.Typer(no_args_is_help=True, help="Build and publish data sets.")
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
