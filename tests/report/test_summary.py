"""The summary's sentences have the numbers and verdicts of the analysis."""

from dataclasses import replace

import numpy as np
import pytest

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.claims import INCONCLUSIVE, SUPPORTED, Claim, Comparison
from finetune_scaling.analysis.model_selection import LawScore, select_law
from finetune_scaling.report.summary import claim_line, parameter_lines, summary
from finetune_scaling.report.tables import predictions_table

TASK = "wmt14_en_de"
SIMILAR_AND_WORSE = np.array([0.9, 1.2, 1.0, 1.0]), np.full(4, 2.0)  # left-out errors, against ones


def test_every_exponent_has_estimate_interval_and_determination(underdetermined: Analysis) -> None:
    fit = underdetermined.fits_by_method(TASK, underdetermined.main_law)["full"]
    (line,) = (text for text in parameter_lines(underdetermined, TASK) if text.startswith("full tuning"))
    assert f"beta = {fit.parameters['beta']:.3g} (" in line
    assert line.count("poorly determined") == sum(
        not fit.is_well_determined(n) for n in fit.parameters if not n.startswith("A_")
    )


def test_the_summary_counts_well_determined_exponents(underdetermined: Analysis) -> None:
    fits = underdetermined.fits_of_law(underdetermined.main_law)
    names = [(fit, n) for fit in fits for n in fit.parameters if n.startswith("alpha") or n == "beta"]
    count = sum(fit.is_well_determined(n) for fit, n in names)
    assert any(
        text.startswith(f"{count} of {len(names)} exponents are well determined") for text in summary(underdetermined)
    )


def test_the_summary_reports_the_verdict_of_model_selection(underdetermined: Analysis) -> None:
    one = LawScore("additive", 4, np.ones(4), None, None, 0.0, fits_well=True)
    none, some = (
        select_law([one, replace(one, law="multiplicative", left_out=left_out)]) for left_out in SIMILAR_AND_WORSE
    )
    both = replace(underdetermined, selections={(TASK, "full"): some, (TASK, "lora"): none})
    (line,) = (text for text in summary(both) if text.startswith("Model selection"))
    assert "the additive law in 1, inconclusive in 1 of 2 cases" in line
    single = {key: fit for key, fit in underdetermined.fits.items() if key[2] == "additive"}
    assert not any(text.startswith("Model selection") for text in summary(replace(underdetermined, fits=single)))


def test_equal_losses_make_no_method_the_best(underdetermined: Analysis) -> None:
    settings = underdetermined.table.settings
    tied = replace(
        underdetermined, table=replace(underdetermined.table, settings=settings.assign(loss=1.5)), best_method_maps=[]
    )
    assert any("two methods of different loss" in text for text in summary(tied))


@pytest.mark.parametrize(
    ("compared", "expected"),
    [
        ((True, False), "inconclusive in 2 of 2 comparisons (true in 100 % of replicates)."),
        ((True, True, False), "inconclusive in 3 of 3 comparisons (2 true in 100 % of replicates)."),
        ((True, True), "inconclusive in 2 of 2 comparisons (all true in 100 % of replicates)."),
        ((True,), "inconclusive in 1 of 1 comparison (true in 100 % of replicates)."),
        ((False, False), "inconclusive in 2 of 2 comparisons."),
    ],
)
def test_a_claim_has_its_verdicts_and_the_share_of_replicates(compared: tuple[bool, ...], expected: str) -> None:
    own = [Comparison("here", INCONCLUSIVE, "a reason", replicates=np.ones(10) if one else None) for one in compared]
    assert claim_line(Claim("name", "A claim", tuple(own))) == f"A claim: {expected}"


def test_a_claim_counts_each_verdict() -> None:
    own = tuple(Comparison("here", verdict, "") for verdict in (SUPPORTED, INCONCLUSIVE, SUPPORTED))
    assert claim_line(Claim("name", "A claim", own)) == "A claim: supported in 2, inconclusive in 1 of 3 comparisons."


def test_every_prediction_of_a_law_that_fits_has_its_interval(underdetermined: Analysis) -> None:
    table = predictions_table(underdetermined)
    own = table[table["method"] == "full"]
    fit = underdetermined.fits[TASK, "full", "multiplicative"]
    drawn = fit.predict_loss_replicates("model", own["x"].to_numpy(float), own["finetune_examples"].to_numpy(float))
    for end, share in (("low", 0.05), ("high", 0.95)):
        np.testing.assert_allclose(own[f"predicted_multiplicative_{end}"], np.quantile(drawn, share, axis=0))
    poor = {**underdetermined.fits, (TASK, "full", "multiplicative"): replace(fit, log_rmse=0.2)}
    without = predictions_table(replace(underdetermined, fits=poor))
    assert without.loc[own.index, "predicted_multiplicative"].notna().all()
    assert without.loc[own.index, "predicted_multiplicative_low"].isna().all()
