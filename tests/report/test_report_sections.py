"""What the report shows of single parts of an analysis: certainty, untold crossings, bands of every kind of law."""

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
from finetune_scaling.laws.uncertainty.intervals import Interval
from finetune_scaling.report.all_factors_section import (
    all_factors_plots,
    all_factors_section,
    all_factors_table,
)
from finetune_scaling.report.certainty_section import certainty_section
from finetune_scaling.report.critical_section import critical_section, critical_table
from finetune_scaling.report.law_figure import draw_law, draw_methods
from finetune_scaling.report.metric_figure import draw_metrics
from finetune_scaling.report.plots import save

TASK = "wmt14_en_de"


def test_certainty_tells_both_stages_profile_and_reason(noisy: Analysis) -> None:
    fits = dict(noisy.fits)
    key = (TASK, "full", "multiplicative")
    closes = Profile(np.zeros(2), np.zeros(2), Interval(0.123, 0.177))
    fits[key] = replace(fits[key], profiles={"beta": closes}, reasons={"E": "a reason of its own"})
    text = certainty_section(replace(noisy, fits=fits))
    fit = fits[key]
    for value in (fit.parameters["beta"], fit.one_stage_parameters["beta"]):
        assert f"{value:.3g} (" in text
    assert "0.123 to 0.177" in text
    assert "no: a reason of its own" in text
    assert text.count("<details") == len(noisy.laws)


def test_a_law_that_misses_its_points_tells_no_crossing_and_no_parameter(noisy: Analysis) -> None:
    fits = noisy.of(TASK, "multiplicative")
    strange = {**fits, "full": replace(fits["full"], misfit=0.2)}
    measured = dict.fromkeys(fits, (1000.0, 1000000.0))
    (size,) = critical_sizes(strange, ("full", "lora"), "model", [synthetic_points.SIZES[0]], measured)
    assert (size.roots, size.better_everywhere, size.closed_form) == ((), None, None)
    assert size.why == "the law does not describe the points of full (it misses them by 20%)"
    (told,) = critical_sizes(fits, ("full", "lora"), "model", [synthetic_points.SIZES[0]], measured)
    assert told.why == ""
    assert told.roots or told.better_everywhere
    analysis = replace(noisy, critical=[size], fits={**noisy.fits, (TASK, "full", "multiplicative"): strange["full"]})
    assert "cannot be told: the law does not describe the points of full" in critical_section(analysis)
    assert list(critical_table(analysis)["why"]) == [size.why]
    assert "no: the law does not describe the points of full" in certainty_section(analysis)


def test_a_law_that_misses_its_points_is_not_drawn_and_predicts_nothing(noisy: Analysis) -> None:
    key = (TASK, "full", "multiplicative")
    strange = replace(noisy, fits={**noisy.fits, key: replace(noisy.fits[key], misfit=0.2)})
    for draw in (lambda a: draw_methods(a, TASK), lambda a: draw_law(a, TASK, "multiplicative", "model")):
        texts = {}
        for name, analysis in (("told", noisy), ("untold", strange)):
            picture = draw(analysis)
            picture.canvas.draw()
            texts[name] = [t for t in picture.record()["points"]["text"] if t.startswith("full tuning")]
        assert texts["told"]
        assert all("; law " in text for text in texts["told"])
        assert not any("; law " in text for text in texts["untold"])
    laws = Fitted(noisy.table, (TASK,), strange.fits, (), noisy.settings)
    assert laws.predict("lora", 2e9, 1e5).loss > 0
    with pytest.raises(
        DataError, match=r"full: no loss is told by the multiplicative law, since .* misses them by 20%"
    ):
        laws.predict("full", 2e9, 1e5)
    with pytest.raises(ConfigError, match="examples=0 must be above zero"):
        laws.predict("lora", 2e9, 0)


def test_curves_of_single_laws_have_bands_where_there_is_scatter_to_see(noisy: Analysis) -> None:
    single = next(s for s in noisy.singles if s.method == "full" and s.shows_scatter)
    examples = np.array(synthetic_points.EXAMPLES["full"], float)
    draws = single.predict_replicates(examples)
    assert draws.shape == (len(single.replicates), len(examples))
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    assert ((low < single.predict(examples)) & (single.predict(examples) < high)).all()
    picture = draw_law(noisy, TASK, "single", "model")
    picture.canvas.draw()
    fitted = [text for text in picture.record()["points"]["text"] if "held out" not in text]
    assert fitted
    assert all("; law " in text and " to " in text for text in fitted)
    three = replace(single, points=3)
    assert not three.shows_scatter
    assert three.interval("beta") == Interval(None, None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Points that carry every run's whole condition, by a law over all factors; a score that follows the loss."""
    rows = []
    for row in synthetic_points.rows(noise=0.0, methods=("full",)):
        size, tokens = (row["x"], 8e10) if row["factor"] == "model" else (1.5e9, row["x"])
        examples = row["finetune_examples"]
        if size not in (*synthetic_points.SIZES[:4], 1.5e9) or examples not in synthetic_points.EXAMPLES["full"][::2]:
            continue
        loss = 0.7 + 3e4 * size**-0.3 * tokens**-0.12 * examples**-0.1
        rows.append({**row, "loss": loss, "parameters": size, "pretrain_tokens": tokens, "bleu": 60 * np.exp(-loss)})
    path = synthetic_points.write(tmp_path_factory.mktemp("whole") / "points.csv", rows)
    return analyse(read_points(path), FitSettings(), progress=lambda _: None)


def test_the_law_over_all_factors_has_its_picture(whole: Analysis, tmp_path: Path) -> None:
    (plot,) = all_factors_plots(whole, TASK, "study")
    save(plot, tmp_path)
    record = json.loads((tmp_path / "study-all-factors.json").read_text())["points"]
    np.testing.assert_allclose(record["x"], record["y"], rtol=2e-3)  # predicted as measured
    held_out = [text for text in record["text"] if "held out" in text]
    assert held_out
    assert len(held_out) < len(record["text"])


def test_two_values_of_a_factor_leave_its_exponent_unidentified_there_too(whole: Analysis) -> None:
    assert few_levels({"N": np.array([1.0, 2.0, 4.0]), "D": np.array([8.0, 8.0, 8.0])}) == {}
    reasons = few_levels({"N": np.array([1.0, 2.0, 2.0]), "D": np.array([1.0, 2.0, 3.0])})
    assert set(reasons) == {"alphaN", "E", "A"}
    fit = whole.all_factors[TASK, "full"]
    assert not fit.why_poorly_determined("alphaN")
    told = replace(whole, all_factors={(TASK, "full"): replace(fit, reasons=reasons)})
    assert "unidentified" in all_factors_section(told)
    table = all_factors_table(told).set_index("parameter")
    assert table.at["alphaN", "why"] == "2 values of N to fit; 3 are needed to leave one out"
    assert set(table.index[table["identified"]]) == {"beta", "alphaT"}


def test_the_law_of_a_metric_is_drawn_with_its_band(whole: Analysis) -> None:
    (finding,) = whole.metric_laws
    assert finding.used is not None
    (axes,) = draw_metrics(whole, TASK, ["bleu"]).axes
    curve = max(axes.lines, key=lambda line: len(line.get_xdata()))
    np.testing.assert_allclose(curve.get_ydata(), 60 * np.exp(-np.asarray(curve.get_xdata())), rtol=0.01)
    assert len(axes.collections) == 1
