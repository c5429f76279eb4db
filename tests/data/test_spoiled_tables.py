"""Tables that people spoil in a hundred ways: each is one clear line that names the file and says what to do."""

from datetime import date
from pathlib import Path

import openpyxl
import pytest

from omnisent.data.labelled_folder import read_clips
from omnisent.data.load import load_clips
from omnisent.data.table_options import TableOptions

VALENCE = TableOptions(("valence",))


def csv(text: str, encoding: str = "utf-8"):
    def write(path: Path) -> None:
        path.write_bytes(text.encode(encoding))

    return "t.csv", write


def workbook(*rows: list, merged: tuple[str, ...] = (), further: tuple[str, ...] = ()):
    def write(path: Path) -> None:
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        for cells in merged:
            book.active.merge_cells(cells)
        for sheet in further:
            book.create_sheet(sheet)["A1"] = "text"
        book.save(path)

    return "t.xlsx", write


def damaged(path: Path) -> None:
    workbook(["id", "text"], ["a", "x"])[1](path)
    path.write_bytes(path.read_bytes()[:900])


SPOILED = {
    "wrong encoding": (
        csv("id,text,label\na,Müller,1\n", "latin-1"),
        TableOptions(),
        ", line 2, column 4: byte 0xfc is not UTF-8; save the file as UTF-8, or give its encoding, such as encoding: latin-1",
    ),
    "wrong declared encoding": (
        csv("id,text,label\na,M\x81ller,1\n", "latin-1"),
        TableOptions(encoding="cp1252"),
        ", byte 18: not cp1252; save the file as UTF-8, or give another encoding, such as cp1252",
    ),
    "an encoding of a workbook": (
        workbook(["id", "text"], ["a", "x"]),
        TableOptions(encoding="latin-1"),
        ": only a CSV has an encoding; leave out encoding: latin-1",
    ),
    "decimal commas undeclared": (
        csv("id;text;label\na;x;3,5\n"),
        TableOptions(),
        ", line 2: column label: '3,5' is not a number; if the table has decimal commas, give decimal: \",\"",
    ),
    "decimal points where commas are declared": (
        csv("id;text;label\na;x;3.5\n"),
        TableOptions(decimal=","),
        ", line 2: column label: '3.5' is not a number with a decimal comma; leave out decimal: \",\" if the table has points",
    ),
    "missing target": (
        csv("id,text,Valenz\na,x,3\n"),
        VALENCE,
        ": no column 'valence' with labels; its header is id, text, Valenz; try --columns valence=Valenz",
    ),
    "missing targets of other names": (
        csv("id,text,Mut,Wut\na,x,3,4\n"),
        TableOptions(("hope", "fear")),
        ": no columns 'hope' and 'fear' with labels; its header is id, text, Mut, Wut; try --targets Mut Wut",
    ),
    "a header in another language": (
        csv("Nr;Transkript;Datei;Valenz;Erregung\n1;Das war gut;a.mp4;3;4\n2;Nein danke, nie;b.mp4;1;2\n"),
        TableOptions(),
        ": no column text, video or audio; its header is Nr, Transkript, Datei, Valenz, Erregung; try --columns text=Transkript,"
        "video=Datei --targets Valenz Erregung",
    ),
    "no header": (
        csv("It was very good,a.wav,3\nIt was rather bad,b.wav,1\n"),
        TableOptions(),
        ": no column text, video or audio; its first row is It was very good, a.wav, 3; put a header above it, such as id, text,"
        " video, label",
    ),
    "two headers for one name": (
        csv("id,text,Label,label\na,x,1,2\n"),
        TableOptions(),
        ": columns 'Label' and 'label' could both be label; rename one, or say which with --columns label=Label",
    ),
    "one header twice": (
        csv("id,text,label,label\na,x,1,2\n"),
        TableOptions(),
        ", line 1: column 'label' appears twice; rename or remove one",
    ),
    "one header twice in another case": (
        csv("id,Text,Text\na,x,y\n"),
        TableOptions(),
        ", line 1: column 'Text' appears twice; rename or remove one",
    ),
    "one header of a workbook twice in another case": (
        workbook(["id", "Label", "text", "Label "], ["a", 1, "x", 2]),
        TableOptions(),
        ", row 1: column 'Label' appears twice; rename or remove one",
    ),
    "one mapped header twice": (
        csv("Foo,Foo\nx,y\n"),
        TableOptions(columns={"text": "foo"}),
        ", line 1: column 'Foo' appears twice; rename or remove one",
    ),
    "UTF-8 declared as latin-1": (
        csv("id,text\na,Müller\n"),
        TableOptions(encoding="latin-1"),
        ": this file is UTF-8; leave out encoding: latin-1",
    ),
    "UTF-8 with a byte that the declared encoding lacks": (
        csv("id,text\na,Íñigo\n"),
        TableOptions(encoding="cp1252"),
        ": this file is UTF-8; leave out encoding: cp1252",
    ),
    "a cell of a workbook beyond the header": (
        workbook(["id", "text", None], ["a", "x"], ["b", "y", " ", None, 3]),
        TableOptions(),
        ", row 3, column 5: expected 2 columns, found 5; give the column a header, or empty the cell",
    ),
    "merged cells": (
        workbook(["id", "text", "label"], ["a", "x", 1], ["b", "y", None], merged=("A1:B1", "C2:C3")),
        TableOptions(),
        ": the cells C2:C3 are merged; unmerge them and fill in each one",
    ),
    "an empty first sheet": (
        workbook(further=("Daten", "More")),
        TableOptions(),
        ": the first sheet, 'Sheet', is empty, and only the first is read; put the clips on it; the others are 'Daten', 'More'",
    ),
    "one rater twice": (
        csv("id,text,r1,r1\na,x,1,2\n"),
        TableOptions(raters=("r*",)),
        ", line 1: column 'r1' appears twice; rename or remove one",
    ),
    "ids twice": (
        csv("id,text\na,x\na,y\n"),
        TableOptions(),
        ", line 3: column id: 'a' appears twice; ids must be unique",
    ),
    "words for a missing label": (
        csv("id,text,label\na,x,n/a\n"),
        TableOptions(),
        ", line 2: column label: 'n/a' is not a number; leave the cell empty if there is none",
    ),
    "a label that is not a number": (
        csv("id,text,label\na,x,nan\n"),
        TableOptions(),
        ", line 2: column label: 'nan' is not finite; leave the cell empty if there is none",
    ),
    "a ragged row": (
        csv("id,text,label\na,well, so,1\n"),
        TableOptions(),
        ", line 2, column 4: expected 3 columns, found 4; is a separator unquoted?",
    ),
    "an empty file": (csv(""), TableOptions(), ": the table has no clips; expected a header and a row for each clip"),
    "a header alone": (
        workbook(["id", "text"]),
        TableOptions(),
        ": the table has no clips; expected a header and a row for each clip",
    ),
    "a damaged workbook": (
        ("t.xlsx", damaged),
        TableOptions(),
        ": not an Excel workbook, or it is damaged or has a password (BadZipFile); save it again, as .xlsx or as CSV",
    ),
    "a formula that was never computed": (
        workbook(["id", "text", "label"], ["a", "x", "=1+1"]),
        TableOptions(),
        ", row 2: column label: expected text or a number, found a formula without a value (open the workbook in a spreadsheet"
        " program and save it)",
    ),
    "a label that a spreadsheet made a date": (
        workbook(["id", "text", "label"], ["a", "x", date(2026, 5, 3)]),
        TableOptions(),
        ", row 2: column label: expected text or a number, found a date or time (format the column as text or as numbers)",
    ),
    "missing media": (
        csv("id,video,label\na,no.mp4,1\n"),
        TableOptions(),
        ": 1 of 1 media files do not exist: {folder}/no.mp4 (clip a); add them, or use the text alone",
    ),
    "splits of unknown names": (
        csv("id,text,split\na,x,holdout\n"),
        TableOptions(),
        ", line 2: column split: 'holdout' is not a split; expected train, valid, test, val, validation, dev",
    ),
    "raters without a match": (
        csv("id,text,r1,r2\na,x,1,2\n"),
        TableOptions(raters=("rater_*",)),
        ": raters: no column matches 'rater_*'; its header is id, text, r1, r2",
    ),
    "raters of one target without a match": (
        csv("id,text,v_1\na,x,1\n"),
        TableOptions(("v", "a"), raters=("{target}_*",)),
        ": raters: no column matches '{target}_*' for the target 'a'; its header is id, text, v_1",
    ),
    "raters beside a label": (
        csv("id,text,label,r1,r2\na,x,1,1,2\n"),
        TableOptions(raters=("r?",)),
        ": label has both a column of labels, 'label', and single ratings, r1, r2; leave out raters, or remove the column",
    ),
    "a rating that is not a number": (
        csv("id,text,r1,r2\na,x,1,ok\n"),
        TableOptions(raters=("r?",)),
        ", line 2: column r2: 'ok' is not a number; leave the cell empty if there is none",
    ),
    "a weight below 0": (
        csv("id,text,label,Sample_Weight\na,x,1,-2\n"),
        TableOptions(),
        ", line 2: column Sample_Weight: -2 is no weight; expected a number from 0 on",
    ),
    "a weight that is not finite": (
        csv("id,text,label,sample_weight\na,x,1,inf\n"),
        TableOptions(),
        ", line 2: column sample_weight: 'inf' is not finite; leave the cell empty if there is none",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_table_is_one_line_that_names_the_file_and_what_to_do(what, tmp_path):
    (name, write), options, message = SPOILED[what]
    write(tmp_path / name)
    with pytest.raises((ValueError, OSError)) as caught:
        read_clips(tmp_path / name, options=options)
    assert str(caught.value) == f"{tmp_path / name}{message.replace('{folder}', str(tmp_path))}"
    assert "\n" not in str(caught.value)
    with pytest.raises((ValueError, OSError)) as again:
        load_clips(str(tmp_path / name), options=options)
    assert str(again.value) == str(caught.value)
