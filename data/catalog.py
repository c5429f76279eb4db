"""Data sets by name: their clips, score range, official split sizes and metric convention."""

from dataclasses import dataclass
from pathlib import Path

from .clip import Clip
from .labelled_folder import read_clips
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
    """The facts of a named data set; for a table of one's own, scores in [-3, 3] and the convention of MOSI."""
    return DATASETS.get(name_or_path, DatasetFacts(name_or_path))


def load_clips(name_or_path: str, *, root: str | Path | None = None, with_media: bool = True) -> list[Clip]:
    """The clips of a named data set, or of any table.

    Args:
        name_or_path: a name in the catalog, or what `read_clips` takes.
        root: the folder that a named data set lies in, with label.csv and Raw/<video_id>/<clip_id>.mp4; for `planted`,
            the folder that the clips are made in, by default runs/planted.
        with_media: `False` leaves media paths out.

    Raises:
        FileNotFoundError: when there is neither such a name nor such a path, or the root is missing.
        ValueError: for a table that cannot be read.
    """
    if name_or_path == "planted":
        make_planted_clips(root or PLANTED_ROOT)
        return read_clips(root or PLANTED_ROOT, with_media=with_media)
    if name_or_path not in DATASETS:
        if not Path(name_or_path).exists():
            raise FileNotFoundError(
                f"{name_or_path!r} is neither a data set ({', '.join(DATASETS)}) nor an existing table of clips"
            )
        return read_clips(name_or_path, with_media=with_media)
    table = None if root is None else Path(root) / "label.csv"
    if table is None or not table.is_file():
        raise FileNotFoundError(
            f"{name_or_path}: expected label.csv and Raw/<video_id>/<clip_id>.mp4 in the folder given by root ({root});"
            " the clips are had from the data set's authors"
        )
    return read_clips(table, with_media=with_media)
