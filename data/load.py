"""The clips of a data set, by its name in the catalog or by the path of a table or built data set. Opens no media."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from .catalog import DATASETS, LABEL, DatasetFacts
from .clip import Clip, Rating
from .labelled_folder import check_media, read_clips
from .mmsa import TableRow, refuse
from .saved_sets import HUB
from .sources import SOURCES
from .table_options import TableOptions


def load_clips(
    name_or_path: str,
    *,
    root: str | Path | None = None,
    genres: Sequence[str] | None = None,
    with_media: bool = True,
    missing_ok: bool = False,
    needs_labels: bool = False,
    options: TableOptions = TableOptions(),  # noqa: B008 (frozen)
) -> list[Clip]:
    """The clips of a named data set, or of any table or built data set.

    Args:
        name_or_path: a name in the catalog, or what `read_clips` takes.
        root: the folder of a named data set: the one in the MMSA or the CMU layout; for `planted`, the one to create the clips
            in, by default runs/planted; for `human_ratings`, the one that holds or gets its archive, by default the cache.
        genres: only the clips of these genres.
        with_media: `False` leaves media paths out.
        missing_ok: `True` keeps paths of missing files, for a caller that reports them itself.
        needs_labels: `True` refuses a table without a column for the target `label`; other targets are always needed.
        options: the targets, of a named data set too, and how a table is read.

    Raises:
        FileNotFoundError: when there is neither such a name nor such a path, or the root or media are missing.
        OSError: when a file of a named data set, or a data set on the Hub, cannot be downloaded.
        ValueError: for a table that cannot be read, naming file, line and column; for a target that the data set lacks.
    """
    facts = DATASETS.get(name_or_path)
    if facts is not None:
        clips = _named_clips(facts, root, options, with_media, missing_ok)
    elif name_or_path.startswith(HUB) or Path(name_or_path).exists():
        clips = read_clips(
            name_or_path, options=options, with_media=with_media, missing_ok=missing_ok, needs_labels=needs_labels
        )
    else:
        raise FileNotFoundError(
            f"{name_or_path!r} is neither a data set ({', '.join(DATASETS)}) nor an existing table of clips; a data set on the Hub"
            " is hf://datasets/OWNER/NAME"
        )
    return [clip for clip in clips if genres is None or clip.genre in genres]


def is_here(name_or_path: str, root: str | Path | None) -> bool:
    """Whether `load_clips` can read the clips without making or downloading them; of a data set on the Hub that is not known."""
    facts = DATASETS.get(name_or_path)
    if facts is not None:
        return SOURCES[facts.source].is_here(root)
    return name_or_path.startswith(HUB) or Path(name_or_path).exists()


def _named_clips(
    facts: DatasetFacts, root: str | Path | None, options: TableOptions, with_media: bool, missing_ok: bool
) -> list[Clip]:
    _check_options(facts, options)
    source = SOURCES[facts.source]
    rows = source.read(facts, root, refuse)
    clips = [_of_targets(row, options.targets) for row in rows]
    for place, target in enumerate(options.targets):
        if all(clip.labels[place] is None for clip in clips):
            raise ValueError(
                f"{facts.name}: no clip has a label for the target {target!r}; add its column to label.csv in {root}"
            )
    if not with_media:
        return [replace(clip, video=None, audio=None) for clip in clips]
    if source.media is None or root is None:
        return clips
    media = source.media(root)
    clips = [replace(clip, video=media.path(row.video_id, row.clip_id)) for clip, row in zip(clips, rows, strict=True)]
    if not missing_ok:
        check_media(f"{facts.name} in {root}", clips)
    return clips


def _check_options(facts: DatasetFacts, options: TableOptions) -> None:
    for target in options.targets:
        if target not in facts.targets:
            raise ValueError(f"{facts.name} has no target {target!r}; its targets are {', '.join(facts.targets)}")
    if options != TableOptions(options.targets):
        raise ValueError(
            f"{facts.name}: columns, raters, encoding and decimal are for tables of your own; leave them out"
        )


def _of_targets(row: TableRow, targets: Sequence[str]) -> Clip:
    """The clip of a row with the labels of the targets; those besides `label` were not rated by several people."""
    if tuple(targets) == (LABEL,):
        return row.clip
    ratings = [row.clip.ratings[0] if target == LABEL else Rating(row.labels[target]) for target in targets]
    return replace(row.clip, **asdict(ratings[0]), further=tuple(ratings[1:]))
