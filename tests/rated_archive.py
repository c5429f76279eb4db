"""A small archive of rated sentences, in the format of the published one."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from omnisent.data import rated_sentences
from omnisent.data.rated_sentences import ARCHIVE, FILES, INNER

TWEETS, FILMS, PRODUCTS, EDITORIALS = FILES
RATINGS = ("[1, 2, 3]", "[-4, 0]", "[0, 0, 1, -1]", "[4, 4, 3]")


def ratings_of(texts: bytes) -> bytes:
    """Ratings of each id of a file of texts, with a byte order mark and lines that end in CRLF."""
    ids = [line.split("\t")[0] for line in texts.decode(errors="replace").splitlines()]
    lines = [f"{row_id}\t0\t0\t{RATINGS[at % len(RATINGS)]}" for at, row_id in enumerate(ids)]
    return b"\xef\xbb\xbf" + "\r\n".join(lines).encode()


def texts_of(stem: str) -> bytes:
    """Twenty documents of a genre, of one sentence each, or of three for products and editorials."""
    parts = ("_1", "_2", "_3") if stem in (PRODUCTS, EDITORIALS) else ("",)
    ids = [f"{document}{part}" for document in range(1, 21) for part in parts]
    return "\r\n".join(
        f"{row_id}\t{at % 9 - 4}\tSentence {row_id} of {stem}." for at, row_id in enumerate(ids)
    ).encode()


def write_archive(folder: Path, changed: Mapping[str, bytes | None] | None = None) -> Path:
    """The archive, with some of its files changed, or left out (`None`); changed texts get ratings for their ids."""
    files: dict[str, bytes | None] = {}
    for stem in FILES:
        texts = (changed or {}).get(f"{stem}_GroundTruth.txt", texts_of(stem))
        files |= {f"{stem}_GroundTruth.txt": texts, f"{stem}_anonDataRatings.txt": ratings_of(texts or b"")}
    inner = _archive({f"hutto_ICWSM_2014/{name}": content for name, content in {**files, **(changed or {})}.items()})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARCHIVE.name).write_bytes(_archive({INNER: inner}))
    return folder / ARCHIVE.name


def use_archive(monkeypatch, archive: Path) -> None:
    """Let this archive be the one that is pinned."""
    pinned = replace(ARCHIVE, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(rated_sentences, "ARCHIVE", pinned)


def _archive(files: Mapping[str, bytes | None]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            if data is not None:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return content.getvalue()
