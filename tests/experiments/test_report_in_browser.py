"""The report in a browser: read with any scheme, by keyboard, by a screen reader, without a script, on a phone and on paper."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from omnisent.experiments.report import write_report

pytestmark = pytest.mark.browser
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def report(comparison, tmp_path_factory) -> Path:
    run = comparison / "generative-trained-greedy" / "seed-0"
    return write_report([comparison, run], tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "this test needs Chromium"
    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser, report) -> Iterator[Page]:
    """The opened report, which asks for nothing but itself."""
    with browser.new_context(viewport={"width": 1280, "height": 900}, offline=True) as context:
        page, asked, faults = context.new_page(), [], []
        page.on("request", lambda one: asked.append(one.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
        page.goto(report.as_uri())
        yield page
        assert {url for url in asked if not url.startswith("data:")} == {report.as_uri()}
        assert faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_in_it_keeps_anyone_out(page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_column_is_sorted_by_click_and_by_key(page):
    table = page.locator(".results table").first
    mae = table.get_by_role("button", name="MAE", exact=True)
    place = table.locator("th").all_inner_texts().index("MAE")
    head = table.locator("th").nth(place)

    def shown() -> list[float]:
        return [float(row.locator("td").nth(place).inner_text().split()[0]) for row in table.locator("tbody tr").all()]

    before = shown()
    mae.click()
    assert shown() == sorted(before) != before
    expect(head).to_have_attribute("aria-sort", "ascending")
    mae.press("Enter")
    assert shown() == sorted(before, reverse=True)
    expect(head).to_have_attribute("aria-sort", "descending")
    table.get_by_role("button", name="name").press("Space")
    assert table.locator("th[aria-sort]").count() == 1
    names = table.locator("tbody td:first-child").all_inner_texts()
    assert names == sorted(names, key=str.lower)


def test_empty_cells_are_last_and_numbers_are_numbers(page):
    order = page.evaluate("""() => {
        const row = text => `<tr><td>${text}</td></tr>`;
        const cells = ["below 0.0001", "", "-0.025", "1,024", "+0.5 to 1", "12.3 %"];
        const table = document.querySelector(".results table");
        table.tBodies[0].innerHTML = cells.map(row).join("");
        const button = table.tHead.rows[0].cells[0].querySelector("button"), found = [];
        for (const turn of [0, 1]) {
            button.click();
            found.push([...table.tBodies[0].rows].map(one => one.cells[0].textContent));
        }
        return found;
    }""")
    assert order[0] == ["-0.025", "below 0.0001", "+0.5 to 1", "12.3 %", "1,024", ""]
    assert order[1] == ["1,024", "12.3 %", "+0.5 to 1", "below 0.0001", "-0.025", ""]


def test_the_links_lead_to_its_parts(page):
    links = page.locator("nav a")
    assert links.count() >= 7
    for link in links.all():
        assert page.locator(link.get_attribute("href")).count() == 1
    details = page.locator("#part-1-details")
    assert details.get_attribute("open") is None
    page.locator("nav a[href='#part-1-details']").click()
    expect(details).to_have_attribute("open", "")


def test_it_is_dark_on_a_dark_screen_and_light_on_paper(page):
    def ground() -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.strip("rgb()").split(","))

    page.emulate_media(color_scheme="dark")
    assert ground() < 150
    assert (
        page.evaluate("getComputedStyle(document.querySelector('figure img')).backgroundColor") == "rgb(255, 255, 255)"
    )
    page.emulate_media(color_scheme="dark", media="print")
    assert ground() == 3 * 255
    assert not page.locator("nav").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0


def test_without_a_script_its_tables_stand_as_they_are(browser, report):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(report.as_uri())
        assert page.locator("th button").count() == 0
        assert page.locator(".results table tbody tr").count() > 20
        expect(page.locator("th", has_text="95 % interval").first).to_be_visible()
