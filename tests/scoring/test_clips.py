"""Which clips are scored, and with which words."""

import pytest

from omnisent.data.clip import Clip
from omnisent.scoring.clips import find_clips, transcript_of

SRT = "1\n00:00:00,000 --> 00:00:02,000\nI liked it,\n\n2\n00:00:02,000 --> 00:00:04,000\nmostly.\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c.mp4", "a.MOV", "b/d.wav", "notes.txt", "c.txt", "e.json"):
        (tmp_path / name).write_text("said" if name.endswith(".txt") else "")
    return tmp_path


def test_a_folder_gives_its_media_at_any_depth_in_order(folder):
    clips = find_clips([str(folder)])
    assert [clip.id for clip in clips] == [str(folder / name) for name in ("a.MOV", "b/d.wav", "c.mp4")]
    assert [(clip.video, clip.audio) for clip in clips] == [(clip.id, None) for clip in clips]


def test_files_and_patterns_keep_their_order(folder):
    clips = find_clips([str(folder / "c.mp4"), str(folder / "**" / "*.wav"), "not there.mp4"])
    assert [clip.id for clip in clips] == [str(folder / "c.mp4"), str(folder / "b" / "d.wav"), "not there.mp4"]


def test_a_file_name_with_brackets_is_no_pattern(tmp_path):
    (tmp_path / "talk [1].mp4").write_text("")
    assert [clip.video for clip in find_clips([str(tmp_path / "talk [1].mp4")])] == [str(tmp_path / "talk [1].mp4")]


def test_a_table_has_its_own_texts_and_may_name_files_that_are_missing(tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text("id,text,video\n1,fine,a.mp4\n2,,b.mp4\n")
    clips = find_clips([], table)
    assert clips[0] == Clip("1", "fine", video=str(tmp_path / "a.mp4"))
    with pytest.raises(ValueError, match="either files or --table"):
        find_clips(["a.mp4"], table)


def test_a_text_needs_no_file(tmp_path):
    assert find_clips([], text="I loved it") == [Clip("text", "I loved it")]
    assert find_clips(["a.mp4"], text="I loved it") == [Clip("a.mp4", "I loved it", video="a.mp4")]
    with pytest.raises(ValueError, match="a table has its own transcripts"):
        find_clips([], tmp_path / "clips.csv", "I loved it")


@pytest.mark.parametrize(
    ("files", "text", "message"),
    [
        ([], None, "nothing to score: give files, folders or patterns, --table, or --text"),
        (["a.mp4", "a.mp4"], None, "a.mp4 is given twice"),
        (["a.mp4", "b.mp4"], "words", "--text is the transcript of one file, but 2 are given"),
        (["no*where.mp4"], None, r"no\*where.mp4: no video or audio file found"),
    ],
)
def test_contradictory_arguments_are_errors(files, text, message):
    with pytest.raises(ValueError, match=message):
        find_clips(files, text=text)


def test_a_transcript_is_the_clips_own_or_a_file_beside_it(folder):
    video = str(folder / "c.mp4")
    assert transcript_of(Clip("c", "own", video=video)) == "own"
    assert transcript_of(Clip("c", video=video)) == "said"
    (folder / "a.srt").write_text(SRT)
    assert transcript_of(Clip("a", video=str(folder / "a.MOV"))) == "I liked it, mostly."
    assert transcript_of(Clip("d", audio=str(folder / "b" / "d.wav"))) is None


@pytest.mark.parametrize("name", ["a.SRT", "a.TXT", "a.VTT"])
def test_a_transcript_may_end_in_upper_case(folder, name):
    (folder / name).write_text(
        {"a.SRT": SRT, "a.TXT": "said", "a.VTT": "WEBVTT\n\n00:01.000 --> 00:02.000\nheard\n"}[name]
    )
    expected = {"a.SRT": "I liked it, mostly.", "a.TXT": "said", "a.VTT": "heard"}[name]
    assert transcript_of(Clip("a", video=str(folder / "a.MOV"))) == expected


def test_a_transcript_that_is_not_text_is_named(folder):
    (folder / "c.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"c\.txt: expected a transcript in UTF-8"):
        transcript_of(Clip("c", video=str(folder / "c.mp4")))
