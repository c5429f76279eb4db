"""What holds of subtitles for any cues, any windows and any bytes."""

import html
import tempfile
from itertools import pairwise
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from omnisent.scoring.subtitles import SUFFIXES, Cue, read_cues, text_within
from properties import examples

MILLISECONDS = st.integers(0, 36_000_000)
WORDS = st.lists(st.text("abcdxyzé好お<>&'\"-.{}", min_size=1, max_size=6), min_size=1, max_size=8)
TOKENS = st.sampled_from(
    [
        *("WEBVTT", "NOTE", "STYLE", "1", "00:00:01,000 --> 00:00:02,500", "00:01.000 --> 00:02.000", "-->", "99:99:99,999"),
        *("00:00:02,000 --> 00:00:01,000", f"{'9' * 400}:00:00,000 --> {'9' * 400}:00:01,000", "hello", "<i>", "&#xD800;"),
        *("\n", "\n", "\n\n", "\r", " ", "\ufeff", "\x00", "\u2028"),
    ]
)  # fmt: skip


def read(data: bytes, suffix: str) -> list[Cue]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a" + suffix)
        path.write_bytes(data)
        return read_cues(path)


def stamp(milliseconds: int, suffix: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{',' if suffix == '.srt' else '.'}{rest:03}"


@examples(80)
@given(
    st.lists(st.tuples(MILLISECONDS, st.integers(1, 60_000), WORDS), max_size=8, unique_by=lambda cue: cue[0]),
    st.sampled_from(SUFFIXES),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_written_cues_are_read_back(drawn, suffix, line_end, encoding):
    # A word of their own keeps the lines apart: repeated ones are taken for captions that roll.
    drawn = [(start, start + lasts, [f"w{number}", *words]) for number, (start, lasts, words) in enumerate(drawn)]
    blocks = [
        f"{number}\n{stamp(start, suffix)} --> {stamp(end, suffix)}\n" + html.escape(" ".join(words)) + "\n"
        for number, (start, end, words) in enumerate(drawn)
    ]
    text = "\n".join([*(["WEBVTT\n"] if suffix == ".vtt" else []), *blocks]).replace("\n", line_end)
    expected = [Cue(start / 1000, end / 1000, " ".join(words)) for start, end, words in sorted(drawn)]
    found = read(text.encode(encoding), suffix)
    assert [cue.text for cue in found] == [cue.text for cue in expected]
    assert all(abs(a.start - b.start) + abs(a.end - b.end) < 1e-6 for a, b in zip(found, expected, strict=True))


@examples(100)
@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 30), st.integers(1, 6)), max_size=8),
    st.lists(st.floats(0, 131), max_size=12),
)
def test_adjacent_windows_share_no_word_and_lose_none(drawn, cuts):
    cues, said = [], []
    for start, lasts, count in drawn:
        words = [f"w{len(said) + i}" for i in range(count)]
        cues.append(Cue(start, start + lasts, " ".join(words)))
        said += words
    edges = [0.0, *sorted(cuts), 131.0]
    heard = [text_within(cues, *window) for window in pairwise(edges)]
    assert sorted(" ".join(text for text in heard if text).split()) == sorted(said)


@examples(100)
@given(st.integers(1, 8), st.integers(1, 8))
def test_characters_are_distributed_like_words(count, windows):
    text = "".join(chr(0x4E00 + i) for i in range(count))
    heard = [text_within([Cue(0.0, 8.0, text)], 8 * i / windows, 8 * (i + 1) / windows) for i in range(windows)]
    assert "".join(part or "" for part in heard) == text
    if count == windows:
        assert heard == list(text)


@examples(250)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(TOKENS, max_size=20).map(lambda tokens: "".join(tokens).encode()),
        st.lists(TOKENS, max_size=20).map(lambda tokens: ("WEBVTT\n\n" + "\n".join(tokens)).encode()),
        st.lists(TOKENS, max_size=20).map(lambda tokens: "\n".join(tokens).encode("utf-16")[:-1]),
    ),
    st.sampled_from(SUFFIXES),
)
@example(b"9" * 400 + b":00:00,000 --> " + b"9" * 400 + b":00:01,000\n", ".srt")
@example(b"\xff\xfe\x00\xd8", ".srt")
def test_any_bytes_are_cues_or_an_error_that_names_the_file(data, suffix):
    cues, refusal = [], None
    try:
        cues = read(data, suffix)
    except ValueError as error:
        refusal = str(error)
    assert refusal is None or f"a{suffix}, line " in refusal
    for cue in cues:
        assert 0 <= cue.start <= cue.end < float("inf")
        assert cue.text.encode().strip()
        assert cue.text == " ".join(cue.text.split())
