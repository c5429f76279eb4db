"""Finds the clips to score: files, folders, patterns or a table, and the transcript beside each file.

Only tables and transcripts are opened: a media file that cannot be read gets an error when it is scored.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..data.clip import Clip
from ..data.labelled_folder import read_clips
from ..data.table_options import TableOptions
from .subtitles import SUFFIXES as SUBTITLES
from .subtitles import file_beside, read_cues

_AUDIO = {".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".aif", ".amr", ".au"}
_VIDEO = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".flv", ".wmv", ".mpg", ".mpeg", ".ts", ".3gp", ".mts"}
MEDIA = _AUDIO | _VIDEO


def find_clips(
    files: Sequence[str],
    table: str | os.PathLike | None = None,
    text: str | None = None,
    table_options: TableOptions = TableOptions(),  # noqa: B008 (frozen)
) -> list[Clip]:
    """The clips that a user names, in order; ids are those of the table, or the paths as given, with non-UTF-8 bytes escaped.

    A file is the clip's `video`; whether it holds audio alone, its header says when it is read.

    A text without a file is one clip, with the id `text`.

    Args:
        files: files, folders (their media files at any depth, sorted) and patterns such as `talks/*.mp4`.
        table: a table of clips, instead of files; labels and splits are not needed.
        text: the transcript of a single file, or a text alone.
        table_options: how the table is read.

    Raises:
        ValueError: when there is nothing to score, a file is named twice, or a folder or pattern holds no media.
        FileNotFoundError: for a table that does not exist.
    """
    if table is not None:
        if files or text is not None:
            raise ValueError("give either files or --table; a table has its own transcripts")
        return read_clips(str(table), options=table_options, missing_ok=True)
    if text is not None and not files:
        return [Clip("text", text)]
    paths = [path for pattern in files for path in _media(pattern)]
    if not paths:
        raise ValueError("nothing to score: give files, folders or patterns, --table, or --text")
    for path, count in Counter(paths).items():
        if count > 1:
            raise ValueError(f"{path} is given twice")
    if text is not None and len(paths) > 1:
        raise ValueError(
            f"--text is the transcript of one file, but {len(paths)} are given; put transcripts in a --table"
        )
    return [Clip(path.encode("utf-8", "backslashreplace").decode(), text, video=path) for path in paths]


def transcript_of(clip: Clip) -> str | None:
    """A clip's own text, or that of the .txt, .srt or .vtt file of the same name beside its media; `None` if there is none.

    Raises:
        ValueError: for a file that cannot be read.
    """
    beside = transcript_file(clip)
    return clip.text if beside is None else _read(beside)


def transcript_file(clip: Clip) -> Path | None:
    """The .txt, .srt or .vtt file that a clip's transcript is read from; `None` for a clip with its own text, or without a file."""
    media = clip.video or clip.audio
    if clip.text or not media:
        return None
    return file_beside(media, (".txt", *SUBTITLES))


def _read(path: Path) -> str | None:
    if path.suffix.lower() in SUBTITLES:
        return " ".join(cue.text for cue in read_cues(path)) or None
    try:
        return path.read_text(encoding="utf-8-sig").strip() or None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a transcript in UTF-8 ({error}); save it as UTF-8") from error


def _media(pattern: str) -> Iterator[str]:
    if os.path.isdir(pattern):
        paths = sorted(
            str(path) for path in Path(pattern).rglob("*") if path.suffix.lower() in MEDIA and path.is_file()
        )
    elif glob.has_magic(pattern) and not os.path.exists(pattern):
        paths = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    else:
        paths = [pattern]
    if not paths:
        raise ValueError(f"{pattern}: no video or audio file found there")
    yield from paths
