"""What holds of answers for any score and any text."""

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from omnisent.readouts.answers import AnswerGrid, parse_answer
from properties import examples

WIDE = AnswerGrid(-1e3, 1e3)
PIECES = st.sampled_from(
    ["+", "-", "\u2212", ".", ",", "e", "E", "_", "/", " ", "nan", "inf", "9" * 400, "0" * 400, "1", "\u0661", "\uff13"]
)


@examples(100)
@given(st.integers(-(10**4), 10**4))
def test_every_tenth_is_read_back_as_itself(tenths):
    assert parse_answer(WIDE.text(tenths / 10)) == tenths / 10


@examples(100)
@given(st.floats(-1e3, 1e3))
def test_every_score_has_one_decimal_and_is_read_back_to_half_of_it(score):
    answer = WIDE.text(score)
    assert re.fullmatch(r"[+-][0-9]+\.[0-9]", answer)
    assert answer != "-0.0"
    assert abs(parse_answer(answer) - score) <= 0.05 + abs(score) * 1e-15
    assert WIDE.text(parse_answer(answer)) == answer


@examples(150)
@given(st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=12).map("".join)))
@example("9" * 400)
@example("\u2212" + "9" * 400)
@example("\ud800-1.5")
def test_any_text_is_a_finite_number_or_none(text):
    found = parse_answer(text)
    assert found is None or math.isfinite(found)
    if not re.search("[0-9]", text):
        assert found is None


@examples(80)
@given(st.text("abc !?:\n", max_size=5), st.integers(-999, 999), st.text("abc !?:\n", max_size=5), st.text(max_size=5))
def test_the_first_number_is_taken_whatever_follows(before, tenths, after, rest):
    assert parse_answer(f"{before}{WIDE.text(tenths / 10)}{after or ' '}{rest}") == tenths / 10


@examples(80)
@given(st.floats(-20, 20), st.floats(-20, 20))
def test_the_answers_of_a_range_are_its_tenths_and_none_is_a_prefix(one, other):
    low, high = sorted((one, other))
    if low == high:
        return
    within = [n / 10 for n in range(-200, 201) if low <= n / 10 <= high]
    if not within:
        return
    grid = AnswerGrid(low, high)
    answers = grid.values
    assert set(within) <= set(answers)
    assert len(answers) <= len(within) + 2
    assert all(low - 1e-7 <= answer <= high + 1e-7 for answer in answers)  # an end that is a tenth but for rounding
    assert answers == sorted(answers)
    assert [grid.text(answer) for answer in answers] == [grid.forms(answer)[0] for answer in answers]
    written = [form for answer in answers for form in grid.forms(answer)]
    assert len(set(written)) == len(written)
    assert not any(a != b and b.startswith(a) for a in written for b in written)
    assert [parse_answer(grid.text(answer)) for answer in answers] == pytest.approx(answers)
