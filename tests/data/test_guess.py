"""What is proposed for the columns of an unknown table, by its header and its cells."""

import pytest
import yaml

from omnisent.data.guess import guess_columns


def guess(header: str, *rows: str, known=(), wanted=("label",)):
    names = header.split("|")
    cells = [dict(zip(names, row.split("|"), strict=True)) for row in rows]
    return guess_columns(names, cells, known=known, wanted=wanted, lacking=True)


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        ("utterance|file|rating", ["fine|a.mp4|3"], "columns: {text: utterance, video: file, label: rating}"),
        ("a|b|c", ["I really liked it|x/y.WAV|3.5", "No|z.wav|1"], "columns: {text: a, audio: b}, targets: [c]"),
        ("texte|fichier|douleur", ["Aïe|a.mov|8"], "columns: {text: texte, video: fichier}, targets: [douleur]"),
        ("row|subject|text_en|pain", ["1|7|ouch|8"], "columns: {text: text_en}, targets: [pain]"),
        (
            "Satz|Valenz|Erregung|Länge",
            ["Gut|3,5|2|11"],
            'columns: {text: Satz}, targets: [Valenz, Erregung], decimal: ","',
        ),
        ("w|x|y", ["It was rather long|A short one|"], "columns: {text: w}"),
        ("on|x: y|1", ["It was rather long|3|5"], 'columns: {text: "on"}, targets: ["x: y", "1"]'),
        ("a|b", ["|"], ""),
    ],
)
def test_a_proposal_follows_names_and_cells_and_is_yaml(header, rows, words):
    found = guess(header, *rows)
    assert found.in_words() == words
    read = yaml.safe_load("{" + words + "}")
    assert read.get("columns", {}) == found.columns
    assert read.get("targets", []) == list(found.targets)
    assert ("decimal" in read) == found.has_commas


def test_targets_are_found_by_their_names_in_other_languages_or_spellings():
    found = guess("text|Valenz|arousel", "x|1|2", known={"text": "text"}, wanted=("valence", "arousal"))
    assert found.in_words() == "columns: {valence: Valenz, arousal: arousel}"
    assert guess("text|size", "x|1", known={"text": "text"}, wanted=("valence",)).in_words() == "targets: [size]"
