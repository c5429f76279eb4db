"""Reads the sentences of tweets, reviews and editorials that many people rated (Hutto and Gilbert, ICWSM 2014).

They are in the source archive of `vaderSentiment`, in an archive of their own, as two files for each genre:
`*_GroundTruth.txt` (id, mean rating, text) and `*_anonDataRatings.txt` (id, mean, standard deviation, all single ratings).
"""

import gzip
import hashlib
import html
import json
import math
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from .catalog import DATASETS
from .clip import Clip, rater_mae
from .mmsa import COLUMNS as MMSA_COLUMNS
from .mmsa import TableRow
from .pinned_file import PinnedFile

ARCHIVE = PinnedFile(
    "vaderSentiment",
    "3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    2.5,
)
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
FACTS = DATASETS["human_ratings"]
FILES = (
    "tweets",
    "movieReviewSnippets",
    "amazonReviewSnippets",
    "nytEditorialSnippets",
)  # of each genre, names begin so
SCALE = int(FACTS.score_range[1])  # ratings are whole numbers from -SCALE to SCALE
COLUMNS = {**MMSA_COLUMNS, "genre": "string", "label_sd": "float64", "raters": "int64", "rater_mae": "float64"}

_ID = re.compile(r"(?P<document>[0-9]+)(?:_(?P<index>[0-9]+))?")
_DAMAGED = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)


@dataclass(frozen=True)
class RatedRow(TableRow):
    """A rated sentence.

    Attributes:
        clip: `video_id` is its document (a review, an editorial; a tweet or a film sentence is its own), `clip_index` its
            position in a document of several; `rater_mae` and `label_sd` are those of its ratings.
        clip_id, line: its id and line in `*_GroundTruth.txt`.
        raters: number of its ratings.
    """

    raters: int

    def to_dict(self) -> dict[str, str | float | int | None]:
        """The row with the keys of COLUMNS."""
        values = {**self.clip.to_dict(), **super().to_dict(), "raters": self.raters}
        return {name: values[name] for name in COLUMNS}


def read_sentences(root: str | Path | None = None) -> list[RatedRow]:
    """The rows of the archive in a folder, by default the cache; it is downloaded first if the folder does not hold it.

    Raises: as `PinnedFile.fetch` and `read_archive`.
    """
    return read_archive(ARCHIVE.fetch(root))


def read_archive(path: str | Path) -> list[RatedRow]:
    """The rows of an archive, by genre and in the order of its files.

    A label is the published mean. HTML entities are decoded. Documents that share a sentence, apart from case and punctuation,
    are in one split, and so are all sentences of a document; the SHA-256 of the id of one of these documents selects it.

    Raises:
        ValueError: naming file and line, for an archive or a row that cannot be read.
    """
    files = _files(Path(path))
    rows = []
    for genre, stem in zip(FACTS.genres, FILES, strict=True):
        texts, ratings = f"{stem}_GroundTruth.txt", f"{stem}_anonDataRatings.txt"
        rated = _ratings(f"{path}: {ratings}", files[ratings])
        for place, line, (row_id, mean, text) in _lines(f"{path}: {texts}", files[texts], 3):
            if row_id not in rated:
                raise ValueError(f"{place}: id {row_id!r} is there twice, or is not in {ratings}")
            rows.append(_row(place, line, genre, row_id, mean, text, rated.pop(row_id)))
        if rated:
            raise ValueError(f"{path}: {ratings}: id {next(iter(rated))!r} is not in {texts}")
    leaders = _leaders(row.clip for row in rows)
    return [replace(row, clip=replace(row.clip, split=_split(leaders[row.video_id]))) for row in rows]


def _files(path: Path) -> dict[str, bytes]:
    """The files with texts and ratings, by name."""
    names = [f"{stem}_{kind}.txt" for stem in FILES for kind in ("GroundTruth", "anonDataRatings")]
    folder = Path(INNER).name.removesuffix(".tar.gz")
    try:
        with tarfile.open(path, "r:gz") as outer, tarfile.open(fileobj=_member(outer, INNER), mode="r:gz") as inner:
            return {name: _member(inner, f"{folder}/{name}").read() for name in names}
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]}") from error
    except _DAMAGED as error:
        raise ValueError(f"{path}: the archive is damaged ({error}); remove it, so that it is fetched again") from error


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is not a file")
    return member


def _lines(file: str, content: bytes, columns: int) -> Iterator[tuple[str, int, list[str]]]:
    """Place (for messages), number and cells of each line."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        try:
            cells = [cell.strip() for cell in line.decode("utf-8").split("\t")]
        except UnicodeDecodeError as error:
            raise ValueError(f"{place}: not UTF-8 ({error.reason})") from error
        if len(cells) != columns:
            raise ValueError(f"{place}: expected {columns} cells with tabs between them, found {len(cells)}")
        yield place, number, cells


def _ratings(file: str, content: bytes) -> dict[str, np.ndarray]:
    """The single ratings (n,) of each sentence, by id."""
    ratings = {}
    for place, _, (row_id, _, _, cell) in _lines(file, content, 4):
        if row_id in ratings:
            raise ValueError(f"{place}: id {row_id!r} is there twice")
        try:
            numbers = json.loads(cell)
        except ValueError:
            numbers = None
        is_valid = isinstance(numbers, list) and all(type(one) is int and abs(one) <= SCALE for one in numbers)
        if not is_valid or len(numbers) < 2:
            raise ValueError(
                f"{place}: expected at least two ratings from -{SCALE} to {SCALE}, as in [1, -2], found {cell[:60]!r}"
            )
        ratings[row_id] = np.array(numbers, dtype=np.float64)
    return ratings


def _row(place: str, line: int, genre: str, row_id: str, mean: str, text: str, ratings: np.ndarray) -> RatedRow:
    parts = _ID.fullmatch(row_id)
    if parts is None:
        raise ValueError(f"{place}: expected an id such as 12 or 12_3, found {row_id!r}")
    try:
        label = float(mean)
    except ValueError:
        label = math.nan
    if not abs(label) <= SCALE:
        raise ValueError(f"{place}: expected a mean rating from -{SCALE} to {SCALE}, found {mean!r}")
    decoded = html.unescape(html.unescape(text))  # some are encoded twice
    clip = Clip(
        id=f"{genre}_{row_id}",
        text=decoded.strip() or None,
        label=label + 0.0,
        video_id=f"{genre}_{parts['document']}",
        clip_index=None if parts["index"] is None else int(parts["index"]),
        genre=genre,
        rater_mae=rater_mae(ratings),
        label_sd=float(ratings.std()),
    )
    return RatedRow(clip, row_id, (None, None, None), line, len(ratings))


def _leaders(clips: Iterable[Clip]) -> dict[str, str]:
    """For each document, the first one among those that it is linked to by equal sentences."""
    earlier: dict[str, str] = {}
    first: dict[str, str] = {}

    def leader(document: str) -> str:
        while earlier[document] != document:
            document = earlier[document]
        return document

    for clip in clips:
        document = clip.video_id or clip.id
        earlier.setdefault(document, document)
        words = " ".join(re.findall(r"\w+", (clip.text or "").casefold()))
        same = leader(first.setdefault(words, document))
        earlier[leader(document)] = same
    return {document: leader(document) for document in earlier}


def _split(document: str) -> str:
    """80 % train, 10 % valid, 10 % test, by the first 8 bytes of the id's SHA-256."""
    part = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") / 2**64
    return "train" if part < 0.8 else "valid" if part < 0.9 else "test"
