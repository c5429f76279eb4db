"""The clips of a data set, by its name in the catalog or by the path of a table or built data set. Opens no media."""

from dataclasses import replace
from pathlib import Path

from .catalog import DATASETS
from .clip import Clip
from .labelled_folder import check_media, read_clips
from .mmsa import TABLE_NAMES, MediaFiles, read_table
from .planted import make_planted_clips

PLANTED_ROOT = Path("runs/planted")


def load_clips(
    name_or_path: str, *, root: str | Path | None = None, with_media: bool = True, missing_ok: bool = False
) -> list[Clip]:
    """The clips of a named data set, or of any table or built data set.

    Args:
        name_or_path: a name in the catalog, or what `read_clips` takes.
        root: the folder of a named data set, in the MMSA or the CMU layout; for `planted`, the folder to create
            the clips in, by default runs/planted.
        with_media: `False` leaves media paths out.
        missing_ok: `True` keeps paths of missing files, for a caller that reports them itself.

    Raises:
        FileNotFoundError: when there is neither such a name nor such a path, or the root or media are missing.
        ValueError: for a table that cannot be read, naming file, line and column.
    """
    facts = DATASETS.get(name_or_path)
    if facts is None:
        if not Path(name_or_path).exists():
            raise FileNotFoundError(
                f"{name_or_path!r} is neither a data set ({', '.join(DATASETS)}) nor an existing table of clips"
            )
        return read_clips(name_or_path, with_media=with_media, missing_ok=missing_ok)
    if facts.synthetic:
        make_planted_clips(root or PLANTED_ROOT)
        return read_clips(root or PLANTED_ROOT, with_media=with_media)
    if root is None or not any((Path(root) / table).is_file() for table in TABLE_NAMES):
        raise FileNotFoundError(
            f"{name_or_path}: expected label.csv and Raw/<video_id>/<clip_id>.mp4 in the folder given by root ({root});"
            f" get the clips from the authors of {facts.title}"
        )
    rows = read_table(root, label_range=facts.score_range, with_media=False)
    if not with_media:
        return [row.clip for row in rows]
    media = MediaFiles(root)
    clips = [replace(row.clip, video=media.path(row.video_id, row.clip_id)) for row in rows]
    if not missing_ok:
        check_media(f"{name_or_path} in {root}", clips)
    return clips
