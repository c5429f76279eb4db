"""How the data sets of the catalog are read, by `DatasetFacts.source`: SOURCES. Opens no media."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import mmsa, rated_sentences
from .catalog import DatasetFacts
from .mmsa import TABLE_NAMES, Defect, MediaFiles, TableRow, read_table
from .planted import are_made, make_planted_clips

PLANTED_ROOT = Path("runs/planted")


@dataclass(frozen=True)
class Source:
    """How data sets of one kind are read.

    Attributes:
        read: the data set's facts, its root (`None`: the default) and what is called for each defective row, to the rows.
        columns: of their rows, with the types of `datasets`.
        media: lists the media below a root; `None` if the rows themselves name all their media.
        is_here: whether the rows below a root can be read without making or downloading them.
    """

    read: Callable[[DatasetFacts, str | Path | None, Callable[[Defect], None]], list[TableRow]]
    columns: Mapping[str, str]
    media: Callable[[str | Path], MediaFiles] | None = None
    is_here: Callable[[str | Path | None], bool] = lambda root: root is not None


def _mmsa(facts: DatasetFacts, root: str | Path | None, on_defect: Callable[[Defect], None]) -> list[TableRow]:
    if root is None or not any((Path(root) / table).is_file() for table in TABLE_NAMES):
        raise FileNotFoundError(
            f"{facts.name}: expected label.csv and Raw/<video_id>/<clip_id>.mp4 in the folder given by root ({root});"
            f" get the clips from the authors of {facts.title}"
        )
    ranges = facts.further_ranges
    return read_table(root, label_range=facts.score_range, further=ranges, with_media=False, on_defect=on_defect)


def _planted(facts: DatasetFacts, root: str | Path | None, on_defect: Callable[[Defect], None]) -> list[TableRow]:
    clips = make_planted_clips(root or PLANTED_ROOT)
    return [TableRow(clip, clip.id, (None, None, None), line) for line, clip in enumerate(clips, 2)]


def _rated(facts: DatasetFacts, root: str | Path | None, on_defect: Callable[[Defect], None]) -> list[TableRow]:
    return [*rated_sentences.read_sentences(root)]


SOURCES = {
    "mmsa": Source(_mmsa, mmsa.COLUMNS, MediaFiles),
    "planted": Source(_planted, mmsa.COLUMNS, is_here=lambda root: are_made(root or PLANTED_ROOT)),
    "rated_sentences": Source(_rated, rated_sentences.COLUMNS, is_here=rated_sentences.ARCHIVE.is_here),
}
