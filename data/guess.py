"""Proposes how the columns of an unknown table could be used, by its header and first rows. It decides nothing."""

import json
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .table_options import NAME

MEDIA = {
    "video": {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".flv", ".wmv", ".mpg", ".mpeg"},
    "audio": {".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac"},
}
# Words of headers, in a few languages.
WORDS = {
    "text": "text transcript transcription utterance sentence words caption transkript transkription satz äußerung aussage texte"
    " phrase énoncé texto frase transcripción testo trascrizione tekst zin текст 文本 句子 转录 テキスト",
    "video": "video file path filename clip datei videodatei pfad fichier vidéo chemin archivo vídeo filmato bestand видео 视频",
    "audio": "audio sound wav ton tondatei son geluid аудио 音频",
    "split": "split set subset partition fold part teilmenge aufteilung",
    "speaker": "speaker subject participant person sprecher sprecherin proband teilnehmer locuteur hablante parlante 说话人",
    "id": "id nr no number nummer numéro número index key row zeile name kennung",
}
# Each line is one thing that people rate.
TARGETS = (
    "valence valenz valencia valenza valentie 效价",
    "arousal activation erregung aktivierung excitation activación attivazione 唤醒度",
    "dominance dominanz dominancia",
    "sentiment stimmung polarity polarität sentimiento opinion",
    "pain schmerz douleur dolor dolore pijn",
    "engagement beteiligung compromiso",
    "stress",
    "label score rating mos grade bewertung wertung urteil note puntuación punteggio oordeel оценка 评分 得分",
)
_ANY_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?")


@dataclass(frozen=True)
class Guess:
    """A proposal: the table's header by our name, the columns of labels, and whether these have decimal commas."""

    columns: Mapping[str, str]
    targets: tuple[str, ...]
    has_commas: bool = False

    def in_words(self) -> str:
        """As options of a command, e.g. `--columns text=Transkript --targets Valenz Erregung`; empty if it proposes nothing.

        A header that cannot be the name of a target gets a plain one.
        """
        names = {header: header if NAME.fullmatch(header) else _plain(header) for header in self.targets}
        columns = {**self.columns, **{name: header for header, name in names.items() if name != header}}
        parts = [columns_option(columns)] if columns else []
        parts += [f"--targets {' '.join(map(shlex.quote, names.values()))}"] if names else []
        parts += ["--decimal ,"] if self.has_commas else []
        return " ".join(parts)


def _plain(header: str) -> str:
    return re.sub(r"\W+", "_", header).strip("_") or "target"


def columns_option(columns: Mapping[str, str]) -> str:
    """`--columns` with a value that `parse_columns` reads, quoted for a shell."""
    text = ",".join(f"{name}={header}" for name, header in columns.items())
    if any(set(header) & set(",=") for header in columns.values()):
        text = json.dumps(columns, ensure_ascii=False)
    return f"--columns {shlex.quote(text)}"


def is_cell(name: str) -> bool:
    """Whether a header is rather a cell: a number, or the name of a media file."""
    return bool(_ANY_NUMBER.fullmatch(name.strip())) or any(_share([name], endings) for endings in MEDIA.values())


def guess_columns(
    header: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    *,
    known: Collection[str],
    wanted: Sequence[str],
    lacking: bool,
) -> Guess:
    """A proposal for the columns that are not in use yet.

    Args:
        header: of the columns that are free.
        rows: the first rows.
        known: names that already have a column.
        wanted: targets that have none.
        lacking: whether the targets that the user named are to be replaced if no column resembles them.
    """
    cells = _cells(header, rows)
    columns: dict[str, str] = {}

    def free(names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in columns.values()]

    numeric = [name for name in header if cells[name] and all(map(_ANY_NUMBER.fullmatch, cells[name]))]
    for kind, endings in MEDIA.items():
        of_kind = [name for name in header if _share(cells[name], endings) > 0.5]
        named = [name for name in header if not cells[name] and _names(name, WORDS[kind])]
        if kind not in known and (found := free(of_kind or named)):
            columns[kind] = found[0]
    media = [name for name in header if any(_share(cells[name], endings) > 0.5 for endings in MEDIA.values())]
    rest = [name for name in free(header) if name not in numeric and name not in media and name]
    if "text" not in known:
        named = [name for name in rest if _names(name, WORDS["text"])]
        longest = sorted((name for name in rest if _length(cells[name]) >= 8), key=lambda name: -_length(cells[name]))
        if found := named or longest:
            columns["text"] = found[0]
    for name in ("split", "speaker"):
        found = [one for one in free(rest) if _names(one, WORDS[name])]
        if name not in known and found:
            columns[name] = found[0]
    targets = [name for name in free(numeric) if not _names(name, WORDS["id"] + " " + WORDS["speaker"])]
    rated = [name for name in targets if any(_names(name, words) for words in TARGETS)] or targets
    for target in wanted:
        same = [name for name in free(rated) if any(_names(name, words) and _names(target, words) for words in TARGETS)]
        near = get_close_matches(target.casefold(), [name.casefold() for name in free(targets)], 1, 0.7)
        close = [name for name in free(targets) if name.casefold() in near]
        if found := same or close:
            columns[target] = found[0]
    columns = {name: columns[name] for name in dict.fromkeys(("text", *columns)) if name in columns}
    left = wanted and lacking and not set(wanted) <= columns.keys()
    chosen = tuple(free(rated)) if left else ()
    labels = [*chosen, *(columns[target] for target in wanted if target in columns)]
    return Guess(columns, chosen, any("," in cell for name in labels for cell in cells[name]))


def _cells(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The first cells of each column as text, without the empty ones."""
    cells: dict[str, list[str]] = {name: [] for name in header}
    for row in rows:
        for name in header:
            value = row.get(name)
            if isinstance(value, dict):
                value = value.get("path")
            if isinstance(value, str | int | float) and str(value).strip():
                cells[name].append(str(value).strip())
    return cells


def _names(header: str, words: str) -> bool:
    """Whether a header consists of, or holds, one of the words."""
    parts = re.findall(r"[^\W_]+", header.casefold())
    return any(word in parts for word in words.split())


def _share(cells: Sequence[str], endings: Collection[str]) -> float:
    return sum(Path(cell).suffix.lower() in endings for cell in cells) / max(len(cells), 1)


def _length(cells: Sequence[str]) -> float:
    return sum(map(len, cells)) / max(len(cells), 1)
