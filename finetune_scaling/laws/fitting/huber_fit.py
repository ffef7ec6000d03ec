"""Minimization of a law's Huber objective: L-BFGS from a grid of starts, then Newton steps from the best, in float64.

The grid runs as one vmapped program; points are padded with weight zero and starts come in chunks of one size, so
that all tasks, methods and refits of a law share one compiled program. Problems over the same points (for example
refits without some of them) differ only in their weights.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from finetune_scaling.laws.fitting.minimizers import lbfgs, newton
from finetune_scaling.laws.forms.declared import Law, Layout, Residual, predict

HUBER_DELTA = 1e-3
SCREEN_ROWS = 512
POLISH_ROWS = 32
# Starts that Newton steps continue from: the order after L-BFGS is not yet that of the optima.
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
    """Points to fit. log_factors: name -> [P]; loss [P] in nats; groups [P]: index of each point's factor.

    pad_to: least number of points that programs are compiled for, so that several problems share one.
    """

    log_factors: Mapping[str, np.ndarray]
    loss: np.ndarray
    groups: np.ndarray
    pad_to: int = 0

    def padded(self, size: int) -> "FitPoints":
        """Return the points padded to `size` with blanks (all factors and losses 1)."""
        extra = size - len(self.loss)
        log_factors = {name: np.pad(values, (0, extra)) for name, values in self.log_factors.items()}
        return FitPoints(
            log_factors, np.pad(self.loss, (0, extra), constant_values=1.0), np.pad(self.groups, (0, extra))
        )


@dataclass(frozen=True)
class FitProblem:
    """A law to fit to points, and what the fit minimizes."""

    layout: Layout
    points: FitPoints
    settings: FitSettings

    def predictions(self, vectors: np.ndarray) -> np.ndarray:
        """Return the predictions [..., P] of vectors [..., K] at the points."""
        layout, points = self.layout, self.points
        natural = layout.to_natural(vectors[..., None, :])
        own = {p.name: natural[p.name] for p in layout.law.parameters if not p.per_factor}
        for parameter in (p for p in layout.law.parameters if p.per_factor):
            of_groups = [natural[f"{parameter.name}_{g}" if g else parameter.name] for g in layout.groups]
            own[parameter.name] = np.choose(points.groups, of_groups)
        return predict(layout.law, own, {name: np.exp(values) for name, values in points.log_factors.items()})

    def residuals(self, vector: np.ndarray) -> np.ndarray:
        """Return the residuals [P] that a fit minimizes, at one vector [K]."""
        predicted, loss = self.predictions(vector), self.points.loss
        log = self.settings.residual_of(self.layout.law) == "log"
        return np.log(predicted / loss) if log else predicted - loss

    def residual_scale(self, vector: np.ndarray) -> float:
        """Return the root mean square residual at one vector [K]."""
        return float(np.sqrt(np.mean(self.residuals(vector) ** 2)))

    def log_rmse(self, vector: np.ndarray) -> float:
        """Return the root mean square of log prediction - log response at one vector [K]."""
        return float(np.sqrt(np.mean(np.log(self.predictions(vector) / self.points.loss) ** 2)))


@dataclass(frozen=True)
class Program:
    """What a compiled fit depends on besides array shapes; the key of JAX's cache of compiled programs."""

    layout: Layout
    residual: Residual


class Rows(NamedTuple):
    """A batch of problems: start vectors [B, K], weights [B, P], losses [B, P], free [B, K] (1: fitted)."""

    vectors: Any
    weights: Any
    losses: Any
    free: Any


def padded_size(points: int) -> int:
    """Return the number of points that a program is compiled for: the next power of two, at least 64."""
    return max(64, 1 << (points - 1).bit_length())


def multistart_fit(
    problem: FitProblem,
    weights: np.ndarray,
    starts: np.ndarray,
    free: np.ndarray,
    losses: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best parameters over a grid of starts, for every row of weights.

    weights [W, P]; starts [S, K]; free bool [K], False where a parameter stays at its start; losses [W, P]: what each
    row is fitted to, by default the losses of the points.
    Returns vectors [W, K] and their objectives [W] (weighted sums of Huber losses).
    """
    vectors, values = multistart_optima(problem, weights, starts, free, losses)
    return vectors[:, 0], values[:, 0]


def multistart_optima(
    problem: FitProblem,
    weights: np.ndarray,
    starts: np.ndarray,
    free: np.ndarray,
    losses: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the optima found from all starts, best first: vectors [W, S', K] and objectives [W, S']."""
    count, grid = len(weights), len(starts)
    rows = np.repeat(np.arange(count), grid)
    losses = np.broadcast_to(problem.points.loss, weights.shape) if losses is None else losses
    screened = _rows(np.tile(starts, (count, 1)), weights[rows], losses[rows], free)
    vectors, values = _run(_screen, SCREEN_ROWS, problem, screened)
    kept = min(grid, POLISHED_STARTS)
    order = np.argsort(values.reshape(count, grid), axis=1, kind="stable")[:, :kept]
    chosen = (np.arange(count)[:, None] * grid + order).ravel()
    many = tuple(np.repeat(values, kept, axis=0) for values in (weights, losses))
    vectors, values = local_refit(problem, many[0], vectors[chosen], free, many[1])
    found = _sorted(vectors.reshape(count, kept, -1), values.reshape(count, kept))
    for turn in range(HOPS):
        hopped = _hop(found[0], turn)
        many = tuple(np.repeat(values, hopped.shape[1], axis=0) for values in (weights, losses))
        starts = hopped.reshape(-1, hopped.shape[2])
        vectors, values = local_refit(problem, many[0], starts, free, many[1])
        more = vectors.reshape(hopped.shape), values.reshape(hopped.shape[:2])
        found = _sorted(*(np.concatenate([old, new], axis=1) for old, new in zip(found, more, strict=True)))
    return found


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


def local_refit(
    problem: FitProblem,
    weights: np.ndarray,
    vectors: np.ndarray,
    free: np.ndarray,
    losses: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Run Newton steps from one vector per row of weights: weights [W, P], vectors [W, K] -> optima [W, K], values [W].

    free: [K], or [W, K] where the rows differ; losses [W, P]: what each row is fitted to, by default the losses of the
    points.
    """
    losses = np.broadcast_to(problem.points.loss, weights.shape) if losses is None else losses
    return _run(_polish, POLISH_ROWS, problem, _rows(vectors, weights, losses, free))


def _rows(vectors: np.ndarray, weights: np.ndarray, losses: np.ndarray, free: np.ndarray) -> Rows:
    return Rows(vectors, weights, losses, np.broadcast_to(free, vectors.shape).astype(float))


def _run(
    program: Callable[..., tuple[jax.Array, jax.Array]], chunk: int, problem: FitProblem, rows: Rows
) -> tuple[np.ndarray, np.ndarray]:
    """Call a compiled program on chunks of `chunk` rows; copies of its first row fill up the last one."""
    layout, points, settings = problem.layout, problem.points, problem.settings
    size, given = padded_size(max(len(points.loss), points.pad_to)), rows.weights.shape[1]
    blank = points.padded(size)
    rows = rows._replace(
        weights=np.pad(rows.weights, ((0, 0), (0, size - given))),
        losses=np.pad(rows.losses, ((0, 0), (0, size - given)), constant_values=1.0),
    )
    key = Program(layout, settings.residual_of(layout.law))
    results = []
    with jax.enable_x64(True):
        for start in range(0, len(rows.vectors), chunk):
            index = np.arange(start, start + chunk)
            index[index >= len(rows.vectors)] = start
            part = Rows(*(values[index] for values in rows))
            results.append(program(key, part, (dict(blank.log_factors), blank.groups), settings.huber_delta))
    vectors, values = (np.concatenate([np.asarray(r[i]) for r in results])[: len(rows.vectors)] for i in (0, 1))
    return vectors, np.where(np.isfinite(values), values, np.inf)


@functools.partial(jax.jit, static_argnums=0)
def _screen(key: Program, rows: Rows, data: Any, delta: Any) -> tuple[jax.Array, jax.Array]:
    """Run L-BFGS from every start: vectors [B, K], objectives [B]."""

    def one(row: Rows) -> tuple[jax.Array, jax.Array]:
        objective = functools.partial(_objective, key, row=row, data=data, delta=delta)
        return lbfgs(objective, row.vectors, row.free)

    return jax.vmap(one)(rows)


@functools.partial(jax.jit, static_argnums=0)
def _polish(key: Program, rows: Rows, data: Any, delta: Any) -> tuple[jax.Array, jax.Array]:
    """Run damped Newton steps from every start: vectors [B, K], objectives [B]."""

    def one(row: Rows) -> tuple[jax.Array, jax.Array]:
        objective = functools.partial(_objective, key, row=row, data=data, delta=delta)
        metric = functools.partial(_metric, key, row=row, data=data, delta=delta)
        return newton(objective, metric, row.vectors, row.free)

    return jax.vmap(one)(rows)


def _residuals(key: Program, vector: jax.Array, loss: jax.Array, data: Any) -> jax.Array:
    """Return predicted minus measured losses (or their logarithms), [P]."""
    log_factors, groups = data
    terms = key.layout.law.log_terms(_per_point(key.layout, vector, groups), log_factors, jnp)
    prediction = sum(jnp.exp(term) for term in terms)
    return jnp.log(prediction / loss) if key.residual == "log" else prediction - loss


def _per_point(layout: Layout, vector: jax.Array, groups: jax.Array) -> dict[str, jax.Array]:
    """Return parameters by name, per-factor ones broadcast to the points [P]."""
    # A sum of products, not a gather: the gradient of a gather is a scatter, which is slow on CPUs.
    values = {}
    for parameter, columns in layout.columns():
        entries = [parameter.for_law(vector[i], jnp) for i in range(columns.start, columns.stop)]
        own = [(groups == i) * entry for i, entry in enumerate(entries)]
        values[parameter.name] = sum(own[1:], own[0]) if parameter.per_factor else entries[0]
    return values


def _objective(key: Program, vector: jax.Array, row: Rows, data: Any, delta: jax.Array) -> jax.Array:
    """Return the weighted sum of Huber losses of the residuals (Huber 1964), quadratic within delta."""
    size = jnp.abs(_residuals(key, vector, row.losses, data))
    clipped = jnp.minimum(size, delta)
    return jnp.sum(row.weights * clipped * (size - clipped / 2))


def _metric(key: Program, vector: jax.Array, row: Rows, data: Any, delta: jax.Array) -> jax.Array:
    """Return the curvature [K, K] of the objective by iteratively reweighted least squares."""
    residuals = _residuals(key, vector, row.losses, data)
    jacobian = jax.jacfwd(lambda v: _residuals(key, v, row.losses, data))(vector) * row.free
    pull = row.weights * jnp.minimum(1, delta / jnp.maximum(jnp.abs(residuals), 1e-300))
    return jnp.einsum("p,pi,pj->ij", pull, jacobian, jacobian)
