"""Scores as text: the format that is trained on, and the one rule that answers are parsed by."""

import math

import pytest

from omnisent.readouts.answers import AnswerGrid, parse_answer


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("+1.4", 1.4),
        ("-0.3", -0.3),
        ("The sentiment is -2.", -2.0),
        ("2.25 out of 3", 2.25),
        ("-1.5/3", -1.5),
        ("minus two", None),
        ("between 1 and 2", 1.0),
        ("\uff13", None),
        ("1,5", 1.0),
        ("", None),
        ("NaN", None),
        ("inf", None),
        ("1e309", 1.0),
        ("\u22121.5", -1.5),
        ("- 2", 2.0),
        ("--2", -2.0),
        (".5", 0.5),
        ("-.5.", -0.5),
        ("1.2.3", 1.2),
        ("\u0663", None),
        ("+", None),
        ("score=+3.9", 3.9),
    ],
)
def test_the_first_signed_decimal_is_the_score(text, score):
    assert parse_answer(text) == score


@pytest.mark.parametrize("text", ["9" * 400, "-" + "9" * 400, "\u2212" + "9" * 400 + ".5", "9" * 5000])
def test_a_number_too_long_for_a_float_is_unparsable(text):
    assert parse_answer(text) is None
    assert parse_answer("9" * 300) == float("9" * 300)


def test_the_last_number_is_taken_on_request():
    text = "On a scale from -3 to 3, I would say 1.5"
    assert (parse_answer(text), parse_answer(text, last=True), parse_answer("none", last=True)) == (-3.0, 1.5, None)
    assert math.copysign(1, parse_answer("-0.0")) == -1


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_has_no_answer(score):
    with pytest.raises(ValueError, match=f"found {score}"):
        AnswerGrid(-3.0, 3.0).text(score)


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, -1.0), (1.0, 1.0), (-math.inf, 1.0), (-1.0, math.inf), (math.nan, 1.0)]
)
def test_answers_need_a_range(low, high):
    with pytest.raises(ValueError, match="expected a finite low below a finite high"):
        AnswerGrid(low, high)


@pytest.mark.parametrize("step", [0.0, -0.1, math.nan, math.inf, 0.0001, 1 / 3])
def test_answers_need_a_step_that_can_be_written(step):
    with pytest.raises(ValueError, match="above 0 with at most 3 decimals"):
        AnswerGrid(-3.0, 3.0, step)


def test_a_range_without_a_multiple_of_the_step_has_no_answers():
    with pytest.raises(ValueError, match=r"expected at least one multiple of 2\.0"):
        AnswerGrid(0.5, 1.5, 2.0)


def test_no_answer_lies_outside_a_range_that_ends_between_two():
    assert AnswerGrid(-0.25, 0.19).values == [-0.2, -0.1, 0.0, 0.1]
    assert AnswerGrid(-0.3, 0.3).values == [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]


def test_every_answer_is_a_sign_and_one_decimal_and_is_parsed_back():
    grid = AnswerGrid(-3.0, 3.0)
    assert grid.values == [tenths / 10 for tenths in range(-30, 31)]
    assert [grid.text(score) for score in (-3.0, 0.0, -0.0, -0.04, 0.3333, 0.45, 3.0, 9.0)] == [
        *("-3.0", "+0.0", "+0.0", "+0.0"),
        *("+0.3", "+0.5", "+3.0", "+3.0"),  # 0.45 is a little more than it seems
    ]
    assert [parse_answer(grid.text(score)) for score in grid.values] == grid.values


@pytest.mark.parametrize(
    ("step", "written"),
    [(0.5, ["+0.5", "-1.5", "+3.0"]), (1.0, ["+0.0", "-2.0", "+3.0"]), (0.25, ["+0.25", "-1.50", "+3.00"])],
)
def test_another_step_has_its_own_decimals(step, written):
    assert [AnswerGrid(-3.0, 3.0, step).text(score) for score in (0.3, -1.55, 2.9)] == written


def test_each_score_has_all_its_forms():
    grid = AnswerGrid(-3.0, 3.0)
    assert [grid.forms(value) for value in (-1.5, 0.0, 1.5)] == [["-1.5"], ["+0.0", "0.0", "-0.0"], ["+1.5", "1.5"]]
