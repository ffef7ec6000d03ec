"""Cross-entropy over a large vocabulary, in chunks: no array of logits above 64 MiB ever exists on a device.

Training needs the weighted sum of the losses, whose cotangent is a scalar. So the gradients are formed in the forward
pass, while a chunk's logits exist, and the backward pass only scales them (as in the Liger kernels; Hsu et al., 2024).

The loop is over chunks of tokens. If all logits of a chunk fit, both gradients follow from its softmax. Otherwise that
of the hidden states does, and a trained table, whose gradient sums over all tokens, has a second loop over chunks of
the vocabulary, which recomputes logits.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from finetune_scaling.sharding.axes import AxisRules
from finetune_scaling.training.chunk_softmax import logit_gradient, running_softmax, softmax
from finetune_scaling.training.head_shard import HeadShard, product
from finetune_scaling.training.table_sharding import TableSharding

Array = jax.Array


def cross_entropy(hidden: Array, table: Array, targets: Array, axes: AxisRules, cap: float | None = None) -> Array:
    """Return the negative log-likelihood of targets [B, L] in nats, float32 [B, L], under softmax(hidden @ table.T).

    hidden [B, L, D]; table [V, D]. Both are sharded by `axes` over the mesh in context. cap: soft cap of the logits.
    It is for evaluation: its gradient would save all logits. Training differentiates `cross_entropy_sum`.
    """
    sharding = TableSharding(axes, hidden.shape, table.shape)
    return sharding.shard(functools.partial(_frozen, sharding, cap), "htr", "r")(hidden, table, targets)[0]


def cross_entropy_sum(
    hidden: Array, table: Array, targets: Array, weights: Array, axes: AxisRules, cap: float | None = None
) -> Array:
    """Return the sum of `cross_entropy` times weights [B, L], a float32 scalar.

    The gradient of the table is computed only if it is differentiated.
    """
    return _weighted_sum(hidden, table, targets, weights, axes, cap)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _weighted_sum(
    hidden: Array, table: Array, targets: Array, weights: Array, axes: AxisRules, cap: float | None
) -> Array:
    return (cross_entropy(hidden, table, targets, axes, cap) * weights).sum()


def _forward_rule(hidden, table, targets, weights, axes, cap):  # symbolic_zeros: primals say what is differentiated
    inputs = (hidden.value, table.value, targets.value, weights.value)
    sharding = TableSharding(axes, hidden.value.shape, table.value.shape)
    function, outputs = (_trained, "rht") if table.perturbed else (_frozen, "rh")
    losses, *gradients = sharding.shard(functools.partial(function, sharding, cap), "htrr", outputs)(*inputs)
    return (losses * weights.value).sum(), (losses, gradients)


def _backward_rule(axes, cap, residuals, cotangent):
    losses, (hidden, *table) = residuals
    scaled = [(gradient * cotangent).astype(gradient.dtype) for gradient in (hidden, *table)]
    return scaled[0], scaled[1] if table else None, None, losses * cotangent


_weighted_sum.defvjp(_forward_rule, _backward_rule, symbolic_zeros=True)


def _frozen(sharding, cap, hidden, table, targets, *weights):
    """Return losses [b, l] and, given weights, the gradient of their weighted sum with respect to hidden states."""
    head = HeadShard(sharding, cap, hidden, table)
    if head.rows < head.size:
        compute = functools.partial(running_softmax, head)
    else:
        compute = functools.partial(softmax, head, head.read(0, head.size))
    kept = 2 if weights else 1
    chunk = lambda _, *inputs: (compute(*inputs)[:kept], ())  # noqa: E731
    outputs = (jnp.zeros(targets.shape, jnp.float32), jnp.zeros_like(hidden))[:kept]
    return _over_tokens(chunk, head.tokens, (hidden, targets, *weights), outputs)[0]


def _trained(sharding, cap, hidden, table, targets, weights):
    """Return losses [b, l] and the gradients of their weighted sum with respect to hidden states and table."""
    head = HeadShard(sharding, cap, hidden, table)
    compute = _gradients_in_two_passes if head.rows < head.size else _gradients_in_one_pass
    return compute(head, hidden, targets, weights)


def _gradients_in_two_passes(head: HeadShard, hidden: Array, targets: Array, weights: Array) -> tuple[Array, ...]:
    inputs, losses = (hidden, targets, weights), jnp.zeros(targets.shape, jnp.float32)
    chunk = lambda _, *inputs: (running_softmax(head, *inputs), ())  # noqa: E731
    outputs = (losses, jnp.zeros_like(hidden), losses)
    (losses, gradient, normalizers), _ = _over_tokens(chunk, head.tokens, inputs, outputs)
    return losses, gradient, _table_gradient(head, *inputs, normalizers)


def _gradients_in_one_pass(head: HeadShard, hidden: Array, targets: Array, weights: Array) -> tuple[Array, ...]:
    rows = head.read(0, head.size)

    def chunk(is_new, hidden, targets, weights):
        losses, gradient, of_logits = softmax(head, rows, hidden, targets, weights)
        return (losses, gradient), (product("tr,td->rd", of_logits, jnp.where(is_new[:, None], hidden, 0)),)

    outputs, total = (jnp.zeros(targets.shape, jnp.float32), jnp.zeros_like(hidden)), jnp.zeros(rows.shape, jnp.float32)
    (losses, gradient), (total,) = _over_tokens(chunk, head.tokens, (hidden, targets, weights), outputs, (total,))
    return losses, gradient, head.sharding.reduce_scatter(total).astype(head.table.dtype)


def _over_tokens(function: Callable, size: int, inputs: Sequence[Array], outputs: tuple, sums: tuple = ()) -> Any:
    """Apply `function` to chunks of `size` tokens; return `outputs`, filled with its results, and `sums`.

    inputs and outputs [b, l, ...]. function(is_new [T], *inputs [T, ...]) returns results for the outputs and terms of
    the sums. is_new: whether no earlier chunk had the token, since the last chunk ends at the last token.
    """
    flatten = lambda arrays: tuple(array.reshape(-1, *array.shape[2:]) for array in arrays)  # noqa: E731
    flat = flatten(inputs)
    count = len(flat[0])

    def step(carry, first):
        outputs, sums = carry
        start = jnp.minimum(first, count - size)
        chunk = (jax.lax.dynamic_slice_in_dim(array, start, size) for array in flat)
        results, terms = function(jnp.arange(size) >= first - start, *chunk)
        write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return (tuple(map(write, outputs, results)), tuple(map(jnp.add, sums, terms))), None

    (filled, sums), _ = jax.lax.scan(step, (flatten(outputs), sums), jnp.arange(0, count, size))
    return tuple(array.reshape(output.shape) for array, output in zip(filled, outputs, strict=True)), sums


def _table_gradient(head: HeadShard, hidden: Array, targets: Array, weights: Array, normalizers: Array) -> Array:
    """Return the gradient of the weighted losses with respect to this shard of the table.

    The last chunk ends at the last row and writes the gradients of some rows again.
    """
    hidden = hidden.reshape(-1, hidden.shape[-1])
    targets, weights, normalizers = (array.reshape(-1) for array in (targets, weights, normalizers))
    count = head.rows_per_chunk(len(targets))

    def step(gradient, first):
        start = jnp.minimum(first, head.size - count)
        logits = head.logits(hidden, head.read(start, count))
        is_target = head.positions(targets, start)[:, None] == jnp.arange(count)
        of_logits = logit_gradient(head, logits, is_target, normalizers, weights)
        of_rows = head.sharding.reduce_scatter(product("tr,td->rd", of_logits, hidden)).astype(gradient.dtype)
        return jax.lax.dynamic_update_slice_in_dim(gradient, of_rows, start, 0), None

    return jax.lax.scan(step, jnp.zeros_like(head.table), jnp.arange(0, head.size, count))[0]
