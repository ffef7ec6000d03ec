"""What laws need of a grid, compared with the rank of the law's Jacobian on the settings to fit."""

import itertools

import numpy as np
import pandas as pd
import pytest

from finetune_scaling.laws.fitting.requirements import few_levels, joint_grid, unfittable, why_no_curve
from finetune_scaling.laws.forms.declared import Law, ParameterLayout, factor_parameters, predict
from finetune_scaling.laws.forms.library import ADDITIVE, MULTIPLICATIVE
from finetune_scaling.laws.points.columns import FACTORS

X = {"model": (1e6, 3e6, 2e7), "pretrain": (1e9, 7e9, 3e10), "pet": (4.0, 16.0, 50.0)}
D = (1e3, 4e3, 3e4, 2e5)


def grid(levels: dict[str, int], sizes: int, held_out: int = 0) -> pd.DataFrame:
    """Return settings with the first levels of each factor, and the last `held_out` dataset sizes held out."""
    rows = [
        {"factor": factor, "x": x, "finetune_examples": d, "held_out": d in D[sizes - held_out : sizes]}
        for factor, count in levels.items()
        for x, d in itertools.product(X[factor][:count], D[:sizes])
    ]
    return pd.DataFrame(rows).assign(task="t", method="lora")


def is_determined(law: Law, rows: pd.DataFrame, first: tuple[str, ...]) -> bool:
    """Return whether the Jacobian of the law over the parameters of stage 1 has full rank on the settings to fit."""
    layout = ParameterLayout(law, FACTORS)
    rows = rows[~rows["held_out"] & rows["factor"].isin(first)]
    generic = {"E": 0.0, "beta": 0.11, "A": 3.0, "alpha": 0.17, "B": 2.0}
    vector = np.array([generic[p.name] + 0.02 * FACTORS.index(g or "model") for p, g in layout.slots])

    def losses(entries: np.ndarray) -> np.ndarray:
        natural = layout.to_natural(entries)
        return np.array(
            [
                predict(law, factor_parameters(natural, r.factor), {"X": r.x, "D": r.finetune_examples})
                for r in rows.itertuples()
            ]
        )

    free = np.flatnonzero(layout.entries_of("", *first))
    step = 1e-4 * np.eye(len(vector))[free]
    jacobian = np.array([(losses(vector + one) - losses(vector - one)) / 2e-4 for one in step])
    singular = np.linalg.svd(jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True), compute_uv=False)
    return len(singular) == len(free) and singular[-1] > 1e-6 and rows.shape[0] >= len(free)


@pytest.mark.parametrize("law", [MULTIPLICATIVE, ADDITIVE], ids=lambda law: law.name)
def test_a_law_that_lacks_nothing_is_determined_by_its_settings(law: Law) -> None:
    for counts, sizes in itertools.product(itertools.product((0, 1, 2, 3), repeat=2), range(1, len(D) + 1)):
        levels = {f: n for f, n in zip(("model", "pretrain"), counts, strict=True) if n}
        if not levels:
            continue
        rows = grid(levels, sizes)
        found = joint_grid(law, rows)
        assert found.factors == tuple(f for f, n in levels.items() if n > 1)
        if found.factors:
            # The additive law has one flat direction where no factor has three values: E against the constants A.
            flat = law is ADDITIVE and max(levels.values()) < 3
            assert (not found.lacking and not flat) == is_determined(law, rows, found.first), (levels, sizes)


def test_held_out_settings_count_for_nothing_but_are_named() -> None:
    rows = grid({"model": 2}, 3, held_out=1)
    assert not joint_grid(MULTIPLICATIVE, rows).lacking
    reasons = joint_grid(ADDITIVE, rows).lacking
    assert any("needs 5 settings" in one and "there are 4 and 2 held out" in one for one in reasons)
    assert any("needs 3 dataset sizes to fit; there are 2 and 1 held out" in one for one in reasons)
    assert "3 are needed to leave one out" in few_levels(MULTIPLICATIVE, rows)["beta"]


def test_one_model_size_leaves_the_single_law() -> None:
    rows = grid({"model": 1}, 4)
    assert {(one.law, one.reason) for one in unfittable(rows, (MULTIPLICATIVE, ADDITIVE))} == {
        (law.name, "needs 2 model sizes to fit; there is 1") for law in (MULTIPLICATIVE, ADDITIVE)
    }
    assert not why_no_curve(rows)
    assert "there are 2 and 1 held out" in why_no_curve(grid({"model": 1}, 3, held_out=1))


def test_a_grid_that_suffices_lacks_nothing() -> None:
    assert not unfittable(grid({"model": 3, "pretrain": 3, "pet": 3}, 4), (MULTIPLICATIVE, ADDITIVE))
    assert not few_levels(ADDITIVE, grid({"model": 3, "pretrain": 3, "pet": 3}, 4))


def test_a_sweep_of_learning_rates_determines_no_law() -> None:
    rows = grid({"model": 3}, 4).assign(factor="learning_rate")
    assert {one.law for one in unfittable(rows, (MULTIPLICATIVE,))} == {"multiplicative", "single"}
