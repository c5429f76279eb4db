"""Data sets by name: their clips, score range, official split sizes and metric convention."""

from dataclasses import dataclass, replace
from pathlib import Path

from .built import build_record
from .clip import Clip
from .labelled_folder import check_media, read_clips
from .mmsa import TABLE_NAMES, MediaFiles, read_table
from .planted import make_planted_clips

PLANTED_ROOT = Path("runs/planted")


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set before it is read; `split_counts` are the official train, valid and test sizes."""

    name: str
    score_range: tuple[float, float] = (-3.0, 3.0)
    convention: str = "mosi"
    split_counts: tuple[int, int, int] | None = None


DATASETS = {
    facts.name: facts
    for facts in (
        DatasetFacts("planted"),
        DatasetFacts("cmu_mosi", split_counts=(1284, 229, 686)),
        DatasetFacts("cmu_mosei", split_counts=(16326, 1871, 4659)),
        DatasetFacts("ch_sims", (-1.0, 1.0), "sims", (1368, 456, 457)),
        DatasetFacts("ch_sims_v2", (-1.0, 1.0), "sims", (2722, 647, 1034)),
    )
}


def dataset_facts(name_or_path: str) -> DatasetFacts:
    """The facts of a named or built data set; for a table of one's own, scores in [-3, 3] and the convention of MOSI."""
    record = build_record(name_or_path)
    name = name_or_path if record is None else record.name
    return DATASETS.get(name, DatasetFacts(name))


def load_clips(
    name_or_path: str, *, root: str | Path | None = None, with_media: bool = True, missing_ok: bool = False
) -> list[Clip]:
    """The clips of a named data set, or of any table or built data set.

    Args:
        name_or_path: a name in the catalog, or what `read_clips` takes.
        root: the folder that a named data set lies in, in the MMSA or the CMU layout; for `planted`, the folder that the
            clips are made in, by default runs/planted.
        with_media: `False` leaves media paths out.
        missing_ok: `True` keeps paths where no file lies, for a caller that finds and lists them itself.

    Raises:
        FileNotFoundError: when there is neither such a name nor such a path, or the root or media are missing.
        ValueError: for a table that cannot be read, naming file, line and column.
    """
    if name_or_path == "planted":
        make_planted_clips(root or PLANTED_ROOT)
        return read_clips(root or PLANTED_ROOT, with_media=with_media)
    if name_or_path not in DATASETS:
        if not Path(name_or_path).exists():
            raise FileNotFoundError(
                f"{name_or_path!r} is neither a data set ({', '.join(DATASETS)}) nor an existing table of clips"
            )
        return read_clips(name_or_path, with_media=with_media, missing_ok=missing_ok)
    if root is None or not any((Path(root) / table).is_file() for table in TABLE_NAMES):
        raise FileNotFoundError(
            f"{name_or_path}: expected label.csv and Raw/<video_id>/<clip_id>.mp4 in the folder given by root ({root});"
            " the clips are had from the data set's authors"
        )
    rows = read_table(root, label_range=DATASETS[name_or_path].score_range, with_media=False)
    if not with_media:
        return [row.clip for row in rows]
    media = MediaFiles(root)
    clips = [replace(row.clip, video=media.path(row.clip.video_id, row.clip_id)) for row in rows]
    if not missing_ok:
        check_media(f"{name_or_path} in {root}", clips)
    return clips
