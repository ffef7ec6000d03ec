"""When XLA computes what: the same numbers from less memory.

XLA starts a product as soon as its inputs are there, and casts what a loop casts once before the loop. Each function
here returns what it is given, and ties it to other arrays by an optimization barrier. docs/planning.md has the memory
of the steps that were compiled with them.
"""

from typing import Any

import jax

Array = jax.Array


@jax.custom_jvp
def read_here(parameter: Array) -> Array:
    """The same array, which is not to be read any earlier.

    A kernel that the loop over layers casts would be cast before the loop, all layers of it: a copy of the whole model
    in the compute dtype that lives until the step ends.
    """
    return jax.lax.optimization_barrier(parameter)


@read_here.defjvp
def _read_here_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return read_here(*primals), tangents[0]


@jax.custom_jvp
def after(early: Array, late: Array) -> Array:
    """`early`, to be used only when `late` is there; its gradient waits for nothing."""
    return jax.lax.optimization_barrier((early, late))[0]


@after.defjvp
def _after_tangent(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return after(*primals), tangents[0]


@jax.custom_vjp
def gradient_after(y: Array, products: Any) -> Array:
    """`y`, whose gradient is to be used only when `products` are there, or there again where they are recomputed."""
    return y


def _forward(y: Array, products: Any) -> tuple[Array, Any]:
    return y, products


def _backward(products: Any, gradient: Array) -> tuple[Array, None]:
    return jax.lax.optimization_barrier((gradient, products))[0], None


gradient_after.defvjp(_forward, _backward)
