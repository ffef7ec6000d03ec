"""Scaling laws as declared data: each a name, a formula, its parameters with their starts, and the logs of its terms.

A loss law is a sum of positive terms, and every term is written in log space: coefficients enter as a = log A,
factors as log X, so that no fit can leave the positive numbers. To add a law, write the function that returns the
logs of its terms (arithmetic operators only, so that it serves NumPy and JAX alike), declare its parameters and put
the law into LAWS.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from finetune_scaling.errors import ConfigError

Residual = Literal["log", "linear"]
Values = Mapping[str, Any]

# The grid of starts of Hoffmann et al. 2022 (arXiv 2203.15556), appendix D.3.
COEFFICIENT_STARTS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
EXPONENT_STARTS = (0.0, 0.5, 1.0, 1.5, 2.0)
OFFSET_STARTS = (-1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    name: as printed ("A"); is_log: whether the fit moves its logarithm; starts: grid of starting values, of the
    logarithm where is_log; per_factor: whether each factor of a study (model, pretrain, pet) has its own.
    """

    name: str
    is_log: bool
    starts: tuple[float, ...]
    per_factor: bool = False


@dataclass(frozen=True)
class Law:
    """A law L = sum of exp(terms).

    log_terms(parameters, log_factors) -> the logs of the terms; parameters by name, logarithms where is_log.
    factors: the columns that it takes, as in its formula; residual: the residual its authors fit; sizes_needed: how
    many values of D determine it where the other factor varies.
    """

    name: str
    formula: str
    factors: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    log_terms: Callable[[Values, Values], Sequence[Any]]
    residual: Residual
    source: str
    sizes_needed: int = 3


@dataclass(frozen=True)
class Layout:
    """Where a law's parameters lie in the fitted vector; groups are the factors that have parameters of their own."""

    law: Law
    groups: tuple[str, ...] = ("",)

    @property
    def slots(self) -> tuple[tuple[Parameter, str], ...]:
        """The vector's entries in order: (parameter, group), group "" where all groups share it."""
        return tuple((p, group) for p in self.law.parameters for group in (self.groups if p.per_factor else ("",)))

    @property
    def names(self) -> tuple[str, ...]:
        """Printed names of the entries: E, beta, A_model, alpha_model, ..."""
        return tuple(f"{p.name}_{group}" if group else p.name for p, group in self.slots)

    def columns(self) -> Iterator[tuple[Parameter, slice]]:
        """Each parameter with its slice of the vector."""
        start = 0
        for parameter in self.law.parameters:
            width = len(self.groups) if parameter.per_factor else 1
            yield parameter, slice(start, start + width)
            start += width

    def starts(self, frozen: Mapping[str, float] | None = None) -> np.ndarray:
        """The grid of starts [S, K]; a per-factor parameter starts equal in all groups, frozen ones at their value."""
        frozen = frozen or {}
        grids = [(frozen[p.name],) if p.name in frozen else p.starts for p in self.law.parameters]
        widths = [columns.stop - columns.start for _, columns in self.columns()]
        return np.array([np.repeat(start, widths) for start in itertools.product(*grids)], dtype=np.float64)

    def to_natural(self, vector: np.ndarray) -> dict[str, float]:
        """Fitted vector [K] -> printed values (A = exp(a))."""
        values = (np.exp(v) if p.is_log else v for (p, _), v in zip(self.slots, vector, strict=True))
        return dict(zip(self.names, map(float, values), strict=True))

    def to_vector(self, natural: Mapping[str, float]) -> np.ndarray:
        """Printed values -> fitted vector [K]; the inverse of to_natural."""
        with np.errstate(divide="ignore"):
            values = [
                np.log(natural[n]) if p.is_log else natural[n] for n, (p, _) in zip(self.names, self.slots, strict=True)
            ]
        return np.array(values, dtype=np.float64)


def predict(law: Law, parameters: Mapping[str, Any], factors: Mapping[str, Any]) -> np.ndarray:
    """Loss that the law predicts; parameters and factors in natural units, factors broadcast against each other."""
    logs = {p.name: np.log(parameters[p.name]) if p.is_log else parameters[p.name] for p in law.parameters}
    log_factors = {name: np.log(np.asarray(factors[name], dtype=np.float64)) for name in law.factors}
    terms: Any = law.log_terms(logs, log_factors)
    return np.asarray(sum(np.exp(term) for term in terms))


def of_factor(parameters: Mapping[str, Any], factor: str) -> dict[str, Any]:
    """The parameters that hold for one factor, under their short names: A_model -> A."""
    suffix = f"_{factor}"
    own = {name.removesuffix(suffix): value for name, value in parameters.items() if name.endswith(suffix)}
    return {name: value for name, value in parameters.items() if "_" not in name} | own


def _single(p: Values, x: Values) -> Sequence[Any]:
    return p["A"] - p["beta"] * x["D"], p["E"]


def _multiplicative(p: Values, x: Values) -> Sequence[Any]:
    return p["A"] - p["alpha"] * x["X"] - p["beta"] * x["D"], p["E"]


def _additive(p: Values, x: Values) -> Sequence[Any]:
    return p["A"] - p["alpha"] * x["X"], p["B"] - p["beta"] * x["D"], p["E"]


def _chinchilla(p: Values, x: Values) -> Sequence[Any]:
    return p["A"] - p["alpha"] * x["N"], p["B"] - p["beta"] * x["D"], p["E"]


def _coefficient(name: str, per_factor: bool = False) -> Parameter:
    return Parameter(name, True, COEFFICIENT_STARTS, per_factor)


def _exponent(name: str, per_factor: bool = False) -> Parameter:
    return Parameter(name, False, EXPONENT_STARTS, per_factor)


_OFFSET = Parameter("E", True, OFFSET_STARTS)
_ZHANG = "Zhang et al. 2024, arXiv 2402.17193"

SINGLE = Law(
    name="single",
    formula="L = A / D^beta + E",
    factors=("D",),
    parameters=(_OFFSET, _coefficient("A"), _exponent("beta")),
    log_terms=_single,
    residual="linear",
    source=_ZHANG,
)
MULTIPLICATIVE = Law(
    name="multiplicative",
    formula="L = A / (X^alpha * D^beta) + E",
    factors=("X", "D"),
    parameters=(_OFFSET, _exponent("beta"), _coefficient("A", True), _exponent("alpha", True)),
    log_terms=_multiplicative,
    residual="linear",
    source=_ZHANG,
    sizes_needed=2,
)
ADDITIVE = Law(
    name="additive",
    formula="L = A / X^alpha + B / D^beta + E",
    factors=("X", "D"),
    parameters=(_OFFSET, _coefficient("B"), _exponent("beta"), _coefficient("A", True), _exponent("alpha", True)),
    log_terms=_additive,
    residual="linear",
    source=_ZHANG,
)
CHINCHILLA = Law(
    name="chinchilla",
    formula="L = A / N^alpha + B / D^beta + E",
    factors=("N", "D"),
    parameters=(_OFFSET, _coefficient("A"), _coefficient("B"), _exponent("alpha"), _exponent("beta")),
    log_terms=_chinchilla,
    residual="log",
    source="Hoffmann et al. 2022, arXiv 2203.15556, equation 10",
)
LAWS = {law.name: law for law in (SINGLE, MULTIPLICATIVE, ADDITIVE, CHINCHILLA)}


def law_named(name: str) -> Law:
    """The law of that name; ConfigError lists the known ones where there is none."""
    if name not in LAWS:
        raise ConfigError(f"--law={name} is not a law; choose one of {', '.join(LAWS)}")
    return LAWS[name]
