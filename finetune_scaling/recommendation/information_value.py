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
from scipy import stats
from scipy.special import softmax

from finetune_scaling.recommendation.candidates import CandidateSet, pet_sizes
from finetune_scaling.recommendation.decision import Losses
from finetune_scaling.recommendation.loss_predictions import LossPredictor
from finetune_scaling.recommendation.pet_defaults import PetDefault

OUTCOMES = 1000  # simulated per run
MIN_EFFECTIVE = 20.0
STEP = 1.25
SEED = 1
# A gain counts if it exceeds this many simulation errors and this share of the regret.
STANDARD_ERRORS = 2.0
MIN_SHARE = 0.02


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


def list_runs(found: CandidateSet, predictors: Mapping[str, LossPredictor]) -> list[PossibleRun]:
    """Return unmeasured runs: each method's model and PET sizes at the dataset sizes of example_grid."""
    runs = []
    for method, model in found.cost_models.items():
        if method in predictors:
            rows = found.rows[method]
            measured = set(rows[["factor", "x", "finetune_examples"]].itertuples(index=False, name=None))
            for factor, x, size, pet in _settings(rows, predictors[method].pet, found.question.further_sizes):
                for examples in example_grid({*rows["finetune_examples"], found.question.examples}):
                    if (factor, x, examples) not in measured and predictors[method].covers(size, pet):
                        flops = model(size, examples, pet).flops
                        runs.append(PossibleRun(method, factor, x, examples, size, pet, flops))
    return runs


def example_grid(numbers: set[float]) -> list[float]:
    """Return dataset sizes and the geometric means (2 digits) of neighbours that differ by a factor of 2 or more."""
    known = sorted(numbers)
    middles = {float(f"{np.sqrt(a * b):.2g}") for a, b in pairwise(known) if b >= 2 * a}
    return sorted({*known, *middles})


def _settings(
    rows: pd.DataFrame, default: PetDefault, further_sizes: Sequence[float]
) -> Iterator[tuple[str, float, float, float | None]]:
    """Yield (factor, x, size, PET size) of a method's settings."""
    for size in sorted({*rows.loc[rows["factor"] == "model", "x"], *further_sizes}):
        yield "model", size, size, default.size
    sizes = pet_sizes(rows, default)
    if len(sizes) > 1 and default.base is not None:
        yield from (("pet", pet, default.base, pet) for pet in sizes if pet is not None and pet != default.size)


class Posterior:
    """Log weights [K, R] of each method's bootstrap replicates, given K simulated outcomes of the chosen runs."""

    def __init__(self, losses: Losses) -> None:
        """Start from equal weights; losses: of the affordable candidates."""
        random = np.random.default_rng(SEED)
        columns: dict[str, list[np.ndarray]] = {}
        for candidate, own in losses.items():
            columns.setdefault(candidate.method, []).append(own)
        self.losses = {method: np.stack(own, axis=1) for method, own in columns.items()}  # [R, C]
        self.log_weights = {m: np.zeros((OUTCOMES, len(own))) for m, own in self.losses.items()}
        self._truths = {m: random.permutation(np.arange(OUTCOMES) % len(own)) for m, own in self.losses.items()}
        self._means = {m: np.tile(own.mean(axis=0), (OUTCOMES, 1)) for m, own in self.losses.items()}
        self._chosen = int(np.argmin(np.concatenate([own[0] for own in self._means.values()])))

    def after(self, method: str, predicted: np.ndarray, sigma: float, normal: np.ndarray) -> np.ndarray:
        """Return log weights [K, R] after one more run; predicted: [R] by replicate; normal: standard normal [K]."""
        outcome = predicted[self._truths[method]] + sigma * normal
        return self.log_weights[method] - 0.5 * ((outcome[:, None] - predicted) / sigma) ** 2

    def gains(self, method: str, log_weights: np.ndarray) -> np.ndarray:
        """Return the reduction of the regret in each outcome [K] if a method had these log weights."""
        updated = self._means | self._mean(method, log_weights)
        means = np.concatenate(list(updated.values()), axis=1)
        return means[:, self._chosen] - means.min(axis=1)

    def update(self, method: str, log_weights: np.ndarray) -> None:
        """Set a method's log weights."""
        self.log_weights[method] = log_weights
        self._means |= self._mean(method, log_weights)

    def _mean(self, method: str, log_weights: np.ndarray) -> dict[str, np.ndarray]:
        return {method: softmax(log_weights, axis=1) @ self.losses[method]}


def propose(
    runs: Sequence[PossibleRun],
    predictors: Mapping[str, LossPredictor],
    losses: Losses,
    regret: float,
    count: int = 3,
) -> list[ProposedRun]:
    """Return up to `count` runs, the largest gain per FLOP first; empty if none helps.

    losses: of the affordable candidates; regret: expected regret of the present choice (nats per token).
    """
    posterior = Posterior(losses)
    random = np.random.default_rng(SEED + 1)
    remaining = [run for run in runs if run.method in posterior.losses]
    found: list[ProposedRun] = []
    saved = np.zeros(OUTCOMES)
    while remaining and len(found) < count:
        normal = random.normal(size=OUTCOMES)
        simulated = [_simulate(posterior, run, predictors[run.method], normal, saved, regret) for run in remaining]
        useful = [
            (proposal, log_weights)
            for proposal, log_weights in simulated
            if proposal.gain > max(STANDARD_ERRORS * proposal.error, MIN_SHARE * regret)
        ]
        if not useful:
            break
        best, log_weights = max(useful, key=lambda pair: pair[0].gain / pair[0].run.flops)
        saved = posterior.gains(best.run.method, log_weights)
        posterior.update(best.run.method, log_weights)
        found.append(best)
        remaining.remove(best.run)
    return found


def _simulate(
    posterior: Posterior,
    run: PossibleRun,
    predictor: LossPredictor,
    normal: np.ndarray,
    saved: np.ndarray,
    regret: float,
) -> tuple[ProposedRun, np.ndarray]:
    """Return the proposal of a run and the log weights [K, R] after it.

    normal: standard normal [K]; saved: reduction [K] of the regret by the runs before it; regret: without these.
    """
    predicted = predictor.loss_replicates(run.size, run.pet, run.examples)
    noise = predictor.noise
    sigma = enlarged_noise(predicted, noise)
    log_weights = posterior.after(run.method, predicted, sigma, normal)
    fewest = min(MIN_EFFECTIVE, effective_replicates(posterior.log_weights[run.method][::10])) / 2
    while effective_replicates(log_weights[::10]) < fewest:
        sigma *= STEP
        log_weights = posterior.after(run.method, predicted, sigma, normal)
    now = posterior.gains(run.method, log_weights)
    further = now - saved
    proposal = ProposedRun(
        run=run,
        gain=float(further.mean()),
        error=float(stats.sem(further)),
        regret=max(0.0, regret - float(now.mean())),
        enlarged=sigma / noise if noise else None,
    )
    return proposal, log_weights


def enlarged_noise(predicted: np.ndarray, sigma: float) -> float:
    """Return sigma, enlarged until a typical outcome leaves MIN_EFFECTIVE replicates; predicted: [R]."""
    squares = (predicted[:, None] - predicted) ** 2
    sigma = max(sigma, 1e-3 * float(predicted.std()), 1e-12)
    while effective_replicates(-0.5 * squares / sigma**2) < min(MIN_EFFECTIVE, len(predicted) / 2):
        sigma *= STEP
    return sigma


def effective_replicates(log_weights: np.ndarray) -> float:
    """Return the median effective sample size of replicates with these log weights [K, R]."""
    return float(np.median(1 / (softmax(log_weights, axis=1) ** 2).sum(axis=1)))
