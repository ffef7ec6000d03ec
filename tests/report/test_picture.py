"""What pictures carry into the page: places that match the drawing, and text that no markup escapes from."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from finetune_scaling.report import page
from finetune_scaling.report.colours import DARK, on_black
from finetune_scaling.report.picture import Picture, picture_of, series_of
from finetune_scaling.report.plots import STYLES, Plot, amounts, panels, save

HOSTILE = "</script><script>alert(\"x\")</script><!-- \u2028 'quotes' & <b>"
X, Y = [3.0, 1.0, 2.0, 50.0], [10.0, 100.0, 1000.0, 10.0]


def draw() -> Picture:
    """Three points on log axes, and one beyond them."""
    picture, grid = panels(1, 1)
    axes, series = grid[0, 0], series_of(HOSTILE, HOSTILE, "C0")
    picture.tag(series, *axes.plot(X, Y, "o", color=series.colour))
    axes.set_yscale("log")
    axes.set_xlim(0, 5)
    picture.read(axes, series, X, Y, [f"{HOSTILE} {x:g}" for x in X])
    return picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plots")
    save(Plot("one", HOSTILE, HOSTILE, draw), folder)
    return folder


def test_places_are_those_of_the_marks_in_the_svg(folder: Path) -> None:
    points = json.loads((folder / "one.json").read_text())["points"]
    assert points["x"] == [1.0, 2.0, 3.0]  # by x; what lies outside the axes is left out
    assert points["text"][0] == f"{HOSTILE} 1"
    group = re.search(r'<g id="series-0-0">(.*?)</g>\s*</g>', (folder / "one.svg").read_text(), re.DOTALL)
    assert group
    marks = [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*?x="([\d.]+)" y="([\d.]+)"', group[1])]
    for place in zip(points["svg_x"], points["svg_y"], strict=True):
        assert np.abs(np.array(marks) - place).sum(axis=1).min() < 0.2


def test_the_figure_holds_the_data_and_no_markup_of_it(folder: Path) -> None:
    text = page.figure(folder, "one", HOSTILE, HOSTILE)
    assert text.count("<script") == text.count("</script>") == 1
    assert "<!--" not in text
    assert "<b>" not in text
    data = json.loads(text.split('<script type="application/json">')[1].split("</script>")[0])
    assert data["text"][0] == f"{HOSTILE} 1"
    assert data["series"][0][:2] == [HOSTILE, HOSTILE]
    assert re.search(r'<g class="s0">', text)


def test_every_colour_of_a_picture_is_declared_for_both_schemes(folder: Path) -> None:
    whole = page.page("title", "lead", [("one", "One", page.figure(folder, "one", "t", "c"))])
    used = set(re.findall(r"var\(--c([0-9a-f]{6})\)", whole))
    assert "1f77b4" in used
    for colour in used:
        assert len(re.findall(rf"--c{colour}:#[0-9a-f]{{6}};", whole)) == 2


def test_methods_and_amounts_have_twins_on_black_in_order() -> None:
    assert all(colour.lower() in DARK for colour, _ in STYLES.values())
    colours = amounts(np.geomspace(1, 1e6, 9))
    assert len({on_black(series_of("g", "n", c).colour) for c in colours.values()}) == 9
    lightness = [int(on_black(series_of("g", "n", c).colour)[3:5], 16) for c in colours.values()]
    assert lightness == sorted(lightness)  # more is lighter on black


def test_axes_of_a_plain_figure_are_refused() -> None:
    with pytest.raises(TypeError, match="make them with panels"):
        picture_of(Figure().subplots())
