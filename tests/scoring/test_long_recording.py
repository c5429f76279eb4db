"""`omnisent score --windows` of a long recording: transcribed in segments, resumed after any interruption, by sentence too."""

import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from omnisent.data.planted import write_video
from omnisent.errors_omnisent import MediaError, MediaFault
from omnisent.long_media_omnisent import LongMedia
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.scoring import long_transcript, transcribe
from omnisent.scoring.part_file import PartFile
from omnisent.scoring.recognizers import FASTER_WHISPER, FasterWhisper
from omnisent.scoring.results import ResumableWriter
from omnisent.scoring.subtitles import Cue, read_cues, text_within
from speech_recognizers import faster_whisper, tiny_whisper
from spoken import RATE, spoken

SRT = """1
00:00:00,000 --> 00:00:04,000
It was good. And

2
00:00:04,000 --> 00:00:08,000
it was short.

3
00:00:30,000 --> 00:00:36,000
The end was bad.
"""
SAID = [(3, 9), (14, 20), (28, 39)]  # seconds


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Forty seconds, with speech in three places."""
    audio, frames = np.zeros(40 * RATE, np.float32), np.zeros((80, 56, 56, 3), np.uint8)
    for start, end in SAID:
        audio[start * RATE : end * RATE] = spoken(end - start)
    path = tmp_path_factory.mktemp("recording") / "talk.mp4"
    write_video(path, frames + np.arange(80, dtype=np.uint8)[:, None, None, None], 2, audio)
    return path


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("recognizer")
    return f"{FASTER_WHISPER}{faster_whisper(folder / 'faster', tiny_whisper(folder / 'whisper', words=True))}"


@pytest.fixture
def talk(recording, tmp_path) -> Path:
    """The recording in a folder of its own."""
    (tmp_path / "talks").mkdir()
    return Path(shutil.copy(recording, tmp_path / "talks" / "talk.mp4"))


@pytest.fixture
def interrupted(score, monkeypatch):
    """Runs a command that is stopped by Ctrl-C when a writer is to add its so-manieth entry."""

    def run(kind: type, after: int, *arguments) -> None:
        add, count = kind.add, []

        def stop(writer, *entry):
            count.append(writer)
            if len(count) > after:
                raise KeyboardInterrupt
            add(writer, *entry)

        with monkeypatch.context() as patch:
            patch.setattr(kind, "add", stop)
            assert score(*arguments)[0] == 130

    return run


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_an_interrupted_timeline_resumes_with_its_missing_windows_to_the_same_files(
    score, talk, tmp_path, interrupted, monkeypatch
):
    talk.with_suffix(".srt").write_text(SRT)
    command = (talk, "--windows", "4s", "--batch-size", "2", "--timeline-format", "textgrid", "--out")
    assert score(*command, tmp_path / "whole" / "over.csv")[0] == 0
    interrupted(ResumableWriter, 6, *command, tmp_path / "again" / "over.csv")
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["over.csv.part"]
    read = []
    segment = LongMedia.read
    monkeypatch.setattr(
        LongMedia, "read", lambda media, *span, **how: read.append(span) or segment(media, *span, **how)
    )
    code, _, complained = score(*command, tmp_path / "again" / "over.csv")
    assert code == 0, complained
    assert "12 of 19 windows were scored before" in complained
    assert [start for start, _ in read] == list(range(24, 38, 2))
    assert files_in(tmp_path / "again") == files_in(tmp_path / "whole")
    assert "19 of 19 windows scored" in complained


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (("--windows", "5s", "--stride", "2s"), "windows 4.0, now it is 5.0"),
        (("--windows", "4s", "--stride", "1s"), "stride 2.0, now it is 1.0"),
        (("--windows", "sentences"), "windows 4.0, now it is None"),
        (("--windows", "4s", "--batch-size", "3"), "batch_size 2, now it is 3"),
    ],
)
def test_a_part_of_a_timeline_with_other_settings_is_refused_by_name(score, talk, tmp_path, interrupted, other, named):
    talk.with_suffix(".srt").write_text(SRT)
    common = (talk, "--out", tmp_path / "over.csv", "--batch-size", "2")
    interrupted(ResumableWriter, 2, *common, "--windows", "4s")
    code, _, complained = score(*common, *other)
    assert code == 1
    assert f"was started with {named}; remove it" in complained


def test_windows_whose_words_or_file_changed_are_scored_again(score, talk, tmp_path, interrupted):
    srt = talk.with_suffix(".srt")
    srt.write_text(SRT)
    command = (talk, "--windows", "4s", "--stride", "4s", "--batch-size", "1", "--out")
    interrupted(ResumableWriter, 4, *command, tmp_path / "a" / "over.csv")
    srt.write_text(SRT.replace("good", "bad"))
    _, _, complained = score(*command, tmp_path / "a" / "over.csv")
    assert "1 windows changed since they were scored, and are scored again" in complained
    score(*command, tmp_path / "b" / "over.csv")
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")
    interrupted(ResumableWriter, 4, *command, tmp_path / "c" / "over.csv")
    with open(talk, "ab") as file:
        file.write(b"\0\0\0\x08free")
    _, _, complained = score(*command, tmp_path / "c" / "over.csv")
    assert "4 windows changed since they were scored" in complained


def test_a_transcript_with_more_sentences_than_before_is_taken(score, talk, tmp_path, interrupted):
    srt, command = talk.with_suffix(".srt"), (talk, "--windows", "sentences", "--batch-size", "1", "--out")
    srt.write_text(SRT)
    interrupted(ResumableWriter, 1, *command, tmp_path / "a" / "over.csv")
    srt.write_text(SRT + "\n4\n00:00:37,000 --> 00:00:38,000\nYes.\n")
    _, _, complained = score(*command, tmp_path / "a" / "over.csv")
    assert "1 of 4 windows were scored before" in complained
    assert "4 of 4 windows scored" in complained


@pytest.mark.parametrize("name", ["over.csv", "over.png", "over.eaf"])
def test_what_is_there_is_not_overwritten(score, talk, tmp_path, name):
    (tmp_path / name).write_text("mine")
    code, _, complained = score(talk, "--windows", "20s", "--timeline-format", "eaf", "--out", tmp_path / "over.csv")
    assert code == 1
    assert f"{name} already exists" in complained
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "over.csv.part").exists()


@pytest.mark.parametrize("name", ["over.png", "over.eaf"])
def test_an_interrupted_command_may_not_replace_what_came_after_it(score, talk, tmp_path, interrupted, name):
    command = (
        talk,
        "--windows",
        "20s",
        "--timeline-format",
        "eaf",
        "--batch-size",
        "1",
        "--out",
        tmp_path / "over.csv",
    )
    interrupted(ResumableWriter, 1, *command)
    (tmp_path / name).write_text("mine")
    code, _, complained = score(*command)
    assert (code, (tmp_path / name).read_text()) == (1, "mine")
    assert f"{name} already exists" in complained


@pytest.mark.parametrize("place", ["timeline.plot_timeline", "results.write_table", "results.ResumableWriter.close"])
def test_a_command_that_was_stopped_while_it_wrote_its_files_resumes(score, talk, tmp_path, monkeypatch, place):
    command = (talk, "--windows", "20s", "--timeline-format", "srt", "--out")
    assert score(*command, tmp_path / "whole" / "over.csv")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(f"omnisent.scoring.{place}", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert score(*command, tmp_path / "again" / "over.csv")[0] == 130
    assert (tmp_path / "again" / "over.srt").exists()
    code, _, complained = score(*command, tmp_path / "again" / "over.csv")
    assert code == 0, complained
    assert files_in(tmp_path / "again") == files_in(tmp_path / "whole")


def test_a_command_that_was_stopped_while_it_wrote_may_not_replace_a_file_that_it_did_not_write(
    score, talk, tmp_path, monkeypatch
):
    command = (talk, "--windows", "20s", "--out", tmp_path / "over.csv", "--timeline-format")
    with monkeypatch.context() as patch:
        patch.setattr(
            "omnisent.scoring.timeline.plot_timeline", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert score(*command, "srt")[0] == 130
    (tmp_path / "over.vtt").write_text("mine")
    code, _, complained = score(*command, "vtt")
    assert (code, (tmp_path / "over.vtt").read_text()) == (1, "mine")
    assert "over.vtt already exists" in complained
    assert score(*command, "eaf")[0] == 0


def test_sentences_after_the_end_of_the_file_have_no_window(score, talk, tmp_path):
    late = "\n4\n00:00:39,000 --> 00:00:50,000\nYes.\n\n5\n00:01:00,000 --> 00:01:01,000\nNo.\n"
    talk.with_suffix(".srt").write_text(SRT + late)
    command = (talk, "--windows", "sentences", "--overwrite", "--out", tmp_path / "over.csv")
    code, _, complained = score(*command)
    assert code == 0, complained
    assert "1 of 5 sentences of" in complained
    assert "start after the file's end, at 40.0 s, and have no window" in complained
    assert pd.read_csv(tmp_path / "over.csv")[["start", "end"]].iloc[-1].tolist() == pytest.approx([39, 40], abs=0.1)
    talk.with_suffix(".srt").write_text("1\n00:01:00,000 --> 00:01:01,000\nNo.\n")
    code, _, complained = score(*command)
    assert code == 1
    assert "is it the transcript of another file?" in complained


def test_words_after_the_end_of_the_file_are_counted(score, talk, tmp_path):
    late = "\n4\n00:00:39,000 --> 00:00:50,000\nYes it was.\n\n5\n00:01:00,000 --> 00:01:01,000\nSurely not.\n"
    talk.with_suffix(".srt").write_text(SRT + late)
    command = (talk, "--windows", "10s", "--stride", "10s", "--overwrite", "--out", tmp_path / "over.csv")
    code, _, complained = score(*command)
    assert code == 0, complained
    assert "2 of 16 words of" in complained
    assert "start after the file's end, at 40.0 s, and have no window" in complained
    assert pd.read_csv(tmp_path / "over.csv").text.iloc[-1] == "The end was bad. Yes it was."
    talk.with_suffix(".srt").write_text("1\n00:01:00,000 --> 00:01:01,000\nNo.\n")
    code, _, complained = score(*command)
    assert code == 1
    assert "1 of 1 words of" in complained
    assert "is it the transcript of another file?" in complained


def test_words_between_windows_alone_are_said_to_be_in_none(score, talk, tmp_path):
    talk.with_suffix(".srt").write_text("1\n00:00:10,000 --> 00:00:11,000\nNo.\n")
    code, _, complained = score(talk, "--windows", "2s", "--stride", "30s", "--out", tmp_path / "over.csv")
    assert code == 0
    assert "no window has words of" in complained
    assert "has no words" not in complained


def test_a_file_without_audio_is_said_to_have_none_to_transcribe(score, tmp_path):
    write_video(tmp_path / "mute.mp4", np.zeros((8, 56, 56, 3), np.uint8), 2)
    command = (tmp_path / "mute.mp4", "--transcribe", "no/model", "--out", tmp_path / "over.csv", "--windows")
    code, _, complained = score(*command, "2s")
    assert code == 0, complained
    assert "mute.mp4 has no audio to transcribe; put a .srt or .vtt file beside it" in complained
    assert not (tmp_path / "over.transcript.vtt").exists()
    code, _, complained = score(*command, "sentences", "--overwrite")
    assert code == 1
    assert "needs a transcript with times, and" in complained
    assert "mute.mp4 has no audio to transcribe; give a duration" in complained


def test_sentences_are_windows_and_silence_is_none(score, talk, tmp_path):
    talk.with_suffix(".srt").write_text(SRT)
    code, _, complained = score(
        talk, "--windows", "sentences", "--timeline-format", "vtt", "--out", tmp_path / "over.csv"
    )
    assert code == 0, complained
    table = pd.read_csv(tmp_path / "over.csv")
    assert table.text.tolist() == ["It was good.", "And it was short.", "The end was bad."]
    assert table[["start", "end"]].to_numpy().tolist() == [[0, 3], [3, 8], [30, 36]]
    assert [(cue.start, cue.end) for cue in read_cues(tmp_path / "over.vtt")] == [(0, 3), (3, 8), (30, 36)]
    score(talk, "--windows", "sentences", "--timeline-format", "textgrid", "--out", tmp_path / "praat.csv")
    assert "xmax = 40.0" in (tmp_path / "praat.TextGrid").read_text()


def test_sentences_need_words_with_times(score, talk, tmp_path):
    talk.with_suffix(".txt").write_text("It was good.")
    code, _, complained = score(talk, "--windows", "sentences", "--out", tmp_path / "over.csv")
    assert code == 1
    assert "needs a transcript with times" in complained
    assert "give --transcribe MODEL, or a duration" in complained
    talk.with_suffix(".vtt").write_text("WEBVTT\n")
    code, _, complained = score(talk, "--windows", "sentences", "--out", tmp_path / "over.csv")
    assert code == 1
    assert "talk.vtt has no words" in complained


def test_a_recording_is_transcribed_and_each_window_has_its_words(score, talk, tmp_path, recognizer):
    command = (talk, "--windows", "10s", "--stride", "10s", "--out", tmp_path / "over.csv", "--transcribe")
    code, _, complained = score(*command, recognizer)
    assert code == 0, complained
    assert f"the transcript is in {tmp_path}/over.transcript.vtt" in complained
    cues = read_cues(tmp_path / "over.transcript.vtt")
    for cue in cues:
        assert any(start - 1 <= cue.start <= cue.end <= end + 1 for start, end in SAID)
    table = pd.read_csv(tmp_path / "over.csv", keep_default_na=False)
    assert table.text.tolist() == [text_within(cues, at, at + 10) or "" for at in (0, 10, 20, 30)]
    assert all(table.text)
    assert not list(tmp_path.glob("*.part"))


def test_a_transcript_that_is_there_is_used_unless_it_is_of_another_file(score, talk, tmp_path):
    own = tmp_path / "over.transcript.vtt"
    note = f"NOTE Transcript of talk.mp4 ({talk.stat().st_size} bytes), by a model, corrected"
    own.write_text(f"WEBVTT\n\n{note}\n\n00:00:01.000 --> 00:00:03.000\nmended\n")
    command = (talk, "--windows", "20s", "--stride", "20s", "--out", tmp_path / "over.csv", "--transcribe", "no/model")
    code, _, complained = score(*command)
    assert code == 0, complained
    assert f"the transcript is that of {own}; remove it to transcribe again" in complained
    assert pd.read_csv(tmp_path / "over.csv").text[0] == "mended"
    own.write_text(own.read_text().replace("talk.mp4", "other.mp4"))
    (tmp_path / "over.csv").unlink()
    (tmp_path / "over.png").unlink()
    code, _, complained = score(*command)
    assert code == 1
    assert f"{own} is the transcript of another file, other.mp4" in complained


def test_an_interrupted_transcript_resumes_and_nothing_is_transcribed_twice(
    score, talk, tmp_path, recognizer, interrupted, monkeypatch
):
    monkeypatch.setattr(long_transcript, "AT_ONCE_SECONDS", 12.0)
    command = (talk, "--windows", "10s", "--transcribe", recognizer, "--out")
    assert score(*command, tmp_path / "whole" / "over.csv")[0] == 0
    interrupted(PartFile, 3, *command, tmp_path / "again" / "over.csv")
    part = tmp_path / "again" / "over.transcript.vtt.part"
    assert part.read_bytes().count(b"\n") == 3
    heard = []
    call = FasterWhisper.__call__
    monkeypatch.setattr(
        FasterWhisper, "__call__", lambda self, audio, timed: heard.append(audio) or call(self, audio, timed)
    )
    code, _, complained = score(*command, tmp_path / "again" / "over.csv")
    assert code == 0, complained
    assert "of 0:40 were transcribed before" in complained
    assert 0 < sum(map(len, heard)) < 24 * RATE
    assert files_in(tmp_path / "again") == files_in(tmp_path / "whole")


def test_a_part_of_a_transcript_by_other_rules_or_models_is_refused(
    score, talk, tmp_path, recognizer, interrupted, monkeypatch
):
    command = (talk, "--windows", "10s", "--out", tmp_path / "over.csv", "--transcribe")
    monkeypatch.setattr(long_transcript, "AT_ONCE_SECONDS", 12.0)
    interrupted(PartFile, 2, *command, recognizer)
    monkeypatch.setattr(transcribe, "VERSION", transcribe.VERSION + 1)
    code, _, complained = score(*command, recognizer)
    assert code == 1
    assert "was started with rules of transcription version" in complained


def test_no_more_than_minutes_are_read_at_once_and_no_speech_is_lost_between_segments(
    talk, tmp_path, recognizer, monkeypatch
):
    def transcript(seconds: float, name: str) -> list[Cue]:
        monkeypatch.setattr(long_transcript, "AT_ONCE_SECONDS", seconds)
        with LongMedia(talk) as media:
            long_transcript.write_transcript(
                media, tmp_path / name, lambda: transcribe.Transcriber(recognizer, "cpu"), {}, "m", lambda said: None
            )
        return read_cues(tmp_path / name)

    read, segment = [], LongMedia.read
    whole = transcript(300.0, "whole.vtt")

    def note(media, start, end, **how):
        read.append((start, end))
        return segment(media, start, end, **how)

    monkeypatch.setattr(LongMedia, "read", note)
    parts = transcript(12.0, "parts.vtt")
    assert all(end - start <= 12 for start, end in read)
    assert all(after[0] <= before[1] for before, after in pairwise(read))  # nothing is left out
    for cues in (whole, parts):
        for start, end in SAID:
            assert any(start - 1 < cue.start < end for cue in cues)
        assert all(before.end <= after.start + 1e-6 for before, after in pairwise(cues))


def test_a_part_that_cannot_be_decoded_is_said_and_the_rest_is_transcribed(talk, tmp_path, recognizer, monkeypatch):
    monkeypatch.setattr(long_transcript, "AT_ONCE_SECONDS", 12.0)
    segment = LongMedia.read

    def damaged(media, start, end, **how):
        if 12 < start < 22:
            raise MediaError(media.path, "damaged", MediaFault.DAMAGED)
        return segment(media, start, end, **how)

    monkeypatch.setattr(LongMedia, "read", damaged)
    said: list[str] = []
    with LongMedia(talk) as media:
        long_transcript.write_transcript(
            media, tmp_path / "a.vtt", lambda: transcribe.Transcriber(recognizer, "cpu"), {}, "m", said.append
        )
    assert any("not transcribed" in line and "damaged" in line for line in said)
    starts = [cue.start for cue in read_cues(tmp_path / "a.vtt")]
    assert min(starts) < 10
    assert max(starts) > 27


def test_a_timeline_of_a_recording_does_not_need_the_model_of_scores_until_its_words_are_there(
    score, talk, tmp_path, recognizer, monkeypatch
):
    monkeypatch.setattr(MultimodalSentimentPipeline, "__init__", lambda *_, **__: pytest.fail("loaded too early"))
    monkeypatch.setattr(transcribe.Transcriber, "words", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert score(talk, "--windows", "10s", "--transcribe", recognizer, "--out", tmp_path / "o.csv")[0] == 130


@pytest.mark.slow
def test_a_killed_command_gives_the_files_of_one_that_was_not(recording, recognizer, bundle, tmp_path):
    def command(folder: str) -> list[str]:
        out = tmp_path / folder / "over.csv"
        options = ["--windows", "4s", "--batch-size", "2", "--transcribe", recognizer, "--timeline-format", "srt"]
        return [
            sys.executable,
            "-m",
            "omnisent.cli",
            "score",
            str(recording),
            "--model",
            str(bundle),
            "--out",
            str(out),
            *options,
        ]

    def lines() -> int:
        return sum(path.read_bytes().count(b"\n") for path in (tmp_path / "killed").glob("*.part"))

    subprocess.run(command("whole"), check=True, timeout=600)
    draws = random.Random(0)
    for kept in (0, 2, 4):  # of the transcript there are two
        process = subprocess.Popen(command("killed"))
        while lines() <= kept and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draws.uniform(0, 0.2))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was done before it was killed"
    subprocess.run(command("killed"), check=True, timeout=600)
    assert files_in(tmp_path / "killed") == files_in(tmp_path / "whole")
