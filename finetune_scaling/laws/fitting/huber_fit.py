"""Minimization of a law's Huber objective: L-BFGS from a grid of starts, then Newton steps from the best, in float64.

The grid runs as one vmapped program; points are padded with weight zero and starts come in chunks of one size, so
that all tasks, methods and refits of a law share one compiled program. Problems over the same points (for example
refits without some of them) differ only in their weights.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from finetune_scaling.laws.fitting.minimizers import Function, lbfgs, newton
from finetune_scaling.laws.forms.declared import Law, ParameterLayout, Residual
from finetune_scaling.sharding.mesh import host_device

HUBER_DELTA = 1e-3
SCREEN_ROWS = 512
POLISH_ROWS = 32
# Starts that Newton steps refine: their order after L-BFGS differs from the order of the optima.
POLISHED_STARTS = 1024
# Rounds of new starts around the best optimum, starts per round, and from how many optima their directions come.
HOPS = 3
HOP_STARTS = 32
GOOD_OPTIMA = 64


@dataclass(frozen=True)
class FitSettings:
    """What a fit minimizes.

    huber_delta: residual at which the Huber loss changes from quadratic to linear; residual: "linear" (predicted -
    measured loss), "log" (the difference of their logarithms) or None, the law's own.
    """

    huber_delta: float = HUBER_DELTA
    residual: Residual | None = None

    def residual_of(self, law: Law) -> Residual:
        """Return the residual that a fit of this law minimizes."""
        return self.residual or law.residual


@dataclass(frozen=True)
class FitPoints:
    """Points to fit.

    factors: name -> [P]; loss [P] in nats; groups [P]: index of each point's group in the layout;
    pad_to: minimum number of points that programs are compiled for, so that several problems share one.
    """

    factors: Mapping[str, np.ndarray]
    loss: np.ndarray
    groups: np.ndarray | int = 0
    pad_to: int = 0


@dataclass(frozen=True)
class FitProblem:
    """A law to fit to points, and what the fit minimizes."""

    layout: ParameterLayout
    points: FitPoints
    settings: FitSettings = FitSettings()

    def predictions(self, vectors: np.ndarray) -> np.ndarray:
        """Return the predictions [..., P] of vectors [..., K] at the points."""
        log_factors = {name: np.log(values) for name, values in self.points.factors.items()}
        return _predictions(self.layout, vectors, log_factors, self.points.groups, np)

    def residuals(self, vector: np.ndarray) -> np.ndarray:
        """Return the residuals [P] that a fit minimizes, at one vector [K]."""
        predicted, loss = self.predictions(vector), self.points.loss
        log = self.settings.residual_of(self.layout.law) == "log"
        return np.log(predicted / loss) if log else predicted - loss

    def fitted_fields(self, vector: np.ndarray) -> dict[str, Any]:
        """Return the fields of a FittedLaw that follow from the points and the fitted vector [K]."""
        loss = self.points.loss
        return {
            "layout": self.layout,
            "vector": vector,
            "log_rmse": float(np.sqrt(np.mean(np.log(self.predictions(vector) / loss) ** 2))),
            "min_response": float(loss.min()),
            "points": len(loss),
        }

    def batch(
        self, weights: np.ndarray | None = None, losses: np.ndarray | None = None, free: np.ndarray | bool = True
    ) -> "FitBatch":
        """Return W fits to weighted points: weights [W, P], by default one fit with weights of one.

        losses [W, P]: what each of them is fitted to, by default the points' losses; free bool [K] or [W, K]: False
        where a parameter stays at its start.
        """
        weights = np.ones((1, len(self.points.loss))) if weights is None else weights
        losses = np.broadcast_to(self.points.loss if losses is None else losses, weights.shape)
        return FitBatch(self, weights, losses, np.broadcast_to(free, (len(weights), len(self.layout.names))))


@dataclass(frozen=True)
class FitBatch:
    """Fits of one problem with different weights, losses [W, P] and free parameters, bool [W, K]."""

    problem: FitProblem
    weights: np.ndarray
    losses: np.ndarray
    free: np.ndarray

    def rows(self, index: np.ndarray) -> "FitBatch":
        """Return some of the fits."""
        return replace(self, weights=self.weights[index], losses=self.losses[index], free=self.free[index])

    def repeated(self, times: int) -> "FitBatch":
        """Return each of the fits several times in a row."""
        return self.rows(np.repeat(np.arange(len(self.weights)), times))


class FitProgram(NamedTuple):
    """What a compiled fit depends on besides array shapes; the key of JAX's cache of compiled programs."""

    layout: ParameterLayout
    residual: Residual
    minimizer: Literal["lbfgs", "newton"]


class Rows(NamedTuple):
    """Arguments of a compiled fit: start vectors [B, K], weights [B, P], losses [B, P], free [B, K] (1: fitted)."""

    vectors: Any
    weights: Any
    losses: Any
    free: Any


def padded_size(points: int) -> int:
    """Return the number of points that a program is compiled for: the next power of two, at least 64."""
    return max(64, 1 << (points - 1).bit_length())


def multistart_fit(batch: FitBatch, starts: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the best parameters [W, K] over starts [S, K] (the layout's grid), and their objectives [W]."""
    vectors, values = multistart_optima(batch, batch.problem.layout.starts() if starts is None else starts)
    return vectors[:, 0], values[:, 0]


def multistart_optima(batch: FitBatch, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the optima found from all starts [S, K], best first: vectors [W, S', K] and objectives [W, S']."""
    count, grid = len(batch.weights), len(starts)
    vectors, values = _run("lbfgs", SCREEN_ROWS, batch.repeated(grid), np.tile(starts, (count, 1)))
    screened = _sorted(vectors.reshape(count, grid, -1), values.reshape(count, grid))[0]
    found = _sorted(*_refit_each(batch, screened[:, :POLISHED_STARTS]))
    for turn in range(HOPS):
        more = _refit_each(batch, _hop(found[0], turn))
        found = _sorted(*(np.concatenate([old, new], axis=1) for old, new in zip(found, more, strict=True)))
    return found


def _refit_each(batch: FitBatch, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the optima [W, S, K] nearest to several vectors [W, S, K] of each fit, and their objectives [W, S]."""
    flat, values = local_refit(batch.repeated(vectors.shape[1]), vectors.reshape(-1, vectors.shape[2]))
    return flat.reshape(vectors.shape), values.reshape(vectors.shape[:2])


def _sorted(vectors: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    best = np.argsort(values, axis=1, kind="stable")
    return np.take_along_axis(vectors, best[..., None], axis=1), np.take_along_axis(values, best, axis=1)


def _hop(vectors: np.ndarray, turn: int) -> np.ndarray:
    """Return new starts [W, S, K]: the best optimum plus differences of good ones (differential evolution, Storn and
    Price 1997).

    A Huber loss with a small delta has many optima along a flat direction, which their differences follow.
    """
    good = vectors[:, :GOOD_OPTIMA]
    random = np.random.default_rng(turn)
    left, right = random.integers(good.shape[1], size=(2, HOP_STARTS))
    return vectors[:, :1] + random.uniform(0.2, 1.0, (HOP_STARTS, 1)) * (good[:, left] - good[:, right])


def local_refit(batch: FitBatch, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run Newton steps from one vector [W, K] per fit; return the optima [W, K] and their objectives [W]."""
    return _run("newton", POLISH_ROWS, batch, vectors)


def _run(
    minimizer: Literal["lbfgs", "newton"], chunk: int, batch: FitBatch, vectors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Call a compiled program on chunks of `chunk` rows; copies of its first row fill up the last one.

    Points are padded with blanks of weight zero, whose factors and losses are 1.
    """
    problem, points = batch.problem, batch.problem.points
    count = len(points.loss)
    blanks = (0, padded_size(max(count, points.pad_to)) - count)
    data = (
        {name: np.pad(np.log(values), blanks) for name, values in points.factors.items()},
        np.pad(np.broadcast_to(points.groups, count), blanks),
    )
    weights = np.pad(batch.weights, ((0, 0), blanks))
    losses = np.pad(batch.losses, ((0, 0), blanks), constant_values=1.0)
    rows = Rows(vectors, weights, losses, batch.free.astype(float))
    program = FitProgram(problem.layout, problem.settings.residual_of(problem.layout.law), minimizer)
    results = []
    with jax.enable_x64(True), jax.default_device(host_device()):  # TPUs have no float64
        for start in range(0, len(vectors), chunk):
            index = np.arange(start, start + chunk)
            index[index >= len(vectors)] = start
            part = Rows(*(values[index] for values in rows))
            results.append(_minimize(program, part, data, problem.settings.huber_delta))
    found, objectives = (np.concatenate(parts)[: len(vectors)] for parts in zip(*results, strict=True))
    return found, np.where(np.isfinite(objectives), objectives, np.inf)


# Optimized code even if XLA_FLAGS ask for quick compilation, as in the tests: fits then take 3.5 times as long.
@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 3})
def _minimize(program: FitProgram, rows: Rows, data: Any, delta: Any) -> tuple[jax.Array, jax.Array]:
    """Minimize the objective from every start: vectors [B, K], objectives [B]."""

    def one(row: Rows) -> tuple[jax.Array, jax.Array]:
        residuals = functools.partial(_residuals, program, row.losses, data)
        objective = functools.partial(_objective, residuals, row.weights, delta)
        if program.minimizer == "lbfgs":
            return lbfgs(objective, row.vectors, row.free)
        curvature = functools.partial(_curvature, residuals, row.weights, delta, row.free)
        return newton(objective, curvature, row.vectors, row.free)

    return jax.vmap(one)(rows)


def _residuals(program: FitProgram, loss: jax.Array, data: Any, vector: jax.Array) -> jax.Array:
    """Return predicted minus measured losses (or their logarithms), [P]."""
    log_factors, groups = data
    prediction = _predictions(program.layout, vector, log_factors, groups, jnp)
    return jnp.log(prediction / loss) if program.residual == "log" else prediction - loss


def _predictions(layout: ParameterLayout, vectors: Any, log_factors: Mapping[str, Any], groups: Any, xp: Any) -> Any:
    """Return the predictions [..., P] of vectors [..., K] at points of these groups; xp: numpy or jax.numpy."""
    values = {}
    for parameter, columns in layout.columns():
        entries = [parameter.for_law(vectors[..., i, None], xp) for i in range(columns.start, columns.stop)]
        # A sum of products, not a gather: the gradient of a gather is a scatter, which is slow on CPUs.
        own = [(groups == i) * entry for i, entry in enumerate(entries)]
        values[parameter.name] = sum(own[1:], own[0]) if parameter.per_factor else entries[0]
    return sum(xp.exp(term) for term in layout.law.log_terms(values, log_factors, xp))


def _objective(residuals: Function, weights: jax.Array, delta: jax.Array, vector: jax.Array) -> jax.Array:
    """Return the weighted sum of Huber losses of the residuals (Huber 1964), quadratic within delta."""
    size = jnp.abs(residuals(vector))
    clipped = jnp.minimum(size, delta)
    return jnp.sum(weights * clipped * (size - clipped / 2))


def _curvature(
    residuals: Function, weights: jax.Array, delta: jax.Array, free: jax.Array, vector: jax.Array
) -> jax.Array:
    """Return the curvature [K, K] of the objective by iteratively reweighted least squares."""
    jacobian = jax.jacfwd(residuals)(vector) * free
    reweighted = weights * jnp.minimum(1, delta / jnp.maximum(jnp.abs(residuals(vector)), 1e-300))
    return jnp.einsum("p,pi,pj->ij", reweighted, jacobian, jacobian)
