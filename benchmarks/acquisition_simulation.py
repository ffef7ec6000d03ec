"""Simulated studies that compare acquisition policies: how much compute does each spend until its choice is right?

A study has two methods whose laws vary around the published ones (Zhang et al. 2024, Table 4, En-De), so that either
may be slightly better at the budget; a grid of runs with their costs (6 N or 4 N FLOPs per token) and noisy outcomes;
and a small initial grid that is already measured. A policy picks one run at a time; after each run the law is refitted
and the choice repeated. The ground truth is the law without noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.two_stage import fit_joint
from finetune_scaling.laws.forms.library import MULTIPLICATIVE
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.recommendation.candidates import TuningCandidate
from finetune_scaling.recommendation.cost import CostModel, analytic_cost
from finetune_scaling.recommendation.decision import Losses, decide
from finetune_scaling.recommendation.information_value import PossibleRun, propose
from finetune_scaling.recommendation.loss_predictions import LossPredictor, loss_predictor
from finetune_scaling.recommendation.pet_defaults import PetDefault
from synthetic_points import EN_DE, SIZES

METHODS = ("full", "lora")
MODELS = SIZES[:4]
EXAMPLES = tuple(1e4 * 2**power for power in range(7))
FIRST_MODELS, FIRST_EXAMPLES = MODELS[:3], EXAMPLES[:3]
TOKENS_PER_EXAMPLE = 100.0
NOISE = 0.005  # nats, of one run
GAPS = (0.006, 0.03)  # nats, between the best of either method at the budget: what makes the decision hard
BUDGET_SHARE = 0.7  # of the most expensive run: the largest model is affordable with LoRA only
COLUMNS = ["method", "factor", "x", "finetune_examples"]
RESAMPLES = 100
PADDED = 64


@dataclass(frozen=True)
class SimulatedStudy:
    """laws: method -> A, alpha, beta, E of the factor model; outcomes: the loss of every run."""

    seed: int
    laws: dict[str, tuple[float, float, float, float]]
    runs: tuple[PossibleRun, ...]
    outcomes: dict[PossibleRun, float]

    @property
    def candidates(self) -> list[TuningCandidate]:
        """Candidates that the budget affords at the largest dataset size."""
        most = max(run.flops for run in self.runs)
        return [
            TuningCandidate(run.method, run.x)
            for run in self.runs
            if run.examples == EXAMPLES[-1] and run.flops <= BUDGET_SHARE * most
        ]

    def truth(self, candidate: TuningCandidate) -> float:
        """Return the true loss of a candidate."""
        return _loss(self.laws[candidate.method], candidate.size, EXAMPLES[-1])

    def regret(self, candidate: TuningCandidate) -> float:
        """Return how much worse a candidate truly is than the best affordable one, in nats."""
        return self.truth(candidate) - min(map(self.truth, self.candidates))


@dataclass(frozen=True)
class Step:
    """The true regret of the choice, in nats, after runs of `flops` in total."""

    flops: float
    regret: float


Policy = Callable[[SimulatedStudy, "State"], PossibleRun | None]


@dataclass(frozen=True)
class State:
    """What a policy knows: predictors by method, and the affordable runs that are not yet measured."""

    predictors: dict[str, LossPredictor]
    left: tuple[PossibleRun, ...]
    random: np.random.Generator


def simulate_study(seed: int) -> SimulatedStudy:
    """Sample a study with exponents near the published ones and a gap within GAPS between the two methods."""
    random = np.random.default_rng(seed)
    laws = {}
    for method in METHODS:
        scale, alpha = EN_DE[method]["factors"]["model"]
        own, beta = alpha * random.normal(1, 0.1), EN_DE[method]["beta"] * random.normal(1, 0.15)
        # Coefficients keep the loss at the grid's first corner as published.
        coefficient = scale * MODELS[0] ** (own - alpha) * EXAMPLES[0] ** (beta - EN_DE[method]["beta"])
        laws[method] = (coefficient, own, beta, EN_DE[method]["E"])
    costs: dict[str, CostModel] = {method: analytic_cost(method, TOKENS_PER_EXAMPLE, 1) for method in METHODS}
    runs = tuple(
        PossibleRun(method, "model", x, examples, x, None, costs[method](x, examples, None).flops)
        for method in METHODS
        for x in MODELS
        for examples in EXAMPLES
    )
    gap = random.choice([-1.0, 1.0]) * random.uniform(*GAPS)
    laws["lora"] = _with_gap(SimulatedStudy(seed, laws, runs, {}), gap)
    outcomes = {run: _loss(laws[run.method], run.x, run.examples) + random.normal(0, NOISE) for run in runs}
    return SimulatedStudy(seed, laws, runs, outcomes)


def run_policy(study: SimulatedStudy, policy: Policy, flops: float, most_runs: int) -> list[Step]:
    """Return the steps of a policy, from the initial grid on, until its runs would cost more than `flops`."""
    made = [run for run in study.runs if run.x in FIRST_MODELS and run.examples in FIRST_EXAMPLES]
    random, spent = np.random.default_rng(study.seed), 0.0
    predictors = {method: _fit(study, made, method) for method in METHODS}
    steps = [Step(0.0, study.regret(choice(study, predictors)))]
    while len(steps) <= most_runs:
        left = tuple(run for run in study.runs if run not in made and spent + run.flops <= flops)
        run = policy(study, State(predictors, left, random)) if left else None
        if run is None:
            break
        made.append(run)
        spent += run.flops
        predictors[run.method] = _fit(study, made, run.method)
        steps.append(Step(spent, study.regret(choice(study, predictors))))
    return steps


def choice(study: SimulatedStudy, predictors: dict[str, LossPredictor]) -> TuningCandidate:
    """Return the candidate that would be chosen now."""
    return decide(_predicted_losses(study, predictors)).chosen.candidate


def expected_value(study: SimulatedStudy, state: State) -> PossibleRun | None:
    """Return the run with the highest expected value per cost; None if no run helps."""
    losses = _predicted_losses(study, state.predictors)
    found = propose(state.left, state.predictors, losses, decide(losses).regret, 1)
    return found[0].run if found else None


def random_run(study: SimulatedStudy, state: State) -> PossibleRun:
    """Return a random run."""
    return state.left[state.random.integers(len(state.left))]


def grid_order(study: SimulatedStudy, state: State) -> PossibleRun:
    """Return the next run of the grid: by method, then model size, then examples."""
    return state.left[0]


def cheapest_first(study: SimulatedStudy, state: State) -> PossibleRun:
    """Return the cheapest run."""
    return min(state.left, key=lambda run: run.flops)


POLICIES: dict[str, Policy] = {
    "advice": expected_value,
    "random": random_run,
    "grid": grid_order,
    "cheapest": cheapest_first,
}


def cost_until_right(steps: Sequence[Step], flops: float, negligible: float) -> float:
    """Return the FLOPs after which the choice stays right (regret at most `negligible`); `flops` if it never does."""
    wrong = [i for i, step in enumerate(steps) if step.regret > negligible]
    if not wrong:
        return 0.0
    return steps[wrong[-1] + 1].flops if wrong[-1] + 1 < len(steps) else flops


def _predicted_losses(study: SimulatedStudy, predictors: dict[str, LossPredictor]) -> Losses:
    return {c: predictors[c.method].loss_replicates(c.size, c.pet, EXAMPLES[-1]) for c in study.candidates}


def _loss(law: tuple[float, float, float, float], x: float, examples: float) -> float:
    scale, alpha, beta, offset = law
    return float(scale / x**alpha / examples**beta + offset)


def _with_gap(study: SimulatedStudy, gap: float) -> tuple[float, float, float, float]:
    """Return LoRA's law with its best affordable candidate at full tuning's best loss plus the gap."""
    best = {m: min((c for c in study.candidates if c.method == m), key=study.truth) for m in METHODS}
    scale, alpha, beta, offset = study.laws["lora"]
    wanted = study.truth(best["full"]) + gap - offset
    return scale * wanted / (study.truth(best["lora"]) - offset), alpha, beta, offset


def _fit(study: SimulatedStudy, made: Sequence[PossibleRun], method: str) -> LossPredictor:
    own = [run for run in made if run.method == method]
    rows = pd.DataFrame(
        [(run.method, run.factor, run.x, run.examples, study.outcomes[run]) for run in own], columns=[*COLUMNS, "loss"]
    ).assign(task="synthetic", held_out=False, loss_sd=np.nan, seeds=1)
    fitted, skipped = fit_joint(MULTIPLICATIVE, rows, FitSettings(), PADDED, Resampling(resamples=RESAMPLES))
    if fitted is None:
        raise ValueError(f"study {study.seed}: {skipped}")
    return loss_predictor(fitted, rows, PetDefault())
