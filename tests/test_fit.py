"""The fit command: its files, its report, and its flags."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import synthetic_points
from finetune_scaling.errors import DataError
from finetune_scaling.laws.forms.library import law_named
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.report.study_report import fit_study


@pytest.fixture(scope="module")
def study(hostile_report: Path) -> Path:
    return hostile_report


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
    assert record["data"]["ignored_columns"] == ["remark"]
    assert {c["verdict"] for c in record["claims"]} <= {"supported", "not supported", "inconclusive"}
    for found in record["correlations"]:
        assert (found["metric"], found["verdict"]) == ("bleu", "tracks")
        assert found["pearson"]["value"] == pytest.approx(-1)
    assert {change["column"] for change in record["forgetting"]} == {"pretraining.loss"}
    assert record["settings"]["correlation_intervals"]["seed"] == 0
    assert "NaN" not in (study / "fit.json").read_text()


def test_every_figure_is_png_and_svg_and_every_table_csv(study: Path) -> None:
    plots = {p.stem for p in (study / "plots").glob("*.png")}
    for kind in ("svg", "json"):
        assert plots == {p.stem for p in (study / "plots").glob(f"*.{kind}")}
    for law in ("multiplicative", "additive", "single"):
        for factor in ("model", "pretrain", "pet"):
            assert f"study-{law}-{factor}" in plots
    assert {
        "study-methods",
        "study-best-model",
        "study-residuals",
        "study-metrics",
        "study-forgetting",
        "exponents",
    } <= plots
    for name in (
        "laws",
        "errors",
        "critical_sizes",
        "claims",
        "regions",
        "selection",
        "best_measured",
        "correlation",
        "forgetting",
        "points",
        "single_laws",
    ):
        with open(study / "tables" / f"{name}.csv", newline="") as file:
            assert list(csv.DictReader(file)), name
        assert (study / f"tables/{name}.tex").read_text().count(r"\bottomrule") == 1


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


def test_the_report_is_one_page_that_loads_nothing(study: Path, hostile_task: str) -> None:
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
    assert hostile_task in page.text
    assert "a <b>bold</b> study" in page.text


def test_the_report_has_the_numbers_of_its_tables(study: Path) -> None:
    page = Page()
    page.feed((study / "report.html").read_text())
    with open(study / "tables" / "laws.csv", newline="") as file:
        laws = list(csv.DictReader(file))
    for row in laws:
        if row["value"]:
            assert f"{float(row['value']):.3g} (" in page.text, row
    record = json.loads((study / "fit.json").read_text())
    for claim in record["claims"]:
        assert claim["sentence"] in page.text
    for piece in ("1 runs stopped", "scores bleu 3.25", "true entropy", "Made & planted.", "--points="):
        assert piece in page.text, piece


@pytest.mark.slow
def test_the_command_that_remakes_a_report_has_all_that_was_asked(tmp_path: Path, small_rows: list[dict]) -> None:
    own = (
        "from finetune_scaling.laws.forms.library import MULTIPLICATIVE\n"
        "import dataclasses\nOWN = dataclasses.replace(MULTIPLICATIVE, name='own')\n"
    )
    (tmp_path / "mine.py").write_text(own)
    law = law_named(f"{tmp_path}/mine.py:OWN")
    points = synthetic_points.write(
        tmp_path / "my points.csv", [row for row in small_rows if row["method"] != "prompt"]
    )
    analysis = fit_study(
        points,
        tmp_path / "report",
        methods=("full", "lora"),
        laws=(law, law_named("multiplicative_free")),
        resampling=Resampling("settings", 40),
        profile=True,
        progress=lambda _: None,
    )
    page = Page()
    page.feed((tmp_path / "report" / "report.html").read_text())
    for piece in ("my points.csv'", "--methods=full,lora", f"--laws={law.file},multiplicative_free", "--resamples=40"):
        assert piece in page.text, piece
    assert "--bootstrap=settings" in page.text
    assert "--profile" in page.text
    reasons = {one.why for claim in analysis.claims for one in claim.comparisons}
    assert "the multiplicative law was not requested" in reasons
    fits = json.loads((tmp_path / "report" / "fit.json").read_text())["fits"]
    assert {fit["law"] for fit in fits} == {"own", "multiplicative_free"}
    assert any(parameter["profile"] for fit in fits for parameter in fit["parameters"].values())


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("[1]", r"study.json: .*JSON object"),
        ('{"metrics": ["bleu"]}', r"study.json: metrics must be \{task: ...\}"),
        ('{"baselines": {"t": 3}}', r"study.json: baselines must be \{task: \{metric: ...\}\}"),
        ('{"evaluator_baselines": {"t": {"e": {"copy": 1}}}}', r"evaluator_baselines must be \{task: \{evaluator: "),
        ('{"notes": "one text"}', r"study.json: notes must be a list"),
    ],
)
def test_broken_facts_are_named(tmp_path: Path, small_rows: list[dict], facts: str, message: str) -> None:
    synthetic_points.write(tmp_path / "points.csv", small_rows)
    (tmp_path / "study.json").write_text(facts)
    with pytest.raises(DataError, match=message):
        fit_study(tmp_path / "points.csv", tmp_path / "report", progress=lambda _: None)


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "finetune_scaling.fit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_fits_one_law(tmp_path: Path) -> None:
    lines = [f"{d},{2 / d**0.3 + 0.5}" for d in (10, 30, 100, 300, 1000)]
    (tmp_path / "points.csv").write_text("\n".join(["D,loss", *lines]))
    arguments = (f"--points={tmp_path}/points.csv", f"--out={tmp_path}/out", "--law=single", "--residual=log")
    done = run(*arguments, "--huber-delta=0.01")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/fit.json").read_text())["fits"][0]
    assert (record["huber_delta"], record["residual"]) == (0.01, "log")
    assert "objective" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out=x",), "points"),
        (("--points=none.csv", "--out=x", "--law=cubic"), "'cubic' is not a law"),
        (("--points=none.csv", "--out=x", "--huber_delta=0"), "must be above zero"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
