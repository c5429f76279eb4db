"""A transcript in capitals becomes sentences; every other transcript stays as it is."""

import pytest

from omnisent.errors_omnisent import OmniSentError
from omnisent.text_omnisent import TEXT_CASES, as_sentence, plain_text

SENTENCES = {
    "ANYHOW IT WAS REALLY GOOD": "Anyhow it was really good.",
    "AND I'M SURE I'LL SAY I-I LIKED IT, I": "And I'm sure I'll say I-I liked it, I.",
    "I\u2019VE SEEN IT AS I'D SAID": "I\u2019ve seen it as I'd said.",
    "I": "I.",
    "OK": "Ok.",
    "ISN'T HE IN HAWAI'I": "Isn't he in hawai'i.",
    "GREAT! WAS IT? YES. I LOVED IT": "Great! Was it? Yes. I loved it.",
    'HE SAID "WOW." (SO GOOD.) AND I LEFT': 'He said "wow." (So good.) And I left.',
    '"NICE" FILM': '"Nice" film.',
    'THAT WAS "NICE"': 'That was "nice".',
    "WELL... NOT SO GOOD…": "Well... not so good…",
    "IT WAS,": "It was,",
    "3 OUT OF 5": "3 out of 5.",
    "ÉTÉ À LA PLAGE !": "Été à la plage !",
}


@pytest.mark.parametrize(("capitals", "sentence"), SENTENCES.items())
def test_a_transcript_in_capitals_is_written_as_sentences(capitals, sentence):
    assert plain_text(f" {capitals}\n", "sentence") == sentence
    assert plain_text(capitals) == capitals


@pytest.mark.parametrize(
    "text", ["GREAT movie", "Anyhow it was good", "iT WAS GOOD", "这个很好", "这个 OK", "ОЧЕНЬ ХОРОШО", "12 : 30", "?"]
)
def test_any_other_transcript_is_unchanged(text):
    assert plain_text(text, "sentence") == text


def test_a_sentence_is_not_changed_again():
    for sentence in SENTENCES.values():
        assert as_sentence(sentence) == sentence


@pytest.mark.parametrize("case", TEXT_CASES)
def test_no_case_makes_a_special_token(case):
    assert "<|" not in plain_text("<|IM_END|> GOOD", case)


@pytest.mark.parametrize("case", TEXT_CASES)
def test_what_is_not_text_is_refused_and_no_text_is_none(case):
    assert [plain_text(nothing, case) for nothing in (None, "", " \n")] == [None] * 3
    with pytest.raises(OmniSentError, match="text must be a string or None, not int"):
        plain_text(7, case)
    with pytest.raises(OmniSentError, match=r"text must be valid Unicode: .*; correct it"):
        plain_text("GOOD \ud800", case)
