"""The builders of CMU-MOSI, CMU-MOSEI and CH-SIMS: as imported classes, and their files as loading scripts."""

import json
import os
import subprocess
import venv
from pathlib import Path

import pytest

import omnisent.data
from omnisent.data.catalog import DATASETS, research_set
from omnisent.data.ch_sims import ChSims
from omnisent.data.cmu_mosei import CmuMosei
from omnisent.data.cmu_mosi import CmuMosi
from omnisent.data.mmsa_builder import MmsaBuilder

COLUMNS = ["id", "text", "video", "audio", "label", "split", "video_id", "clip_index", "label_T", "label_A", "label_V"]
EMOTIONS = ("happiness", "sadness", "anger", "fear", "disgust", "surprise")
LOAD = """
import json, sys
from datasets import load_dataset
script, root, name = sys.argv[1:]
data = load_dataset(script, name or None, data_dir=root, trust_remote_code=True)
print(json.dumps({split: part.to_list() for split, part in data.items()}))
"""


@pytest.fixture
def cache(tmp_path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture
def mosi(tmp_path) -> Path:
    root = tmp_path / "mosi"
    (root / "Raw/v_1").mkdir(parents=True)
    (root / "Raw/v_1/1.mp4").write_bytes(b"not opened by a builder")
    (root / "label.csv").write_text(
        "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
        "v_1,2,BAD,-1.8,,,,Negative,train\nv_1,1,GOOD,2.4,,,,Positive,train\nw,1,SO"
        " SO,0,,,,Neutral,valid\nx,1,FINE,1,,,,P,test\n"
    )
    return root


@pytest.fixture
def sims(tmp_path) -> Path:
    root = tmp_path / "sims"
    (root / "Raw/video_0001").mkdir(parents=True)
    (root / "Raw/video_0001/0001.mp4").write_bytes(b"x")
    (root / "label.csv").write_text(
        "video_0001,0001,我不想嫁给李茶,-1.0,-0.8,-0.6,-1.0,Negative,train\nvideo_0002,0001,好,0.4,0.2,0,0.6,Positive,test\n",
        encoding="utf-8",
    )
    return root


def rows(builder) -> dict[str, list[dict]]:
    builder.download_and_prepare()
    return {split: part.to_list() for split, part in builder.as_dataset().items()}


def expected_mosi(root: Path, further: tuple[str, ...] = ()) -> dict[str, list[dict]]:
    def row(video_id, index, text, label, split, video=None):
        values = [f"{video_id}_{index}", text, video, None, label, split, video_id, index, None, None, None]
        return dict(zip(COLUMNS, values, strict=True)) | dict.fromkeys(further)

    first = row("v_1", 1, "GOOD", 2.4, "train", str(root / "Raw/v_1/1.mp4"))
    return {
        "train": [first, row("v_1", 2, "BAD", -1.8, "train")],
        "valid": [row("w", 1, "SO SO", 0.0, "valid")],
        "test": [row("x", 1, "FINE", 1.0, "test")],
    }


@pytest.mark.parametrize("builder", [CmuMosi, CmuMosei])
def test_an_imported_builder_gives_the_rows_in_order_with_paths(mosi, cache, builder):
    made = builder(data_dir=str(mosi), cache_dir=cache)
    assert rows(made) == expected_mosi(mosi, EMOTIONS if builder is CmuMosei else ())
    assert str(made.info.version) == str(builder.VERSION) == ("1.1.0" if builder is CmuMosei else "1.0.0")


def test_the_emotions_of_mosei_are_read_by_any_of_their_names(mosi, cache):
    (mosi / "label.csv").write_text(
        "video_id,clip_id,text,label,mode,Happy,SADNESS,anger\nv_1,1,GOOD,2.4,train,2.5,0,\nx,1,FINE,1,test,0,1,3\n"
    )
    made = rows(CmuMosei(data_dir=str(mosi), cache_dir=cache))
    assert [made["train"][0][name] for name in EMOTIONS] == [2.5, 0.0, None, None, None, None]
    assert [made["test"][0][name] for name in EMOTIONS] == [0.0, 1.0, 3.0, None, None, None]
    with pytest.raises(Exception, match="unknown column 'Happy'"):
        CmuMosi(data_dir=str(mosi), cache_dir=cache).download_and_prepare()


def test_without_media_no_path_is_given(mosi, cache):
    made = rows(CmuMosi(data_dir=str(mosi), cache_dir=cache, with_media=False))
    assert {row["video"] for part in made.values() for row in part} == {None}


def test_a_changed_table_or_folder_is_not_hidden_by_the_cache(mosi, cache):
    rows(CmuMosi(data_dir=str(mosi), cache_dir=cache))
    (mosi / "Raw/v_1/2.mp4").write_bytes(b"x")
    assert rows(CmuMosi(data_dir=str(mosi), cache_dir=cache))["train"][1]["video"] == str(mosi / "Raw/v_1/2.mp4")
    table = mosi / "label.csv"
    table.write_text(table.read_text().replace("2.4", "2.2"))
    assert rows(CmuMosi(data_dir=str(mosi), cache_dir=cache))["train"][0]["label"] == 2.2


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_ch_sims_keeps_the_labels_of_each_modality(sims, cache, version):
    made = rows(ChSims(config_name=version, data_dir=str(sims), cache_dir=cache))
    assert made.keys() == {"train", "test"}
    (row,) = made["train"]
    assert [row[name] for name in COLUMNS] == [
        *(
            "video_0001_0001",
            "我不想嫁给李茶",
            str(sims / "Raw/video_0001/0001.mp4"),
            None,
            -1.0,
            "train",
            "video_0001",
            1,
        ),
        *(-0.8, -0.6, -1.0),
    ]


def test_a_defective_row_stops_a_builder_with_its_place(mosi, cache):
    with (mosi / "label.csv").open("a") as table:
        table.write("y,1,TOO GOOD,3.2,,,,P,test\n")
    builder = CmuMosi(data_dir=str(mosi), cache_dir=cache)
    with pytest.raises(Exception, match=r"label\.csv, line 6, column label"):
        builder.download_and_prepare()


def test_a_builder_without_a_folder_says_what_it_needs(cache):
    with pytest.raises(ValueError, match=r"expected data_dir, the folder that holds label\.csv"):
        CmuMosi(cache_dir=cache)


def test_a_data_set_that_is_added_to_the_catalog_has_a_builder(mosi, cache, monkeypatch):
    monkeypatch.setitem(DATASETS, "toy", research_set("toy", "Toy", "The Toy Paper (2026)", score_range=(-2.0, 2.0)))
    made = MmsaBuilder(config_name="toy", data_dir=str(mosi), cache_dir=cache)
    assert made.info.citation == "The Toy Paper (2026)"
    with pytest.raises(Exception, match=r"line 3, column label: expected -2 to 2, found 2\.4"):
        made.download_and_prepare()
    with pytest.raises(ValueError, match=r"'toys' is not a data set in this layout; expected cmu_mosi, .*, toy"):
        MmsaBuilder(config_name="toys", data_dir=str(mosi), cache_dir=cache)


@pytest.mark.slow
def test_the_builder_files_are_loading_scripts_under_datasets_3(mosi, sims, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "datasets==3.6.0"], check=True)

    def load(name: str, root: Path, config: str = "") -> dict:
        script = str(Path(omnisent.data.__file__).parent / f"{name}.py")
        environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": ""}
        command = [python, "-c", LOAD, script, str(root), config]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    for name, further in (("cmu_mosi", ()), ("cmu_mosei", EMOTIONS)):
        assert load(name, mosi) == expected_mosi(mosi, further)
    assert load("ch_sims", sims, "v2")["train"][0]["label_T"] == -0.8
    assert len(load("human_ratings", tmp_path / "archives", "tweets")["train"]) == 3390
