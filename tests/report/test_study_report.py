"""The report in a browser: it loads nothing, logs nothing, and is readable in light, dark and on paper."""

import re

import pytest


@pytest.fixture(scope="module")
def address(hostile_report) -> str:
    return (hostile_report / "report.html").as_uri()


@pytest.fixture
def page(browser, address):
    """Open the page; afterwards it must have requested only itself and logged nothing."""
    browser.reload(address)
    yield browser
    assert {r for r in browser.requests if not r.startswith("data:")} <= {address, "about:blank"}
    assert browser.console_errors == []


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_and_plots_follow_the_scheme(page, scheme: str) -> None:
    page.set_viewport(1280, scheme=scheme)
    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.05) == (scheme == "dark")
    for element in ("body", ".faint", "td", "figcaption", "a"):
        ink = luminance(page.evaluate(f"getComputedStyle(document.querySelector('{element}')).color"))
        light, dark = sorted([ink + 0.05, paper + 0.05], reverse=True)
        assert light / dark >= 4.5, element
    inverted = "invert" in page.evaluate("getComputedStyle(document.querySelector('figure svg')).filter")
    assert inverted == (scheme == "dark")


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_no_wider_than_the_window(page, width: int) -> None:
    page.set_viewport(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_names_from_data_are_text_and_plots_are_named(page, hostile_task: str) -> None:
    assert page.evaluate("document.title").startswith("Finetuning scaling: a <b>bold</b>")
    assert page.evaluate("document.querySelectorAll('script, b, main img').length") == 0
    assert hostile_task in page.evaluate("document.body.textContent")
    roles = page.roles()
    assert sum(role in ("image", "img") for role, _ in roles) >= 10
    assert ("heading", "How to make this report again") in roles


def test_paper_is_light(page) -> None:
    page.set_viewport(1280, scheme="dark", media="print")
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9
