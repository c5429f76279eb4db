"""The palette of all figures can be told apart with any colour vision, and from the white ground."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import omnisent
from omnisent.figure_style import GREY, HATCHES, LINES, MARKERS, NEGATIVE, POSITIVE, SERIES, Fonts

# How linear RGB looks with a kind of colour blindness at full strength: Machado, Oliveira and Fernandes (2009).
VISIONS = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
WHITE = [0.95047, 1.0, 1.08883]
ROOT = Path(omnisent.__file__).parent


def linear(colour: str) -> np.ndarray:
    """Linear RGB, (3,) in [0, 1]."""
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast_with_white(colour: str) -> float:
    return 1.05 / (float(linear(colour) @ TO_XYZ[1]) + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB."""
    x, y, z = np.cbrt(np.maximum(np.array(TO_XYZ) @ rgb.clip(0, 1) / WHITE, 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("colour", [*SERIES, GREY, NEGATIVE, POSITIVE])
def test_every_colour_stands_out_from_the_ground(colour):
    assert contrast_with_white(colour) >= 3


@pytest.mark.parametrize("vision", VISIONS)
def test_two_series_can_be_told_apart_with_any_colour_vision(vision):
    seen = {colour: lab(VISIONS[vision] @ linear(colour)) for colour in (*SERIES, NEGATIVE, POSITIVE)}
    pairs = [*itertools.combinations(SERIES, 2), (NEGATIVE, POSITIVE)]
    assert min(np.linalg.norm(seen[one] - seen[other]) for one, other in pairs) > 15


def test_colour_is_never_the_only_difference():
    for styles in (MARKERS, HATCHES, LINES):
        assert len(set(styles[: len(SERIES)])) == len(SERIES)


def test_a_text_is_cut_and_has_no_letter_that_the_fonts_lack():
    fonts = Fonts(["DejaVu Sans"], set("abc …"))
    assert fonts.written("a b \u4f60", 40) == "a b ?"
    assert fonts.written("abc" * 20, 10) == "abcabcabc…"
    assert set("aé") <= Fonts.available().letters


def test_no_other_module_has_colours_or_letters_of_its_own():
    """Those of pages are in their style sheets."""
    folders = ("data", "evaluation", "experiments", "hub", "scoring", "training", "benchmarks")
    found = {}
    for path in (path for folder in folders for path in (ROOT / folder).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "matplotlib" in text:
            found[path.name] = re.findall(r"#[0-9a-fA-F]{6}|tab:\w+|[\"']C\d[\"']|fontsize=\d+|dpi=\d+", text)
    assert len(found) >= 10
    assert {name: own for name, own in found.items() if own} == {}
