"""A bundle's handler.py over real HTTP, as the Inference Toolkit calls it, without this package; and the class behind it."""

import ast
import base64
import csv
import importlib
import json
import re
import shutil
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import omnisent
from elsewhere import run_elsewhere
from media_files import tone, write_clip
from omnisent.configuration_omnisent import REQUIRES
from omnisent.loading_omnisent import default_device, default_dtype, load_pipeline
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.scoring.job import score
from omnisent.scoring.options import ScoreOptions
from omnisent.serving_omnisent import MAX_CHARACTERS, Endpoint, Limits, RequestError
from toolkit_server import running
from two_targets import TWO

TEXT = "honestly the story was good."
CALIBRATION = {"clips": 40, "half_widths": {"0.8": 0.25, "0.9": 0.5}}
NOT_BASE64 = "expected the file itself as base64, found text that is not; paths and addresses are not opened"


def _save(folder: Path, tiny_backbone, processor, **fields) -> Path:
    torch.manual_seed(0)
    OmniForSentimentRegression.from_thinker(tiny_backbone, **fields).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(tiny_backbone, processor, tmp_path_factory) -> Path:
    return _save(tmp_path_factory.mktemp("bundle") / "model", tiny_backbone, processor, calibration=CALIBRATION)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(bundle, home):
    with running(bundle, home) as server:
        yield server


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder for temporary files; nothing may be left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def endpoint(bundle, temporary) -> Endpoint:
    return Endpoint(bundle)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write_clip(
        tmp_path_factory.mktemp("sound") / "voice.mp3", count=0, wave=tone(2, 44_100), rate=44_100, audio_codec="mp3"
    )


@pytest.fixture(scope="module")
def rows(bundle, whole_clips, sound, tmp_path_factory) -> dict[str, dict]:
    """What `omnisent score` writes for two clips, their texts, a video and a sound alone, by id."""
    folder = tmp_path_factory.mktemp("scored")
    clips = [(f"clip {at}", clip.text, clip.video, "") for at, clip in enumerate(whole_clips[:2])]
    clips += [(f"text {at}", clip.text, "", "") for at, clip in enumerate(whole_clips[:2])]
    clips += [("video", "", whole_clips[0].video, ""), ("sound", "", "", str(sound))]
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "text", "video", "audio"), *clips])
    out = folder / "scores.jsonl"
    options = ScoreOptions(model=str(bundle), table=folder / "clips.csv", out=out, interval=0.9, workers="0")
    score(options, notify=lambda message: None)
    return {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}


def _base64(path) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode()


def _clip(clip) -> dict:
    return {"text": clip.text, "video": _base64(clip.video)}


def _equal(result: dict, row: dict) -> None:
    for name in ("score", "low", "high"):
        if name in result:
            assert result[name] == pytest.approx(row[name], abs=1e-6)
    assert result["label"] == row["label"]


def test_it_scores_as_the_command_does(server, rows, whole_clips, sound):
    assert server.request("GET", "/health") == (200, b"Ok")
    status, result = server.post({"inputs": whole_clips[0].text})
    assert (status, result.keys()) == (200, {"score", "label"})
    _equal(result, rows["text 0"])
    _, result = server.post({"inputs": _clip(whole_clips[0]), "parameters": {"interval": 0.9}})
    assert result.keys() == {"score", "label", "low", "high"}
    _equal(result, rows["clip 0"])
    mixed = [
        _clip(whole_clips[1]),
        whole_clips[1].text,
        {"video": f"data:video/mp4;base64,{_base64(whole_clips[0].video)}"},
    ]
    mixed += [{"audio": _base64(sound)}]
    status, results = server.post({"inputs": mixed})
    assert status == 200
    for result, name in zip(results, ("clip 1", "text 1", "video", "sound"), strict=True):
        _equal(result, rows[name])
    assert len({round(result["score"], 5) for result in results}) == 4


def test_a_sound_file_may_be_the_body_and_the_query_its_parameters(server, rows, sound, whole_clips):
    status, body = server.request("POST", "/?interval=0.9&modalities=audio,text", sound.read_bytes(), "audio/mpeg")
    assert status == 200
    result = json.loads(body)
    assert result.keys() == {"score", "label", "low", "high"}
    _equal(result, rows["sound"])
    status, body = server.request("POST", "/", Path(whole_clips[0].video).read_bytes(), "audio/m4a")
    _equal(json.loads(body), rows["video"])
    status, body = server.request("POST", "/", Path(whole_clips[0].video).read_bytes(), "video/mp4")
    assert (status, json.loads(body)) == (400, {"error": 'Content type "video/mp4" not supported.'})


def test_options_of_a_request_are_those_of_the_pipeline(endpoint, whole_clips):
    clip = {"text": whole_clips[0].text, "video": whole_clips[0].video}
    pipe, request = endpoint.pipeline, {"inputs": _clip(whole_clips[0])}
    two = {"modalities": ["text", "video"]}
    assert endpoint({**request, "parameters": two})["score"] == pytest.approx(pipe(clip, **two)["score"], abs=1e-6)
    score = pipe(clip)["score"]
    for band, label in ((abs(score) * 1.01, "neutral"), (0.0, "positive" if score > 0 else "negative")):
        assert endpoint({**request, "parameters": {"neutral_band": band}})["label"] == label
    told = pipe({**clip, "instruction": "How angry?"})["score"]
    assert abs(told - score) > 1e-5
    assert endpoint({**request, "parameters": {"instruction": "How angry?"}})["score"] == pytest.approx(told, abs=1e-6)
    own = {**request["inputs"], "instruction": "How angry?"}
    assert endpoint({"inputs": own, "parameters": {"instruction": "How sad?"}})["score"] == pytest.approx(
        told, abs=1e-6
    )


def test_a_bad_clip_of_a_list_gets_its_error_and_the_others_their_scores(server, home, rows, whole_clips):
    good = whole_clips[0].text
    words = base64.b64encode(b"words, and no video" * 9).decode()
    bad = {
        "clip x1: video: not media: expected a video or audio file": {"id": "x1", "video": words},
        f"clip 3: video: {NOT_BASE64}": {"video": whole_clips[0].video},
        f"clip 4: audio: {NOT_BASE64}": {"audio": "http://127.0.0.1/a.mp3", "text": "it was good"},
        "clip 5: video: truncated or damaged: an MP4": {"video": _base64(whole_clips[0].video)[:2000]},
        "clip 6: nothing to score": " ",
        "clip 7: nothing to score": {},
        "clip 8: expected a text or a clip with text or audio or video, found int": 8,
        "clip 9: unknown field 'path'; expected some of id, text": {"path": "/etc/passwd"},
        "clip 10: text: expected a text, found int": {"text": 10},
        "clip 11: video: empty: expected a media file, found 0 bytes": {"video": ""},
        "clip 12: expected a text or a clip with text or audio or video, found list": [good],
        "clip 13: video: expected a file as base64, found dict": {"video": {"path": "/etc/passwd"}},
        f"clip 14: video: {NOT_BASE64} ": {"video": "data:video/mp4,abcd"},
    }
    status, results = server.post({"inputs": [good, *bad.values(), good]})
    assert status == 200
    _equal(results[0], rows["text 0"])
    _equal(results[-1], rows["text 0"])
    for result, expected in zip(results[1:-1], bad, strict=True):
        assert result.keys() == {"error"}
        assert result["error"].startswith(expected.strip())
        assert str(home) not in result["error"]
        assert "/tmp" not in result["error"]
    assert list((home / "tmp").glob("omnisent-*")) == []


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"inputs": []}, "inputs: expected 1 to 64 clips, found 0"),
        ({"inputs": ["a"] * 65}, "inputs: expected 1 to 64 clips, found 65"),
        ({"inputs": None}, "clip 1: expected a text or a clip with text or audio or video, found nothing"),
        ({"inputs": TEXT, "parameters": [1]}, "parameters: expected an object, found list"),
        (
            {"inputs": TEXT, "parameters": {"level": 1}},
            "parameters: unknown 'level'; expected some of modalities, interval",
        ),
        (
            {"inputs": TEXT, "parameters": {"interval": 0.7}},
            "this bundle has no interval of level 0.7; it has those of",
        ),
        ({"inputs": TEXT, "parameters": {"interval": "high"}}, "interval: expected a number such as 0.9, found 'high'"),
        (
            {"inputs": TEXT, "parameters": {"neutral_band": True}},
            "neutral_band: expected a number such as 0.9, found True",
        ),
        (
            {"inputs": TEXT, "parameters": {"modalities": ["smell"]}},
            "modalities must be some of text, audio, video, not",
        ),
        ({"inputs": TEXT, "parameters": {"modalities": 3}}, "modalities must be some of text, audio, video"),
        ({"inputs": TEXT, "parameters": {"instruction": 3}}, "parameters: instruction: expected a text, found int"),
        ({"inputs": "a" * (MAX_CHARACTERS + 1)}, f"clip 1: text: {MAX_CHARACTERS + 1} characters, at most"),
        ({"inputs": {"context": "a", "text": "b"}}, "clip 1: context: expected a list of texts, found str"),
        ("inputs", 'expected an object with "inputs", found str'),
    ],
)
def test_a_bad_request_is_refused(endpoint, request_, message):
    with pytest.raises(RequestError) as error:
        endpoint(request_)
    assert message in str(error.value)


def test_a_single_bad_clip_gets_the_commands_error_with_status_400(server, bundle, whole_clips, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(Path(whole_clips[0].video).read_bytes()[:3000])
    result = load_pipeline(bundle)({"id": "1", "video": str(cut)}, on_error="return")
    status, answer = server.post({"inputs": {"video": _base64(cut)}})
    assert (status, answer) == (400, {"error": result["error"].replace(str(cut), "video")})
    status, body = server.request("POST", "/", b'{"inputs": ')
    assert (status, [*json.loads(body)]) == (400, ["error"])


def test_no_address_is_opened(endpoint):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/clip.mp4"
        for name in ("video", "audio"):
            with pytest.raises(RequestError, match=f"clip 1: {name}: {NOT_BASE64}"):
                endpoint({"inputs": {name: address}})
        listening.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listening.accept()


def test_a_partly_readable_file_is_scored_with_its_warning(endpoint, half_read):
    expected = endpoint.pipeline({"audio": half_read})
    assert "warning" in expected
    assert endpoint({"inputs": {"audio": _base64(half_read)}}) == pytest.approx(expected, abs=1e-6)


def test_a_large_or_long_request_is_refused_before_it_is_decoded(bundle, whole_clips, temporary, monkeypatch):
    monkeypatch.setenv("OMNISENT_MAX_MEGABYTES", "0.001")
    monkeypatch.setenv("OMNISENT_MAX_SECONDS", "30")
    monkeypatch.setenv("OMNISENT_MAX_CLIPS", "2")
    endpoint = Endpoint(bundle)
    assert endpoint.limits == Limits(0.001, 30.0, 2)
    with pytest.raises(RequestError, match=r"inputs: files of 0\.\d MB, at most 0\.001 MB are scored here"):
        endpoint({"inputs": [_clip(whole_clips[0])]})
    with pytest.raises(RequestError, match=r"at most 0\.001 MB"):
        endpoint({"inputs": Path(whole_clips[0].video).read_bytes()})
    with pytest.raises(RequestError, match="expected 1 to 2 clips, found 3"):
        endpoint({"inputs": ["a"] * 3})
    assert len(endpoint({"inputs": ["a", "b"]})) == 2
    video = Path(whole_clips[0].video).read_bytes()
    for given in (video, {"video": base64.b64encode(video).decode()}):
        endpoint.limits = Limits(megabytes=(len(video) + 3) / 1e6)
        endpoint({"inputs": given})
        endpoint.limits = Limits(megabytes=(len(video) - 3) / 1e6)
        with pytest.raises(RequestError, match="inputs: files of"):
            endpoint({"inputs": given})


@pytest.mark.parametrize("value", ["many", "0", "-1", "inf", "nan"])
def test_a_limit_that_is_no_number_above_0_is_refused_at_the_start(bundle, monkeypatch, value):
    monkeypatch.setenv("OMNISENT_MAX_SECONDS", value)
    with pytest.raises(ValueError, match="OMNISENT_MAX_SECONDS must be a number above 0, not"):
        Endpoint(bundle)


def test_a_small_file_that_decodes_to_hours_or_to_huge_frames_is_refused_at_once(endpoint, tmp_path):
    """Neither is decoded, so that no such file can occupy the endpoint."""
    black = {
        "draw": lambda index, height, width: np.zeros((height, width, 3), np.uint8),
        "codec_options": {"g": "9999"},
    }
    hours = write_clip(
        tmp_path / "hours.mp4", count=40, size=(32, 32), ticks=[at * 180_000 for at in range(40)], **black
    )
    silence = write_clip(
        tmp_path / "silence.flac", count=0, wave=np.zeros((1, 700 * 8000), np.float32), rate=8000, audio_codec="flac"
    )
    assert max(path.stat().st_size for path in (hours, silence)) < 200_000
    started = time.perf_counter()
    for path, seconds in ((hours, "7020|7200"), (silence, "700")):
        with pytest.raises(
            RequestError, match=rf"clip 1: video: it lasts ({seconds}) s, at most 600 s are scored here"
        ):
            endpoint({"inputs": {"video": _base64(path)}})
    huge = write_clip(tmp_path / "huge.mp4", count=40, size=(2048, 4096), **black)
    endpoint.limits = Limits(seconds=2)
    with pytest.raises(RequestError, match="clip 1: video: 40 frames of 8388608 pixels are more than 2 s in full HD"):
        endpoint({"inputs": {"video": _base64(huge)}})
    assert time.perf_counter() - started < 30


def test_an_error_in_the_program_is_logged_and_not_told(endpoint, whole_clips):
    del endpoint.pipeline.model.score
    with pytest.raises(
        RuntimeError, match=r"^not scored because of an error in the program; see the log of the endpoint$"
    ):
        endpoint({"inputs": [_clip(whole_clips[0])]})


def test_threads_get_their_own_results(endpoint, whole_clips):
    requests = [{"inputs": clip.text} for clip in whole_clips[:4]] + [
        {"inputs": _clip(clip)} for clip in whole_clips[:4]
    ]
    expected = [endpoint(request)["score"] for request in requests]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(endpoint, requests * 3))
    assert [result["score"] for result in found] == pytest.approx(expected * 3, abs=1e-6)


def test_several_targets_are_answered_by_name(tiny_backbone, processor, temporary, tmp_path):
    calibration = dict.fromkeys(("valence", "arousal"), CALIBRATION)
    endpoint = Endpoint(_save(tmp_path / "two", tiny_backbone, processor, **TWO, calibration=calibration))
    result = endpoint({"inputs": TEXT, "parameters": {"interval": 0.9}})
    assert list(result) == ["scores", "low", "high"]
    assert all([*values] == ["valence", "arousal"] for values in result.values())
    json.dumps(result)


@pytest.mark.slow
def test_the_handler_finds_its_bundle_beside_it_and_a_model_saved_again_has_it(bundle, tmp_path):
    """In a process without the package, from a folder of another name."""
    shutil.copytree(bundle, tmp_path / "copy of it")
    code = """
        import sys
        sys.path.insert(0, sys.argv[2])
        from toolkit_server import load_handler
        from transformers import AutoModel, AutoProcessor
        AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained("again")
        AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained("again")
        from transformers.dynamic_module_utils import get_class_from_dynamic_module
        beside, again = type(load_handler(sys.argv[1]))(), load_handler("again")
        remote = get_class_from_dynamic_module("handler.EndpointHandler", sys.argv[1])(sys.argv[1])
        handlers = [beside, again, remote]
        print(json.dumps([handler({"inputs": "it was good"})["score"] for handler in handlers]))
    """
    scores = run_elsewhere(code, tmp_path, str(tmp_path / "copy of it"), str(Path(__file__).parent))
    assert scores == pytest.approx([load_pipeline(bundle)({"text": "it was good"})["score"]] * 3, abs=1e-6)


def test_the_example_of_the_page_can_be_followed(server, whole_clips, tmp_path, monkeypatch, capsys):
    text = (Path(omnisent.__file__).parent / "docs" / "SERVE.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "requests.post" in block)
    (tmp_path / "clip.mp4").symlink_to(whole_clips[0].video)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENDPOINT", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    exec(example, {})
    results = ast.literal_eval(capsys.readouterr().out)
    assert [result.keys() for result in results] == [{"score", "label", "low", "high"}] * 2


def test_the_bundle_says_what_an_endpoint_installs(bundle):
    lines = (bundle / "requirements.txt").read_text().splitlines()
    assert lines == [f"{package}>={low},<{high}" for package, (low, high) in REQUIRES.items()]


def test_a_gpu_scores_in_bfloat16_and_a_cpu_in_float32(endpoint):
    assert (default_dtype("cuda:0"), default_dtype("cpu")) == ("bfloat16", "float32")
    assert str(endpoint.pipeline.model.model.dtype) == f"torch.{default_dtype(default_device())}"


@pytest.mark.slow
def test_many_clients_some_of_them_bad_get_their_answers_and_memory_stays_flat(bundle, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(omnisent.__file__).parent / "benchmarks"))
    for name in ("common", "serving"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = importlib.import_module("serving").measured(str(bundle), tmp_path, requests=400, clients=40, first=100)
    good, bad, memory = found["good"], found["bad"], found["memory_bytes"]
    assert good["answered_as_omnisent_score"] == sum(good["sent"].values()) == 380
    assert bad["refused"] == sum(bad["sent"].values()) == 20
    assert memory["after 400"] < 1.05 * memory["after 100"]
    assert (found["healthy_afterwards"], found["temporary_files_left"]) == (True, 0)
