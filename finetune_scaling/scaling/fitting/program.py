"""Fits a law by Huber loss: L-BFGS from a grid of starts, then a second-order polish of the best, in JAX float64.

The grid runs as one vmapped program; points are padded with weight zero and starts come in chunks of one size, so
that all tasks, methods and leave-out refits of a law share one compiled program. Several problems over the same
points (refits without some of them) differ by their weights alone.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from finetune_scaling.scaling.laws.declared import Law, Layout, Residual

HUBER_DELTA = 1e-3
SCREEN_ROWS = 512
POLISH_ROWS = 32
# Starts that are polished: the screen's order is not yet that of the optima that they lead to.
POLISHED_STARTS = 1024
MEMORY = 8
SCREEN_ITERATIONS = 80
POLISH_ITERATIONS = 100
# Damping factors tried side by side in one polish step: cheaper than a Hessian for each try.
DAMPINGS = (1e-3, 1e-1, 1.0, 10.0)
STALLS = 4


@dataclass(frozen=True)
class FitSettings:
    """What a fit minimises.

    huber_delta: where the Huber loss turns from square to straight; residual: "linear" (predicted - measured loss),
    "log" (the difference of their logarithms) or None, the law's own.
    """

    huber_delta: float = HUBER_DELTA
    residual: Residual | None = None

    def residual_of(self, law: Law) -> Residual:
        """The residual that a fit of this law minimises."""
        return self.residual or law.residual


@dataclass(frozen=True)
class FitPoints:
    """Points to fit. log_factors: name -> [P]; loss [P] in nats; groups [P]: index of each point's factor."""

    log_factors: Mapping[str, np.ndarray]
    loss: np.ndarray
    groups: np.ndarray

    def padded(self, size: int) -> "FitPoints":
        """The same points followed by blanks (all factors and losses 1), `size` in all."""
        extra = size - len(self.loss)
        log_factors = {name: np.pad(values, (0, extra)) for name, values in self.log_factors.items()}
        return FitPoints(
            log_factors, np.pad(self.loss, (0, extra), constant_values=1.0), np.pad(self.groups, (0, extra))
        )


@dataclass(frozen=True)
class Program:
    """What a compiled fit depends on besides array shapes; the key of JAX's cache of compiled programs."""

    layout: Layout
    residual: Residual


def padded_size(points: int) -> int:
    """Number of points that a program is compiled for: the next power of two, at least 64."""
    return max(64, 1 << (points - 1).bit_length())


def fit(
    layout: Layout,
    points: FitPoints,
    weights: np.ndarray,
    starts: np.ndarray,
    free: np.ndarray,
    settings: FitSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Best parameters over a grid of starts, for every row of weights.

    weights [W, P]; starts [S, K]; free bool [K], False where a parameter stays at its start.
    Returns vectors [W, K] and their objectives [W] (weighted sums of Huber losses).
    """
    problems, grid = len(weights), len(starts)
    rows = np.repeat(np.arange(problems), grid)
    vectors, values = _run(
        _screen, SCREEN_ROWS, layout, points, weights[rows], np.tile(starts, (problems, 1)), free, settings
    )
    kept = min(grid, POLISHED_STARTS)
    order = np.argsort(values.reshape(problems, grid), axis=1, kind="stable")[:, :kept]
    chosen = (np.arange(problems)[:, None] * grid + order).ravel()
    vectors, values = refit(layout, points, np.repeat(weights, kept, axis=0), vectors[chosen], free, settings)
    best = np.argmin(values.reshape(problems, kept), axis=1) + np.arange(problems) * kept
    return vectors[best], values[best]


def refit(
    layout: Layout,
    points: FitPoints,
    weights: np.ndarray,
    vectors: np.ndarray,
    free: np.ndarray,
    settings: FitSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Polishes one vector per row of weights to its nearest optimum: weights [W, P], vectors [W, K] -> [W, K], [W]."""
    return _run(_polish, POLISH_ROWS, layout, points, weights, vectors, free, settings)


def _run(
    program: Callable[..., tuple[jax.Array, jax.Array]],
    rows: int,
    layout: Layout,
    points: FitPoints,
    weights: np.ndarray,
    vectors: np.ndarray,
    free: np.ndarray,
    settings: FitSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Calls a compiled program on chunks of `rows` rows, the last one filled up with copies of its first row."""
    size = padded_size(len(points.loss))
    blank = points.padded(size)
    weights = np.pad(weights, ((0, 0), (0, size - weights.shape[1])))
    key = Program(layout, settings.residual_of(layout.law))
    results = []
    with jax.enable_x64(True):
        for start in range(0, len(vectors), rows):
            index = np.arange(start, start + rows)
            index[index >= len(vectors)] = start
            data = (dict(blank.log_factors), blank.loss, blank.groups)
            results.append(program(key, vectors[index], weights[index], data, free.astype(float), settings.huber_delta))
    vectors_out, values_out = (np.concatenate([np.asarray(r[i]) for r in results])[: len(vectors)] for i in (0, 1))
    return vectors_out, np.where(np.isfinite(values_out), values_out, np.inf)


@functools.partial(jax.jit, static_argnums=0)
def _screen(key: Program, vectors: Any, weights: Any, data: Any, free: Any, delta: Any) -> tuple[jax.Array, jax.Array]:
    """L-BFGS from every start: vectors [B, K], weights [B, P] -> vectors [B, K], objectives [B]."""

    def one(vector: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        gradient = jax.value_and_grad(lambda v: _objective(key, v, weight, data, delta))
        return _lbfgs(lambda v: _masked(gradient(v), free), vector)

    return jax.vmap(one)(vectors, weights)


@functools.partial(jax.jit, static_argnums=0)
def _polish(key: Program, vectors: Any, weights: Any, data: Any, free: Any, delta: Any) -> tuple[jax.Array, jax.Array]:
    """Damped Newton from every start: vectors [B, K], weights [B, P] -> vectors [B, K], objectives [B]."""

    def one(vector: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _newton(key, vector, weight, data, free, delta)

    return jax.vmap(one)(vectors, weights)


def _masked(result: tuple[jax.Array, jax.Array], free: jax.Array) -> tuple[jax.Array, jax.Array]:
    return result[0], result[1] * free


def _residuals(key: Program, vector: jax.Array, data: Any) -> jax.Array:
    """Predicted minus measured loss (or of their logs), [P]."""
    log_factors, loss, groups = data
    prediction = sum(
        jnp.exp(term) for term in key.layout.law.log_terms(_spread(key.layout, vector, groups), log_factors)
    )
    return jnp.log(prediction / loss) if key.residual == "log" else prediction - loss


def _spread(layout: Layout, vector: jax.Array, groups: jax.Array) -> dict[str, jax.Array]:
    """Parameters by name, per-factor ones spread over the points [P]."""
    # A sum of products, not a gather: the gradient of a gather is a scatter, which is slow on CPUs.
    spread = {}
    for parameter, columns in layout.columns():
        entries = [vector[i] for i in range(columns.start, columns.stop)]
        own = [(groups == i) * entry for i, entry in enumerate(entries)]
        spread[parameter.name] = sum(own[1:], own[0]) if parameter.per_factor else entries[0]
    return spread


def _objective(key: Program, vector: jax.Array, weight: jax.Array, data: Any, delta: jax.Array) -> jax.Array:
    """Weighted sum of Huber losses of the residuals (Huber 1964), quadratic within delta."""
    size = jnp.abs(_residuals(key, vector, data))
    clipped = jnp.minimum(size, delta)
    return jnp.sum(weight * clipped * (size - clipped / 2))


def _lbfgs(
    gradient: Callable[[jax.Array], tuple[jax.Array, jax.Array]], start: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """L-BFGS (Nocedal 1980) with backtracking, one evaluation an iteration so that vmapped lanes never wait."""

    def body(_: int, state: tuple) -> tuple:
        vector, value, slope, direction, length, steps, changes = state
        trial = vector + length * direction
        trial_value, trial_slope = gradient(trial)
        accepted = trial_value <= value + 1e-4 * length * jnp.dot(slope, direction)
        new_steps, new_changes = _remember(steps, changes, trial - vector, trial_slope - slope)
        next_direction = _two_loops(trial_slope, new_steps, new_changes)
        moved = (trial, trial_value, trial_slope, next_direction, jnp.ones_like(length), new_steps, new_changes)
        stayed = (vector, value, slope, direction, length / 4, steps, changes)
        return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), moved, stayed)

    value, slope = gradient(start)
    history = jnp.zeros((MEMORY, *start.shape), start.dtype)
    first = _two_loops(slope, history, history)
    state = (start, value, slope, first, jnp.ones_like(value), history, history)
    state = lax.fori_loop(0, SCREEN_ITERATIONS, body, state)
    return state[0], state[1]


def _remember(steps: jax.Array, changes: jax.Array, step: jax.Array, change: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Appends a pair to the history [MEMORY, K], newest last, where its curvature is positive."""
    curved = jnp.dot(step, change) > 1e-12 * jnp.linalg.norm(step) * jnp.linalg.norm(change)
    pushed = [jnp.concatenate([history[1:], new[None]]) for history, new in ((steps, step), (changes, change))]
    return jnp.where(curved, pushed[0], steps), jnp.where(curved, pushed[1], changes)


def _two_loops(slope: jax.Array, steps: jax.Array, changes: jax.Array) -> jax.Array:
    """Descent direction from the history; empty pairs are zero and change nothing."""
    products = jnp.sum(steps * changes, axis=1)
    inverse = jnp.where(products > 0, 1 / jnp.where(products > 0, products, 1), 0)

    def backward(remaining: jax.Array, pair: tuple) -> tuple[jax.Array, jax.Array]:
        step, change, rho = pair
        share = rho * jnp.dot(step, remaining)
        return remaining - share * change, share

    def forward(direction: jax.Array, pair: tuple) -> tuple[jax.Array, None]:
        step, change, rho, share = pair
        return direction + step * (share - rho * jnp.dot(change, direction)), None

    remaining, shares = lax.scan(backward, slope, (steps, changes, inverse), reverse=True)
    newest = jnp.sum(changes[-1] ** 2)
    unit = 1 / jnp.maximum(jnp.linalg.norm(slope), 1e-300)
    scale = jnp.where(newest > 0, products[-1] / jnp.where(newest > 0, newest, 1), unit)
    direction, _ = lax.scan(forward, remaining * scale, (steps, changes, inverse, shares))
    return -direction


def _newton(
    key: Program, start: jax.Array, weight: jax.Array, data: Any, free: jax.Array, delta: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Newton steps damped in the metric of iteratively reweighted least squares, until no damping lowers the objective.

    The metric follows the parameters' scales and correlations, so flat valleys cost no extra steps; the exact Hessian
    ends the search where the set of points within delta no longer changes.
    """
    objective = functools.partial(_objective, key, weight=weight, data=data, delta=delta)
    slope_of = jax.grad(objective)
    dampings = jnp.array(DAMPINGS)

    def metric(vector: jax.Array) -> jax.Array:
        residuals = _residuals(key, vector, data)
        jacobian = jax.jacfwd(lambda v: _residuals(key, v, data))(vector) * free
        pull = weight * jnp.minimum(1, delta / jnp.maximum(jnp.abs(residuals), 1e-300))
        return jnp.einsum("p,pi,pj->ij", pull, jacobian, jacobian)

    def body(state: tuple) -> tuple:
        vector, value, damping, stalls, iteration = state
        slope = slope_of(vector) * free
        hessian = jax.jacfwd(slope_of)(vector) * free[:, None] * free
        scale = metric(vector)
        ridge = jnp.diag(1 - free + free * (1e-12 * jnp.trace(scale) + 1e-300))
        systems = hessian + ridge + (damping * dampings)[:, None, None] * scale
        trials = (
            vector - jnp.linalg.solve(systems, jnp.broadcast_to(slope, (len(DAMPINGS), len(slope)))[..., None])[..., 0]
        )
        values = jax.vmap(objective)(trials)
        best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
        improved = values[best] < value
        stalled = jnp.where(value - values[best] > 1e-11 * value, False, True)
        damping = jnp.where(improved, jnp.maximum(damping * dampings[best], 1e-12), jnp.minimum(damping * 100, 1e12))
        vector = jnp.where(improved, trials[best], vector)
        return (
            vector,
            jnp.where(improved, values[best], value),
            damping,
            jnp.where(stalled, stalls + 1, 0),
            iteration + 1,
        )

    def unfinished(state: tuple) -> jax.Array:
        return (state[3] < STALLS) & (state[4] < POLISH_ITERATIONS)

    state = (start, objective(start), jnp.ones(()), jnp.zeros((), int), jnp.zeros((), int))
    state = lax.while_loop(unfinished, body, state)
    return state[0], state[1]
