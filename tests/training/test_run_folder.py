"""The files of a run folder: rows in the order of the clips, with the video that each is from, and no results of a run before."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from omnisent.data.clip import Clip
from omnisent.hub.publish import PublishError, publish_run
from omnisent.train import run
from omnisent.training.arguments import parse_arguments
from omnisent.training.run_folder import (
    read_config,
    read_json,
    read_metrics,
    read_predictions,
    videos_of,
    write_config,
    write_json,
    write_predictions,
)


def _written(folder, videos):
    clips = [Clip(f"c{number}", label=float(number), video_id=video) for number, video in enumerate(videos)]
    write_predictions(folder, clips, [0.5] * len(clips), [3.25, *[math.nan] * (len(clips) - 1)])
    return read_predictions(folder)


def test_predictions_name_the_video_of_each_clip(tmp_path):
    table = _written(tmp_path, ["a", "a", "b"])
    assert videos_of(table) == ["a", "a", "b"]


def test_predictions_have_the_score_before_clipping_and_no_number_where_there_was_none(tmp_path):
    table = _written(tmp_path, ["a", "a", "b"])
    assert (tmp_path / "predictions.csv").read_text().splitlines() == [
        *("id,video_id,label,score,raw", "c0,a,0.0,0.5,3.25", "c1,a,1.0,0.5,", "c2,b,2.0,0.5,")
    ]
    assert table["raw"].tolist() == pytest.approx([3.25, math.nan, math.nan], nan_ok=True)


@pytest.mark.parametrize("videos", [["a", None, "b"], ["a", "a"], [None, None]])
def test_clips_whose_videos_do_not_tell_them_apart_have_none(tmp_path, videos):
    assert videos_of(_written(tmp_path, videos)) is None


def test_predictions_of_an_earlier_version_are_read(tmp_path):
    (tmp_path / "predictions.csv").write_text("id,label,score\nc0,1.0,0.5\n")
    table = read_predictions(tmp_path)
    assert table.drop(columns="raw").to_dict("records") == [{"id": "c0", "video_id": "", "label": 1.0, "score": 0.5}]
    assert table["raw"].isna().all()
    assert videos_of(table) is None


def test_many_may_write_the_same_json_file_at_once(tmp_path):
    """As the last processes of a sweep do."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_json(tmp_path / "sweep.json", {"rows": [number] * 1000}), range(400)))
    assert len(set(read_json(tmp_path / "sweep.json")["rows"])) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_the_settings_of_an_older_run_are_those_of_today_by_default(tmp_path):
    arguments = parse_arguments(["--use_cpu", "true"])
    write_config(tmp_path, *arguments)
    whole = yaml.safe_load((tmp_path / "config.yaml").read_text())
    newer = ("targets", "score_range", "columns", "auto_split", "balance", "target_weights")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in whole.items() if k not in newer}))
    assert read_config(tmp_path) == whole


def test_a_run_with_validation_results_is_refused_and_scored_on_test_when_trained_again(short_config, tmp_path):
    common = [str(short_config), "--output_dir", str(tmp_path / "run"), "--max_steps", "2"]
    run(*parse_arguments(common))
    run(*parse_arguments([*common, "--evaluate", "valid", "--resume_from_checkpoint", "true"]))
    assert not (tmp_path / "run" / "predictions.csv").exists()  # of the run before
    message = "its results are of the valid split, .* --evaluate test --resume_from_checkpoint true"
    with pytest.raises(PublishError, match=message):
        publish_run(tmp_path / "run", "org/name", merged=True, token="hf_none")
    run(*parse_arguments([*common, "--evaluate", "test", "--resume_from_checkpoint", "true"]))
    assert read_metrics(tmp_path / "run")["split"] == "test"
    assert len(read_predictions(tmp_path / "run"))
