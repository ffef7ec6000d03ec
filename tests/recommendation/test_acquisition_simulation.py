"""In simulated studies the advised runs lead to the right choice at less cost than the order of the grid."""

import numpy as np
import pytest

import acquisition_simulation
from acquisition_simulation import (
    BUDGET_SHARE,
    GAPS,
    POLICIES,
    Step,
    cost_until_right,
    run_policy,
    simulate_study,
)
from finetune_scaling.recommendation.advice import NEGLIGIBLE


@pytest.mark.parametrize("seed", range(5))
def test_the_gap_between_methods_is_as_documented(seed: int) -> None:
    study = simulate_study(seed)
    best = {m: min(study.truth(c) for c in study.candidates if c.method == m) for m in ("full", "lora")}
    assert GAPS[0] <= abs(best["full"] - best["lora"]) <= GAPS[1]
    assert min(map(study.regret, study.candidates)) == 0
    costliest = max(run.flops for run in study.runs)
    assert {c.size for c in study.candidates if c.method == "full"} == {
        run.x for run in study.runs if run.method == "full" and run.x * 6.4e5 * 600 <= BUDGET_SHARE * costliest
    }


def test_cost_until_right_counts_from_the_last_mistake() -> None:
    def cost(*regrets: float) -> float:
        return cost_until_right([Step(float(i), regret) for i, regret in enumerate(regrets)], 99.0, 0.1)

    assert (cost(0, 0, 0), cost(1, 0, 0), cost(0, 1, 0), cost(0, 0, 1)) == (0, 1, 2, 99)


@pytest.mark.slow
def test_advice_is_cheaper_than_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquisition_simulation, "RESAMPLES", 50)
    costs: dict[str, list[float]] = {"advice": [], "grid": []}
    for seed in (5, 6):
        study = simulate_study(seed)
        allowed = 0.1 * sum(run.flops for run in study.runs)
        for name, own in costs.items():
            steps = run_policy(study, POLICIES[name], allowed, most_runs=3)
            assert steps[-1].flops <= allowed
            own.append(cost_until_right(steps, allowed, NEGLIGIBLE) / allowed)
    assert np.mean(costs["advice"]) < np.mean(costs["grid"])
