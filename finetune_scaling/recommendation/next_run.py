"""Which runs would sharpen the decision most for their cost: the expected value of sample information.

Raiffa and Schlaifer, Applied Statistical Decision Theory (1961), chapters 4 and 5. A run will have outcome y, the loss
of a true draw at its setting plus the scatter of one run (between seeds, settings and levels, as the fit found it).
Seeing y, draw r of that method gets weight w_r proportional to exp(-(y - L_r)^2 / 2 sigma^2), and the decision would be
made by the weighted means. The gain is what the choice then has less in expected loss than the present choice:

    EVSI = E_y[ E[L(c*) | y] - min_c E[L(c) | y] ]

which is the reduction of the expected regret, since the loss of the best candidate has the same expectation before
and after. E_y goes over draws as truths and normal scatter, the same for every run that is compared. Runs are chosen
one after another: the next is the one with the largest further gain per FLOP beside those already chosen.

Where one run would leave too few draws (an effective sample size below MIN_EFFECTIVE, Kong 1992), sigma is enlarged
until enough are left: a few hundred draws cannot say what more exact knowledge would be worth, so the gain is
understated there, not overstated.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from finetune_scaling.recommendation.candidates import pet_sizes
from finetune_scaling.recommendation.cost import CostModel
from finetune_scaling.recommendation.surface import Surface

OUTCOMES = 1000
MIN_EFFECTIVE = 20.0
STEP = 1.25
SEED = 1
# A gain counts where it is above its simulation error by so much, and above this share of the regret.
STANDARD_ERRORS = 2.0
LEAST_SHARE = 0.02


@dataclass(frozen=True)
class Run:
    """A finetuning run that could be made. factor: model (x: parameters) or pet (x: PET size, on the base `size`)."""

    method: str
    factor: str
    x: float
    examples: float
    size: float
    pet: float | None
    flops: float


@dataclass(frozen=True)
class Proposal:
    """A proposed run. gain: by how much the expected regret falls beside the runs before it, in nats; error: of the
    simulation; regret: what is left after it; enlarged: by what factor its scatter was enlarged, None where it had
    none.
    """

    run: Run
    gain: float
    error: float
    regret: float
    enlarged: float | None


def list_runs(
    rows: pd.DataFrame,
    surfaces: Mapping[str, Surface],
    costs: Mapping[str, CostModel],
    examples: float,
    further_sizes: Sequence[float] = (),
) -> list[Run]:
    """Runs that were not made yet: every size or PET size of a method at measured numbers of examples, at the asked
    one, and at the middles between them. rows: settings of one task.
    """
    measured = set(rows[["method", "factor", "x", "finetune_examples"]].itertuples(index=False, name=None))
    found = []
    for method in (m for m in surfaces if m in costs):
        own = rows[rows["method"] == method]
        numbers = example_grid({*own["finetune_examples"], examples})
        for factor, x, size, pet in _places(own, surfaces[method], further_sizes):
            for number in numbers:
                if (method, factor, x, number) not in measured:
                    flops = costs[method](size, number, pet).flops
                    found.append(Run(method, factor, x, number, size, pet, flops))
    return found


def example_grid(numbers: set[float]) -> list[float]:
    """Numbers of examples with the geometric middles between neighbours at least twice apart, to two digits."""
    known = sorted(numbers)
    pairs = pairwise(known)
    middles = {float(f"{np.sqrt(a * b):.2g}") for a, b in pairs if b >= 2 * a}
    return sorted({*known, *middles})


def _places(
    rows: pd.DataFrame, surface: Surface, further_sizes: Sequence[float]
) -> Iterator[tuple[str, float, float, float | None]]:
    """(factor, x, size, PET size) of a method's places on the grid."""
    default = surface.pet
    for size in sorted({*rows.loc[rows["factor"] == "model", "x"], *further_sizes}):
        yield "model", size, size, default.size
    sizes = pet_sizes(rows, default)
    if len(sizes) > 1 and default.base is not None:
        yield from (("pet", pet, default.base, pet) for pet in sizes if pet is not None and pet != default.size)


class Belief:
    """What is believed after runs whose outcomes are simulated: log weights of each method's draws, [K, R]."""

    def __init__(self, losses: Mapping[str, np.ndarray]) -> None:
        """losses: method -> [R, C] of the affordable candidates."""
        random = np.random.default_rng(SEED)
        self._losses = losses
        self._truths = {m: random.permutation(np.arange(OUTCOMES) % len(own)) for m, own in losses.items()}
        self._log_weights = {m: np.zeros((OUTCOMES, len(own))) for m, own in losses.items()}
        means = np.concatenate([own.mean(axis=0) for own in losses.values()])
        self._chosen = int(np.argmin(means))
        self._means = {m: np.broadcast_to(own.mean(axis=0), (OUTCOMES, own.shape[1])) for m, own in losses.items()}

    def after(self, method: str, predicted: np.ndarray, sigma: float, luck: np.ndarray) -> np.ndarray:
        """Log weights [K, R] with one more run: predicted [R] by every draw, luck [K] standard normal."""
        outcome = predicted[self._truths[method]] + sigma * luck
        return self._log_weights[method] - 0.5 * ((outcome[:, None] - predicted) / sigma) ** 2

    def gains(self, method: str, log_weights: np.ndarray) -> np.ndarray:
        """Regret that is saved in each simulated outcome [K] where a method's draws had these weights."""
        means = {**self._means, method: _normalised(log_weights) @ self._losses[method]}
        every = np.concatenate([means[m] for m in self._losses], axis=1)
        return every[:, self._chosen] - every.min(axis=1)

    def left(self, method: str) -> float:
        """The effective number of draws that the runs so far leave to a method."""
        return self.effective(self._log_weights[method])

    def effective(self, log_weights: np.ndarray) -> float:
        """The median effective number of draws that such weights leave, over every tenth outcome."""
        return _effective(_normalised(log_weights[::10]))

    def take(self, method: str, log_weights: np.ndarray) -> None:
        """Goes on from there."""
        self._log_weights[method] = log_weights
        self._means[method] = _normalised(log_weights) @ self._losses[method]


def propose(
    runs: Sequence[Run],
    surfaces: Mapping[str, Surface],
    losses: Mapping[str, np.ndarray],
    regret: float,
    count: int = 3,
) -> list[Proposal]:
    """Up to `count` runs in order, the largest gain per FLOP first; empty where none helps.

    losses: method -> [R, C] of the affordable candidates; regret: the expected regret of the present choice, nats.
    """
    belief = Belief(losses)
    random = np.random.default_rng(SEED + 1)
    left = [run for run in runs if run.method in losses]
    found: list[Proposal] = []
    saved = np.zeros(OUTCOMES)
    while left and len(found) < count:
        luck = random.normal(size=OUTCOMES)
        tried = [_try(belief, run, surfaces[run.method], luck, saved) for run in left]
        useful = [one for one in tried if one.gain > max(STANDARD_ERRORS * one.error, LEAST_SHARE * regret)]
        if not useful:
            break
        best = max(useful, key=lambda one: one.gain / one.run.flops)
        belief.take(best.run.method, best.log_weights)
        saved = best.saved
        found.append(Proposal(best.run, best.gain, best.error, max(0.0, regret - float(saved.mean())), best.enlarged))
        left.remove(best.run)
    return found


@dataclass(frozen=True)
class _Tried:
    run: Run
    gain: float
    error: float
    enlarged: float | None
    log_weights: np.ndarray
    saved: np.ndarray


def _try(belief: Belief, run: Run, surface: Surface, luck: np.ndarray, saved: np.ndarray) -> _Tried:
    predicted = surface.draws(run.size, run.pet, run.examples)
    noise = surface.noise
    sigma = enough_noise(predicted, noise)
    log_weights = belief.after(run.method, predicted, sigma, luck)
    fewest = min(MIN_EFFECTIVE / 2, belief.left(run.method) / 2)  # beside the runs already chosen
    while belief.effective(log_weights) < fewest:
        sigma *= STEP
        log_weights = belief.after(run.method, predicted, sigma, luck)
    now = belief.gains(run.method, log_weights)
    further = now - saved
    error = float(further.std(ddof=1) / np.sqrt(len(further)))
    return _Tried(run, float(further.mean()), error, sigma / noise if noise else None, log_weights, now)


def enough_noise(predicted: np.ndarray, sigma: float) -> float:
    """The scatter, enlarged step by step until a typical outcome leaves MIN_EFFECTIVE draws."""
    spread = float(predicted.std())
    sigma = max(sigma, 1e-3 * spread, 1e-12)
    while effective_draws(predicted, sigma) < min(MIN_EFFECTIVE, len(predicted) / 2):
        sigma *= STEP
    return sigma


def effective_draws(predicted: np.ndarray, sigma: float) -> float:
    """The median, over draws as truths, of the effective number of draws that the run's outcome leaves."""
    return _effective(_normalised(-0.5 * ((predicted[:, None] - predicted) / sigma) ** 2))


def _effective(weights: np.ndarray) -> float:
    return float(np.median(1 / (weights**2).sum(axis=1)))


def _normalised(log_weights: np.ndarray) -> np.ndarray:
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
