"""Two minimizers for batches of small problems: L-BFGS to approach an optimum, damped Newton steps to reach it.

Both are written for jax.vmap: every problem does the same work in every iteration.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

MEMORY = 8
SCREEN_ITERATIONS = 80
POLISH_ITERATIONS = 100
# Damping factors tried in parallel in one Newton step: cheaper than a Hessian for each.
DAMPINGS = (1e-3, 1e-1, 1.0, 10.0)
STALLS = 4

Function = Callable[[jax.Array], jax.Array]


def lbfgs(objective: Function, start: jax.Array, free: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Run L-BFGS (Nocedal 1980) with backtracking, one evaluation per iteration so that no problem of a batch waits.

    start, free [K] (1 where the entry is fitted) -> vector [K] and its objective.
    """
    value_and_grad = jax.value_and_grad(objective)

    def evaluate(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, gradient = value_and_grad(vector)
        return value, gradient * free

    def body(_: int, state: tuple) -> tuple:
        vector, value, gradient, direction, length, steps, changes = state
        trial = vector + length * direction
        trial_value, trial_gradient = evaluate(trial)
        accepted = trial_value <= value + 1e-4 * length * jnp.dot(gradient, direction)
        new_steps, new_changes = _remember(steps, changes, trial - vector, trial_gradient - gradient)
        next_direction = _two_loops(trial_gradient, new_steps, new_changes)
        moved = (trial, trial_value, trial_gradient, next_direction, jnp.ones_like(length), new_steps, new_changes)
        stayed = (vector, value, gradient, direction, length / 4, steps, changes)
        return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), moved, stayed)

    value, gradient = evaluate(start)
    history = jnp.zeros((MEMORY, *start.shape), start.dtype)
    first = _two_loops(gradient, history, history)
    state = (start, value, gradient, first, jnp.ones_like(value), history, history)
    state = lax.fori_loop(0, SCREEN_ITERATIONS, body, state)
    return state[0], state[1]


def _remember(steps: jax.Array, changes: jax.Array, step: jax.Array, change: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Append a pair to the history [MEMORY, K], newest last, where its curvature is positive."""
    curved = jnp.dot(step, change) > 1e-12 * jnp.linalg.norm(step) * jnp.linalg.norm(change)
    pushed = [jnp.concatenate([history[1:], new[None]]) for history, new in ((steps, step), (changes, change))]
    return jnp.where(curved, pushed[0], steps), jnp.where(curved, pushed[1], changes)


def _two_loops(gradient: jax.Array, steps: jax.Array, changes: jax.Array) -> jax.Array:
    """Return the descent direction of the two-loop recursion; empty pairs are zero and change nothing."""
    products = jnp.sum(steps * changes, axis=1)
    inverse = jnp.where(products > 0, 1 / jnp.where(products > 0, products, 1), 0)

    def backward(remaining: jax.Array, pair: tuple) -> tuple[jax.Array, jax.Array]:
        step, change, rho = pair
        share = rho * jnp.dot(step, remaining)
        return remaining - share * change, share

    def forward(direction: jax.Array, pair: tuple) -> tuple[jax.Array, None]:
        step, change, rho, share = pair
        return direction + step * (share - rho * jnp.dot(change, direction)), None

    remaining, shares = lax.scan(backward, gradient, (steps, changes, inverse), reverse=True)
    newest = jnp.sum(changes[-1] ** 2)
    unit = 1 / jnp.maximum(jnp.linalg.norm(gradient), 1e-300)
    scale = jnp.where(newest > 0, products[-1] / jnp.where(newest > 0, newest, 1), unit)
    direction, _ = lax.scan(forward, remaining * scale, (steps, changes, inverse, shares))
    return -direction


def newton(objective: Function, curvature: Function, start: jax.Array, free: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Run damped Newton steps (Levenberg 1944, Marquardt 1963) until no step lowers the objective.

    They are damped by the curvature of iteratively reweighted least squares, vector [K] -> [K, K]. It follows the
    scales and correlations of the parameters, so that flat directions cost no extra steps; the exact Hessian ends the
    search once the set of points within delta is constant.
    """
    grad = jax.grad(objective)
    dampings = jnp.array(DAMPINGS)

    def body(state: tuple) -> tuple:
        vector, value, damping, stalls, iteration = state
        gradient = grad(vector) * free
        hessian = jax.jacfwd(grad)(vector) * free[:, None] * free
        scale = curvature(vector)
        ridge = jnp.diag(1 - free + free * (1e-12 * jnp.trace(scale) + 1e-300))
        systems = hessian + ridge + (damping * dampings)[:, None, None] * scale
        gradients = jnp.broadcast_to(gradient, (len(DAMPINGS), len(gradient)))
        trials = vector - jnp.linalg.solve(systems, gradients[..., None])[..., 0]
        values = jax.vmap(objective)(trials)
        best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
        improved = values[best] < value
        stalled = ~(value - values[best] > 1e-11 * value)
        damping = jnp.where(improved, jnp.maximum(damping * dampings[best], 1e-12), jnp.minimum(damping * 100, 1e12))
        vector, value = jnp.where(improved, trials[best], vector), jnp.where(improved, values[best], value)
        return vector, value, damping, jnp.where(stalled, stalls + 1, 0), iteration + 1

    def unfinished(state: tuple) -> jax.Array:
        return (state[3] < STALLS) & (state[4] < POLISH_ITERATIONS)

    state = (start, objective(start), jnp.ones(()), jnp.zeros((), int), jnp.zeros((), int))
    state = lax.while_loop(unfinished, body, state)
    return state[0], state[1]
