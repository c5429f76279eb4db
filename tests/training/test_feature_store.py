"""The shards of a feature cache: entries come back as they were, damage is noticed, and only own files are removed."""

import pickle
import resource
import shutil

import pytest
import torch

from omnisent.training import feature_store
from omnisent.training.feature_store import FeatureStore, cache_info, clear_cache

SETTINGS = "0123456789abcdef" * 2


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / SETTINGS


def _entry(seed: int) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {"ids": torch.arange(seed + 3), "embeds": torch.randn(5, 8, generator=made).bfloat16()}


def _filled(folder, keys) -> FeatureStore:
    store = FeatureStore(folder)
    with store.writing():
        for key in keys:
            store.add(f"kind/{key}", _entry(key))
    return store


def _equal(found, expected) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_entries_come_back_as_they_were_also_in_other_processes_copies_and_without_tensors(folder):
    store = _filled(folder, range(3))
    store.add("kind/empty", {})
    store.flush()
    assert len(list(folder.iterdir())) == 2
    store.load("kind/0")
    for own in (store, FeatureStore(folder), pickle.loads(pickle.dumps(store))):
        assert all(_equal(own.load(f"kind/{key}"), _entry(key)) for key in range(3))
        assert own.load("kind/empty") == {}
        assert "kind/3" not in own
        with pytest.raises(FileNotFoundError, match="no entry kind/3; start the run again"):
            own.load("kind/3")


@pytest.mark.parametrize("bound", [{"SHARD_BYTES": 300}, {"SHARD_SECONDS": 0.0}])
def test_a_shard_is_written_when_it_is_large_or_old_enough(folder, monkeypatch, bound):
    for name, value in bound.items():
        monkeypatch.setattr(feature_store, name, value)
    store = FeatureStore(folder)
    for key in range(6):
        store.add(f"kind/{key}", _entry(key))
    written = FeatureStore(folder)
    sizes = [sum(tensor.nbytes for tensor in _entry(key).values()) for key in range(6)]
    lost = [size for key, size in enumerate(sizes) if f"kind/{key}" not in written]
    assert sum(lost) < bound.get("SHARD_BYTES", 1)
    assert len(list(folder.iterdir())) == (2 if "SHARD_BYTES" in bound else 6)


def test_what_was_added_is_written_also_after_an_error(folder):
    store = FeatureStore(folder)
    store.add("kind/0", _entry(0))
    with pytest.raises(AttributeError), store.writing():
        store.add("kind/1", {"embeds": "not a tensor"})
    assert _equal(FeatureStore(folder).load("kind/0"), _entry(0))


def test_writers_find_what_others_have_written_and_do_not_overwrite_it(folder):
    one, other = FeatureStore(folder), FeatureStore(folder)
    one.add("kind/0", _entry(0))
    one.flush()
    assert "kind/0" not in other
    other.add("kind/1", _entry(1))
    other.flush()
    assert "kind/0" in other
    assert "kind/1" not in one
    one.refresh()
    assert all(_equal(store.load(f"kind/{key}"), _entry(key)) for store in (one, other) for key in (0, 1))


@pytest.mark.parametrize("kept", [0, 5, 60, -40])
def test_a_truncated_shard_is_said_and_removed_and_the_others_stay(folder, caplog, kept):
    _filled(folder, [0])
    (whole,) = folder.iterdir()
    _filled(folder, [1])
    (damaged,) = set(folder.iterdir()) - {whole}
    store = FeatureStore(folder)
    damaged.write_bytes(damaged.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"{damaged} is not complete .*start the run again to rebuild it"):
        store.load("kind/1")
    again = FeatureStore(folder)
    assert f"{damaged} is incomplete and is removed; its entries are computed again" in caplog.text
    assert list(folder.iterdir()) == [whole]
    assert "kind/1" not in again
    assert _equal(again.load("kind/0"), _entry(0))


@pytest.mark.parametrize(("old", "new"), [(b'"kind/0/embeds"', b'"kind/9/embeds"'), (b'\\"kind/0\\"', b'\\"kind/0\\!')])
def test_a_shard_with_a_damaged_header_is_removed(folder, caplog, old, new):
    _filled(folder, [0])
    (shard,) = folder.iterdir()
    content = shard.read_bytes()
    assert old in content
    shard.write_bytes(content.replace(old, new))
    assert "kind/0" not in FeatureStore(folder)
    assert f"{shard} is incomplete" in caplog.text
    assert not shard.exists()


def test_a_shard_that_cannot_be_written_is_an_error_and_leaves_nothing(folder):
    store = FeatureStore(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with (
            pytest.raises(OSError, match=r"\.part: cannot be written .*free space, or correct feature_cache"),
            store.writing(),
        ):
            store.add("kind/0", {"embeds": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(folder.iterdir()) == []


def test_only_files_of_the_cache_are_counted_and_removed(folder):
    _filled(folder, range(2))
    other = folder.with_name("f" * 32)
    shutil.copytree(folder, other)  # of other settings
    (folder / f"{'a' * 32}.part").write_bytes(bytes(10))  # of a killed process
    earlier = folder.with_name("ab") / f"{'ab' * 32}.safetensors"
    earlier.parent.mkdir()
    earlier.write_bytes(bytes(20))
    own = [path for path in folder.parent.rglob("*") if path.is_file()]
    kept = [folder / "notes.txt", folder.parent / "model.safetensors", folder.parent / "ab" / "weights.safetensors"]
    for path in kept:
        path.write_text("mine")
    info = cache_info(folder.parent)
    assert (info.entries, info.earlier) == ({"kind": 4}, 1)
    assert info.size == sum(path.stat().st_size for path in own)
    assert info.in_words == "4 kind, 0.0 MB, and 1 files of an earlier version, which are not used"
    assert clear_cache(folder.parent) == info
    assert sorted(path for path in folder.parent.rglob("*") if path.is_file()) == sorted(kept)
    assert not other.exists()
    with pytest.raises(FileNotFoundError, match="no such cache folder"):
        clear_cache(folder / "nowhere")


def test_showing_a_cache_removes_nothing(folder):
    _filled(folder, [0])
    (shard,) = folder.iterdir()
    shard.write_bytes(shard.read_bytes()[:-1])
    assert cache_info(folder.parent).entries == {}
    assert shard.exists()
