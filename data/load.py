"""The clips of a data set, by its name in the catalog or by the path of a table or built data set. Opens no media."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .catalog import DATASETS, DatasetFacts
from .clip import Clip
from .labelled_folder import check_media, read_clips
from .mmsa import refuse
from .sources import SOURCES


def load_clips(
    name_or_path: str,
    *,
    root: str | Path | None = None,
    genres: Sequence[str] | None = None,
    with_media: bool = True,
    missing_ok: bool = False,
) -> list[Clip]:
    """The clips of a named data set, or of any table or built data set.

    Args:
        name_or_path: a name in the catalog, or what `read_clips` takes.
        root: the folder of a named data set: the one in the MMSA or the CMU layout; for `planted`, the one to create the clips
            in, by default runs/planted; for `human_ratings`, the one that holds or gets its archive, by default the cache.
        genres: only the clips of these genres.
        with_media: `False` leaves media paths out.
        missing_ok: `True` keeps paths of missing files, for a caller that reports them itself.

    Raises:
        FileNotFoundError: when there is neither such a name nor such a path, or the root or media are missing.
        OSError: when a file of a named data set cannot be downloaded.
        ValueError: for a table that cannot be read, naming file, line and column.
    """
    facts = DATASETS.get(name_or_path)
    if facts is not None:
        clips = _named_clips(facts, root, with_media, missing_ok)
    elif Path(name_or_path).exists():
        clips = read_clips(name_or_path, with_media=with_media, missing_ok=missing_ok)
    else:
        raise FileNotFoundError(
            f"{name_or_path!r} is neither a data set ({', '.join(DATASETS)}) nor an existing table of clips"
        )
    return [clip for clip in clips if genres is None or clip.genre in genres]


def _named_clips(facts: DatasetFacts, root: str | Path | None, with_media: bool, missing_ok: bool) -> list[Clip]:
    source = SOURCES[facts.source]
    rows = source.read(facts, root, refuse)
    if not with_media:
        return [replace(row.clip, video=None, audio=None) for row in rows]
    if source.media is None or root is None:
        return [row.clip for row in rows]
    media = source.media(root)
    clips = [replace(row.clip, video=media.path(row.video_id, row.clip_id)) for row in rows]
    if not missing_ok:
        check_media(f"{facts.name} in {root}", clips)
    return clips
