"""When XLA computes what: the same numbers from less memory.

XLA starts a product as soon as its inputs are there, and fuses what has the same inputs. Each function here returns
what it is given, and holds XLA back by an optimization barrier. Where they are used, buffers of compiled TPU programs
were read; docs/planning.md has the memory of steps with and without them.
"""

from typing import Any

import jax

Array = jax.Array


@jax.custom_jvp
def read_here(parameter: Array) -> Array:
    """The same array, which is not to be read, or cast, any earlier.

    The table of the loss would be cast before the loop over its parts, all of it. With kernels read so, XLA forms a
    feed-forward layer's product apart from its gradients in the backward pass, one [rows, ffn_dim] fewer at a time.
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
