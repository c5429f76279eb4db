"""Files of packages: fetched once from an index, checked, kept, and what is said when that fails."""

import hashlib
import io
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest

from omnisent.data.pinned_file import PinnedFile, cache_folder

BACKEND = """
from pathlib import Path
Path({mark!r}).touch()

def prepare_metadata_for_build_wheel(folder, settings=None):
    info = Path(folder, "toy_data-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: toy-data\\nVersion: 1.0\\n")
    return info.name
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def pinned(path) -> PinnedFile:
    return PinnedFile("toy-data", "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), 0.1)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index with a wheel and a source archive of one package; the archive leaves a mark when its code is run."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "toy_data-1.0-py3-none-any.whl", "w") as wheel:
        info = "toy_data-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    files = {"pyproject.toml": PROJECT, "backend.py": BACKEND.format(mark=str(tmp_path / "was run")), "PKG-INFO": ""}
    with tarfile.open(folder / "toy_data-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"toy_data-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.parametrize("name", ["toy_data-1.0-py3-none-any.whl", "toy_data-1.0.tar.gz"])
def test_a_file_is_fetched_once_and_kept(index, tmp_path, capsys, name):
    file, kept = pinned(index / name), tmp_path / "a" / "kept"
    path = file.fetch(kept)
    assert path == kept / name
    assert path.read_bytes() == (index / name).read_bytes()
    assert capsys.readouterr().err == f"fetching {name} (0.1 MB) to {kept}\n"
    (index / name).unlink()
    assert file.fetch(kept) == path
    assert capsys.readouterr().err == ""
    assert list(kept.iterdir()) == [path]


def test_by_default_a_file_is_in_the_cache_of_the_user(index, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = pinned(index / "toy_data-1.0-py3-none-any.whl").fetch()
    assert path.parent == cache_folder() == tmp_path / "cache" / "omnisent"


def test_a_file_of_that_name_with_other_content_is_refused_and_left(index, tmp_path):
    path = tmp_path / "toy_data-1.0.tar.gz"
    path.write_bytes(b"other")
    with pytest.raises(
        ValueError,
        match=r"toy_data-1\.0\.tar\.gz: expected .* of toy-data 1\.0 with SHA-256 \w{64}, found \w{64}; remove it",
    ):
        pinned(index / path.name).fetch(tmp_path)
    assert path.read_bytes() == b"other"


def test_another_file_in_the_index_is_refused_before_its_code_is_run(index, tmp_path):
    file = pinned(index / "toy_data-1.0.tar.gz")
    changed = PinnedFile(file.package, file.version, file.name, "0" * 64, file.megabytes)
    with pytest.raises(OSError, match=r"^toy_data-1\.0\.tar\.gz cannot be downloaded \(.*DO NOT MATCH THE HASHES"):
        changed.fetch(tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []
    assert not (tmp_path / "was run").exists()
    file.fetch(tmp_path / "kept")
    assert (tmp_path / "was run").exists()


def test_without_a_network_there_is_one_line_in_seconds(index, tmp_path, monkeypatch):
    file = pinned(index / "toy_data-1.0-py3-none-any.whl")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "https://127.0.0.1:9/simple")
    start = time.monotonic()
    with pytest.raises(
        OSError, match=r"No matching distribution.*; connect to a package index, or put the file into"
    ) as stopped:
        file.fetch(tmp_path / "kept")
    assert time.monotonic() - start < 10
    assert str(stopped.value).endswith(f"put the file into {tmp_path / 'kept'}")
    assert "\n" not in str(stopped.value)


def test_an_environment_without_pip_is_said(index, tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(OSError, match=r"cannot be downloaded \(.*No module named pip\)"):
        pinned(index / "toy_data-1.0.tar.gz").fetch(tmp_path / "kept")
