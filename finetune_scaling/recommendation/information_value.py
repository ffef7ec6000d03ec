"""The next runs that improve the decision most for their cost, by the expected value of sample information (EVSI).

Raiffa and Schlaifer, Applied Statistical Decision Theory (1961), chapters 4 and 5. The outcome y of a run is simulated:
the loss of one bootstrap replicate at the run's setting plus the noise of one run (seed, setting, random effects).
Given y, replicate r of that method has weight w_r proportional to exp(-(y - L_r)^2 / 2 sigma^2), and the decision is
made by the weighted means. The gain is the reduction of the expected regret,

    EVSI = E_y[ E[L(c*) | y] - min_c E[L(c) | y] ]

with c* the present choice. E_y is over replicates and normal noise, the same for all compared runs. Runs are chosen
greedily: the next one has the largest further gain per FLOP given those already chosen.

If a run would leave too few replicates (effective sample size below MIN_EFFECTIVE, Kong 1992), sigma is enlarged until
enough are left, which underestimates the gain.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from finetune_scaling.recommendation.candidates import pet_sizes
from finetune_scaling.recommendation.cost import CostModel
from finetune_scaling.recommendation.loss_predictions import LossPredictor

OUTCOMES = 1000  # simulated per run
MIN_EFFECTIVE = 20.0
STEP = 1.25
SEED = 1
# A gain counts if it exceeds this many simulation errors and this share of the regret.
STANDARD_ERRORS = 2.0
LEAST_SHARE = 0.02


@dataclass(frozen=True)
class PossibleRun:
    """A finetuning run that could be made. factor: model (x: parameters) or pet (x: PET size on the base `size`)."""

    method: str
    factor: str
    x: float
    examples: float
    size: float
    pet: float | None
    flops: float


@dataclass(frozen=True)
class ProposedRun:
    """A proposed run.

    gain: reduction of the expected regret, given the runs before it; error: simulation error of the gain; regret: what
    is left (all in nats per token); enlarged: factor by which its noise was enlarged, None without noise.
    """

    run: PossibleRun
    gain: float
    error: float
    regret: float
    enlarged: float | None


def list_runs(
    rows: pd.DataFrame,
    predictors: Mapping[str, LossPredictor],
    costs: Mapping[str, CostModel],
    examples: float,
    further_sizes: Sequence[float] = (),
) -> list[PossibleRun]:
    """Return unmeasured runs: each method's model and PET sizes at the dataset sizes of example_grid.

    rows: settings of one task.
    """
    measured = set(rows[["method", "factor", "x", "finetune_examples"]].itertuples(index=False, name=None))
    found = []
    for method in (m for m in predictors if m in costs):
        own = rows[rows["method"] == method]
        numbers = example_grid({*own["finetune_examples"], examples})
        for factor, x, size, pet in _settings(own, predictors[method], further_sizes):
            for number in numbers:
                if (method, factor, x, number) not in measured:
                    flops = costs[method](size, number, pet).flops
                    found.append(PossibleRun(method, factor, x, number, size, pet, flops))
    return found


def example_grid(numbers: set[float]) -> list[float]:
    """Return dataset sizes and the geometric means (2 digits) of neighbours that differ by a factor of 2 or more."""
    known = sorted(numbers)
    middles = {float(f"{np.sqrt(a * b):.2g}") for a, b in pairwise(known) if b >= 2 * a}
    return sorted({*known, *middles})


def _settings(
    rows: pd.DataFrame, predictor: LossPredictor, further_sizes: Sequence[float]
) -> Iterator[tuple[str, float, float, float | None]]:
    """Yield (factor, x, size, PET size) of a method's settings."""
    default = predictor.pet
    for size in sorted({*rows.loc[rows["factor"] == "model", "x"], *further_sizes}):
        yield "model", size, size, default.size
    sizes = pet_sizes(rows, default)
    if len(sizes) > 1 and default.base is not None:
        yield from (("pet", pet, default.base, pet) for pet in sizes if pet is not None and pet != default.size)


class Posterior:
    """Log weights [K, R] of each method's bootstrap replicates, given K simulated outcomes of the chosen runs."""

    def __init__(self, losses: Mapping[str, np.ndarray]) -> None:
        """Start from equal weights; losses: method -> [R, C] of the affordable candidates."""
        random = np.random.default_rng(SEED)
        self._losses = losses
        self._truths = {m: random.permutation(np.arange(OUTCOMES) % len(own)) for m, own in losses.items()}
        self._log_weights = {m: np.zeros((OUTCOMES, len(own))) for m, own in losses.items()}
        means = np.concatenate([own.mean(axis=0) for own in losses.values()])
        self._chosen = int(np.argmin(means))
        self._means = {m: np.broadcast_to(own.mean(axis=0), (OUTCOMES, own.shape[1])) for m, own in losses.items()}

    def after(self, method: str, predicted: np.ndarray, sigma: float, normal: np.ndarray) -> np.ndarray:
        """Return log weights [K, R] after one more run; predicted: [R] by replicate; normal: standard normal [K]."""
        outcome = predicted[self._truths[method]] + sigma * normal
        return self._log_weights[method] - 0.5 * ((outcome[:, None] - predicted) / sigma) ** 2

    def gains(self, method: str, log_weights: np.ndarray) -> np.ndarray:
        """Return the reduction of the regret in each outcome [K] if a method had these log weights."""
        means = {**self._means, method: _normalized(log_weights) @ self._losses[method]}
        every = np.concatenate([means[m] for m in self._losses], axis=1)
        return every[:, self._chosen] - every.min(axis=1)

    def effective(self, method: str, log_weights: np.ndarray | None = None) -> float:
        """Return the median effective sample size of a method's replicates, over every tenth outcome."""
        weights = self._log_weights[method] if log_weights is None else log_weights
        return _effective(_normalized(weights[::10]))

    def update(self, method: str, log_weights: np.ndarray) -> None:
        """Set a method's log weights."""
        self._log_weights[method] = log_weights
        self._means[method] = _normalized(log_weights) @ self._losses[method]


def propose(
    runs: Sequence[PossibleRun],
    predictors: Mapping[str, LossPredictor],
    losses: Mapping[str, np.ndarray],
    regret: float,
    count: int = 3,
) -> list[ProposedRun]:
    """Return up to `count` runs, the largest gain per FLOP first; empty if none helps.

    losses: method -> [R, C] of the affordable candidates; regret: expected regret of the present choice (nats).
    """
    posterior = Posterior(losses)
    random = np.random.default_rng(SEED + 1)
    remaining = [run for run in runs if run.method in losses]
    found: list[ProposedRun] = []
    saved = np.zeros(OUTCOMES)
    while remaining and len(found) < count:
        normal = random.normal(size=OUTCOMES)
        simulated = [_simulate(posterior, run, predictors[run.method], normal, saved) for run in remaining]
        useful = [one for one in simulated if one.gain > max(STANDARD_ERRORS * one.error, LEAST_SHARE * regret)]
        if not useful:
            break
        best = max(useful, key=lambda one: one.gain / one.run.flops)
        posterior.update(best.run.method, best.log_weights)
        saved = best.saved
        left = max(0.0, regret - float(saved.mean()))
        found.append(ProposedRun(best.run, best.gain, best.error, left, best.enlarged))
        remaining.remove(best.run)
    return found


@dataclass(frozen=True)
class _SimulatedRun:
    run: PossibleRun
    gain: float
    error: float
    enlarged: float | None
    log_weights: np.ndarray
    saved: np.ndarray


def _simulate(
    posterior: Posterior, run: PossibleRun, predictor: LossPredictor, normal: np.ndarray, saved: np.ndarray
) -> _SimulatedRun:
    predicted = predictor.loss_replicates(run.size, run.pet, run.examples)
    noise = predictor.noise
    sigma = enlarged_noise(predicted, noise)
    log_weights = posterior.after(run.method, predicted, sigma, normal)
    fewest = min(MIN_EFFECTIVE / 2, posterior.effective(run.method) / 2)
    while posterior.effective(run.method, log_weights) < fewest:
        sigma *= STEP
        log_weights = posterior.after(run.method, predicted, sigma, normal)
    now = posterior.gains(run.method, log_weights)
    further = now - saved
    error = float(further.std(ddof=1) / np.sqrt(len(further)))
    return _SimulatedRun(run, float(further.mean()), error, sigma / noise if noise else None, log_weights, now)


def enlarged_noise(predicted: np.ndarray, sigma: float) -> float:
    """Return sigma, enlarged until a typical outcome leaves MIN_EFFECTIVE replicates; predicted: [R]."""
    spread = float(predicted.std())
    sigma = max(sigma, 1e-3 * spread, 1e-12)
    while effective_replicates(predicted, sigma) < min(MIN_EFFECTIVE, len(predicted) / 2):
        sigma *= STEP
    return sigma


def effective_replicates(predicted: np.ndarray, sigma: float) -> float:
    """Return the median effective sample size after a run, over replicates [R] as truths."""
    return _effective(_normalized(-0.5 * ((predicted[:, None] - predicted) / sigma) ** 2))


def _effective(weights: np.ndarray) -> float:
    return float(np.median(1 / (weights**2).sum(axis=1)))


def _normalized(log_weights: np.ndarray) -> np.ndarray:
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
