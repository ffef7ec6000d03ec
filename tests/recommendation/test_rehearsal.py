"""On planted worlds the advised runs lead to the right choice at less cost than the grid's order."""

import numpy as np
import pytest

from finetune_scaling.recommendation.advice import NEGLIGIBLE
from finetune_scaling.recommendation.rehearsal import (
    BUDGET_SHARE,
    GAPS,
    ORDERS,
    Step,
    cost_until_right,
    plant,
    rehearse,
)


@pytest.mark.parametrize("seed", range(5))
def test_a_world_is_hard_as_stated(seed: int) -> None:
    world = plant(seed)
    best = {m: min(world.truth(c) for c in world.candidates if c.method == m) for m in ("full", "lora")}
    assert GAPS[0] <= abs(best["full"] - best["lora"]) <= GAPS[1]
    assert min(map(world.regret, world.candidates)) == 0
    dear = max(run.flops for run in world.runs)
    assert {c.size for c in world.candidates if c.method == "full"} == {
        run.x for run in world.runs if run.method == "full" and run.x * 6.4e5 * 600 <= BUDGET_SHARE * dear
    }


def test_cost_until_right_counts_from_the_last_mistake() -> None:
    def cost(*regrets: float) -> float:
        return cost_until_right([Step(float(i), regret) for i, regret in enumerate(regrets)], 99.0, 0.1)

    assert (cost(0, 0, 0), cost(1, 0, 0), cost(0, 1, 0), cost(0, 0, 1)) == (0, 1, 2, 99)


@pytest.mark.slow
def test_advice_is_cheaper_than_the_grid_on_planted_worlds() -> None:
    costs: dict[str, list[float]] = {"advice": [], "grid": []}
    for seed in (5, 6, 7):
        world = plant(seed)
        allowed = 0.1 * sum(run.flops for run in world.runs)
        for name, own in costs.items():
            steps = rehearse(world, ORDERS[name], allowed, most_runs=4)
            assert steps[-1].flops <= allowed
            own.append(cost_until_right(steps, allowed, NEGLIGIBLE) / allowed)
    assert np.mean(costs["advice"]) < np.mean(costs["grid"])
