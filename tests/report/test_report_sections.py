"""The report's summary and sections: estimates and reasons, critical sizes, and bands of every kind of law."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import synthetic_points
from finetune_scaling.analysis.all_factors import exponents_with_few_levels
from finetune_scaling.analysis.analysis import Analysis, analyse
from finetune_scaling.analysis.claims import INCONCLUSIVE, SUPPORTED, Claim, Comparison
from finetune_scaling.analysis.critical_sizes import critical_sizes
from finetune_scaling.analysis.joint_fits import JointFits
from finetune_scaling.analysis.model_selection import LawScore, select_law
from finetune_scaling.api import Fitted
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.formatting import format_count
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.profile import Profile
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.laws.uncertainty.intervals import Interval
from finetune_scaling.report.finding_plots import draw_metrics
from finetune_scaling.report.law_plots import draw_law, draw_methods
from finetune_scaling.report.more_data import more_data_line
from finetune_scaling.report.plots import ReportFigure, save
from finetune_scaling.report.records import fit_record
from finetune_scaling.report.sections import Section, report_sections
from finetune_scaling.report.summary import claim_line, parameter_lines, summary
from finetune_scaling.report.tables import finding_tables, predictions_table

TASK = "wmt14_en_de"


def tables_of(analysis: Analysis) -> dict[str, pd.DataFrame]:
    return finding_tables(analysis, fit_record(analysis))


def section(analysis: Analysis, name: str) -> Section:
    (found,) = (s for s in report_sections(analysis, tables_of(analysis), "command") if s.id == name)
    return found


def rows_of(section: Section, caption: str) -> list[dict[str, str]]:
    """Return the rows of the table whose caption begins so, as heading -> cell."""
    (table,) = (t for t in section.tables if t.caption.startswith(caption))
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


def numbers_of(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


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
    assert own["beta"]["two stage"].startswith(f"{fit.parameters['beta']:.3g} (")
    assert own["beta"]["one stage"].startswith(f"{fit.one_stage.parameters['beta']:.3g} (")
    assert own["beta"]["profile"] == "0.123 to 0.177"
    assert (own["E"]["well determined"], own["E"]["reason"]) == ("no", "a given reason")


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
    assert (row["critical size"], row["reason"]) == ("–", size.why)
    assert list(tables_of(analysis)["critical_sizes"]["why"]) == [size.why]
    rows = rows_of(section(analysis, "laws"), "Parameters of the multiplicative law")
    own = [row for row in rows if row["method"] == "full tuning"]
    assert {row["two stage"] for row in own} == {"–"}
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
    assert exponents_with_few_levels({"N": np.array([1.0, 2.0, 4.0]), "D": np.array([8.0, 8.0, 8.0])}) == {}
    reasons = exponents_with_few_levels({"N": np.array([1.0, 2.0, 2.0]), "D": np.array([1.0, 2.0, 3.0])})
    assert set(reasons) == {"alphaN", "E", "A"}
    fit = complete.all_factors[TASK, "full"]
    assert not fit.why_poorly_determined("alphaN")
    few = replace(complete, all_factors={(TASK, "full"): replace(fit, reasons={**fit.reasons, **reasons})})
    table = tables_of(few)["all_factors"].set_index("parameter")
    assert numbers_of(table.at["alphaN", "why"]) == [2, 3]  # values of N to fit, and how many are needed
    assert set(table.index[table["identified"]]) == {"beta", "alphaT"}


def test_the_law_of_a_metric_is_drawn_with_its_band(complete: Analysis) -> None:
    (finding,) = complete.metric_laws
    assert finding.used is not None
    (axes,) = draw_metrics(complete, TASK, ["bleu"]).axes
    curve = max(axes.lines, key=lambda line: len(line.get_xdata()))
    np.testing.assert_allclose(curve.get_ydata(), 60 * np.exp(-np.asarray(curve.get_xdata())), rtol=0.01)
    assert len(axes.collections) == 1


def test_every_exponent_has_its_estimate_and_determination(noisy: Analysis) -> None:
    key = (TASK, "full", noisy.main_law)
    fit = replace(noisy.fits[key], reasons={"alpha_model": "a given reason", "E": "another"})
    analysis = replace(noisy, fits={**noisy.fits, key: fit})
    (line,) = (text for text in parameter_lines(analysis, TASK) if text.startswith("full tuning"))
    assert f"beta = {fit.parameters['beta']:.3g} (" in line
    poor = [n for n in fit.parameters if not n.startswith("A_") and not fit.is_well_determined(n)]
    assert line.count("poorly determined") == len(poor) >= 2
    fits = analysis.fits_of_law(noisy.main_law)
    exponents = [(one, n) for one in fits for n in one.parameters if n.startswith("alpha") or n == "beta"]
    count = sum(one.is_well_determined(n) for one, n in exponents)
    (line,) = (text for text in summary(analysis) if "exponents" in text)
    assert numbers_of(line) == [count, len(exponents)]


def test_the_summary_counts_the_verdicts_of_model_selection(noisy: Analysis) -> None:
    one = LawScore("additive", 4, np.ones(4), None, None, 0.0, fits_well=True)
    similar, worse = np.array([0.9, 1.2, 1.0, 1.0]), np.full(4, 2.0)  # left-out errors
    none, some = (select_law([one, replace(one, law="multiplicative", left_out=e)]) for e in (similar, worse))
    both = replace(noisy, selections={(TASK, "full"): some, (TASK, "lora"): none})
    (line,) = (text for text in summary(both) if text.startswith("Model selection"))
    assert (some.preferred, none.preferred) == ("additive", None)
    assert numbers_of(line) == [1, 1, 2]
    assert line.index("additive") < line.index(INCONCLUSIVE)
    single = {key: fit for key, fit in noisy.fits.items() if key[2] == "additive"}
    assert not any(text.startswith("Model selection") for text in summary(replace(noisy, fits=single)))


def test_equal_losses_make_no_method_the_best(noisy: Analysis) -> None:
    table = replace(noisy.table, settings=noisy.table.settings.assign(loss=1.5))
    assert not any("lowest measured loss" in text for text in summary(replace(noisy, table=table, best_method_maps=[])))


def test_a_claim_counts_each_verdict_and_gives_the_share_of_replicates() -> None:
    verdicts = (SUPPORTED, INCONCLUSIVE, SUPPORTED)
    own = tuple(Comparison("here", verdict, "") for verdict in verdicts)
    line = claim_line(Claim("name", "A claim", own))
    assert numbers_of(line) == [2, 1, 3]
    assert line.index("A claim") < line.index(SUPPORTED) < line.index(INCONCLUSIVE)
    replicates = np.array([1.0, 1.0, 1.0, -1.0])
    estimated = Claim("name", "A claim", (replace(own[0], replicates=replicates), *own[1:]))
    assert estimated.probability == 0.75
    assert numbers_of(claim_line(estimated)) == [2, 1, 3, 1, 75]  # of one estimated comparison, in percent


def test_every_prediction_of_a_law_that_fits_has_its_interval(noisy: Analysis) -> None:
    table = predictions_table(noisy)
    own = table[(table["method"] == "full") & (table["factor"] == "model")]
    fit = noisy.fits[TASK, "full", "multiplicative"]
    drawn = fit.predict_loss_replicates("model", own["x"].to_numpy(float), own["finetune_examples"].to_numpy(float))
    for end, share in (("low", 0.05), ("high", 0.95)):
        np.testing.assert_allclose(own[f"predicted_multiplicative_{end}"], np.quantile(drawn, share, axis=0))
    poor = {**noisy.fits, (TASK, "full", "multiplicative"): replace(fit, log_rmse=0.2)}
    without = predictions_table(replace(noisy, fits=poor))
    assert without.loc[own.index, "predicted_multiplicative"].notna().all()
    assert without.loc[own.index, "predicted_multiplicative_low"].isna().all()


def test_the_summary_says_what_more_data_would_help_as_recommendations_do(noisy):
    line = more_data_line(noisy, TASK)
    examples = noisy.rows(TASK).query("~held_out")["finetune_examples"].max()
    laws = Fitted(table=noisy.table, tasks=(TASK,), fits=noisy.fits, skipped=noisy.skipped, settings=noisy.settings)
    advice = laws.recommend(examples, task=TASK, more_data=True)
    reductions = {row.multiple: row.reduction for row in advice.more_data if row.candidate == advice.chosen}
    assert f"twice the {format_count(examples)} examples would lower the loss of {advice.chosen}" in line
    assert f"by {reductions[2]:.3g} (" in line
    assert f"ten times as many by {reductions[10]:.3g} (" in line
    assert line in summary(noisy)


def test_no_law_predicts_no_help_of_more_data(noisy):
    one_size = noisy.table.settings.query("factor == 'model'").groupby("method").head(1)
    table = replace(noisy.table, settings=one_size)
    assert more_data_line(JointFits(table=table, settings=noisy.settings, fits={}, skipped=()), TASK) == ""
