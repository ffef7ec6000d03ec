"""The report's sentences: every border with its interval, and nothing that another sentence contradicts."""

import re
from dataclasses import replace

import numpy as np
import pytest

import synthetic_points
from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.claims import INCONCLUSIVE, Claim, Comparison
from finetune_scaling.analysis.critical_sizes import CriticalSize, Root
from finetune_scaling.analysis.model_selection import LawScore, select_law
from finetune_scaling.report.tables import predictions_table
from finetune_scaling.report.words import claim_line, overall, summary

TASK = "wmt14_en_de"
ALIKE_AND_WORSE = np.array([0.9, 1.2, 1.0, 1.0]), np.full(4, 2.0)  # errors on what is left out, beside ones


def lines(analysis: Analysis) -> list[str]:
    return dict(summary(analysis))[TASK]


def line(analysis: Analysis, start: str) -> str:
    (found,) = (text for text in lines(analysis) if text.startswith(start))
    return found


def crossing(x: float, place: float) -> CriticalSize:
    root = Root(place, 123.0, None, 0.9, None, None, "lora", "full", ())
    return CriticalSize(TASK, "multiplicative", "model", x, ("full", "lora"), (root,), None, 0.1, None)


def test_borders_between_methods_have_the_intervals_of_their_critical_sizes(few: Analysis) -> None:
    fits = few.of(TASK, "multiplicative")
    full, lora = fits["full"], fits["lora"]
    x, examples = synthetic_points.SIZES[0], few.rows(TASK, factor="model")["finetune_examples"]
    middle = float(np.sqrt(examples.min() * examples.max()))
    falls = {"E": 0.5, "beta": 0.1, "A_model": 10.0, "alpha_model": 0.1}
    steeper = falls | {"beta": 0.2, "A_model": 10.0 * middle**0.1}  # the two meet in the middle
    crossed = {
        (TASK, "full", "multiplicative"): replace(full, vector=vector(full, steeper)),
        (TASK, "lora", "multiplicative"): replace(lora, vector=vector(lora, falls)),
    }
    told = line(replace(few, fits=few.fits | crossed, critical=[crossing(x, middle)]), "The fitted laws prefer")
    assert re.search(r"at 1\.22B LoRA, from [\d.]+[KM] \(123 to open\) on full tuning", told), told
    untold = line(replace(few, fits=few.fits | crossed, critical=[]), "The fitted laws prefer")
    assert "(interval unknown) on full tuning" in untold


def vector(fit, values: dict[str, float]) -> np.ndarray:  # type: ignore[no-untyped-def]
    return fit.layout.to_vector({**fit.layout.to_natural(fit.vector), **values})


def test_held_out_errors_are_compared_on_the_same_methods(few: Analysis) -> None:
    fits = {}
    for (task, method, law), fit in few.fits.items():
        error = {"full": 0.01, "lora": 0.03}[method]
        fits[task, method, law] = replace(
            fit, errors={**fit.errors, "held_out": {"model": error}}, held_out_replicates={"model": np.full(9, error)}
        )
    both = line(replace(few, fits=fits), "Held-out error")
    assert "model size multiplicative 0.01 to 0.03, additive 0.01 to 0.03." in both
    del fits[TASK, "lora", "additive"]
    assert "model size multiplicative 0.01, additive 0.01." in line(replace(few, fits=fits), "Held-out error")


def test_what_is_held_out_and_not_scored_is_not_called_absent(few: Analysis) -> None:
    settings = few.table.settings
    assert "No held-out points, so extrapolation is not scored." in lines(
        replace(few, table=replace(few.table, settings=settings.assign(held_out=False)))
    )
    held_out = replace(few, table=replace(few.table, settings=settings.assign(held_out=settings["method"] == "full")))
    told = {key: replace(fit, held_out_replicates={}) for key, fit in few.fits.items()}
    assert line(replace(held_out, fits=told), "No method with held-out points was fitted by every law")


def test_the_summary_says_which_law_the_points_prefer(few: Analysis) -> None:
    one = LawScore("additive", 4, np.ones(4), None, None, 0.0, describes=True)
    none, some = (
        select_law([one, replace(one, law="multiplicative", left_out=left_out)]) for left_out in ALIKE_AND_WORSE
    )
    start, end = (
        "Task by task and method by method the points prefer ",
        " Sentences and maps are by the multiplicative law.",
    )
    both = {(TASK, "full"): some, (TASK, "lora"): none}
    told = overall(replace(few, selections=both))
    assert f"{start}the additive law for {TASK} with full tuning; no law in 1 of the 2 cases.{end}" in told
    assert f"{start}no law.{end}" in overall(replace(few, selections={(TASK, "lora"): none}))
    single = {key: fit for key, fit in few.fits.items() if key[2] == "additive"}
    assert not any(text.startswith(start) for text in overall(replace(few, fits=single)))


def test_equal_losses_make_no_method_the_best(few: Analysis) -> None:
    settings = few.table.settings
    tied = replace(few, table=replace(few.table, settings=settings.assign(loss=1.5)), regions=[])
    assert f"{TASK}: no cell was measured with two methods of different loss, so none is best." in overall(tied)


@pytest.mark.parametrize(
    ("compared", "said"),
    [
        ((True, False), "; the only comparable one does in 100 % of resamples."),
        ((True, True, False), "; the 2 comparable ones together in 100 % of resamples."),
        ((True, True), "; all together in 100 % of resamples."),
        ((True,), "; it does in 100 % of resamples."),
        ((False, False), "in all 2 cells."),
    ],
)
def test_the_share_of_a_claim_counts_the_cells_that_were_compared(compared: tuple[bool, ...], said: str) -> None:
    cells = [Comparison("here", INCONCLUSIVE, "a reason", replicates=np.ones(10) if one else None) for one in compared]
    assert claim_line(Claim("name", "A claim.", tuple(cells))).endswith(said)


def test_every_prediction_of_a_law_that_describes_has_its_interval(few: Analysis) -> None:
    table = predictions_table(few)
    own = table[table["method"] == "full"]
    fit = few.fits[TASK, "full", "multiplicative"]
    drawn = fit.predict_replicates("model", own["x"].to_numpy(float), own["finetune_examples"].to_numpy(float))
    for end, share in (("low", 0.05), ("high", 0.95)):
        np.testing.assert_allclose(own[f"predicted_multiplicative_{end}"], np.quantile(drawn, share, axis=0))
    strange = {**few.fits, (TASK, "full", "multiplicative"): replace(fit, misfit=0.2)}
    untold = predictions_table(replace(few, fits=strange))
    assert untold.loc[own.index, "predicted_multiplicative"].notna().all()
    assert untold.loc[own.index, "predicted_multiplicative_low"].isna().all()
