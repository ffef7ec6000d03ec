"""The report's sections: estimates and reasons, critical sizes, and bands of every kind of law."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import synthetic_points
from finetune_scaling.analysis.all_factors import few_levels
from finetune_scaling.analysis.analysis import Analysis, analyse
from finetune_scaling.analysis.critical_sizes import critical_sizes
from finetune_scaling.api import Fitted
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.profile import Profile
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.laws.uncertainty.intervals import Interval
from finetune_scaling.report.finding_plots import draw_metrics
from finetune_scaling.report.law_plots import draw_law, draw_methods
from finetune_scaling.report.plots import ReportFigure, save
from finetune_scaling.report.sections import Section, report_sections
from finetune_scaling.report.tables import finding_tables

TASK = "wmt14_en_de"


def section(analysis: Analysis, name: str) -> Section:
    (found,) = (s for s in report_sections(analysis, finding_tables(analysis), "command") if s.id == name)
    return found


def rows_of(section: Section, caption: str) -> list[dict[str, str]]:
    """Return the rows of the table whose caption begins so, as heading -> cell."""
    (table,) = (t for t in section.tables if t.caption.startswith(caption))
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


def texts_of(figure: ReportFigure) -> list[str]:
    figure.canvas.draw()
    return list(figure.points()["text"])


def test_every_parameter_has_its_estimates_profile_and_reason(noisy: Analysis) -> None:
    key = (TASK, "full", "multiplicative")
    closed = Profile(np.zeros(2), np.zeros(2), Interval(0.123, 0.177))
    fit = replace(noisy.fits[key], profiles={"beta": closed}, reasons={"E": "a given reason"})
    found = section(replace(noisy, fits={**noisy.fits, key: fit}), "laws")
    rows = rows_of(found, "Parameters of the multiplicative law")
    own = {row["parameter"]: row for row in rows if row["method"] == "full tuning"}
    assert own["beta"]["two stages"].startswith(f"{fit.parameters['beta']:.3g} (")
    assert own["beta"]["one stage"].startswith(f"{fit.one_stage.parameters['beta']:.3g} (")
    assert own["beta"]["profile"] == "0.123 to 0.177"
    assert (own["E"]["well determined"], own["E"]["reason if not"]) == ("no", "a given reason")


def test_a_law_that_does_not_fit_its_points_has_no_crossing_and_no_estimate(noisy: Analysis) -> None:
    fits = noisy.fits_by_method(TASK, "multiplicative")
    poor = {**fits, "full": replace(fits["full"], log_rmse=0.2)}
    measured = dict.fromkeys(fits, (1000.0, 1000000.0))
    (size,) = critical_sizes(poor, ("full", "lora"), "model", [synthetic_points.SIZES[0]], measured)
    assert (size.roots, size.better_everywhere, size.closed_form) == ((), None, None)
    assert "full" in size.why
    (fitted,) = critical_sizes(fits, ("full", "lora"), "model", [synthetic_points.SIZES[0]], measured)
    assert fitted.why == ""
    assert fitted.roots or fitted.better_everywhere
    analysis = replace(
        noisy, critical_sizes=[size], fits={**noisy.fits, (TASK, "full", "multiplicative"): poor["full"]}
    )
    (row,) = rows_of(section(analysis, "critical"), "multiplicative")
    assert row["critical size"] == f"inconclusive: {size.why}"
    assert list(finding_tables(analysis)["critical_sizes"]["why"]) == [size.why]
    rows = rows_of(section(analysis, "laws"), "Parameters of the multiplicative law")
    own = [row for row in rows if row["method"] == "full tuning"]
    assert {row["two stages"] for row in own} == {"–"}
    assert {row["well determined"] for row in own} == {"no"}


def test_a_law_that_does_not_fit_its_points_has_no_curve_and_predicts_nothing(noisy: Analysis) -> None:
    key = (TASK, "full", "multiplicative")
    poor = replace(noisy, fits={**noisy.fits, key: replace(noisy.fits[key], log_rmse=0.2)})
    for draw in (lambda a: draw_methods(a, TASK), lambda a: draw_law(a, TASK, "multiplicative", "model")):
        fitted, missed = (
            [text for text in texts_of(draw(analysis)) if text.startswith("full tuning")] for analysis in (noisy, poor)
        )
        assert fitted
        assert all("; law " in text for text in fitted)
        assert not any("; law " in text for text in missed)
    laws = Fitted(table=noisy.table, tasks=(TASK,), fits=poor.fits, skipped=(), settings=noisy.settings)
    assert laws.predict("lora", 2e9, 1e5).loss > 0
    with pytest.raises(DataError, match=r"full: .*multiplicative law"):
        laws.predict("full", 2e9, 1e5)
    with pytest.raises(ConfigError, match="examples=0 must be above zero"):
        laws.predict("lora", 2e9, 0)


def test_curves_of_single_laws_have_bands_if_they_have_residuals(noisy: Analysis) -> None:
    single = next(s for s in noisy.curve_fits if s.method == "full" and s.shows_scatter)
    examples = np.array(synthetic_points.EXAMPLES["full"], float)
    draws = single.predict_replicates({"D": examples})
    assert draws.shape == (len(single.replicates), len(examples))
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    assert ((low < single.predict({"D": examples})) & (single.predict({"D": examples}) < high)).all()
    fitted = [text for text in texts_of(draw_law(noisy, TASK, "single", "model")) if "held out" not in text]
    assert fitted
    assert all("; law " in text and " to " in text for text in fitted)
    three = replace(single, points=3)
    assert not three.shows_scatter
    assert three.interval("beta") == Interval(None, None)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Points with all factors of every run, by a law over all factors, and a score that is a function of the loss."""
    rows = []
    for row in synthetic_points.rows(noise=0.0, methods=("full",)):
        size, tokens = (row["x"], 8e10) if row["factor"] == "model" else (1.5e9, row["x"])
        examples = row["finetune_examples"]
        if size not in (*synthetic_points.SIZES[:4], 1.5e9) or examples not in synthetic_points.EXAMPLES["full"][::2]:
            continue
        loss = 0.7 + 3e4 * size**-0.3 * tokens**-0.12 * examples**-0.1
        rows.append({**row, "loss": loss, "parameters": size, "pretrain_tokens": tokens, "bleu": 60 * np.exp(-loss)})
    path = synthetic_points.write(tmp_path_factory.mktemp("complete") / "points.csv", rows)
    return analyse(read_points(path), FitSettings(), progress=lambda _: None, resampling=Resampling(resamples=40))


def test_the_law_over_all_factors_has_its_plot(complete: Analysis, tmp_path: Path) -> None:
    (plot,) = section(complete, "all-factors").plots
    save(plot, tmp_path)
    record = json.loads((tmp_path / "study-all-factors.json").read_text())["points"]
    np.testing.assert_allclose(record["x"], record["y"], rtol=2e-3)  # predicted = measured
    held_out = [text for text in record["text"] if "held out" in text]
    assert held_out
    assert len(held_out) < len(record["text"])


def test_two_levels_of_a_factor_do_not_determine_its_exponent(complete: Analysis) -> None:
    assert few_levels({"N": np.array([1.0, 2.0, 4.0]), "D": np.array([8.0, 8.0, 8.0])}) == {}
    reasons = few_levels({"N": np.array([1.0, 2.0, 2.0]), "D": np.array([1.0, 2.0, 3.0])})
    assert set(reasons) == {"alphaN", "E", "A"}
    fit = complete.all_factors[TASK, "full"]
    assert not fit.why_poorly_determined("alphaN")
    few = replace(complete, all_factors={(TASK, "full"): replace(fit, reasons={**fit.reasons, **reasons})})
    table = finding_tables(few)["all_factors"].set_index("parameter")
    assert table.at["alphaN", "why"] == "2 values of N to fit; 3 are needed to leave one out"
    assert set(table.index[table["identified"]]) == {"beta", "alphaT"}


def test_the_law_of_a_metric_is_drawn_with_its_band(complete: Analysis) -> None:
    (finding,) = complete.metric_laws
    assert finding.used is not None
    (axes,) = draw_metrics(complete, TASK, ["bleu"]).axes
    curve = max(axes.lines, key=lambda line: len(line.get_xdata()))
    np.testing.assert_allclose(curve.get_ydata(), 60 * np.exp(-np.asarray(curve.get_xdata())), rtol=0.01)
    assert len(axes.collections) == 1
