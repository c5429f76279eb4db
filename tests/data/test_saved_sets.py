"""Data sets of `datasets`, saved in a folder or on the Hub, are tables too; the sounds and videos inside them become files."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value, Video

from loopback_hub import LoopbackHub, Repository
from omnisent.data.clip import Clip, Rating
from omnisent.data.columns import find_columns
from omnisent.data.labelled_folder import clips_of, open_table, read_clips
from omnisent.data.load import load_clips
from omnisent.data.table_options import TableOptions

WAV = b"RIFF\x00\x00\x00\x00WAVE and so on"
MP4 = b"\x00\x00\x00\x18ftypisom and so on"
READ = """
import json, sys
from dataclasses import asdict
from omnisent.data.load import load_clips
from omnisent.data.table_options import TableOptions
try:
    print(json.dumps([asdict(clip) for clip in load_clips(sys.argv[1], options=TableOptions(**json.loads(sys.argv[2])))]))
except OSError as error:
    print(error)
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/omnisent/media"


def with_media(video: dict | None, audio: dict | None) -> Dataset:
    """A row with the media as `datasets` stores them; to encode a sound would need a package that nothing here needs."""
    stored = {"path": Value("string"), "bytes": Value("binary")}
    features = Features(text=Value("string"), video=stored, audio=stored)
    return Dataset.from_dict({"text": ["x"], "video": [video], "audio": [audio]}, features=features)


@pytest.mark.parametrize("decode", [True, False])
def test_sounds_and_videos_inside_become_files_named_by_their_content(decode, cache, tmp_path):
    saved = with_media({"path": "talk.MP4", "bytes": MP4}, {"path": None, "bytes": WAV})
    saved = saved.cast_column("video", Video(decode=decode)).cast_column("audio", Audio(16_000, decode=decode))
    saved.save_to_disk(tmp_path / "set")
    (clip,) = read_clips(tmp_path / "set")
    assert clip.video == str(cache / f"{hashlib.sha256(MP4).hexdigest()}.MP4")
    assert clip.audio == str(cache / f"{hashlib.sha256(WAV).hexdigest()}.wav")
    assert (Path(clip.video).read_bytes(), Path(clip.audio).read_bytes()) == (MP4, WAV)
    before = [(path, path.stat().st_mtime_ns) for path in sorted(cache.iterdir())]
    assert read_clips(tmp_path / "set") == [clip]
    assert [(path, path.stat().st_mtime_ns) for path in sorted(cache.iterdir())] == before
    assert len(before) == 2


def test_without_media_nothing_is_written(cache, tmp_path):
    with_media({"path": None, "bytes": MP4}, None).save_to_disk(tmp_path / "set")
    assert read_clips(tmp_path / "set", with_media=False) == [Clip("1", "x")]
    assert not cache.exists()


def test_a_file_that_is_there_is_used_where_it_is(cache, tmp_path):
    (tmp_path / "a.mp4").write_bytes(MP4)
    with_media({"path": str(tmp_path / "a.mp4"), "bytes": None}, None).save_to_disk(tmp_path / "set")
    (clip,) = read_clips(tmp_path / "set")
    assert (clip.video, clip.audio) == (str(tmp_path / "a.mp4"), None)
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 1 media files do not exist: .*a\.mp4 \(clip 1\)"):
        read_clips(tmp_path / "set")
    assert not cache.exists()


def test_targets_and_headers_of_a_saved_data_set_are_chosen_like_those_of_a_file(tmp_path):
    rows = {"Transkript": ["x", "y"], "Valenz": [1, None], "Erregung": [2.5, 3.0], "more": [["nested"], []]}
    DatasetDict(train=Dataset.from_dict(rows), test=Dataset.from_dict(rows)).save_to_disk(tmp_path)
    options = TableOptions(("valence", "Erregung"), {"text": "Transkript", "valence": "Valenz"})
    clips = read_clips(tmp_path, options=options)
    assert [clip.split for clip in clips] == ["train", "train", "test", "test"]
    assert clips[0] == Clip("1", "x", label=1.0, split="train", further=(Rating(2.5),))
    assert [clip.label for clip in clips] == [1.0, None, 1.0, None]
    assert [clip.id for clip in clips] == ["1", "2", "3", "4"]


def test_classes_are_read_by_their_names(tmp_path):
    features = Features(
        text=Value("string"), split=ClassLabel(names=["dev", "test"]), label=ClassLabel(names=["-1", "bad"])
    )
    Dataset.from_dict({"text": ["x", "y"], "split": [0, 1], "label": [0, None]}, features=features).save_to_disk(
        tmp_path / "a"
    )
    assert [(clip.split, clip.label) for clip in read_clips(tmp_path / "a")] == [("valid", -1.0), ("test", None)]
    Dataset.from_dict({"text": ["x"], "split": [0], "label": [1]}, features=features).save_to_disk(tmp_path / "b")
    with pytest.raises(ValueError, match="row 1: column label: 'bad' is not a number"):
        read_clips(tmp_path / "b")


def test_a_damaged_folder_is_one_clear_error(tmp_path):
    Dataset.from_dict({"text": ["x"]}).save_to_disk(tmp_path)
    next(tmp_path.glob("*.arrow")).write_bytes(b"no")
    with pytest.raises(ValueError, match=r"a saved data set that cannot be read \(.*\); save it again"):
        read_clips(tmp_path)


def spoiled(path: Path, options: TableOptions | None = None) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (compared whole)
        read_clips(path, options=options or TableOptions())
    return str(caught.value)


def test_an_encoding_is_for_a_csv_alone(tmp_path):
    Dataset.from_dict({"text": ["x"]}).save_to_disk(tmp_path)
    message = ": only a CSV has an encoding; leave out encoding: latin-1"
    for name in (tmp_path, "hf://datasets/org/name"):
        assert spoiled(name, TableOptions(encoding="latin-1")) == f"{name}{message}"


def test_a_part_that_is_no_split_is_named_unless_a_column_says_the_split(tmp_path):
    DatasetDict(train=Dataset.from_dict({"text": ["x"]}), holdout=Dataset.from_dict({"text": ["y"]})).save_to_disk(
        tmp_path / "a"
    )
    assert spoiled(tmp_path / "a") == (
        f"{tmp_path / 'a'}: the part 'holdout' is not a split; rename it to one of train, valid, test, val, validation, dev,"
        " or leave it out"
    )
    rows = Dataset.from_dict({"text": ["x", "y"], "Fold": ["train", "test"]})
    DatasetDict(all=rows).save_to_disk(tmp_path / "b")
    options = TableOptions(columns={"split": "fold"})
    assert [clip.split for clip in read_clips(tmp_path / "b", options=options)] == ["train", "test"]
    assert "the part 'all' is not a split" in spoiled(tmp_path / "b")


def test_a_part_without_a_column_that_is_used_is_named(tmp_path):
    part = Dataset.from_dict({"text": ["x"], "Label": [1.0], "more": ["z"]})
    DatasetDict(train=part, test=part.remove_columns(["Label", "more"])).save_to_disk(tmp_path)
    assert spoiled(tmp_path) == (
        f"{tmp_path}: the part 'test' has no column 'Label', which others have; add it, or leave out the part"
    )
    assert len(read_clips(tmp_path, options=TableOptions(()))) == 2


def read_from(hub: LoopbackHub, home: Path, address: str, **options) -> list[dict] | str:
    """The clips that a process with an empty cache reads, or the error."""
    environment = {**hub.environment(home), "XDG_CACHE_HOME": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", READ, address, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, timeout=120)
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[-1]
    return json.loads(line) if line.startswith("[") else done.stdout.strip()


def test_a_data_set_on_the_hub_is_a_table(tmp_path):
    with LoopbackHub() as hub:
        several, one = Repository(), Repository()
        files = {
            "data/train.csv": b"Sentence,valence\nfine,3\nbad,1\n",
            "data/validation.csv": b"Sentence,valence\nso so,2\n",
            "data/test.csv": b"Sentence,valence\ngood,\n",
        }
        several.commit(files, set())
        one.commit({"data.csv": b"Sentence,valence\nfine,3\n"}, set())
        hub.repositories |= {("dataset", "org/several"): several, ("dataset", "org/one"): one}
        options = {"targets": ["valence"], "columns": {"text": "sentence"}}
        clips = read_from(hub, tmp_path, "hf://datasets/org/several", **options)
        assert [(clip["id"], clip["text"], clip["label"], clip["split"]) for clip in clips] == [
            ("1", "fine", 3.0, "train"),
            ("2", "bad", 1.0, "train"),
            ("3", "so so", 2.0, "valid"),
            ("4", "good", None, "test"),
        ]
        (clip,) = read_from(hub, tmp_path, "hf://datasets/org/one", **options)
        assert (clip["text"], clip["split"]) == ("fine", None)  # one part is no split
        error = read_from(hub, tmp_path, "hf://datasets/org/none")
        assert error.startswith("hf://datasets/org/none: cannot be loaded from the Hub (")
        assert error.endswith("); check the name and your login")
        assert "\n" not in error


@pytest.mark.parametrize("address", ["hf://datasets/one", "hf://org/name", "hf://datasets/a/b/c"])
def test_another_address_says_what_is_expected(address):
    with pytest.raises(ValueError, match=f"{address}: expected hf://datasets/OWNER/NAME"):
        load_clips(address)


def test_work_on_the_text_alone_reads_no_media_from_the_data_set(tmp_path):
    with_media({"path": None, "bytes": MP4}, None).save_to_disk(tmp_path)
    table, options, asked = open_table(tmp_path, TableOptions()), TableOptions(), []
    columns = find_columns(table, options)
    spied = replace(table, rows=lambda needed: (asked.append(needed), table.rows(needed))[1])
    assert clips_of(spied, columns, options, with_media=False, missing_ok=False) == [Clip("1", "x")]
    assert asked == [{"text"}]
