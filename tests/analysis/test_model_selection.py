"""Model selection: a clear winner, no winner, and no law at all."""

import re

import numpy as np

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.model_selection import LawScore, select_law


def candidate(law: str, left_out: list[float], criterion: float = 0.0, **fields: object) -> LawScore:
    given = {"parameters": 4, "held_out": None, "held_out_replicates": None, "fits_well": True} | fields
    return LawScore(law=law, left_out=np.array(left_out), criterion=criterion, **given)  # type: ignore[arg-type]


def test_the_law_that_generated_the_points_is_preferred(noisy: Analysis) -> None:
    for found in noisy.selections.values():
        assert found.preferred == "multiplicative"
        assert found.runner_up == "additive"


def test_no_law_is_preferred_where_levels_disagree() -> None:
    found = select_law([candidate("one", [1.0, 3.0, 1.0, 3.0]), candidate("two", [3.0, 1.1, 3.0, 1.0])])
    assert found.preferred is None


def test_held_out_points_can_contradict() -> None:
    one, two = np.random.default_rng(0).normal([[2.0], [1.0]], 0.1, (2, 200))
    best = candidate("one", [1.0, 1.1, 1.0], held_out=2.0, held_out_replicates=one)
    other = candidate("two", [2.0, 2.1, 2.2], held_out=1.0, held_out_replicates=two)
    found = select_law([best, other])
    assert found.best == "one"
    assert found.comparisons[0].held_out is not None
    assert found.comparisons[0].held_out[1] < 0
    assert found.preferred is None


def test_a_law_that_does_not_fit_the_points_is_never_preferred() -> None:
    bad = candidate("bad", [0.1, 0.1, 0.1], fits_well=False)
    good = candidate("good", [0.5, 0.5, 0.5])
    assert select_law([bad, good]).preferred == "good"
    worse = candidate("worse", [0.2, 0.2, 0.2], fits_well=False)
    assert select_law([worse, bad]).preferred is None
    assert (select_law([worse, bad]).best, select_law([worse, bad]).runner_up) == ("bad", "worse")


def test_verdicts_give_the_margin_and_say_what_is_unknown() -> None:
    one, two = candidate("one", [1.0, 3.0, 1.0, 3.0], 5.0), candidate("two", [3.0, 1.1, 3.0, 1.0], 8.0)
    found = select_law([one, two])
    (comparison,) = found.comparisons
    assert comparison.criterion == 3
    assert {f"{comparison.margin:.2g}", "90", "+3.0"} <= set(re.findall(r"[+-]?\d[\d.]*", found.verdict))
    few = select_law([one, candidate("few", [3.0, 1.1, 3.0, 1.0], np.inf)])  # as many parameters as points
    single_level = select_law([candidate("one", [1.0]), candidate("two", [2.0])])
    assert not np.isfinite(single_level.comparisons[0].margin)
    for selection in (few, single_level):
        assert selection.verdict.count("unknown") == 1
        assert not re.search(r"\b(inf|nan)\b", selection.verdict)
