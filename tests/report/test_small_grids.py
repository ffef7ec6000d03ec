"""Whatever the grid, there is a report: what was measured, the laws that can be fitted, and what other laws lack."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from finetune_scaling.analysis.analysis import Analysis, analyse
from finetune_scaling.api import fit
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.report.plots import save
from finetune_scaling.report.sections import _measured, _measured_plots
from finetune_scaling.report.study_report import fit_study, print_summary
from finetune_scaling.report.summary import point_warnings, summary
from finetune_scaling.report.tables import predictions_table

FEW = Resampling(resamples=40)


def grid(sizes: tuple[float, ...], data: tuple[int, ...], *methods: str, **columns: object) -> pd.DataFrame:
    """Return one row per method, size and dataset size, with losses of a law."""
    rows = [
        {"task": "t", "method": method, "factor": "model", "x": x, "finetune_examples": d, "seed": 0, "held_out": 0}
        | {"loss": 40 / x**0.2 / d**0.1 + 0.8 + 0.02 * (method == "full"), "bleu": 30.0 + 1e-3 * d, **columns}
        for method in methods or ("lora",)
        for x in sizes
        for d in data
    ]
    return pd.DataFrame(rows)


def analysed(rows: pd.DataFrame) -> Analysis:
    return analyse(read_points(rows), FitSettings(), resampling=FEW, progress=lambda _: None)


SMALL = {
    "one row": (grid((1e6,), (100,)), "needs 2 model sizes to fit; there is 1"),
    "one data size": (grid((1e6, 1e7), (100,)), "needs 2 dataset sizes to fit; there is 1"),
    "held out": (grid((1e6,), (100, 300), held_out=1), "there are 0 and 1 held out"),
    "budget": (grid((1e6,), (100, 300), stopped_by="budget"), "2 runs stopped at the budget"),
    "equal losses": (grid((1e6, 1e7), (100, 300)).assign(loss=1.0), "needs different losses to fit"),
    "learning rates": (grid((1e6,), (100, 300), factor="learning_rate"), "needs settings that vary the model size"),
}


@pytest.mark.parametrize("name", SMALL)
def test_grids_without_any_law_are_analysed_with_reasons(name: str) -> None:
    rows, reason = SMALL[name]
    found = analysed(rows)
    assert (found.fits, found.laws, found.critical_sizes, found.selections) == ({}, (), [], {})
    assert any(reason in line for line in point_warnings(found))
    assert {one.law for one in found.skipped} >= {"multiplicative", "additive"}
    assert all(one.reason.startswith("needs ") for one in found.skipped)  # sentences continue "the law" with it
    varied = rows["x"].nunique() > 1 and rows["finetune_examples"].nunique() > 1
    assert [claim.name for claim in found.claims] == ["pet_prefers_model_and_pretraining"] * varied
    assert any(line.startswith("No law over model size") for line in summary(found))


def test_scores_of_some_settings_are_drawn_where_they_are(tmp_path: Path) -> None:
    rows = grid((1e6,), (100, 300))
    pretrain = grid((1e9,), (100, 300)).assign(factor="pretrain")
    found = analysed(pd.concat([rows.assign(bleu=None), pretrain]))
    (plot,) = (plot for plot in _measured_plots(found) if plot.name.endswith("scores-by-data"))
    save(plot, tmp_path)
    assert len(json.loads((tmp_path / f"{plot.name}.json").read_text())["points"]["y"]) == 2


def test_a_study_of_one_base_ends_in_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = grid((1e6,), (100, 300, 1000, 3000), "full", "lora", flops=1e15, **{"zero_shot.untuned.bleu": 3.25})
    found = fit_study(rows, tmp_path, resampling=FEW, progress=lambda _: None)
    assert [(curve.method, curve.points) for curve in found.curve_fits] == [("full", 4), ("lora", 4)]
    assert all(curve.parameters["beta"] == pytest.approx(0.1, rel=1e-3) for curve in found.curve_fits)
    record = json.loads((tmp_path / "fit.json").read_text())
    assert (record["fits"], record["claims"]) == ([], [])
    assert set(record["files"]) == {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    plots = {path.stem for path in (tmp_path / "plots").glob("*.svg")}
    assert plots == {f"study-{name}" for name in ("methods", "metrics", "single-model", "scores-by-data")}
    points = json.loads((tmp_path / "plots" / "study-methods.json").read_text())["points"]
    assert all("; law " in text for text in points["text"])  # the law over dataset size, as no other was fitted
    page = (tmp_path / "report.html").read_text()
    for piece in ("needs 2 model sizes", "zero shot.untuned.bleu", "3.25", "1e+15", "L = A / D^beta + E"):
        assert piece in page, piece
    assert 'id="claims"' not in page
    with (tmp_path / "tables" / "points.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
    print_summary(found)
    printed = capsys.readouterr().out
    assert "lowest measured loss by LoRA in 4" in printed
    assert "multiplicative and additive law: needs 2 model sizes" in printed


def test_fitted_laws_may_be_none() -> None:
    fitted = fit(read_points(grid((1e6,), (100, 300))), resampling=FEW)
    assert fitted.parameters.empty
    assert list(fitted.parameters)[:4] == ["task", "method", "law", "parameter"]
    assert len(fitted.figure().axes) == 1


def test_a_sweep_of_learning_rates_is_measured_at_no_model_size() -> None:
    rows = grid((1e6, 2e6), (100, 300), "full", "lora")
    rows = rows.assign(factor="learning_rate", x=rows["x"] / 1e9)
    assert not any("no setting was measured" in line for line in summary(analysed(rows)))
    advice = fit(read_points(rows), resampling=FEW).recommend(100)
    assert [(row["method"], row["x"]) for row in advice.measured] == [("lora", 2e-3), ("full", 2e-3)]
    assert "LoRA, learning rate 0.002, 100 examples" in str(advice)


@pytest.mark.parametrize("tokenizers", [("a", "b"), ("a", "a")])
def test_losses_per_byte_are_shown_where_tokenizers_differ(tokenizers: tuple[str, str]) -> None:
    tasks = [grid((1e6,), (100, 300)).assign(task=t, tokenizer=name) for t, name in zip("tu", tokenizers, strict=True)]
    found = analysed(pd.concat([rows.assign(loss_per_byte=rows["loss"] / 4) for rows in tasks]))
    section = _measured(found, {"points": predictions_table(found)})
    differ = len(set(tokenizers)) > 1
    assert ("loss per byte" in section.tables[0].header, bool(section.items)) == (differ, differ)
    if differ:
        loss, per_byte = (section.tables[0].header.index(name) for name in ("loss", "loss per byte"))
        row = section.tables[0].rows[0]
        assert float(row[loss]) / float(row[per_byte]) == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("sizes", [(100, 300, 1000), (100, 300, 1000, 3000)], ids=["without scatter", "with scatter"])
def test_the_single_law_predicts_where_no_joint_law_can_be_fitted(sizes: tuple[int, ...]) -> None:
    rows = grid((1e6,), sizes, "full", "lora")
    fitted = fit(read_points(rows), resampling=FEW)
    found = fitted.parameters
    assert set(found["law"]) == {"single"}
    assert found.set_index(["method", "parameter"])["value"]["lora", "beta"] == pytest.approx(0.1, rel=1e-2)
    assert set(found["x"]) == {1e6}
    for law in (None, "single"):
        predicted = fitted.predict("lora", 1e6, 2000, law=law)
        assert predicted.loss == pytest.approx(40 / 1e6**0.2 / 2000**0.1 + 0.8, rel=1e-3)
        assert (predicted.interval.low is None) == (len(sizes) == 3)  # as many points as parameters
    estimates = fitted.recommend(2000).preferred.decision.estimates
    assert {e.candidate.method: e.loss for e in estimates}["lora"] == pytest.approx(predicted.loss)
    with pytest.raises(DataError, match=r"only at x = 1e\+06"):
        fitted.predict("lora", 2e6, 2000)
    with pytest.raises(ConfigError, match="law = 'singel' is unknown"):
        fitted.predict("lora", 1e6, 2000, law="singel")
