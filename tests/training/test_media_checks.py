"""The check of the clips: it finds what training could not use, reads a file once, and is not harmed by what stops it."""

import json
import logging
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from media_files import hiss, write_clip
from omnisent.data.clip import Clip
from omnisent.errors_omnisent import OmniSentError
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.training.bad_clips import find_bad_clips
from omnisent.training.media_checks import MediaChecks, place_of_checks


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A whole clip, one without sound, one cut off, and a text file."""
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "whole.mp4", wave=hiss(2.0, 48_000))
    write_clip(folder / "silent.mp4")
    (folder / "cut.mp4").write_bytes((folder / "whole.mp4").read_bytes()[:9000])
    (folder / "no.mp4").write_text("no video")
    return folder


@pytest.fixture
def clips(media, half_read):
    video = {name: str(media / f"{name}.mp4") for name in ("whole", "silent", "cut", "no", "missing")}
    return [
        Clip("whole", "It was good.", video["whole"], split="train", video_id="v", clip_index=0),
        Clip("silent", "It was bad.", video["silent"], split="train", video_id="v", clip_index=1),
        Clip("no words", None, video["silent"], split="train"),
        Clip("blank", "  ", None, split="train"),
        Clip("cut", "It was short.", video["cut"], split="valid"),
        Clip("no media", "It was text.", video["no"], split="test"),
        Clip("missing", "It was away.", video["missing"], split="test"),
        Clip("sound", None, None, half_read, split="train"),
        Clip("sound beside", "A voice.", video["silent"], half_read, split="train"),
        Clip("long", "word " * 400, video["whole"], split="train"),
        Clip("after", "So long.", None, split="train", video_id="v", clip_index=2),
    ]


@pytest.fixture
def check(processor, tmp_path):
    """A processor's check of clips, whose results are kept in one place."""

    def bad_of(clips, own=processor, **keywords):
        return find_bad_clips(clips, MediaChecks(own, tmp_path / "checks.jsonl", quiet=True), **keywords)

    return bad_of


def other(processor, tiny_backbone, **settings) -> OmniSentProcessor:
    sizes = {"min_pixels": processor.min_pixels, "max_pixels": processor.max_pixels}
    return OmniSentProcessor.from_base(tiny_backbone, **{**sizes, **settings})


@pytest.mark.parametrize("modalities", [["text", "audio", "video"], ["audio"], ["video"], ["text", "audio"], ["text"]])
@pytest.mark.parametrize("cores", [1, 2])
def test_it_finds_exactly_the_clips_that_cannot_be_encoded(
    clips, check, processor, tiny_backbone, monkeypatch, modalities, cores
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    own = other(processor, tiny_backbone, modalities=modalities)
    own.tokenizer.model_max_length = 330
    expected = {}
    for clip in clips:
        try:
            own.encode(clip.to_dict())
        except OmniSentError as error:
            expected[clip.id] = str(error)
    for _ in ("read", "kept"):
        assert {bad.id: bad.reason for bad in check(clips, own)} == expected
    assert ("long" in expected) == ("text" in modalities)
    assert expected


def test_preceding_transcripts_count(clips, check, processor, tiny_backbone):
    own = other(processor, tiny_backbone, context_clips=2)
    own.tokenizer.model_max_length = own.prompt_tokens(clips[-1].to_dict(), video=False, audio=False)
    words = [clip for clip in clips if not clip.video and clip.text and clip.text.strip()]
    assert not check(words, own)
    assert [bad.id for bad in check([*(replace(clip, video=None) for clip in clips[:2]), *words], own)][-1] == "after"


def test_tokens_are_counted_as_they_are_encoded(clips, processor, tmp_path):
    chosen = [clip for clip in clips if clip.id in ("whole", "silent", "sound", "sound beside")]
    for clip, found in zip(chosen, MediaChecks(processor, tmp_path / "checks.jsonl").of(chosen), strict=True):
        ids = processor.encode(clip.to_dict())["input_ids"]
        assert int((ids == processor.tokenizer.video_token_id).sum()) == found.video_tokens
        assert int((ids == processor.tokenizer.audio_token_id).sum()) == found.audio_tokens


def spoil(path) -> None:
    """Other content of the same length, at the same time."""
    before = os.stat(path)
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def once_read(media, tmp_path, check):
    """A clip that was good when it was read, and can no longer be read."""
    path = tmp_path / "clip.mp4"
    path.write_bytes((media / "whole.mp4").read_bytes())
    clip = Clip("a", "Good.", str(path), split="train")
    assert not check([clip])
    spoil(path)
    return clip


def test_a_file_is_read_once(once_read, check, processor, tiny_backbone):
    assert not check([once_read])
    assert not check([replace(once_read, text="Other words.", split="test")])
    prompted = {"system_prompt": "Say it.", "context_clips": 1, "exact_resize": False, "text_case": "sentence"}
    assert not check([once_read], other(processor, tiny_backbone, **prompted))


@pytest.mark.parametrize(
    "changed",
    [{"fps": 1.0}, {"max_frames": 4}, {"max_pixels": 56 * 56}, {"modalities": ["video"]}, {"max_sound_seconds": 1.0}],
    ids=str,
)
def test_it_is_read_again_with_other_settings(once_read, check, processor, tiny_backbone, changed):
    assert [bad.id for bad in check([once_read], other(processor, tiny_backbone, **changed))] == ["a"]


def test_a_changed_file_is_read_again(once_read, check, media):
    os.utime(once_read.video)
    assert [bad.id for bad in check([once_read])] == ["a"]
    assert [bad.id for bad in check([once_read])] == ["a"]
    Path(once_read.video).write_bytes((media / "whole.mp4").read_bytes())
    assert not check([once_read])


def test_what_is_missing_is_looked_for_again(check, media, tmp_path):
    clip = Clip("a", "Good.", str(tmp_path / "late.mp4"), split="train")
    missing = check([clip])
    (tmp_path / "late.mp4").mkdir()
    assert check([clip])[0].reason != missing[0].reason
    (tmp_path / "late.mp4").rmdir()
    (tmp_path / "late.mp4").write_bytes((media / "whole.mp4").read_bytes())
    assert not check([clip])


def test_a_file_is_read_for_its_frames_and_for_its_sound_alone(check, half_read, tmp_path):
    """Its sound can be read, though it has no frames."""
    clip = Clip("a", "Good.", half_read, split="test")
    assert [bad.kept for bad in check([clip], keeps_tests=True)] == ["text, audio"]
    assert [bad.id for bad in check([clip])] == ["a"]
    assert not check([replace(clip, video=None, audio=half_read)])
    assert [bad.id for bad in check([clip])] == ["a"]


def test_a_fault_is_not_kept_since_it_may_pass(check, media, tmp_path):
    path = tmp_path / "clip.mp4"
    whole = (media / "whole.mp4").read_bytes()
    path.write_bytes(b"x" * len(whole))
    clip, before = Clip("a", "Good.", str(path), split="train"), os.stat(path)
    assert [bad.id for bad in check([clip])] == ["a"]
    path.write_bytes(whole)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not check([clip])


def test_a_warning_is_given_for_a_kept_result_too(check, half_read, caplog):
    for _ in ("read", "kept"):
        caplog.clear()
        assert not check([Clip("half", "Good.", None, half_read, split="train")])
        assert "clip half is only partly readable: " in caplog.text


def test_an_interrupted_check_goes_on_where_it_stopped(media, check, tmp_path):
    clips = []
    for number in range(4):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes((media / "whole.mp4").read_bytes())
        clips.append(Clip(str(number), "Good.", str(path), split="train"))
    check(clips)
    place = tmp_path / "checks.jsonl"
    content = place.read_bytes()
    place.write_bytes(content[: len(content) - len(content.splitlines()[-1]) // 2])  # stopped in the last line
    for clip in clips:
        spoil(tmp_path / f"{clip.id}.mp4")
    assert [bad.id for bad in check(clips)] == ["3"]
    Path(clips[3].video).write_bytes((media / "whole.mp4").read_bytes())
    assert not check(clips)
    assert json.loads(place.read_text().splitlines()[-1])["fault"] is None  # on a line of its own


def many(media, folder, count) -> list[Clip]:
    """Clips of as many files."""
    for number in range(count):
        os.link(media / "whole.mp4", folder / f"{number}.mp4")
    return [Clip(str(number), "Good.", str(folder / f"{number}.mp4"), split="train") for number in range(count)]


def start(check, clips) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=check, args=(clips,))
    process.start()
    return process


def keys_in(place) -> list[str]:
    return [json.loads(line)["key"] for line in place.read_text().splitlines() if line]


def test_a_check_that_is_killed_has_kept_what_it_found(media, check, tmp_path):
    clips, place = many(media, tmp_path, 120), tmp_path / "checks.jsonl"
    killed = start(check, clips)
    while killed.is_alive() and not (place.exists() and place.read_bytes().count(b"\n") > 2):
        time.sleep(0.01)
    killed.kill()
    killed.join()
    kept = place.read_bytes().count(b"}\n")
    assert 0 < kept < 120
    assert not check(clips)
    assert place.read_bytes().count(b"}\n") == 120


def test_several_processes_check_at_once(media, check, tmp_path):
    clips, place = many(media, tmp_path, 24), tmp_path / "checks.jsonl"
    running = [start(check, clips) for _ in range(2)]
    for process in running:
        process.join()
        assert process.exitcode == 0
    assert len(set(keys_in(place))) == 24


def test_a_place_that_cannot_be_written_is_replaced_by_the_cache(once_read, check, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "checks.jsonl"
    place.unlink()
    place.mkdir()
    with caplog.at_level(logging.WARNING):
        first = check([once_read])
        again = check([once_read])
    assert first == again
    assert [bad.id for bad in first] == ["a"]
    said = [record.message for record in caplog.records if "cannot be written" in record.message]
    assert len(said) == 1
    assert str(tmp_path / "cache" / "omnisent" / "checks") in said[0]


def test_results_are_beside_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = tmp_path / "my.csv"
    table.touch()
    found = [place_of_checks(name, root) for name, root in (("cmu_mosi", "/data/mosi"), (str(table), None))]
    assert list(map(str, found)) == ["/data/mosi/media.checks.jsonl", f"{table}.checks.jsonl"]
    assert place_of_checks(str(tmp_path), None) == tmp_path / "media.checks.jsonl"
    assert place_of_checks("hf://datasets/org/name", None).is_relative_to(tmp_path / "cache")
