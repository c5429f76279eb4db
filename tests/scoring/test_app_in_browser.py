"""The page in a browser: a person's path from opening it to a score, on a screen and on a phone."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from omnisent.data.planted import write_video
from omnisent.scoring.app import running
from omnisent.scoring.scales import signed

pytestmark = pytest.mark.browser
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
# A camera and a microphone that show a test picture and beep, and are allowed without a question.
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
SIZES = {"screen": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def address(pipe) -> Iterator[str]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with running(pipe, port=port, max_megabytes=1) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "this test needs Chromium"
    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *FAKE_CAMERA])


@pytest.fixture(params=SIZES)
def page(request, browser, address) -> Iterator[Page]:
    """The opened page, which asks no other host for anything."""
    page = browser.new_page(viewport=SIZES[request.param], permissions=["camera", "microphone"])
    asked = []
    page.on("request", lambda one: asked.append(one.url))
    page.goto(address)
    expect(page.get_by_role("button", name="Score")).to_be_visible(timeout=30_000)
    yield page
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.close()


def score(page: Page) -> str:
    """Presses Score, waits, and returns the number that is shown."""
    page.get_by_role("button", name="Score").click()
    shown = page.locator(".os-score")
    expect(shown).to_be_visible(timeout=60_000)
    return shown.inner_text()


def upload(page: Page, path: Path | str) -> None:
    page.locator("input[type=file]").first.set_input_files(str(path))


def test_a_user_uploads_a_clip_types_its_transcript_and_sees_its_score(page, pipe, whole_clips, tmp_path):
    clip = whole_clips[0]
    upload(page, clip.video)
    expect(page.locator("video").first).to_be_visible()
    page.get_by_label("Transcript").fill(clip.text)
    expected = pipe({"video": clip.video, "text": clip.text})
    assert score(page) == signed(expected["score"])
    assert page.locator(".os-label").inner_text() == expected["label"]
    assert [row.split()[0] for row in page.locator(".os-result tbody tr").all_inner_texts()] == [
        "Text",
        "Audio",
        "Video",
    ]
    expect(page.locator(".os-plot")).to_have_count(0)
    page.screenshot(path=tmp_path / "score.png", full_page=True)
    page.get_by_label("Transcript").fill("it was plain")
    page.get_by_role("button", name="Score").click()
    expect(page.locator(".os-score")).to_have_text(
        signed(pipe({"video": clip.video, "text": "it was plain"})["score"]), timeout=60_000
    )


def test_an_example_is_scored_and_a_long_clip_has_its_plot(page, tmp_path):
    page.locator("table").get_by_text(" was ").first.click()
    expect(page.locator("video").first).to_be_visible()
    score(page)
    assert "planted-" in page.locator(".os-result").inner_text()
    page.get_by_label("Clear").first.click()
    write_video(tmp_path / "long.mp4", np.full((120, 56, 56, 3), 90, np.uint8), 10)
    upload(page, tmp_path / "long.mp4")
    expect(page.locator("video").first).to_be_visible()
    score(page)
    plot = page.locator(".os-plot img")
    expect(plot).to_be_visible()
    assert plot.evaluate("img => img.naturalWidth") > 1000
    page.screenshot(path=tmp_path / "long.png", full_page=True)


def test_a_broken_or_large_file_shows_an_error_and_no_score(page, whole_clips, tmp_path):
    upload(page, whole_clips[0].video)
    expect(page.locator("video").first).to_be_visible()
    score(page)
    (tmp_path / "broken.mp4").write_bytes(b"no media at all")
    page.get_by_label("Clear").first.click()
    upload(page, tmp_path / "broken.mp4")
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Score").click()
    expect(page.get_by_text("broken.mp4: not media: expected a video or audio file")).to_be_visible(timeout=30_000)
    expect(page.locator(".os-score")).to_have_count(0)
    page.screenshot(path=tmp_path / "broken.png")
    (tmp_path / "large.mp4").write_bytes(bytes(2 << 20))
    page.get_by_label("Clear").first.click()
    upload(page, tmp_path / "large.mp4")
    expect(page.get_by_text("maximum")).to_be_visible(timeout=30_000)
    page.screenshot(path=tmp_path / "large.png")


def test_a_user_records_video_and_audio(page):
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    record = page.get_by_label("start recording")
    record.click()
    page.wait_for_timeout(2000)
    with page.expect_response(lambda answer: answer.url.endswith("/upload")):
        record.click()
    expect(page.locator("video[src*='/file=']").first).to_be_visible()
    score(page)
    result = page.locator(".os-result").inner_text()
    assert "sample.webm" in result
    assert "Scored without a transcript" in result
    page.get_by_role("tab", name="Audio only").click()
    page.get_by_role("button", name="Score").click()
    expect(page.get_by_text("Nothing to score")).to_be_visible()  # the video is out of sight
    page.get_by_label("Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(2000)
    with page.expect_response(lambda answer: answer.url.endswith("/upload")):
        page.get_by_role("button", name="Stop").first.click()
    expect(page.get_by_label("Trim audio to selection")).to_be_visible()
    score(page)
    assert "audio.wav" in page.locator(".os-result").inner_text()
