"""The report of a study: its files, its page as text and in a browser, and the command that reproduces it."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

import synthetic_points
from finetune_scaling.analysis.claims import INCONCLUSIVE
from finetune_scaling.errors import UserError
from finetune_scaling.laws.forms.library import law_named
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.report.study_report import fit_study


class Page(HTMLParser):
    """Collects tags, addresses, ids and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("href", "src", "xlink:href")]
        self.ids += [v or "" for k, v in attrs if k == "id"]

    def handle_data(self, data: str) -> None:
        self.text += data


TASK = "wmt <script>alert(\"x\")</script> & 'co' </script><!-- $\\frac{a$ \\b_{$ 50 % 日本 🙂 " + "long" * 20
FACTS = {"name": "a <b>bold</b> study", "baselines": {TASK: {"bleu": 3.25}}, "notes": ["Made & planted."]}
NAMED_PLOTS = ("methods", "best-model", "residuals", "metrics", "forgetting")
NAMED_TABLES = {
    *("laws", "errors", "critical_sizes", "claims", "regions", "selection", "best_measured", "correlation"),
    *("forgetting", "points", "single_laws", "entropy"),
}
LEVELS = {"model": synthetic_points.SIZES[:4], "pretrain": synthetic_points.TOKENS[:3], "pet": (50, 100, 150, 4, 8, 16)}


def rows() -> list[dict]:
    """Return four sizes, three token counts and three PET sizes with metrics, entropy and an unused column."""
    found = []
    for row in synthetic_points.thinned(synthetic_points.rows(noise=0.003)):
        if row["x"] in LEVELS[row["factor"]]:
            held_out = int(row["held_out"] or row["x"] == synthetic_points.SIZES[3])
            extra = {"bleu": 60 - 20 * row["loss"], "entropy": 0.6, "stopped_by": "patience", "remark": "<i>"}
            extra |= {"pretraining.loss": 2 + row["finetune_examples"] / 1e7, "pretraining.untuned.loss": 2}
            found.append({**row, "task": TASK, "held_out": held_out, **extra})
    found[-1]["stopped_by"] = "budget"
    for row in found:
        row["dev_evaluations"] = 1 if row is found[0] else 2
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study whose names and facts contain markup."""
    folder = tmp_path_factory.mktemp("study")
    synthetic_points.write(folder / "points.csv", rows())
    (folder / "study.json").write_text(json.dumps(FACTS))
    fit_study(folder, folder / "report", resampling=Resampling(resamples=40), progress=lambda _: None)
    return folder / "report"


@pytest.fixture(scope="module")
def text_of_page(study: Path) -> str:
    page = Page()
    page.feed((study / "report.html").read_text())
    return page.text


def test_fit_json_has_the_agreed_form(study: Path) -> None:
    record = json.loads((study / "fit.json").read_text())
    assert {"fits", "critical_sizes", "claims", "skipped", "data", "settings"} <= set(record)
    assert {(f["method"], f["law"]) for f in record["fits"]} == {
        (m, law) for m in ("full", "prompt", "lora") for law in ("multiplicative", "additive")
    }
    for fit in record["fits"]:
        assert fit["objective"] > 0
        assert set(fit["errors"]) == {"fitted", "held_out"}
        assert set(fit["errors"]["fitted"]) == set(fit["points"])
        assert {"E", "beta", "A_model", "alpha_model", "A_pretrain", "alpha_pretrain"} <= set(fit["parameters"])
        for parameter in fit["parameters"].values():
            assert {"value", "low", "high", "identified"} <= set(parameter)
            assert isinstance(parameter["identified"], bool)
            if parameter["identified"]:
                assert parameter["low"] <= parameter["high"]
            else:
                assert parameter["why"]
    assert record["data"]["stopped_by_budget"] == 1
    assert record["data"]["evaluated_once"] == 1
    assert sum("used rows have one dev loss" in line for line in record["reservations"]) == 1
    assert record["data"]["ignored_columns"] == ["remark"]
    assert {c["verdict"] for c in record["claims"]} <= {"supported", "not supported", "inconclusive"}
    for found in record["correlations"]:
        assert (found["metric"], found["verdict"]) == ("bleu", "tracks")
        assert found["pearson"]["value"] == pytest.approx(-1)
    assert {change["column"] for change in record["forgetting"]} == {"pretraining.loss"}
    assert record["settings"]["correlation_intervals"]["seed"] == 0
    assert "NaN" not in (study / "fit.json").read_text()


def test_every_figure_is_png_svg_and_json_and_every_table_csv_and_tex(study: Path) -> None:
    plots = {p.stem for p in (study / "plots").glob("*.png")}
    for kind in ("svg", "json"):
        assert plots == {p.stem for p in (study / "plots").glob(f"*.{kind}")}
    laws = {f"{law}-{f}" for law in ("multiplicative", "additive", "single") for f in ("model", "pretrain", "pet")}
    assert {"exponents", *(f"study-{name}" for name in (*laws, *NAMED_PLOTS))} <= plots
    for path in (study / "plots").glob("*.svg"):
        ElementTree.parse(path)
    assert {p.stem for p in (study / "tables").glob("*.csv")} >= NAMED_TABLES
    for path in (study / "tables").glob("*.csv"):
        assert list(csv.DictReader(path.open(newline=""))), path
        assert path.with_suffix(".tex").read_text().count(r"\bottomrule") == 1


def test_the_report_is_one_page_that_loads_nothing(study: Path) -> None:
    text = (study / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert "://" not in text
    assert not {"link", "iframe", "b", "i", "object"} & set(page.tags)
    assert "script" not in page.tags
    assert page.tags.count("svg") == page.tags.count("figure") > 10
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    used = {address[1:] for address in page.addresses if address.startswith("#")}
    used |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(page.ids)
    assert TASK in page.text
    assert "a <b>bold</b> study" in page.text


def test_the_page_has_the_numbers_of_its_tables(study: Path, text_of_page: str) -> None:
    for row in csv.DictReader((study / "tables" / "laws.csv").open(newline="")):
        if row["value"]:
            assert f"{float(row['value']):.3g} (" in text_of_page, row
    record = json.loads((study / "fit.json").read_text())
    for claim in record["claims"]:
        assert claim["sentence"] in text_of_page
    for piece in ("1 run stopped", "bleu 3.25", "true entropy", *FACTS["notes"], "--points="):
        assert piece in text_of_page, piece


@pytest.mark.slow
def test_the_command_that_reproduces_a_report_has_all_options(tmp_path: Path) -> None:
    own = (
        "from finetune_scaling.laws.forms.library import MULTIPLICATIVE\n"
        "import dataclasses\nOWN = dataclasses.replace(MULTIPLICATIVE, name='own')\n"
    )
    (tmp_path / "mine.py").write_text(own)
    law = law_named(f"{tmp_path}/mine.py:OWN")
    chosen = [row for row in rows() if row["method"] == "full" and row["factor"] != "pet"]
    points = synthetic_points.write(tmp_path / "my points.csv", chosen)
    how = Resampling("settings", 40)
    options = {"methods": ("full",), "laws": (law,), "resampling": how, "profile": True}
    analysis = fit_study(points, tmp_path / "report", progress=lambda _: None, **options)
    page = Page()
    page.feed((tmp_path / "report" / "report.html").read_text())
    for piece in ("my points.csv'", "--methods=full", f"--laws={law.file}", "--resamples=40", "--bootstrap=settings"):
        assert piece in page.text, piece
    assert "--profile=True" in page.text
    comparisons = [one for claim in analysis.claims for one in claim.comparisons]
    assert {one.verdict for one in comparisons} == {INCONCLUSIVE}
    assert any("multiplicative" in one.why and "requested" in one.why for one in comparisons)
    (fit,) = json.loads((tmp_path / "report" / "fit.json").read_text())["fits"]
    assert fit["law"] == "own"
    assert any(parameter["profile"] for parameter in fit["parameters"].values())


def test_a_report_to_an_object_store_is_refused_before_the_fits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gs://bucket/report: a report is written to local directories only"):
        fit_study(tmp_path / "none.csv", "gs://bucket/report")


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ([1], r"study\.json: .*JSON object"),
        ({"metrics": ["bleu"]}, r"study\.json\.metrics"),
        ({"baselines": {"t": 3}}, r"study\.json\.baselines\.t"),
        ({"evaluator_baselines": {"t": {"e": {"copy": 1}}}}, r"study\.json\.evaluator_baselines\.t\.e\.copy"),
        ({"notes": "one text"}, r"study\.json\.notes must be a list"),
    ],
)
def test_broken_facts_are_named(tmp_path: Path, facts: object, field: str) -> None:
    synthetic_points.write(tmp_path / "points.csv", rows())
    (tmp_path / "study.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=field):
        fit_study(tmp_path / "points.csv", tmp_path / "report", progress=lambda _: None)


@pytest.fixture(scope="module")
def address(study: Path) -> str:
    return (study / "report.html").as_uri()


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


def test_names_from_data_are_text_and_plots_are_named(page) -> None:
    assert page.evaluate("document.title").startswith("Finetuning scaling: a <b>bold</b>")
    assert page.evaluate("document.querySelectorAll('script, b, main img').length") == 0
    assert TASK in page.evaluate("document.body.textContent")
    roles = page.roles()
    assert sum(role in ("image", "img") for role, _ in roles) >= 10
    assert ("heading", "How to reproduce this report") in roles


def test_paper_is_light(page) -> None:
    page.set_viewport(1280, scheme="dark", media="print")
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9
