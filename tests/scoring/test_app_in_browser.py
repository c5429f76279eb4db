"""The page in a browser: a person's path from opening it to a score, on a screen and on a phone, with a mouse and without one."""

import csv
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from omnisent.data.clip import Clip
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


@pytest.fixture
def rated(two_pipe) -> Iterator[str]:
    """The address of a page for two targets with intervals; it ends with its test, as a process has one folder of uploads."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with running(two_pipe, port=port, window=2.0, stride=1.0) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "this test needs Chromium"
    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *FAKE_CAMERA])


@pytest.fixture
def held(pipe, whole_clips) -> Iterator[tuple[str, threading.Event]]:
    """The address of a page that finds words in the first clip alone, and only once the event is set."""
    release, name = threading.Event(), Path(whole_clips[0].video).name

    def transcribe(clip: Clip) -> tuple[str | None, str | None]:
        if clip.id != name:
            return None, None
        release.wait(60)
        return "words of the first", None

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with running(pipe, port=port, transcribe=transcribe) as address:
        yield address, release
        release.set()


@pytest.fixture(params=SIZES)
def page(request, browser, address) -> Iterator[Page]:
    """The opened page, which asks no other host for anything."""
    page = browser.new_page(viewport=SIZES[request.param], permissions=["camera", "microphone"])
    asked = []
    page.on("request", lambda one: asked.append(one.url))
    page.goto(address)
    expect(page.get_by_role("button", name="Score", exact=True)).to_be_visible(timeout=30_000)
    yield page
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.close()


def score(page: Page) -> str:
    """Presses Score, waits, and returns the number that is shown."""
    page.get_by_role("button", name="Score", exact=True).click()
    return shown_score(page)


def shown_score(page: Page) -> str:
    shown = page.locator(".os-score")
    expect(shown).to_be_visible(timeout=60_000)
    return shown.inner_text()


def upload(page: Page, path: Path | str, panel: int = 0) -> None:
    page.locator(".os-clip").nth(panel).locator("input[type=file]").first.set_input_files(str(path))


def bad_violations(page: Page) -> list[str]:
    """What axe-core finds that is serious or critical."""
    found = Axe().run(page).response["violations"]
    bad = [one for one in found if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in bad]


def test_a_user_drops_a_clip_corrects_its_transcript_and_sees_its_score(page, pipe, whole_clips, tmp_path):
    clip = whole_clips[0]
    upload(page, clip.video)
    assert shown_score(page) == signed(pipe({"video": clip.video})["score"])
    expect(page.get_by_text("Scored without a transcript")).to_be_visible()
    page.get_by_label("Transcript").fill(clip.text)
    expected = pipe({"video": clip.video, "text": clip.text})
    page.get_by_role("button", name="Score", exact=True).click()
    expect(page.locator(".os-score")).to_have_text(signed(expected["score"]), timeout=60_000)
    assert page.locator(".os-label").inner_text() == expected["label"]
    rows = page.locator(".os-table tbody tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["Text", "Audio", "Video"]
    expect(page.locator(".os-strip")).to_have_count(0)
    order = page.locator("main :is(.os-score, textarea, .os-card h2)").evaluate_all(
        "all => all.map(one => one.className || one.textContent || one.tagName)"
    )
    assert [one for one in order if one.startswith(("os-score", "What", "Over", "Interval", "Download"))] == [
        *("os-score", "What each modality adds", "What each word adds", "Over time", "Interval", "Download"),
        "What it is not for",
    ]
    score_top, text_top, added_top = (
        page.locator(place).first.bounding_box()["y"] for place in (".os-score", "textarea", ".os-table")
    )
    assert score_top < text_top < added_top
    page.screenshot(path=tmp_path / "score.png", full_page=True)


def test_a_new_clip_does_not_get_the_transcript_of_the_one_before(page, pipe, whole_clips):
    page.get_by_label("Transcript").fill("it was plain")
    upload(page, whole_clips[0].video)  # typed for this clip
    assert shown_score(page) == signed(pipe({"video": whole_clips[0].video, "text": "it was plain"})["score"])
    page.get_by_label("Clear").first.click()
    upload(page, whole_clips[1].video)
    expected = signed(pipe({"video": whole_clips[1].video})["score"])
    expect(page.locator(".os-score")).to_have_text(expected, timeout=60_000)
    expect(page.get_by_label("Transcript")).to_have_value("")


def test_a_clip_that_arrives_while_another_is_scored_is_scored_too(browser, held, pipe, whole_clips):
    """The first has to wait until the second has arrived; no words are found in the second."""
    address, release = held
    page = browser.new_page()
    page.goto(address)
    first, second = whole_clips[:2]
    upload(page, first.video)
    expect(page.locator(".os-busy")).to_be_visible(timeout=30_000)
    page.wait_for_timeout(500)
    page.get_by_label("Clear").first.click()
    upload(page, second.video)
    page.wait_for_timeout(1500)
    release.set()
    expect(page.locator(".os-result")).to_contain_text(Path(second.video).name, timeout=30_000)
    assert shown_score(page) == signed(pipe({"video": second.video})["score"])
    expect(page.get_by_label("Transcript")).to_have_value("")
    page.close()


def test_a_second_clip_that_is_removed_while_it_is_scored_leaves_nothing(browser, held, whole_clips):
    address, release = held
    page = browser.new_page()
    page.goto(address)
    page.get_by_label("Transcript").first.fill("it was plain")
    page.get_by_role("button", name="Score", exact=True).click()
    shown_score(page)
    page.get_by_role("button", name="Compare with a second clip").click()
    upload(page, whole_clips[0].video, panel=1)
    expect(page.locator(".os-busy")).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="Remove the second clip").click()
    expect(page.locator(".os-clip")).to_have_count(1)
    release.set()
    page.wait_for_timeout(3000)
    expect(page.locator(".os-compared")).to_have_count(0)
    page.get_by_role("button", name="Compare with a second clip").click()
    expect(page.locator(".os-clip")).to_have_count(2)
    expect(page.locator(".os-score")).to_have_count(1)
    page.close()


def test_an_example_is_scored_from_any_tab(page):
    page.get_by_role("tab", name="Record audio").click()
    page.get_by_role("button", name="Synthetic example, positive").click()
    shown_score(page)
    assert "planted-" in page.locator(".os-result").inner_text()
    expect(page.get_by_label("Transcript")).not_to_have_value("")


def test_the_course_of_a_long_clip_follows_playback_and_a_click_seeks(page, tmp_path):
    write_video(tmp_path / "long.mp4", np.full((240, 56, 56, 3), 90, np.uint8), 10)
    upload(page, tmp_path / "long.mp4")
    strip, player = page.locator(".os-strip"), page.locator(".os-player")
    expect(strip).to_be_visible(timeout=60_000)
    expect(page.locator(".os-cell")).to_have_count(5)
    expect(player).to_have_js_property("duration", 24)
    page.locator(".os-cell").nth(2).click()
    assert player.evaluate("one => one.currentTime") == 8
    expect(page.locator(".os-cell").nth(2)).to_have_class("os-cell os-current")
    expect(page.locator(".os-now")).to_contain_text("0:08 to 0:16")
    player.evaluate("one => { one.muted = true; one.currentTime = 11.5; return one.play(); }")
    expect(page.locator(".os-cell").nth(3)).to_have_class("os-cell os-current", timeout=20_000)
    player.evaluate("one => one.pause()")
    strip.focus()
    page.keyboard.press("Home")
    assert player.evaluate("one => one.currentTime") == 0
    page.keyboard.press("ArrowRight")
    assert player.evaluate("one => one.currentTime") == 4
    assert strip.get_attribute("aria-valuenow") == "2"
    assert strip.get_attribute("aria-valuetext").startswith("0:04 to 0:12: ")
    page.keyboard.press("Space")
    expect(player).to_have_js_property("paused", False)
    page.screenshot(path=tmp_path / "long.png", full_page=True)


def test_the_keyboard_alone_leads_from_opening_to_a_score_that_is_announced(page, pipe):
    page.keyboard.press("Tab")
    outlines = set()
    for _ in range(20):
        focused = page.evaluate(
            "() => { const one = document.activeElement, style = getComputedStyle(one);"
            " return [one.tagName, one.textContent.trim().slice(0, 30), style.outlineStyle + style.outlineWidth]; }"
        )
        outlines.add(focused[2])
        if focused[0] == "TEXTAREA":
            page.keyboard.type("it was wonderful")
        if focused[1] == "Score":
            page.keyboard.press("Enter")
            break
        page.keyboard.press("Tab")
    assert outlines == {"solid3px"}
    expected = signed(pipe({"text": "it was wonderful"})["score"])
    assert shown_score(page) == expected
    expect(page.locator("#os-status[role=status][aria-live=polite]")).to_contain_text(f"Score: {expected}, ")


def test_two_clips_are_compared_and_the_second_can_be_removed(page, pipe, whole_clips, tmp_path):
    first, second = whole_clips[:2]
    upload(page, first.video)
    shown_score(page)
    page.get_by_role("button", name="Compare with a second clip").click()
    upload(page, second.video, panel=1)
    compared = page.locator(".os-compared")
    expect(compared).to_be_visible(timeout=60_000)
    scores = [pipe({"video": clip.video})["score"] for clip in (first, second)]
    assert compared.locator("dd").all_inner_texts() == [*map(signed, scores), signed(scores[1] - scores[0])]
    assert "interval" not in compared.inner_text()
    expect(page.locator("#os-status")).to_contain_text(f"B minus A {signed(scores[1] - scores[0])}")
    assert bad_violations(page) == []
    with page.expect_download() as download:
        compared.get_by_role("link", name="Download the numbers").click()
    rows = list(csv.DictReader(download.value.path().read_text(encoding="utf-8-sig").splitlines()))
    assert [float(row["score"]) for row in rows if row["part"] == "clip"] == pytest.approx(scores, abs=1e-5)
    page.screenshot(path=tmp_path / "compared.png", full_page=True)
    page.get_by_role("button", name="Remove the second clip").click()
    expect(compared).to_have_count(0)
    expect(page.locator(".os-clip")).to_have_count(1)


def test_the_numbers_and_a_picture_are_downloaded(page, whole_clips, tmp_path):
    upload(page, whole_clips[0].video)
    shown = shown_score(page)
    for name, ending in (("Download the numbers", ".csv"), ("Download a picture", ".png")):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        assert download.value.suggested_filename == f"{Path(whole_clips[0].video).stem}{ending}"
        download.value.save_as(tmp_path / f"taken{ending}")
    (row, *_) = csv.DictReader((tmp_path / "taken.csv").read_text(encoding="utf-8-sig").splitlines())
    assert signed(float(row["score"])) == shown
    assert (tmp_path / "taken.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_serious_before_and_after_scoring(browser, rated, size, scheme, tmp_path):
    """Intervals, a strip for each target, and the table of windows are there too."""
    page = browser.new_page(viewport=SIZES[size], color_scheme=scheme)
    page.goto(rated)
    expect(page.get_by_role("button", name="Score", exact=True)).to_be_visible(timeout=30_000)
    is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 27)"
    assert is_dark == (scheme == "dark")
    assert bad_violations(page) == []
    write_video(tmp_path / "long.mp4", np.full((50, 56, 56, 3), 90, np.uint8), 10)
    upload(page, tmp_path / "long.mp4")
    expect(page.locator(".os-strip")).to_have_count(2, timeout=60_000)
    page.locator("summary").click()
    assert bad_violations(page) == []
    (tmp_path / "broken.mp4").write_bytes(b"no media at all")
    page.get_by_label("Clear").first.click()
    upload(page, tmp_path / "broken.mp4")
    expect(page.get_by_text("broken.mp4: not media")).to_have_count(2, timeout=60_000)  # shown, and announced
    expect(page.get_by_test_id("toast-body")).to_have_css("opacity", "1")  # it fades in
    assert bad_violations(page) == []
    for place in ("camera", "audio"):
        page.get_by_role("tab", name=f"Record {'video' if place == 'camera' else place}").click()
        page.wait_for_timeout(300)
        assert bad_violations(page) == [], place
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
    page.close()


def test_the_address_can_ask_for_the_dark_page(browser, rated):
    page = browser.new_page(color_scheme="light")
    page.goto(f"{rated}?__theme=dark")
    expect(page.get_by_role("button", name="Score", exact=True)).to_be_visible(timeout=30_000)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 27)"
    page.close()


def test_a_broken_or_large_file_shows_an_error_and_no_score(page, whole_clips, tmp_path):
    upload(page, whole_clips[0].video)
    shown_score(page)
    (tmp_path / "broken.mp4").write_bytes(b"no media at all")
    page.get_by_label("Clear").first.click()
    upload(page, tmp_path / "broken.mp4")
    said = "broken.mp4: not media: expected a video or audio file"
    expect(page.get_by_test_id("toast-text").get_by_text(said)).to_be_visible(timeout=30_000)
    expect(page.locator("#os-status")).to_contain_text(f"Error: {said}")
    expect(page.locator(".os-score")).to_have_count(0)
    expect(page.locator(".os-busy")).to_have_count(0)
    page.screenshot(path=tmp_path / "broken.png")
    page.get_by_test_id("toast-close").press("Enter")
    (tmp_path / "large.mp4").write_bytes(bytes(2 << 20))
    page.get_by_label("Clear").first.click()
    upload(page, tmp_path / "large.mp4")
    expect(page.get_by_test_id("toast-text").get_by_text("maximum")).to_be_visible(timeout=30_000)
    page.screenshot(path=tmp_path / "large.png")


def test_a_user_records_video_and_audio(page):
    page.get_by_role("tab", name="Record video").click()
    page.get_by_text("Click to Access Webcam").click()
    record = page.get_by_label("start recording")
    record.click()
    page.wait_for_timeout(2000)
    record.click()
    shown_score(page)
    result = page.locator(".os-result").inner_text()
    assert "sample.webm" in result
    assert "Scored without a transcript" in result
    page.get_by_role("tab", name="Record audio").click()
    page.get_by_role("button", name="Score", exact=True).click()
    expect(
        page.get_by_test_id("toast-text").get_by_text("Nothing to score")
    ).to_be_visible()  # the video is out of sight
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(2000)
    page.get_by_role("button", name="Stop").first.click()
    shown_score(page)
    assert "audio.wav" in page.locator(".os-result").inner_text()
