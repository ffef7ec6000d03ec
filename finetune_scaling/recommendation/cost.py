"""What a run costs in FLOPs: learned from the points' own column, or analytic from tokens per example.

From the column `flops`, per task and method: log F = c + a log N + b log D + p log P by least squares, N being the
parameters of the base, D the finetuning examples, P the PET size. Where the points do not vary a quantity, its exponent
is one (N and D) or zero (P). Runs that stopped early scatter about it; the residual error says how much.

Analytic: 6 N a token where the base's weights train, 4 N where they are frozen (docs/reference.md), for the tokens of
D examples times the epochs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from scipy import stats

from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.uncertainty.intervals import LEVEL
from finetune_scaling.recommendation.pet import PetDefault, with_quantities
from finetune_scaling.training.flops import trains_weights, weight_training_flops
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS

ASSUMED_EXPONENTS = {"size": 1.0, "examples": 1.0, "pet": 0.0}


@dataclass(frozen=True)
class Cost:
    """FLOPs of a run, with a 90 % interval; None where its spread cannot be told."""

    flops: float
    low: float | None
    high: float | None


class CostModel(Protocol):
    """What says the FLOPs of one method's runs."""

    @property
    def source(self) -> str:
        """Where its costs come from, in words."""

    def __call__(self, size: float, examples: float, pet: float | None) -> Cost:
        """The cost of a run: parameters of the base, finetuning examples, PET size (None where it is not known)."""


@dataclass(frozen=True)
class Analytic:
    """FLOPs by 6 N or 4 N a token."""

    trains: bool
    tokens_per_example: float
    epochs: float

    @property
    def source(self) -> str:
        """The formula."""
        epochs = f"{self.epochs:g} {'epoch' if self.epochs == 1 else 'epochs'}"
        factor = weight_training_flops(1, self.trains)
        return f"{factor:g} N a token, {self.tokens_per_example:g} tokens an example, {epochs}, without attention"

    def __call__(self, size: float, examples: float, pet: float | None) -> Cost:
        """Without a spread: nothing was measured."""
        tokens = examples * self.epochs * self.tokens_per_example
        return Cost(tokens * weight_training_flops(size, self.trains), None, None)


@dataclass(frozen=True)
class PowerCost:
    """log F linear in the logarithms of size, examples and PET size.

    exponents: by quantity; those in `fitted` were found, the others assumed; constant: of log F; inverse: (X'X)^-1 of
    the design; residual: standard deviation of log F, None where no degree of freedom is left; pet: taken where the PET
    size of a run is not known.
    """

    exponents: Mapping[str, float]
    fitted: tuple[str, ...]
    constant: float
    inverse: np.ndarray
    residual: float | None
    degrees: int
    pet: float

    @property
    def source(self) -> str:
        """The exponents and the residual error."""
        error = "residual error unknown" if self.residual is None else f"residual error {np.expm1(self.residual):.0%}"
        own = ", ".join(f"{name} {value:.2g}" for name, value in self.exponents.items())
        return f"a power law in the points' column flops (exponents: {own}; {error})"

    def __call__(self, size: float, examples: float, pet: float | None) -> Cost:
        """With the 90 % interval for one new run."""
        logs = {"size": np.log(size), "examples": np.log(examples), "pet": np.log(self.pet if pet is None else pet)}
        log_flops = self.constant + sum(self.exponents[name] * logs[name] for name in logs)
        if self.residual is None:
            return Cost(float(np.exp(log_flops)), None, None)
        row = np.array([1.0, *(logs[name] for name in self.fitted)])
        error = self.residual * np.sqrt(1 + row @ self.inverse @ row)
        reach = float(stats.t.ppf(0.5 + LEVEL / 2, self.degrees)) * error
        return Cost(*(float(np.exp(log_flops + step)) for step in (0.0, -reach, reach)))


def cost_models(
    rows: pd.DataFrame,
    pets: Mapping[str, PetDefault],
    tokens_per_example: float | None,
    epochs: float,
) -> dict[str, CostModel]:
    """method -> its costs, of the methods whose costs can be told.

    rows: settings of one task; pets: its methods; tokens_per_example: where given, all costs are analytic.
    """
    if tokens_per_example is not None:
        return {method: analytic_cost(method, tokens_per_example, epochs) for method in pets}
    found = {method: learned_cost(rows[rows["method"] == method], pet) for method, pet in pets.items()}
    return {method: model for method, model in found.items() if model is not None}


def analytic_cost(method: str, tokens_per_example: float, epochs: float) -> Analytic:
    """The analytic cost of a method; ConfigError where the method is none of this codebase's."""
    if method not in METHODS:
        raise ConfigError(
            f"--tokens-per-example: whether {method} trains the base's weights is not known; give the points a column "
            "flops"
        )
    return Analytic(trains_weights(configure(METHODS, {"name": method})), tokens_per_example, epochs)


def learned_cost(rows: pd.DataFrame, pet: PetDefault) -> PowerCost | None:
    """The power law of one task and method's settings; None where no row tells its FLOPs and its model's size."""
    known = with_quantities(rows, pet)
    if "flops" not in known:
        return None
    known = known[(known["flops"] > 0) & known["size"].notna()]
    if known.empty:
        return None
    logs = {name: np.log(known[name].fillna(1.0).to_numpy(float)) for name in ASSUMED_EXPONENTS}
    fitted = told_apart(logs)
    assumed = sum(value * logs[name] for name, value in ASSUMED_EXPONENTS.items() if name not in fitted)
    rest = np.log(known["flops"].to_numpy(float)) - assumed
    design, found = log_linear({name: logs[name] for name in fitted}, rest)
    residuals, degrees = rest - design @ found, len(design) - design.shape[1]
    return PowerCost(
        exponents=ASSUMED_EXPONENTS | dict(zip(fitted, map(float, found[1:]), strict=True)),
        fitted=fitted,
        constant=float(found[0]),
        inverse=np.linalg.pinv(design.T @ design),
        residual=float(np.sqrt(residuals @ residuals / degrees)) if degrees else None,
        degrees=degrees,
        pet=pet.size or 1.0,
    )


def log_linear(logs: Mapping[str, np.ndarray], target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of target [P] on a constant and each of logs [P]: the design [P, 1 + L] and its coefficients."""
    design = np.column_stack([np.ones(len(target)), *logs.values()])
    found, *_ = np.linalg.lstsq(design, target, rcond=None)
    return design, found


def told_apart(logs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The quantities whose exponents these points determine, in order; logs: name -> [P]."""
    columns: list[np.ndarray] = []
    names: list[str] = []
    for name, values in logs.items():
        tried = np.column_stack([np.ones(len(values)), *columns, values])
        if np.linalg.matrix_rank(tried) == tried.shape[1]:
            columns.append(values)
            names.append(name)
    return tuple(names)


def sources(costs: Mapping[str, CostModel], methods: Sequence[str]) -> dict[str, str]:
    """method -> where its costs come from, in words."""
    return {m: costs[m].source if m in costs else "not known: no column flops, no tokens per example" for m in methods}
