"""Sentences of a transcript: where they end, and that their times are those of their words."""

from itertools import pairwise

import pytest

from omnisent.scoring.sentences import LONGEST, SHORTEST, ends_sentence, sentences
from omnisent.scoring.subtitles import Cue


def texts(*cues: Cue) -> list[str]:
    return [one.text for one in sentences(cues)]


@pytest.mark.parametrize(
    ("word", "following", "ends"),
    [
        ("good.", "It", True),
        ("good!", "", True),
        ('good?"', "So", True),
        ("good…", "And", True),
        ("good.", "and", False),
        ("Dr.", "No", False),
        ("J.", "Smith", False),
        ("z.B.", "Hunde", False),
        ("(e.g.", "Rome", False),
        ("3.5", "Points", False),
        ("good,", "It", False),
        ("道。", "我", True),
    ],
)
def test_where_a_sentence_ends(word, following, ends):
    assert ends_sentence(word, following) is ends


def test_a_sentence_may_be_a_part_of_a_cue_or_several_cues():
    cues = [Cue(0, 4, "It was good. And"), Cue(4, 6, "so was"), Cue(6, 8, "he. Yes!")]
    assert sentences(cues) == [
        Cue(0.0, 3.0, "It was good."),
        Cue(3.0, 7.0, "And so was he."),
        Cue(7.0, 8.0, "Yes!"),
    ]


def test_chinese_sentences_have_no_spaces_within_a_cue():
    assert texts(Cue(0, 4, "我知道。你不知道。")) == ["我知道。", "你不知道。"]


def test_a_pause_ends_a_sentence_and_has_none():
    found = sentences([Cue(0, 2, "so I"), Cue(3.9, 5, "went"), Cue(7, 8, "home")])
    assert [(one.start, one.end, one.text) for one in found] == [(0, 5, "so I went"), (7, 8, "home")]


def test_a_long_sentence_is_divided_into_parts_of_about_the_same_length():
    found = sentences([Cue(0, 70, " ".join(map(str, range(140))))])
    assert len(found) == 3
    assert [one.end - one.start for one in found] == pytest.approx([70 / 3] * 3, abs=1)
    assert " ".join(one.text for one in found).split() == list(map(str, range(140)))
    assert all(before.end == after.start for before, after in pairwise(found))
    assert max(one.end - one.start for one in sentences([Cue(0, LONGEST, "a b")])) == LONGEST
    assert texts(Cue(0, 100, "one")) == ["one"]


def test_a_sentence_without_length_gets_some():
    assert sentences([Cue(1, 1, "Yes.")]) == [Cue(1, 1 + SHORTEST, "Yes.")]


def test_sentences_that_are_spoken_at_once_are_in_order_of_time():
    cues = [Cue(0, 10, "One. Two."), Cue(2, 4, "Hm."), Cue(2, 3, "Oh.")]
    assert [one.text for one in sentences(sorted(cues, key=lambda cue: (cue.start, cue.end)))] == [
        "One.",
        "Oh.",
        "Hm.",
        "Two.",
    ]


def test_voices_that_overlap_keep_their_words_and_times():
    found = sentences([Cue(0, 10, "so I went and then"), Cue(2, 4, "oh no you did not")])
    assert found == [Cue(0, 10, "so I went and then"), Cue(2, 4, "oh no you did not")]


def test_a_sentence_whose_last_word_is_not_its_end_is_divided_by_its_whole_length():
    found = sentences([Cue(0, 70, "well"), Cue(1, 2, "so"), Cue(40, 41, "home")])
    assert [(one.start, one.end) for one in found] == [(0, 70), (40, 41)]
    assert sentences([Cue(0, 5, "oh"), Cue(3, 3, "no")]) == [Cue(0, 5, "oh no")]


def test_nothing_said_is_no_sentence():
    assert sentences([]) == []
