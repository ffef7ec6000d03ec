"""Model selection: a clear winner, no winner, and no law at all."""

import numpy as np
import pytest

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.model_selection import LawScore, select_law, select_laws
from finetune_scaling.laws.fitting.one_stage import fit_law
from finetune_scaling.laws.forms.power import SINGLE, VANILLA
from finetune_scaling.laws.forms.rectified import RECTIFIED


def candidate(law: str, left_out: list[float], criterion: float = 0.0, **fields: object) -> LawScore:
    given = {"parameters": 4, "held_out": None, "held_out_replicates": None, "describes": True} | fields
    return LawScore(law=law, left_out=np.array(left_out), criterion=criterion, **given)  # type: ignore[arg-type]


def test_planted_points_prefer_the_planted_law(noisy: Analysis) -> None:
    for found in noisy.selections.values():
        assert found.preferred == "multiplicative"
        assert found.runner_up == "additive"
        assert "additive is the runner-up" in found.verdict


def test_no_law_is_preferred_where_levels_disagree() -> None:
    found = select_law([candidate("one", [1.0, 3.0, 1.0, 3.0]), candidate("two", [3.0, 1.1, 3.0, 1.0])])
    assert found.preferred is None
    assert found.verdict.startswith("No law is preferred")


def test_held_out_points_can_speak_against() -> None:
    one, two = np.random.default_rng(0).normal([[2.0], [1.0]], 0.1, (2, 200))
    best = candidate("one", [1.0, 1.1, 1.0], held_out=2.0, held_out_replicates=one)
    rival = candidate("two", [2.0, 2.1, 2.2], held_out=1.0, held_out_replicates=two)
    found = select_law([best, rival])
    assert found.best == "one"
    assert found.comparisons[0].held_out is not None
    assert found.comparisons[0].held_out[1] < 0
    assert found.preferred is None


def test_a_law_that_describes_nothing_is_never_preferred() -> None:
    bad = candidate("bad", [0.1, 0.1, 0.1], describes=False)
    good = candidate("good", [0.5, 0.5, 0.5])
    assert select_law([bad, good]).preferred == "good"
    assert select_law([bad]).verdict == "No law describes these points; bad comes nearest."
    worse = candidate("worse", [0.2, 0.2, 0.2], describes=False)
    assert select_law([worse, bad]).verdict == "No law describes these points; bad comes nearest, then worse."


def test_verdicts_tell_their_margin_and_no_difference_that_is_unknown() -> None:
    one, two = candidate("one", [1.0, 3.0, 1.0, 3.0], 5.0), candidate("two", [3.0, 1.1, 3.0, 1.0], 8.0)
    found = select_law([one, two])
    margin = found.comparisons[0].margin
    assert f"90 % margin of the difference {margin:.2g}; AICc difference +3.0" in found.verdict
    few = candidate("few", [3.0, 1.1, 3.0, 1.0], np.inf)  # as many parameters as points
    assert "AICc difference unknown, too few points" in select_law([one, few]).verdict
    assert "margin unknown" in select_law([candidate("one", [1.0]), candidate("two", [2.0])]).verdict


@pytest.mark.parametrize(("truth", "preferred"), [(RECTIFIED, "rectified"), (SINGLE, None)])
def test_curves_with_a_flat_start_prefer_the_rectified_law(truth: object, preferred: str | None) -> None:
    d = np.geomspace(200, 1.6e6, 14)
    known = 300.0 if truth is RECTIFIED else 0.0
    loss = (60.0 / (known + d**0.6) + 0.8) if known else 8.0 / d**0.3 + 0.8
    loss = loss * np.exp(np.random.default_rng(1).normal(0, 0.002, 14))
    found = select_laws([fit_law(law, {"D": d}, loss) for law in (RECTIFIED, SINGLE, VANILLA)])
    assert found.preferred == preferred
