"""Planted worlds in which ways of choosing the next run compete: which is sooner right, at what cost?

A world has two methods whose laws are drawn about the paper's (Zhang et al. 2024, Table 4, En-De), so that either may
be the better one at the budget, by little; a grid of runs with their costs (6 N or 4 N a token) and their outcomes,
noise included; and a small first grid that is measured already. An order picks one run after another; after each the
law is refitted and the choice made anew. The truth is the planted law without noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.two_stage import fit_joint
from finetune_scaling.laws.forms.joint import MULTIPLICATIVE
from finetune_scaling.laws.points.planted import EN_DE, SIZES
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.recommendation.candidates import Candidate, drawn_losses
from finetune_scaling.recommendation.cost import CostModel, analytic_cost
from finetune_scaling.recommendation.decision import decide
from finetune_scaling.recommendation.next_run import Run, propose
from finetune_scaling.recommendation.pet import PetDefault
from finetune_scaling.recommendation.surface import Surface, surface

METHODS = ("full", "lora")
MODELS = SIZES[:4]
EXAMPLES = tuple(1e4 * 2**power for power in range(7))
FIRST_MODELS, FIRST_EXAMPLES = MODELS[:3], EXAMPLES[:3]
TOKENS_PER_EXAMPLE = 100.0
NOISE = 0.005  # nats, of one run
GAPS = (0.006, 0.03)  # nats, between the best of either method at the budget: what makes the decision hard
BUDGET_SHARE = 0.7  # of the dearest run: the largest model is affordable with LoRA alone
COLUMNS = ["method", "factor", "x", "finetune_examples"]
RESAMPLES = 100
PADDED = 64


@dataclass(frozen=True)
class World:
    """laws: method -> A, alpha, beta, E of the factor model; losses: every run's outcome; seed: what drew them."""

    seed: int
    laws: dict[str, tuple[float, float, float, float]]
    runs: tuple[Run, ...]
    outcomes: dict[Run, float]

    @property
    def candidates(self) -> list[Candidate]:
        """What the budget affords at the greatest number of examples."""
        dear = max(run.flops for run in self.runs)
        return [
            Candidate(run.method, run.x)
            for run in self.runs
            if run.examples == EXAMPLES[-1] and run.flops <= BUDGET_SHARE * dear
        ]

    def truth(self, candidate: Candidate) -> float:
        """The planted loss of a candidate."""
        return _loss(self.laws[candidate.method], candidate.size, EXAMPLES[-1])

    def regret(self, candidate: Candidate) -> float:
        """By how much a candidate is truly worse than the best affordable one, in nats."""
        return self.truth(candidate) - min(map(self.truth, self.candidates))


@dataclass(frozen=True)
class Step:
    """After runs of so many FLOPs: the choice's true regret, in nats."""

    flops: float
    regret: float


Order = Callable[[World, "State"], Run | None]


@dataclass(frozen=True)
class State:
    """What is known: surfaces by method, and the runs that were not made and may still be paid for."""

    surfaces: dict[str, Surface]
    left: tuple[Run, ...]
    random: np.random.Generator


def plant(seed: int) -> World:
    """A world: exponents about the paper's, and LoRA's coefficient so that one of GAPS parts the methods' best."""
    random = np.random.default_rng(seed)
    laws = {}
    for method in METHODS:
        scale, alpha = EN_DE[method]["factors"]["model"]
        own, beta = alpha * random.normal(1, 0.1), EN_DE[method]["beta"] * random.normal(1, 0.15)
        # Exponents turn about the grid's first corner, so that losses stay where the paper has them.
        turned = scale * MODELS[0] ** (own - alpha) * EXAMPLES[0] ** (beta - EN_DE[method]["beta"])
        laws[method] = (turned, own, beta, EN_DE[method]["E"])
    costs: dict[str, CostModel] = {method: analytic_cost(method, TOKENS_PER_EXAMPLE, 1) for method in METHODS}
    runs = tuple(
        Run(method, "model", x, examples, x, None, costs[method](x, examples, None).flops)
        for method in METHODS
        for x in MODELS
        for examples in EXAMPLES
    )
    gap = random.choice([-1.0, 1.0]) * random.uniform(*GAPS)
    laws["lora"] = _parted(World(seed, laws, runs, {}), gap)
    outcomes = {run: _loss(laws[run.method], run.x, run.examples) + random.normal(0, NOISE) for run in runs}
    return World(seed, laws, runs, outcomes)


def rehearse(world: World, order: Order, flops: float, most_runs: int) -> list[Step]:
    """Steps of an order, the first after the first grid alone, until its runs would cost more than `flops`."""
    made = [run for run in world.runs if run.x in FIRST_MODELS and run.examples in FIRST_EXAMPLES]
    random, spent = np.random.default_rng(world.seed), 0.0
    surfaces = {method: _fit(world, made, method) for method in METHODS}
    steps = [Step(0.0, world.regret(choice(world, surfaces)))]
    while len(steps) <= most_runs:
        left = tuple(run for run in world.runs if run not in made and spent + run.flops <= flops)
        run = order(world, State(surfaces, left, random)) if left else None
        if run is None:
            break
        made.append(run)
        spent += run.flops
        surfaces[run.method] = _fit(world, made, run.method)
        steps.append(Step(spent, world.regret(choice(world, surfaces))))
    return steps


def choice(world: World, surfaces: dict[str, Surface]) -> Candidate:
    """What would be chosen now."""
    return decide(world.candidates, drawn_losses(world.candidates, surfaces, EXAMPLES[-1])).chosen.candidate


def advised(world: World, state: State) -> Run | None:
    """The run of most value for its cost; None where none helps."""
    losses = drawn_losses(world.candidates, state.surfaces, EXAMPLES[-1])
    decision = decide(world.candidates, losses)
    found = propose(state.left, state.surfaces, losses, decision.regret, 1)
    return found[0].run if found else None


def at_random(world: World, state: State) -> Run:
    """Any run."""
    return state.left[state.random.integers(len(state.left))]


def as_the_grid(world: World, state: State) -> Run:
    """Row after row of the grid: method, then model size, then examples."""
    return state.left[0]


def cheapest_first(world: World, state: State) -> Run:
    """The least cost first."""
    return min(state.left, key=lambda run: run.flops)


ORDERS: dict[str, Order] = {
    "advice": advised,
    "random": at_random,
    "grid": as_the_grid,
    "cheapest": cheapest_first,
}


def cost_until_right(steps: Sequence[Step], flops: float, negligible: float) -> float:
    """FLOPs from which on the choice stays right (true regret at most `negligible`); `flops` where it never does."""
    wrong = [i for i, step in enumerate(steps) if step.regret > negligible]
    if not wrong:
        return 0.0
    return steps[wrong[-1] + 1].flops if wrong[-1] + 1 < len(steps) else flops


def _loss(law: tuple[float, float, float, float], x: float, examples: float) -> float:
    scale, alpha, beta, offset = law
    return float(scale / x**alpha / examples**beta + offset)


def _parted(world: World, gap: float) -> tuple[float, float, float, float]:
    """LoRA's law with the coefficient that puts its best affordable candidate at full tuning's best plus the gap."""
    best = {m: min((c for c in world.candidates if c.method == m), key=world.truth) for m in METHODS}
    scale, alpha, beta, offset = world.laws["lora"]
    wanted = world.truth(best["full"]) + gap - offset
    return scale * wanted / (world.truth(best["lora"]) - offset), alpha, beta, offset


def _fit(world: World, made: Sequence[Run], method: str) -> Surface:
    own = [run for run in made if run.method == method]
    rows = pd.DataFrame(
        [(run.method, run.factor, run.x, run.examples, world.outcomes[run]) for run in own], columns=[*COLUMNS, "loss"]
    ).assign(task="planted", held_out=False, loss_sd=np.nan, seeds=1)
    fitted, skipped = fit_joint(MULTIPLICATIVE, rows, FitSettings(), PADDED, Resampling(resamples=RESAMPLES))
    if fitted is None:
        raise ValueError(f"world {world.seed}: {skipped}")
    return surface(fitted, rows, PetDefault())
