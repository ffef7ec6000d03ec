"""Plots carry their points as tooltips and as JSON, and data is never read as markup."""

import html
import json
import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_scaling.report.page import write_page
from finetune_scaling.report.plots import (
    FIGURE_NAME,
    Plot,
    ReportFigure,
    add_legend,
    add_tooltips,
    figure_name,
    panels,
    save,
)
from finetune_scaling.report.sections import Section

NAMES = (r"$\frac{a$ \b$", r"\undefined$x$", "_hidden", "a%b^{c}_d", "a<b>&\"'", "日本語 العربية 🙂", "$", "\\", "#{}~")
HOSTILE = "</script><script>alert(\"x\")</script><!-- \u2028 'quotes' & <b>"
X, Y = [3.0, 1.0, 2.0, 50.0], [10.0, 100.0, 1000.0, 10.0]


def draw() -> ReportFigure:
    """Draw three points on log axes, and one outside them."""
    figure, (axes,) = panels(1)
    axes.plot(X, Y, "o")
    axes.set_yscale("log")
    axes.set_xlim(0, 5)
    add_tooltips(axes, X, Y, [f"{HOSTILE} {x:g}" for x in X])
    return figure


PLOT = Plot("one", HOSTILE, HOSTILE, draw)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    save(PLOT, folder / "plots")
    write_page(folder / "report.html", HOSTILE, HOSTILE, [Section("one", HOSTILE, plots=[PLOT])])
    return folder


def test_tooltips_are_over_the_markers_of_visible_points(folder: Path) -> None:
    points = json.loads((folder / "plots/one.json").read_text())["points"]
    assert points["x"] == [1.0, 2.0, 3.0]
    assert points["text"][0] == f"{HOSTILE} 1"
    svg = (folder / "plots/one.svg").read_text()
    markers = [tuple(map(float, found)) for found in re.findall(r'<use [^>]*?x="([\d.]+)" y="([\d.]+)"', svg)]
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="\d+"><title>(.*?)</title>', svg, re.DOTALL)
    assert [html.unescape(text) for _, _, text in circles] == points["text"]
    for x, y, _ in circles:
        assert min(abs(float(x) - u) + abs(float(y) - v) for u, v in markers) < 0.2


@pytest.mark.parametrize("name", NAMES)
def test_names_are_drawn_as_they_are(tmp_path: Path, name: str) -> None:
    def draw() -> ReportFigure:
        figure, (axes,) = panels(1)
        axes.set_title(figure_name(name))
        axes.set_ylabel(figure_name(name))
        axes.set_yticks([0.5], [figure_name(name)])
        add_tooltips(axes, [0.5], [0.5], [name])
        add_legend(figure, [name])
        return figure

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(Plot("one", name, name, draw), tmp_path)
    texts = [element.text for element in ElementTree.parse(tmp_path / "one.svg").iter() if element.text]
    assert texts.count(name) == 5  # title, label, tick, legend and tooltip


@given(st.lists(st.text(min_size=FIGURE_NAME), min_size=2, max_size=2, unique=True), st.text(max_size=FIGURE_NAME))
def test_shortened_names_stay_distinct(long: list[str], short: str) -> None:
    assert figure_name(short) == short
    assert figure_name(long[0]) != figure_name(long[1])
    assert all(len(figure_name(name)) <= FIGURE_NAME for name in long)


def test_the_page_has_no_markup_from_data(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    for piece in ("<script", "<!--", "<b>", "://"):
        assert piece not in text
    assert text.count("<svg") == text.count("</svg>") == 1
    assert text.count("<title>") == 4  # of the page and of three points
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', text)) - {"main", "one"}
    assert used
    assert used <= set(re.findall(r'\bid="([\w-]+)"', text))
