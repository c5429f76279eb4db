"""Scores as text: the format that is trained on, and the one rule that answers are parsed by."""

import math

import pytest

from omnisent.readouts.answers import format_answer, numeric_answers, parse_answer


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


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_has_no_answer(score):
    with pytest.raises(ValueError, match=f"found {score}"):
        format_answer(score)


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, -1.0), (1.0, 1.0), (-math.inf, 1.0), (-1.0, math.inf), (math.nan, 1.0)]
)
def test_answers_need_a_range(low, high):
    with pytest.raises(ValueError, match="expected a finite low below a finite high"):
        numeric_answers(low, high)


def test_no_answer_lies_outside_a_range_that_ends_between_two():
    assert numeric_answers(-0.25, 0.19) == [-0.2, -0.1, 0.0, 0.1]
    assert numeric_answers(-0.3, 0.3) == [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]


def test_every_answer_is_a_sign_and_one_decimal_and_is_parsed_back():
    answers = numeric_answers(-3.0, 3.0)
    assert len(answers) == 61
    assert [format_answer(score) for score in (answers[0], 0.0, -0.0, -0.04, 0.3333, answers[-1])] == [
        "-3.0",
        "+0.0",
        "+0.0",
        "+0.0",
        "+0.3",
        "+3.0",
    ]
    assert [parse_answer(format_answer(score)) for score in answers] == answers
    assert {len(format_answer(score)) for score in answers} == {4}
    assert numeric_answers(-1.0, 1.0) == [tenths / 10 for tenths in range(-10, 11)]
