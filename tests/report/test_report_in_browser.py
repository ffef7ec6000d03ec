"""The report in a real browser: it asks for nothing, complains of nothing, answers pointer, keyboard and buttons."""

import json
import re
import time
from pathlib import Path

import pytest

FIGURE = "[...document.querySelectorAll('figure')].find(f => f.querySelector('svg').ariaLabel.includes('methods side'))"
TIP = f"{FIGURE}.querySelector('.tip')"
SHOWN = f"!{TIP}.classList.contains('hidden')"


@pytest.fixture(scope="module")
def address(hostile_report: Path) -> str:
    return (hostile_report / "report.html").as_uri()


@pytest.fixture(scope="module")
def record(hostile_report: Path) -> dict:
    """What the picture of the methods shows, as written beside it."""
    return json.loads((hostile_report / "plots/study-methods.json").read_text())


@pytest.fixture
def page(browser, address):
    """The page, anew; afterwards it must have asked for itself alone and complained of nothing."""
    browser.begin(address)
    yield browser
    assert set(browser.requests) <= {address, "about:blank"} | {r for r in browser.requests if r.startswith("data:")}
    assert browser.complaints == []


def place_of(page, point: int, record: dict) -> tuple[float, float]:
    """Where a point of the picture is on the screen, by the viewBox alone."""
    x, y = (record["points"][name][point] for name in ("svg_x", "svg_y"))
    return tuple(
        page.evaluate(
            f"(() => {{ const s = {FIGURE}.querySelector('svg'); s.scrollIntoView({{block: 'center'}});"
            " const r = s.getBoundingClientRect(), v = s.viewBox.baseVal;"
            f" return [r.x + {x} / v.width * r.width, r.y + {y} / v.height * r.height]; }})()"
        )
    )


def hover(page, x: float, y: float) -> None:
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)


def focus(page) -> None:
    page.evaluate(f"{FIGURE}.querySelector('.canvas').focus()")


@pytest.mark.parametrize("point", [0, 7, -1])
def test_a_pointer_gets_the_values_of_the_point_below_it(page, record, point: int) -> None:
    x, y = place_of(page, point, record)
    hover(page, x + 1, y - 1)
    page.wait(SHOWN)
    text = page.evaluate(f"{TIP}.textContent")
    assert text == record["points"]["text"][point]
    assert re.search(r"examples(, held out)?: loss [\d.]+; law [\d.]+ \([\d.]+ to [\d.]+\)$", text)
    box, ring = (
        page.evaluate(f"{FIGURE}.querySelector('{part}').getBoundingClientRect().toJSON()")
        for part in (".canvas", ".ring")
    )
    assert abs(ring["x"] + ring["width"] / 2 - x) < 2
    assert abs(ring["y"] + ring["height"] / 2 - y) < 2
    assert box["x"] - 1 <= page.evaluate(f"{TIP}.getBoundingClientRect().x")
    hover(page, 1, 1)
    page.wait(f"!({SHOWN})")


def test_the_ring_lies_on_the_drawn_mark(page, record) -> None:
    """The places in the record are those of the drawing: some mark of the SVG is centred there."""
    for point in (0, 11, -3):
        x, y = place_of(page, point, record)
        near = page.evaluate(
            f"[...{FIGURE}.querySelectorAll('svg use')].map(u => u.getBoundingClientRect())"
            f".some(r => Math.hypot(r.x + r.width / 2 - {x}, r.y + r.height / 2 - {y}) < 2)"
        )
        assert near


def test_arrow_keys_walk_along_the_points_and_escape_leaves(page, record) -> None:
    texts, series = record["points"]["text"], record["points"]["series"]
    focus(page)
    spoken = f"{FIGURE}.querySelector('[role=status]').textContent"
    page.press("ArrowRight")
    assert page.evaluate(f"{TIP}.textContent") == page.evaluate(spoken) == texts[0]
    page.press("ArrowRight")
    assert page.evaluate(spoken) == texts[1]
    page.press("ArrowDown")
    other = next(i for i in range(1, len(series)) if series[i] != series[1])
    assert page.evaluate(spoken) == texts[other]
    page.press("ArrowLeft")
    assert page.evaluate(spoken) == texts[other - 1]
    page.press("End")
    assert page.evaluate(spoken) == texts[-1]
    page.press("ArrowRight")
    assert page.evaluate(spoken) == texts[-1]  # there is nothing beyond
    page.press("Home")
    assert page.evaluate(spoken) == texts[0]
    page.press("Escape")
    assert not page.evaluate(SHOWN)
    assert page.evaluate("document.activeElement === document.body")


def test_pictures_are_reached_by_the_tabulator_and_named(page, record) -> None:
    roles = page.roles()
    named = [name for role, name in roles if role == "application"]
    assert len(named) == page.evaluate("document.querySelectorAll('figure svg').length")
    assert any(record["title"] in name and f"{len(record['points']['text'])} points" in name for name in named)
    for _ in range(60):
        page.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('canvas')"):
            break
    assert page.evaluate("document.activeElement.classList.contains('canvas')")


def test_a_button_hides_its_series_and_its_points(page, record) -> None:
    drawn = f"[...{FIGURE}.querySelectorAll('svg .s0')].filter(e => e.getBoundingClientRect().width > 0).length"
    before = page.evaluate(drawn)
    assert before > 1
    page.evaluate(f"{FIGURE}.id = 'chosen'")
    first = record["points"]["series"].index(0)
    page.click("#chosen .toggles button")
    assert page.evaluate("document.querySelector('#chosen .toggles button').ariaPressed") == "false"
    assert page.evaluate(drawn) == 0
    hover(page, *place_of(page, first, record))
    page.evaluate("new Promise(requestAnimationFrame)")
    if page.evaluate(SHOWN):  # another series may lie within reach
        assert page.evaluate(f"{TIP}.textContent") != record["points"]["text"][first]
    focus(page)
    page.press("Home")
    assert page.evaluate(f"{TIP}.textContent") == record["points"]["text"][record["points"]["series"].index(1)]
    page.click("#chosen .toggles button")
    assert page.evaluate(drawn) == before


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_the_pictures_is_seen_on_the_page(page, scheme: str) -> None:
    page.look(1280, scheme=scheme)
    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.05) == (scheme == "dark")
    colours = page.evaluate(
        "[...document.querySelectorAll('.toggles i')].map(e => getComputedStyle(e).backgroundColor)"
    ) + page.evaluate("[...document.querySelectorAll('figure text')].map(e => getComputedStyle(e).fill)")
    assert len(set(colours)) > 5
    for colour in set(colours):
        light, dark = sorted([luminance(colour) + 0.05, paper + 0.05], reverse=True)
        assert light / dark >= 2, colour


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_no_wider_than_the_window(page, width: int) -> None:
    page.look(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_names_from_data_are_text(page, hostile_task: str) -> None:
    assert page.evaluate("document.title").startswith("Finetuning scaling: a <b>bold</b>")
    assert page.evaluate("document.querySelectorAll('script').length") == (
        page.evaluate("document.querySelectorAll('figure').length") + 1
    )
    assert hostile_task in page.evaluate("document.body.textContent")
    assert page.evaluate("document.querySelectorAll('b, main img').length") == 0


def test_paper_has_all_text_and_no_buttons(page) -> None:
    page.look(1280, scheme="dark", media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.toggles')).display") == "none"
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9


def test_without_its_script_the_page_is_readable(browser, address) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.look(1280)
        browser.send("Page.navigate", url=address)
        end, roles = time.monotonic() + 60, browser.roles()
        while ("heading", "How to remake this report") not in roles and time.monotonic() < end:
            roles = browser.roles()
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert sum(role == "image" or role == "img" for role, _ in roles) >= 10
    assert not any(role == "button" for role, _ in roles)
