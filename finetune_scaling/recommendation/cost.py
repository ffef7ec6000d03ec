"""The cost of a run in FLOPs, fitted to the points' column `flops` or analytic, and the size of what it trains.

Fitted, per task and method: log F = c + a log N + b log D + p log P by least squares; N: parameters of the base model,
D: finetuning examples, P: PET size. Where the points do not vary a quantity, its exponent is 1 (N and D) or 0 (P). The
residual error measures how much runs that stopped early scatter.

Analytic: 6 N per token where the base's weights train, 4 N where they are frozen (docs/reference.md), for the tokens of
D examples times the epochs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.uncertainty.intervals import QUANTILES
from finetune_scaling.recommendation.pet_defaults import PetDefault, known_quantities
from finetune_scaling.training.flops import trains_weights, weight_training_flops
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS

ASSUMED_EXPONENTS = {"size": 1.0, "examples": 1.0, "pet": 0.0}


@dataclass(frozen=True)
class Cost:
    """FLOPs of a run with a 90 % interval; None without residual degrees of freedom."""

    flops: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class AnalyticCost:
    """6 N or 4 N FLOPs per token."""

    trains: bool
    tokens_per_example: float
    epochs: float

    @property
    def source(self) -> str:
        """The formula, as text."""
        epochs = f"{self.epochs:g} {'epoch' if self.epochs == 1 else 'epochs'}"
        factor = weight_training_flops(1, self.trains)
        return f"{factor:g} N per token, {self.tokens_per_example:g} tokens per example, {epochs}, without attention"

    def __call__(self, size: float, examples: float, pet: float | None) -> Cost:
        """Return the cost without an interval, since nothing was measured."""
        tokens = examples * self.epochs * self.tokens_per_example
        return Cost(tokens * weight_training_flops(size, self.trains), None, None)


@dataclass(frozen=True)
class PowerCost:
    """A power law in size, examples and PET size.

    exponents: by quantity, fitted for those in `fitted` and assumed for the others; constant: intercept of log F;
    inverse: (X'X)^-1 of the design; residual: standard deviation of log F, None without degrees of freedom; pet: PET
    size of runs whose own is unknown.
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
        """The exponents and the residual error, as text."""
        error = "residual error unknown" if self.residual is None else f"residual error {np.expm1(self.residual):.0%}"
        own = ", ".join(f"{name} {value:.2g}" for name, value in self.exponents.items())
        return f"a power law in the points' column flops (exponents: {own}; {error})"

    def __call__(self, size: float, examples: float, pet: float | None) -> Cost:
        """Return the cost with the 90 % prediction interval of one new run."""
        logs = {"size": np.log(size), "examples": np.log(examples), "pet": np.log(self.pet if pet is None else pet)}
        log_flops = self.constant + sum(self.exponents[name] * logs[name] for name in logs)
        if self.residual is None:
            return Cost(float(np.exp(log_flops)), None, None)
        row = np.array([1.0, *(logs[name] for name in self.fitted)])
        error = self.residual * np.sqrt(1 + row @ self.inverse @ row)
        half_width = float(stats.t.ppf(QUANTILES[1], self.degrees)) * error
        return Cost(*(float(np.exp(log_flops + step)) for step in (0.0, -half_width, half_width)))


CostModel = AnalyticCost | PowerCost


def analytic_cost(method: str, tokens_per_example: float, epochs: float) -> AnalyticCost:
    """Return the analytic cost of a registered method; raises ConfigError on others."""
    if method not in METHODS:
        raise ConfigError(
            f"--tokens-per-example: it is unknown whether {method} trains the base model's weights. Fix: add a column "
            "flops to the points"
        )
    return AnalyticCost(trains_weights(configure(METHODS, {"name": method})), tokens_per_example, epochs)


def fitted_cost(rows: pd.DataFrame, pet: PetDefault) -> PowerCost | None:
    """Fit the power law to the settings of one task and method; None without a row with FLOPs and model size."""
    known = known_quantities(rows, pet, "flops")
    if known.empty:
        return None
    logs = {name: np.log(known[name].fillna(1.0).to_numpy(float)) for name in ASSUMED_EXPONENTS}
    fitted = identifiable(logs)
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
    """Regress target [P] on an intercept and logs (L columns [P]); return design [P, 1 + L] and coefficients."""
    design = np.column_stack([np.ones(len(target)), *logs.values()])
    found, *_ = np.linalg.lstsq(design, target, rcond=None)
    return design, found


def identifiable(logs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the names in logs (name -> [P]) whose coefficients a linear regression determines, in order."""
    columns: list[np.ndarray] = []
    names: list[str] = []
    for name, values in logs.items():
        tried = np.column_stack([np.ones(len(values)), *columns, values])
        if np.linalg.matrix_rank(tried) == tried.shape[1]:
            columns.append(values)
            names.append(name)
    return tuple(names)
