"""Publishing a built data set through the real Hub client, to a hub on the loopback address."""

import json
import shutil
import subprocess
import sys
import textwrap

import pyarrow.parquet as pq
import pytest

from loopback_hub import OWNER, TOKEN, LoopbackHub
from omnisent.data.build import build_dataset
from omnisent.data.mmsa import MMSA_ORDER
from prepared import PreparedPython
from rated_archive import use_archive, write_archive

COMMAND = "from omnisent.cli import main; main()"
FUNCTION = """
import json, sys
from omnisent.hub.publish_data import PublishError, publish_dataset
try:
    print(publish_dataset(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3])))
except PublishError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with LoopbackHub() as hub, PreparedPython(hub.environment(tmp_path_factory.mktemp("home"))) as hub.python:
        yield hub


@pytest.fixture
def hub(served):
    """A hub with nothing in it."""
    served.repositories.clear()
    served.requests.clear()
    return served


@pytest.fixture(scope="module")
def built(tmp_path_factory, whole_clips):
    """A small CMU-MOSI root with one clip's media, built."""
    root = tmp_path_factory.mktemp("mosi")
    splits = ("train", "train", "valid", "test")
    rows = [f'v{i},{i},"so, {i}",{i - 2},,,,,{split}' for i, split in enumerate(splits)]
    (root / "label.csv").write_text("\n".join([",".join(MMSA_ORDER), *rows]))
    (root / "Raw" / "v0").mkdir(parents=True)
    shutil.copy(whole_clips[0].video, root / "Raw" / "v0" / "0.mp4")
    build_dataset("cmu_mosi", root, root.parent / "built", workers=1)
    return root.parent / "built"


def _run(hub, home, code: str, *arguments: str, token: str | None = TOKEN) -> subprocess.CompletedProcess:
    return hub.python.run(code, *arguments, cwd=home, token=token)


def _publish(hub, home, folder, repo_id: str = f"{OWNER}/set", *, token: str | None = TOKEN, **options):
    return _run(hub, home, FUNCTION, str(folder), repo_id, json.dumps(options), token=token)


def _files(hub, repo_id: str = f"{OWNER}/set") -> dict[str, bytes]:
    repository = hub.repositories["dataset", repo_id]
    return repository.commits[repository.head]


def test_a_published_data_set_loads_back_without_remote_code(hub, built, tmp_path):
    done = _run(hub, tmp_path, COMMAND, "data", "publish", str(built), f"{OWNER}/set", "--i-have-the-rights")
    assert done.returncode == 0, done.stderr
    assert hub.url in done.stdout
    assert set(_files(hub)) == {"README.md", "data/train.parquet", "data/valid.parquet", "data/test.parquet"}
    assert len(hub.repositories["dataset", f"{OWNER}/set"].commits) == 2

    (tmp_path / "other").mkdir()
    code = f"""
        import json
        from datasets import load_dataset
        found = load_dataset("{OWNER}/set")
        print(json.dumps({{name: list(part["text"]) for name, part in found.items()}}))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    somebody = {"cwd": tmp_path / "other", "env": hub.environment(tmp_path / "other", token=None)}
    done = subprocess.run(command, **somebody, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"train": ["so, 0", "so, 1"], "valid": ["so, 2"], "test": ["so, 3"]}


def test_of_a_research_set_only_ids_are_published_without_a_right_to_it(hub, built, tmp_path):
    assert _run(hub, tmp_path, COMMAND, "data", "publish", str(built), f"{OWNER}/set").returncode == 0
    (tmp_path / "train.parquet").write_bytes(_files(hub)["data/train.parquet"])
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert rows == [{"id": f"v{i}_{i}", "split": "train", "video_id": f"v{i}", "clip_index": i} for i in range(2)]
    card = _files(hub)["README.md"].decode()
    assert "Columns: `id`, `split`, `video_id`, `clip_index`" in card
    assert "Transcripts and labels are not included" in card
    assert "`text` (transcript)" not in card


def test_no_local_path_is_published(hub, built, tmp_path):
    _publish(hub, tmp_path, built, has_rights=True)
    for path, data in _files(hub).items():
        if path.endswith(".parquet"):
            (tmp_path / "part.parquet").write_bytes(data)
            text = json.dumps(pq.read_table(tmp_path / "part.parquet").to_pylist()) + str(
                pq.read_schema(tmp_path / "part.parquet").metadata
            )
        else:
            text = data.decode()
        assert str(built.parent) not in text
        assert "Raw/" not in text
        assert TOKEN not in text


def test_the_card_says_what_is_in_it_and_what_the_licence_forbids(hub, built, tmp_path):
    _publish(hub, tmp_path, built)
    card = _files(hub)["README.md"].decode()
    assert card.startswith("---\npretty_name: CMU-MOSI\nlicense: other\n")
    assert "path: data/valid.parquet" in card
    assert "| train | 2 | -1.5000 | 0.5000 | 0 | 1 | 1 |" in card
    assert "Do not redistribute them" in card
    assert "MOSI: Multimodal Corpus" in card
    assert f'load_dataset("{OWNER}/set")' in card
    assert "{{" not in card


def test_the_card_of_sentences_speaks_of_no_clips_and_names_their_owner(hub, tmp_path, monkeypatch):
    archive = write_archive(tmp_path / "archive")
    use_archive(monkeypatch, archive)
    build_dataset("human_ratings", archive.parent, tmp_path / "built")
    assert _publish(hub, tmp_path, tmp_path / "built", with_media=True).returncode == 0
    card = _files(hub)["README.md"].decode()
    assert card.startswith("---\npretty_name: Human ratings of sentences\nlicense: mit\n")
    assert "MIT License, Copyright (c) 2016 C.J. Hutto" in card
    assert "The data set is text alone." in card
    assert "[-4.0, 4.0]" in card
    assert "multimodal" not in card
    (tmp_path / "test.parquet").write_bytes(_files(hub)["data/test.parquet"])
    assert "rater_mae" in pq.read_table(tmp_path / "test.parquet").column_names


def test_a_split_without_rows_is_left_out(hub, tmp_path):
    (tmp_path / "root").mkdir()
    rows = ["v,1,fine,1,,,,,train", "w,1,so,0,,,,,test"]
    (tmp_path / "root" / "label.csv").write_text("\n".join([",".join(MMSA_ORDER), *rows]))
    build_dataset("cmu_mosi", tmp_path / "root", tmp_path / "built", with_media=False)
    done = _publish(hub, tmp_path, tmp_path / "built")
    assert done.returncode == 0, done.stderr
    assert set(_files(hub)) == {"README.md", "data/train.parquet", "data/test.parquet"}
    assert "valid" not in _files(hub)["README.md"].decode().split("Columns")[0]


def test_media_are_published_only_with_a_right_to_them(hub, built, tmp_path):
    arguments = ("data", "publish", str(built), f"{OWNER}/set", "--with-media")
    refused = _run(hub, tmp_path, COMMAND, *arguments)
    assert refused.returncode == 1
    assert "Do not redistribute them" in refused.stderr
    assert not hub.repositories
    done = _run(hub, tmp_path, COMMAND, *arguments, "--i-have-the-rights")
    assert done.returncode == 0, done.stderr
    assert "Do not redistribute them" in done.stderr
    files = _files(hub)
    (tmp_path / "train.parquet").write_bytes(files["data/train.parquet"])
    videos = pq.read_table(tmp_path / "train.parquet")["video"].to_pylist()
    assert videos == ["media/train/v0_0.mp4", None]
    assert files["media/train/v0_0.mp4"][4:8] == b"ftyp"


def test_without_a_token_nothing_is_sent(hub, built, tmp_path):
    done = _publish(hub, tmp_path, built, token=None)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("no Hub token: run `hf auth login`")
    assert not hub.requests


def test_a_repository_of_another_user_is_refused(hub, built, tmp_path):
    done = _publish(hub, tmp_path, built, "stranger/set")
    assert done.returncode == 1
    assert "stranger/set: not published: " in done.stderr
    assert ("dataset", "stranger/set") not in hub.repositories


def test_a_server_error_publishes_nothing_and_the_next_try_completes_it(hub, built, tmp_path):
    hub.fail = 100
    done = _publish(hub, tmp_path, built)
    assert done.returncode == 1
    assert f"{OWNER}/set: not published: " in done.stderr
    assert _files(hub) == {}
    hub.fail = 0
    assert _publish(hub, tmp_path, built).returncode == 0
    assert "README.md" in _files(hub)


def test_a_repository_with_other_content_is_left_alone(hub, built, tmp_path):
    assert _publish(hub, tmp_path, built).returncode == 0
    repository = hub.repositories["dataset", f"{OWNER}/set"]
    repository.commit({"someone_elses.csv": b"1"}, set())
    before = len(repository.commits)
    done = _publish(hub, tmp_path, built)
    assert done.returncode == 1
    assert "contains other files, first someone_elses.csv" in done.stderr
    assert len(repository.commits) == before


def test_a_folder_that_was_not_built_is_refused(hub, tmp_path):
    done = _publish(hub, tmp_path, tmp_path)
    assert done.returncode == 1
    assert "is not a built data set; make one with `omnisent data build`" in done.stderr
