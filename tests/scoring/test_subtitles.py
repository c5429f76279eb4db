"""Transcripts with times: what is read from .srt and .vtt files as people have them, and which words a stretch gets."""

from pathlib import Path

import pytest

from omnisent.scoring.subtitles import Cue, read_cues, subtitles_beside, text_within

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Hello</i> there,
{\\an8}my friend.

2
00:01:02,050 --> 01:00:00,000  X1:40 X2:600
Fish &amp; <font color="#ff0000">chips</font> for 3 < 4
"""
VTT = """WEBVTT - made by hand
Kind: captions
Language: en

STYLE
::cue { color: white }

NOTE two lines
that nobody says

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Anna Maria>Hello there,</v>
<c.loud>my</c> friend.

01:00:00.000 --> 01:00:01.000
&lt;nods&gt;
"""
ROLLING = """WEBVTT
Kind: captions

00:00:00.160 --> 00:00:01.990 align:start position:0%
 
hello<00:00:00.480><c> everyone</c>

00:00:01.990 --> 00:00:02.000 align:start position:0%
hello everyone
 

00:00:02.000 --> 00:00:03.909 align:start position:0%
hello everyone
welcome<00:00:02.240><c> to</c>

00:00:03.909 --> 00:00:03.919 align:start position:0%
welcome to
 

00:00:03.919 --> 00:00:06.000 align:start position:0%
welcome to
the<00:00:04.100><c> show</c>
"""


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_srt_file_is_read_without_its_markup(tmp_path, line_end, encoding):
    path = written(tmp_path, "a.srt", SRT.replace("\n", line_end).encode(encoding))
    assert read_cues(path) == [
        Cue(1.0, 2.5, "Hello there, my friend."),
        Cue(62.05, 3600.0, "Fish & chips for 3 < 4"),
    ]


def test_a_vtt_file_is_read_without_notes_styles_voices_and_settings(tmp_path):
    path = written(tmp_path, "a.vtt", "\ufeff" + VTT)
    assert read_cues(path) == [Cue(1.0, 2.5, "Hello there, my friend."), Cue(3600.0, 3601.0, "<nods>")]


def test_old_windows_files_keep_their_letters(tmp_path):
    text = "1\n00:00:01,000 --> 00:00:02,000\nCafé “naïve” … ça va\n"
    assert read_cues(written(tmp_path, "a.srt", text.encode("cp1252")))[0].text == "Café “naïve” … ça va"
    undefined = text.encode("cp1252") + b"\x81"
    assert read_cues(written(tmp_path, "b.srt", undefined))[0].text.startswith("Café")


def test_cues_are_sorted_and_empty_ones_left_out(tmp_path):
    text = (
        "3\n00:00:05,000 --> 00:00:06,000\nlast\n\n1\n00:00:01,000 --> 00:00:04,000\nfirst\n\n"
        "2\n00:00:02,000 --> 00:00:03,000\nwithin\n\n4\n00:00:07,000 --> 00:00:08,000\n<b></b>\n\n"
        "5\n00:00:08,000 --> 00:00:09,000\n"
    )
    assert [cue.text for cue in read_cues(written(tmp_path, "a.srt", text))] == ["first", "within", "last"]
    assert read_cues(written(tmp_path, "b.srt", "")) == []
    assert read_cues(written(tmp_path, "b.vtt", "WEBVTT")) == []


@pytest.mark.parametrize("between", ["", " \n", "\t\n"])
def test_a_missing_empty_line_between_cues_is_forgiven(tmp_path, between):
    text = f"1\n00:00:01,000 --> 00:00:02,000\none\n{between}2\n00:00:02,000 --> 00:00:03,000\n \ntwo"
    assert [cue.text for cue in read_cues(written(tmp_path, "a.srt", text))] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "text", "line", "said"),
    [
        ("a.srt", "1\n00:00:01,000 --> 00:00:0x,000\nhi\n", 2, "expected times like"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\nhi\n\nhello there\nyou\n", 5, "expected a cue with its line of times"),
        ("a.srt", "hello\nworld\n00:00:01,000 --> 00:00:02,000\nhi\n", 1, "expected a cue"),
        ("a.srt", "1\n00:00:03,000 --> 00:00:02,000\nhi\n", 2, "ends before it starts"),
        ("a.vtt", "1\n00:00:01.000 --> 00:00:02.000\nhi\n", 1, "expected WEBVTT"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:02\nhi\n", 3, "expected times like"),
        ("a.srt", f"1\n{'1' * 400}:00:00,000 --> {'2' * 400}:00:00,000\nhi\n", 2, "expected times like"),
        ("a.srt", f"1\n{'1' * 5000}:00:00,000 --> 00:00:02,000\nhi\n", 2, "expected times like"),
        ("a.srt", "1\n00:00:75,000 --> 00:01:16,000\nhi\n", 2, "expected times like"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:60,000\nhi\n", 2, "expected times like"),
        ("a.srt", "1\n00:00:0\u0661,000 --> 00:00:02,000\nhi\n", 2, "expected times like"),
    ],
)  # fmt: skip
def test_what_is_not_a_cue_is_named_with_file_and_line(tmp_path, name, text, line, said):
    path = written(tmp_path, name, text)
    with pytest.raises(ValueError, match=said) as caught:
        read_cues(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")


def test_minutes_above_59_are_read_if_there_are_no_hours(tmp_path):
    text = "1\n90:00,000 --> 90:01,500\nlate\n\n2\n1000:00:00,000 --> 1000:00:59,999\nlater\n"
    assert read_cues(written(tmp_path, "a.srt", text)) == [
        Cue(5400.0, 5401.5, "late"),
        Cue(3_600_000.0, 3_600_059.999, "later"),
    ]


def test_no_text_holds_half_a_character(tmp_path):
    text = "1\n00:00:01,000 --> 00:00:02,000\nx &#xD800; \U0001f642 y\n"
    for name, data in {
        "a.srt": text.encode("utf-8"),
        "b.srt": text.encode("utf-16") + b"\x00\xd8\n\x00",
        "c.srt": text.encode("utf-8").replace(b"y", b"\xed\xa0\x80"),
    }.items():
        for cue in read_cues(written(tmp_path, name, data)):
            cue.text.encode()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt: expected subtitles that end in \.srt or \.vtt"):
        read_cues(written(tmp_path, "a.txt", SRT))
    with pytest.raises(FileNotFoundError):
        read_cues(tmp_path / "none.srt")


def test_repeated_lines_of_rolling_captions_are_kept_once(tmp_path):
    cues = read_cues(written(tmp_path, "a.vtt", ROLLING))
    assert [(cue.start, cue.text) for cue in cues] == [
        (0.16, "hello everyone"),
        (2.0, "welcome to"),
        (3.919, "the show"),
    ]
    assert text_within(cues, 0, 10) == "hello everyone welcome to the show"


def test_a_speaker_may_repeat_a_line(tmp_path):
    text = "".join(
        f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\n{said}\n\n"
        for n, said in enumerate(["No.", "No.", "Why?", "Well", "So"])
    )
    assert [cue.text for cue in read_cues(written(tmp_path, "a.srt", text))] == ["No.", "No.", "Why?", "Well", "So"]


def test_a_word_belongs_to_the_window_that_holds_its_middle():
    cues = [Cue(0.0, 4.0, "one two three four"), Cue(4.0, 5.0, "five")]
    assert text_within(cues, 0.0, 2.0) == "one two"
    assert text_within(cues, 1.4, 2.6) == "two three"
    assert text_within(cues, 1.6, 2.4) is None
    assert text_within(cues, 2.5, 4.5) == "three four"
    assert text_within(cues, 3.0, 4.6) == "four five"
    assert text_within(cues, 5.0, 9.0) is None
    assert text_within([], 0.0, 9.0) is None


def test_adjacent_windows_share_no_word_and_lose_none():
    words = [f"w{n}" for n in range(97)]
    cues = [Cue(n * 1.3, n * 1.3 + 1.9, " ".join(words[n : n + 3])) for n in range(0, 97, 3)]
    heard = [text_within(cues, at / 10, (at + 7) / 10) for at in range(0, 1400, 7)]
    assert sorted(" ".join(filter(None, heard)).split()) == sorted(words)


def test_chinese_is_cut_between_characters():
    cues = [Cue(0.0, 4.0, "我很喜欢")]
    assert text_within(cues, 0.0, 2.0) == "我很"
    assert text_within(cues, 2.0, 4.0) == "喜欢"


def test_a_transcript_beside_the_video_is_found(tmp_path):
    assert subtitles_beside(tmp_path / "talk.mp4") is None
    written(tmp_path, "talk.vtt", VTT)
    assert read_cues(subtitles_beside(tmp_path / "talk.mp4"))[1].text == "<nods>"
    written(tmp_path, "talk.srt", SRT)
    assert read_cues(subtitles_beside(str(tmp_path / "talk.mp4")))[1].text == "Fish & chips for 3 < 4"
    written(tmp_path, "TALK.VTT", VTT)
    assert subtitles_beside(tmp_path / "TALK.MP4") == tmp_path / "TALK.VTT"
