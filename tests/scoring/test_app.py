"""The page served: scores equal the pipeline's, errors are sentences, limits hold, and nothing is left behind."""

import importlib
import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from omnisent.data.clip import Clip
from omnisent.data.planted import write_audio, write_video
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.scoring.app import build_app, running, serve
from omnisent.scoring.clip_panel import FAULT, Scoring, score_clip
from omnisent.scoring.loading import Loading, load_pipeline
from omnisent.scoring.transcribe import NOTHING_SAID, Transcriber
from speech_recognizers import tiny_whisper
from spoken import spoken


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def shown_score(answer: tuple) -> float:
    """The number that the result shows on hovering, to six decimals."""
    return float(re.search(r'class="os-score" title="([-\d.]+)"', answer[0])[1])


def page_of(address: str) -> dict:
    """Whether there are tabs for files, and all that the rest of the page says."""
    components = httpx.get(f"{address}config").json()["components"]
    shown = [one["props"] for one in components if one["type"] in ("html", "textbox", "button")]
    texts = [str(props.get(name)) for props in shown for name in ("value", "label", "info")]
    return {"tabs": any(one["type"] == "tabs" for one in components), "words": " ".join(texts)}


@pytest.fixture(scope="module")
def address(pipe):
    with running(pipe, port=free_port(), max_seconds=6.0, window=2.0, stride=1.0, max_megabytes=1) as address:
        yield address


@pytest.fixture(scope="module")
def client(address) -> Client:
    return Client(address, verbose=False, analytics_enabled=False)


def test_five_at_once_are_all_answered_with_the_pipelines_scores(address, pipe, whole_clips):
    clips = whole_clips[:5]

    def ask(clip) -> tuple:
        client = Client(address, verbose=False, analytics_enabled=False)
        return client.predict(handle_file(clip.video), clip.text, None, None, api_name="/score")

    with ThreadPoolExecutor(5) as pool:
        found = [shown_score(answer) for answer in pool.map(ask, clips)]
    expected = [pipe({"video": clip.video, "text": clip.text})["score"] for clip in clips]
    assert found == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 4) for score in expected}) == 5


def test_audio_or_a_transcript_alone_is_scored(client, pipe, tmp_path):
    write_audio(tmp_path / "voice.m4a", np.sin(np.arange(24_000) / 9).astype(np.float32))
    heard = client.predict(handle_file(tmp_path / "voice.m4a"), "", None, None, api_name="/score")
    assert shown_score(heard) == pytest.approx(pipe({"audio": str(tmp_path / "voice.m4a")})["score"], abs=1e-5)
    assert "Scored without a transcript" in heard[0]
    read = client.predict(None, "it was wonderful", None, None, api_name="/score")
    assert shown_score(read) == pytest.approx(pipe({"text": "it was wonderful"})["score"], abs=1e-5)
    assert "os-player" not in read[1]


def test_a_base_model_has_a_page_that_says_that_it_is_zero_shot(tiny_backbone):
    base = load_pipeline(Loading(str(tiny_backbone), device="cpu"))
    with running(base, port=free_port()) as address:
        client = Client(address, verbose=False, analytics_enabled=False)
        answer = client.predict(None, "it was wonderful", None, None, api_name="/score")
        said = page_of(address)
    assert shown_score(answer) == pytest.approx(base({"text": "it was wonderful"})["score"], abs=1e-5)
    assert "This model: zero-shot: no training on sentiment; expected value over the answers" in said["words"]


def test_a_bundle_that_reads_text_only_has_a_page_for_texts(text_bundle):
    texts = load_pipeline(Loading(str(text_bundle), device="cpu"))
    with running(texts, port=free_port()) as address:
        answer = Client(address, verbose=False, analytics_enabled=False).predict("it was wonderful", api_name="/score")
        assert shown_score(answer) == pytest.approx(texts({"text": "it was wonderful"})["score"], abs=1e-5)
        assert "the text alone" in answer[0]
        assert "modality" not in answer[0]
        with pytest.raises(AppError, match=r"^Nothing to score: expected text; give a text\.$"):
            Client(address, verbose=False, analytics_enabled=False).predict("", api_name="/score")
        said = page_of(address)
    assert said["tabs"] is False
    assert "This model: reads text only; trained on &lt;b&gt;reviews&lt;/b&gt;;" in said["words"]
    assert not re.search("clip|video|audio|upload|transcript", said["words"], re.IGNORECASE)


def test_several_targets_on_scales_of_their_own_are_shown_by_name(two_pipe, whole_clips, tmp_path):
    write_video(tmp_path / "long.mp4", np.full((50, 56, 56, 3), 90, np.uint8), 10)
    with running(two_pipe, port=free_port(), window=2.0, stride=1.0) as address:
        client = Client(address, verbose=False, analytics_enabled=False)
        result, below, _ = client.predict(handle_file(tmp_path / "long.mp4"), "well", None, None, api_name="/score")
        said = page_of(address)["words"]
    expected = two_pipe({"video": str(tmp_path / "long.mp4"), "text": "well"})["scores"]
    shown = re.findall(r'class="os-score" title="(.*?)">.*?</span><span class="os-label">(.*?)<', result)
    assert [name for _, name in shown] == ["valence", "arousal"]
    assert [float(score) for score, _ in shown] == pytest.approx(list(expected.values()), abs=1e-5)
    assert below.count("os-strip") == 2
    assert "<h1>Score a clip</h1>" in said
    assert "The model gives valence from 1 to 9 and arousal from 1 to 9." in said
    assert not re.search("positive|negative|neutral", re.sub("Synthetic example, [a-z]+", "", said) + result)


def test_a_bundle_for_clips_has_fields_for_files_and_shows_no_line_that_it_lacks(address):
    said = page_of(address)
    assert said["tabs"] is True
    assert "<h1>How positive is the speaker?</h1>" in said["words"]
    assert "Drop or record a short clip" in said["words"]
    assert "from −3 (strongly negative) through 0 (neutral) to +3 (strongly positive)." in said["words"]  # noqa: RUF001
    assert "This model" not in said["words"]


def test_a_clip_longer_than_a_window_has_a_plot(client, tmp_path):
    write_video(tmp_path / "long.mp4", np.full((50, 56, 56, 3), 90, np.uint8), 10)
    result, below, _ = client.predict(handle_file(tmp_path / "long.mp4"), "well", None, None, api_name="/score")
    assert "long.mp4, 5.0 s" in result
    assert below.count("os-strip") == 1


def test_errors_are_sentences_that_name_the_file_and_no_folder(client, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no media at all")
    write_video(tmp_path / "long.mp4", np.zeros((80, 56, 56, 3), np.uint8), 10)
    said = []
    for path in ("broken.mp4", "long.mp4"):
        with pytest.raises(AppError) as raised:
            client.predict(handle_file(tmp_path / path), "well", None, None, api_name="/score")
        said.append(raised.value.message)
    assert said[0].startswith("broken.mp4: not media: expected a video or audio file")
    assert said[1].startswith("long.mp4: it lasts 0:08, and at most 0:06 are scored here; cut it")
    assert not any("/" in sentence for sentence in said)
    with pytest.raises(AppError, match=r"^Nothing to score: .*; give a clip or a transcript\.$"):
        client.predict(None, "  ", None, None, api_name="/score")
    with pytest.raises(AppError, match=r"^The transcript, line 1: .* &lt;b&gt;"):
        client.predict(None, "0:01 --> <b>\nwell", None, None, api_name="/score")


def test_an_internal_error_is_shown_and_the_page_keeps_running(pipe, caplog):
    broken = MultimodalSentimentPipeline(model=deepcopy(pipe.model), processor=pipe.processor, device="cpu")
    broken.model.model = torch.nn.Identity()
    with running(broken, port=free_port()) as address:
        client = Client(address, verbose=False, analytics_enabled=False)
        for _ in range(2):
            with pytest.raises(AppError) as raised:
                client.predict(None, "well", None, None, api_name="/score")
            assert raised.value.message == FAULT
    assert "Traceback" in caplog.text


def test_files_that_are_too_large_are_refused(address):
    def upload(count: int) -> int:
        return httpx.post(f"{address}gradio_api/upload", files={"files": ("a.mp4", bytes(count))}).status_code

    assert upload(1000 << 10) == 200
    assert upload(1025 << 10) == 413


def test_files_of_the_server_and_of_other_hosts_are_out_of_reach(address, whole_clips):
    def ask(path: str) -> str:
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "well", None, None]
        begun = httpx.post(f"{address}gradio_api/call/score", json={"data": data}).json()
        return httpx.get(f"{address}gradio_api/call/score/{begun['event_id']}", timeout=60).text

    video = Path(whole_clips[0].video)
    (uploaded,) = httpx.post(f"{address}gradio_api/upload", files={"files": video.open("rb")}).json()
    assert "os-score" in ask(uploaded)
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(1.0)
        for path in (str(video), f"http://127.0.0.1:{other.getsockname()[1]}/clip.mp4"):
            answer = ask(path)
            assert "event: error" in answer
            assert "os-score" not in answer
        with pytest.raises(TimeoutError):
            other.accept()


def test_examples_are_labelled_as_synthetic(address):
    components = httpx.get(f"{address}config").json()["components"]
    names = [one["props"]["value"] for one in components if one["type"] == "button"]
    assert names.count("Synthetic example, positive") == names.count("Synthetic example, negative") == 2


def test_a_model_writes_the_transcript_of_a_clip_without_one(pipe, tmp_path):
    write_audio(tmp_path / "voice.m4a", spoken(3.0))
    write_audio(tmp_path / "silence.m4a", np.zeros(48_000, np.float32))
    transcriber = Transcriber(str(tiny_whisper(tmp_path / "whisper")), "cpu")
    expected, _ = transcriber(Clip(id="voice", audio=str(tmp_path / "voice.m4a")))
    with running(pipe, port=free_port(), transcribe=transcriber) as address:
        client = Client(address, verbose=False, analytics_enabled=False)

        def ask(name: str, text: str) -> tuple:
            return client.predict(handle_file(tmp_path / name), text, None, None, api_name="/score")

        written, silent, typed = ask("voice.m4a", " "), ask("silence.m4a", ""), ask("voice.m4a", "fine")
    clip = {"audio": str(tmp_path / "voice.m4a"), "text": expected}
    assert expected
    assert written[2] == expected
    assert shown_score(written) == pytest.approx(pipe(clip)["score"], abs=1e-5)
    assert "written by a speech recognition model; correct it" in written[0]
    assert NOTHING_SAID[1:] in silent[0]
    assert "Scored without a transcript" in silent[0]
    assert silent[2] == ""  # no words of an earlier clip are left
    assert "speech" not in typed[0]
    assert shown_score(typed) == pytest.approx(pipe({**clip, "text": "fine"})["score"], abs=1e-5)


def test_a_clip_that_is_too_long_is_refused_before_it_is_transcribed(pipe, tmp_path):
    write_audio(tmp_path / "voice.m4a", spoken(3.0))
    transcriber, asked = Transcriber(str(tiny_whisper(tmp_path / "whisper")), "cpu"), []

    def transcribe(clip: Clip) -> tuple[str | None, str | None]:
        asked.append(clip.id)
        return transcriber(clip)

    path = str(tmp_path / "voice.m4a")
    with pytest.raises(gr.Error, match=r"voice\.m4a: it lasts 0:03, and at most 0:02 are scored here; cut it"):
        score_clip(Scoring(pipe, 2.0, 8.0, 4.0, transcribe), path, "", gr.Progress())
    assert asked == []
    score_clip(Scoring(pipe, 4.0, 8.0, 4.0, transcribe), path, "", gr.Progress())
    assert asked == ["voice.m4a"]


def test_both_panels_wait_in_one_queue_that_drops_nothing(pipe):
    page = build_app(pipe)
    scores = [one for one in page.fns.values() if one.name == "score"]
    assert len(scores) == 2 * 6  # the button, three arrivals and two examples of each panel
    assert {(one.concurrency_id, one.trigger_mode) for one in scores} == {("score", "multiple")}


def test_a_calibrated_model_gives_its_interval_and_another_says_that_it_has_none(two_pipe, client):
    with running(two_pipe, port=free_port()) as address:
        answer = Client(address, verbose=False, analytics_enabled=False).predict(
            None, "well", None, None, api_name="/score"
        )
    result = two_pipe({"text": "well"}, interval=0.9)
    ends = [f"{name}: {result['low'][name]:.2f} to {result['high'][name]:.2f}" for name in ("valence", "arousal")]
    assert re.findall('class="os-interval">(.*?)<', answer[1]) == ends
    plain = client.predict(None, "well", None, None, api_name="/score")
    assert "not calibrated, so it gives no interval" in plain[1]
    assert not re.search("os-range|90 %", plain[0] + plain[1])


def test_it_listens_on_this_machine_only_by_default(address):
    port = httpx.URL(address).port
    assert address == f"http://127.0.0.1:{port}/"
    with pytest.raises(ConnectionRefusedError):  # a page that listens everywhere would answer here too
        socket.create_connection(("127.0.0.2", port), timeout=5)
    assert inspect.signature(serve).parameters["host"].default == "127.0.0.1"


def test_its_files_are_removed_when_it_ends(pipe, whole_clips, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = os.environ.get("GRADIO_TEMP_DIR")
    with running(pipe, port=free_port()) as address:
        client = Client(address, verbose=False, analytics_enabled=False, download_files=False)
        client.predict(handle_file(whole_clips[0].video), "well", None, None, api_name="/score")
        assert list(tmp_path.glob(f"omnisent-app-*/*/{Path(whole_clips[0].video).name}"))
    assert not list(tmp_path.glob("omnisent-app-*"))
    assert os.environ.get("GRADIO_TEMP_DIR") == before


def test_a_clip_is_removed_after_a_while_and_the_examples_are_not(pipe, whole_clips, monkeypatch):
    monkeypatch.setattr("omnisent.scoring.app.CLEAN_EVERY", 1)
    monkeypatch.setattr("omnisent.scoring.app.KEEP_FOR", 1)
    with running(pipe, port=free_port()) as address:
        with open(whole_clips[0].video, "rb") as file:
            (uploaded,) = httpx.post(f"{address}gradio_api/upload", files={"files": file}).json()
        assert Path(uploaded).is_file()
        deadline = time.monotonic() + 20
        while Path(uploaded).exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not Path(uploaded).exists()
        assert list(Path(os.environ["GRADIO_TEMP_DIR"]).glob("examples-*/media/planted-*.mp4"))


def test_windows_without_length_are_refused_before_anything_is_served(pipe):
    with pytest.raises(ValueError, match="window and stride must be above 0 s"):
        build_app(pipe, stride=0)


def test_a_port_in_use_is_an_error(pipe, address):
    port = httpx.URL(address).port
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"), running(pipe, port=port):
        pass


@pytest.mark.slow
def test_a_stopped_server_leaves_nothing_behind(pipe, tmp_path):
    pipe.model.save_pretrained(tmp_path / "bundle")
    pipe.processor.save_pretrained(tmp_path / "bundle")
    (tmp_path / "temporary").mkdir()
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "omnisent.cli", "app", "--model", str(tmp_path / "bundle"), "--port", str(port)],
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout.readline() == f"Open http://127.0.0.1:{port}/ in a browser; stop with Ctrl-C.\n"
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        assert list((tmp_path / "temporary").glob("omnisent-app-*"))
        server.send_signal(signal.SIGTERM)
        assert server.stdout.read() == "Stopped; all clips are deleted.\n"
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()
    assert not [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]


def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "omnisent.scoring.app")
    with pytest.raises(ImportError, match=re.escape("pip install 'omnisent[app]'")):
        importlib.import_module("omnisent.scoring.app")
