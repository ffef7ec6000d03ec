"""Optimization barriers that control when XLA computes something: the same numbers with less memory.

XLA starts a product as soon as its inputs are available, and fuses operations with the same inputs. Each function here
is an identity with a barrier. They are used where buffers of compiled TPU programs showed the need;
`benchmarks/plan_table.py --prototype` compares the memory of steps with that of a plain implementation.
"""

from typing import Any

import jax

Array = jax.Array


@jax.custom_jvp
def delay_read(parameter: Array) -> Array:
    """Identity that keeps XLA from reading or casting `parameter` before this point.

    Without it the loss's table would be cast as a whole before the loop over its chunks. With it XLA computes a
    feed-forward layer's product separately from its gradients in the backward pass: one [rows, ffn_dim] less at a time.
    """
    return jax.lax.optimization_barrier(parameter)


@delay_read.defjvp
def _delay_read_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return delay_read(*primals), tangents[0]


@jax.custom_jvp
def delay_use(early: Array, late: Array) -> Array:
    """Return `early`, which XLA uses only once `late` is computed; its gradient is not delayed."""
    return jax.lax.optimization_barrier((early, late))[0]


@delay_use.defjvp
def _delay_use_tangent(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return delay_use(*primals), tangents[0]


@jax.custom_vjp
def delay_gradient(y: Array, products: Any) -> Array:
    """Return `y`, whose gradient XLA uses only once `products` are computed, or recomputed under remat."""
    return y


def _forward(y: Array, products: Any) -> tuple[Array, Any]:
    return y, products


def _backward(products: Any, gradient: Array) -> tuple[Array, None]:
    return jax.lax.optimization_barrier((gradient, products))[0], None


delay_gradient.defvjp(_forward, _backward)
