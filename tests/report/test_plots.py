"""Plots carry their points as tooltips and as JSON, and data is never read as markup."""

import html
import json
import re
from pathlib import Path

import pytest

from finetune_scaling.report.page import write_page
from finetune_scaling.report.plots import Plot, ReportFigure, add_tooltips, panels, save
from finetune_scaling.report.sections import Section

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


def test_the_page_has_no_markup_from_data(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    for piece in ("<script", "<!--", "<b>", "://"):
        assert piece not in text
    assert text.count("<svg") == text.count("</svg>") == 1
    assert text.count("<title>") == 4  # of the page and of three points
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', text)) - {"main", "one"}
    assert used
    assert used <= set(re.findall(r'\bid="([\w-]+)"', text))
