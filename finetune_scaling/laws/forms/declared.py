"""Declaration of a scaling law: name, formula, parameters with bounds and starting values, and the logs of its terms.

A law is a sum of positive terms, and every term is written in log space: coefficients enter as a = log A, factors as
log X, so that no fit leaves the positive numbers or overflows. library.py has the declared laws; docs/laws.md shows how
to declare your own.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from finetune_scaling.errors import ConfigError

Residual = Literal["log", "linear"]
Values = Mapping[str, Any]
LogTerms = Callable[[Values, Values, Any], Sequence[Any]]

# The grid of starting values of Hoffmann et al. 2022 (arXiv 2203.15556), appendix D.3.
COEFFICIENT_STARTS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
EXPONENT_STARTS = (0.0, 0.5, 1.0, 1.5, 2.0)
OFFSET_STARTS = (-1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    name: as printed ("A"); low, high: its bounds in natural units, open or infinite at both ends; starts: grid of
    starting values, of the logarithm where the parameter is positive (bounds 0 and infinity), else in natural units;
    per_factor: whether each factor of a study (model, pretrain, pet) has its own; is_offset: whether it has the unit of
    the response, so that a value far below all responses is not distinguishable from zero.

    The bounds decide what is fitted: the logarithm of a positive parameter, the logit of one between two finite bounds,
    an unbounded one directly. Raises ConfigError on other bounds, or where a start is outside them.
    """

    name: str
    starts: tuple[float, ...]
    low: float = -math.inf
    high: float = math.inf
    per_factor: bool = False
    is_offset: bool = False

    def __post_init__(self) -> None:
        if "_" in self.name:
            raise ConfigError(f"parameter {self.name}: '_' separates a name from its factor (A_model); remove it")
        free = math.isinf(self.low) and math.isinf(self.high) and self.low < self.high
        if not (free or self.is_log or self.is_bounded):
            raise ConfigError(
                f"parameter {self.name}: bounds ({self.low}, {self.high}) are not supported; give none, "
                "(0, infinity), or two finite numbers in order"
            )
        if self.is_bounded and not all(self.low < start < self.high for start in self.starts):
            raise ConfigError(
                f"parameter {self.name}: starts {self.starts} must be inside ({self.low}, {self.high}); correct them"
            )

    @property
    def is_log(self) -> bool:
        """Whether its logarithm is fitted and passed to the law."""
        return self.low == 0 and self.high == math.inf

    @property
    def is_bounded(self) -> bool:
        """Whether it is between two finite bounds."""
        return math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high

    def to_natural(self, unconstrained: Any) -> Any:
        """Return the value in natural units of a fitted entry."""
        if self.is_log:
            return np.exp(unconstrained)
        return self.for_law(unconstrained, np)

    def to_unconstrained(self, natural: Any) -> Any:
        """Return the fitted entry of a value in natural units; infinite at a bound."""
        with np.errstate(divide="ignore"):
            if self.is_log:
                return np.log(natural)
            if self.is_bounded:
                return np.log((natural - self.low) / (self.high - natural))
        return natural

    def for_law(self, unconstrained: Any, xp: Any) -> Any:
        """Return what the law's terms receive for a fitted entry; xp: numpy or jax.numpy."""
        if not self.is_bounded:
            return unconstrained
        return self.low + (self.high - self.low) / (1 + xp.exp(-unconstrained))


@dataclass(frozen=True)
class Law:
    """A law: response = sum of exp(terms).

    log_terms(parameters, log_factors, xp) -> the logs of the terms; parameters by name, logarithms where positive;
    xp: numpy or jax.numpy, for functions beyond arithmetic. factors: the columns that it takes, as in its formula;
    response: the column that it describes; residual: the residual that its authors fit; sizes_needed: how many values
    of D determine it where the other factor varies; file: where a user's law is declared, as FILE.py:NAME.
    """

    name: str
    formula: str
    factors: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    log_terms: LogTerms
    source: str
    residual: Residual = "linear"
    sizes_needed: int = 3
    response: str = "loss"
    file: str = ""

    def without_sharing(self) -> "Law":
        """Return the law with separate parameters for each factor, E and beta included."""
        own = tuple(dataclasses.replace(parameter, per_factor=True) for parameter in self.parameters)
        return dataclasses.replace(self, name=f"{self.name}_free", parameters=own)


@dataclass(frozen=True)
class ParameterLayout:
    """The order of a law's parameters in the fitted vector; groups are the factors that have separate parameters."""

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

    def entries_of(self, *groups: str) -> np.ndarray:
        """Return which entries [K] belong to one of these groups."""
        return np.array([group in groups for _, group in self.slots])

    def columns(self) -> Iterator[tuple[Parameter, slice]]:
        """Yield each parameter with its slice of the vector."""
        start = 0
        for parameter in self.law.parameters:
            width = len(self.groups) if parameter.per_factor else 1
            yield parameter, slice(start, start + width)
            start += width

    def starts(self, frozen: Mapping[str, float] | None = None) -> np.ndarray:
        """Return the grid of starts [S, K]; per-factor parameters start equal, frozen ones at their value."""
        frozen = frozen or {}
        grids = [(frozen[p.name],) if p.name in frozen else _unconstrained_starts(p) for p in self.law.parameters]
        widths = [columns.stop - columns.start for _, columns in self.columns()]
        return np.array([np.repeat(start, widths) for start in itertools.product(*grids)], dtype=np.float64)

    def to_natural(self, vectors: np.ndarray) -> dict[str, Any]:
        """Return values [...] in natural units by name (A = exp(a)) of vectors [..., K]; floats for one vector."""
        values = [p.to_natural(vectors[..., i]) for i, (p, _) in enumerate(self.slots)]
        if vectors.ndim == 1:
            values = [float(value) for value in values]
        return dict(zip(self.names, values, strict=True))


def predict(law: Law, parameters: Mapping[str, Any], factors: Mapping[str, Any]) -> np.ndarray:
    """Return what the law predicts; parameters and factors are in natural units and broadcast against each other."""
    with np.errstate(divide="ignore"):  # an offset of zero adds nothing
        given = {p.name: np.log(parameters[p.name]) if p.is_log else parameters[p.name] for p in law.parameters}
    log_factors = {name: np.log(np.asarray(factors[name], dtype=np.float64)) for name in law.factors}
    terms: Any = law.log_terms(given, log_factors, np)
    return np.asarray(sum(np.exp(term) for term in terms))


def factor_parameters(parameters: Mapping[str, Any], factor: str) -> dict[str, Any]:
    """Return the parameters of one factor under their short names: A_model -> A."""
    suffix = f"_{factor}"
    own = {name.removesuffix(suffix): value for name, value in parameters.items() if name.endswith(suffix)}
    return {name: value for name, value in parameters.items() if "_" not in name} | own


def coefficient(name: str, per_factor: bool = False, starts: tuple[float, ...] = COEFFICIENT_STARTS) -> Parameter:
    """Declare a positive parameter with the starting values of Hoffmann et al. (of its logarithm)."""
    return Parameter(name, starts, low=0.0, per_factor=per_factor)


def exponent(name: str, per_factor: bool = False, starts: tuple[float, ...] = EXPONENT_STARTS) -> Parameter:
    """Declare an unbounded parameter with the starting values of Hoffmann et al."""
    return Parameter(name, starts, per_factor=per_factor)


OFFSET = Parameter("E", OFFSET_STARTS, low=0.0, is_offset=True)


def _unconstrained_starts(parameter: Parameter) -> tuple[float, ...]:
    if not parameter.is_bounded:
        return parameter.starts
    return tuple(float(parameter.to_unconstrained(start)) for start in parameter.starts)
