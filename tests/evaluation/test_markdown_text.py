"""A text that is written into Markdown is shown as it was, whatever signs it has."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from omnisent.evaluation.markdown_text import escaped

TEXTS = (
    'head <b>mlp</b> | *x*, y"',
    "*s*",
    "__under__ _x_ a__b a_ _b snake_case",
    "[y](http://e.com) ![z](a.png) [1]",
    "<unk> < .001 > <!-- x --> <http://a.b>",
    r"C:\temp\_x_ \| \\",
    "`code` ``two`` ~~gone~~ $x$",
    "R&D &lt; &amp; &#33; &",
    "95 % interval (-0.123 to 0.456), 你好 # 1. - +",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_cell_shows_the_text_as_it_was(text):
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    shown = parser.render(f"| a | b |\n| --- | --- |\n| {escaped(text)} | next |\n")
    cells = re.findall("<td>(.*?)</td>", shown)
    assert [html.unescape(cell) for cell in cells] == [text, "next"]
    assert html.unescape(parser.render(f"It is {escaped(text)}.")) == f"<p>It is {text}.</p>\n"


def test_lines_become_one():
    assert escaped("two\nlines\t here ") == "two lines here"


def test_usual_words_are_left_as_they_are():
    text = "lora_r 16, p < .05, MAE 0.512 ± 0.010 (-0.1 to 0.2), 95 % of a-b & c"
    assert escaped(text) == text
