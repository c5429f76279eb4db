"""Options that no table can be read with are refused at once, by name."""

import re

import pytest

from omnisent.data.table_options import TableOptions, parse_columns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"targets": ("Valenz (1-9)",)},
            "targets: 'Valenz (1-9)': expected letters, digits, spaces, dots, dashes or underscores",
        ),
        ({"targets": ("a", "a")}, "targets: expected different names of columns, found a, a"),
        ({"targets": ("text",)}, "targets: 'text' is no label; id, text, video"),
        ({"columns": {"txt": "T"}}, "columns: unknown name 'txt'; expected one of id, text"),
        ({"columns": {"text": " "}}, "columns: text: expected the header of a column, found ' '"),
        ({"columns": {"valence": "V"}}, "columns: unknown name 'valence'"),
        (
            {"raters": ("r_*",), "targets": ("a", "b")},
            "raters: 'r_*' is for one target, but there are 2; write {target}",
        ),
        ({"encoding": "nope"}, "encoding: 'nope' is unknown; write for example latin-1"),
        ({"encoding": "base64"}, "encoding: 'base64' is unknown"),
        ({"decimal": ";"}, "decimal: expected '.' or ',', found ';'"),
    ],
)
def test_an_option_that_cannot_be_is_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TableOptions(**options)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("text=Transkript,valence=Valenz", {"text": "Transkript", "valence": "Valenz"}),
        (" text = Was gesagt wird ", {"text": "Was gesagt wird"}),
        ('{"text": "a,b=c"}', {"text": "a,b=c"}),
        ("text=a=b", {"text": "a=b"}),
    ],
)
def test_columns_are_read_from_text(text, columns):
    assert parse_columns(text) == columns


@pytest.mark.parametrize("text", ["", "text", "text=", "text=a,text=b", '{"text": 1}', "{text: a}", '{"text"'])
def test_other_columns_are_refused(text):
    with pytest.raises(
        ValueError, match="columns: expected text=HEADER,video=HEADER or a JSON object of such pairs, found"
    ):
        parse_columns(text)
