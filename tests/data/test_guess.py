"""What is proposed for the columns of an unknown table, by its header and its cells."""

import shlex

import pytest

from omnisent.command_line import as_train_has_them
from omnisent.data.guess import guess_columns
from omnisent.data.table_options import TableOptions, parse_columns


def guess(header: str, *rows: str, known=(), wanted=("label",)):
    names = header.split("|")
    cells = [dict(zip(names, row.split("|"), strict=True)) for row in rows]
    return guess_columns(names, cells, known=known, wanted=wanted, lacking=True)


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        ("utterance|file|rating", ["fine|a.mp4|3"], "--columns text=utterance,video=file,label=rating"),
        ("a|b|c", ["I really liked it|x/y.WAV|3.5", "No|z.wav|1"], "--columns text=a,audio=b --targets c"),
        ("texte|fichier|douleur", ["Aïe|a.mov|8"], "--columns text=texte,video=fichier --targets douleur"),
        ("row|subject|text_en|pain", ["1|7|ouch|8"], "--columns text=text_en --targets pain"),
        (
            "Satz|Valenz|Erregung|Länge",
            ["Gut|3,5|2|11"],
            "--columns text=Satz --targets Valenz Erregung --decimal ,",
        ),
        ("w|x|y", ["It was rather long|A short one|"], "--columns text=w"),
        ("on|x: y|1", ["It was rather long|3|5"], "--columns 'text=on,x_y=x: y' --targets x_y 1"),
        ("Was, genau|x", ["It was rather long|3"], """--columns '{"text": "Was, genau"}' --targets x"""),
        ("a|b", ["|"], ""),
    ],
)
def test_a_proposal_follows_names_and_cells_and_can_be_pasted(header, rows, words):
    found = guess(header, *rows)
    assert found.in_words() == words
    given = as_train_has_them(["data", "check", "t.csv", *shlex.split(words)])
    values: dict[str, list[str]] = {}
    for option, value in zip(given[3::2], given[4::2], strict=True):
        values.setdefault(option, []).append(value)
    columns = parse_columns(values["--columns"][0]) if "--columns" in values else {}
    targets = values.get("--targets", [])
    assert {name: header for name, header in columns.items() if name not in targets} == found.columns
    assert [columns.get(name, name) for name in targets] == list(found.targets)
    assert ("--decimal" in values) == found.has_commas
    TableOptions(tuple(targets) or ("label",), columns)


def test_targets_are_found_by_their_names_in_other_languages_or_spellings():
    found = guess("text|Valenz|arousel", "x|1|2", known={"text": "text"}, wanted=("valence", "arousal"))
    assert found.in_words() == "--columns valence=Valenz,arousal=arousel"
    assert guess("text|size", "x|1", known={"text": "text"}, wanted=("valence",)).in_words() == "--targets size"
