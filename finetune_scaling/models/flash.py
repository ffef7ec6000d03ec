"""Pallas kernels of attention on TPUs, forward and backward, that keep scores out of HBM.

Like FlashAttention (Dao et al., 2022), but all keys of a row are in VMEM. So the softmax of a block of queries is
computed in one pass, the backward pass needs only the inputs, and the mask is computed from the layouts inside the
kernel: packed rows, prefix LMs and soft prompts cost nothing extra.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.token_layout import TokenLayout, attends
from finetune_scaling.sharding.axes import AxisRules, partition_spec, shard_count

Array = jax.Array

LONGEST = 4096  # keys per row; with more, a block's scores do not fit into the VMEM of a v5e
_QUERIES = 128  # per block
_MASKED = -1e30


def flash_attention(
    query: Array, keys: Array, values: Array, layout: TokenLayout, rules: AxisRules, scale: float | None = None
) -> Array:
    """Return softmax attention of every token to the visible tokens of its row.

    query [B, L, heads, H], keys and values [B, L, kv_heads, H], layout [B, L] -> [B, L, heads, H]. scale: of the
    scores; None is H ** -0.5. On the mesh in context each device computes its own rows and heads. Raises ConfigError
    if rows have more than LONGEST tokens.
    """
    length = query.shape[1]
    if length > LONGEST:
        raise ConfigError(
            f"model.attention = 'flash' supports at most {LONGEST} tokens per row, not {length}. Fix: use 'blockwise'"
        )
    attention = functools.partial(_attention, scale=query.shape[3] ** -0.5 if scale is None else scale)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attention(query, keys, values, layout)
    query_spec = partition_spec(mesh, rules, ("batch", None, "heads", None), query.shape)
    # Each device needs the keys of its own heads: copies of them if there are fewer than devices.
    devices = shard_count(mesh, rules.heads) if query_spec[2] else 1
    copies = math.lcm(keys.shape[2], devices) // keys.shape[2]
    keys, values = (jnp.repeat(array, copies, axis=2) for array in (keys, values))
    rows = PartitionSpec(query_spec[0], None)
    return jax.shard_map(
        attention,
        in_specs=(query_spec, query_spec, query_spec, TokenLayout(rows, rows, rows)),  # type: ignore[arg-type]
        out_specs=query_spec,
        check_vma=False,  # a kernel does not declare over which mesh axes its results vary
    )(query, keys, values, layout)


def _attention(query: Array, keys: Array, values: Array, layout: TokenLayout, scale: float) -> Array:
    """Compute flash_attention on one device."""
    batch, length, heads, head_dim = query.shape
    groups = heads // keys.shape[2]
    padding = -length % _QUERIES
    layout = TokenLayout(*(_pad(field.astype(jnp.int32), padding) for field in layout))  # with segment PADDING
    query = _pad(query, padding).reshape(batch, -1, keys.shape[2], groups, head_dim).transpose(0, 2, 3, 1, 4)
    keys, values = (_pad(array, padding).swapaxes(1, 2) for array in (keys, values))
    mixed = _kernels(query, keys, values, jnp.stack(layout, axis=2), jnp.stack(layout, axis=1), scale)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, -1, heads, head_dim)[:, :length]


def _pad(array: Array, padding: int) -> Array:
    return jnp.pad(array, ((0, 0), (0, padding)) + ((0, 0),) * (array.ndim - 2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _kernels(query: Array, keys: Array, values: Array, columns: Array, rows: Array, scale: float) -> Array:
    """Compute attention of query [B, K, G, L, H] to keys and values [B, K, L, H]; layout: [B, L, 3] and [B, 3, L]."""
    return _call(_forward, scale, (query, keys, values, columns, rows), (), [query])[0]


def _kernels_forward(*inputs: Any) -> tuple[Array, tuple[Array, ...]]:
    return _kernels(*inputs), inputs[:-1]


def _kernels_backward(scale: float, inputs: tuple[Array, ...], gradient: Array) -> tuple[Array | None, ...]:
    query, keys, values, _, _ = inputs
    summed = jax.ShapeDtypeStruct(keys.shape, jnp.float32)
    to_query, to_keys, to_values = _call(_backward, scale, inputs, (gradient,), [query, summed, summed])
    return to_query, to_keys.astype(keys.dtype), to_values.astype(values.dtype), None, None


_kernels.defvjp(_kernels_forward, _kernels_backward)


def _call(
    kernel: Any, scale: float, inputs: tuple[Array, ...], gradients: tuple[Array, ...], outputs: list
) -> list[Array]:
    """Run a kernel for each block of queries of each head; the heads of one group run sequentially."""
    batch, kv_heads, groups, length, head_dim = inputs[0].shape
    of_queries = pl.BlockSpec((None, None, None, _QUERIES, head_dim), lambda b, k, g, i: (b, k, g, i, 0))
    of_keys = pl.BlockSpec((None, None, length, head_dim), lambda b, k, g, i: (b, k, 0, 0))
    columns = pl.BlockSpec((None, _QUERIES, 3), lambda b, k, g, i: (b, i, 0))
    rows = pl.BlockSpec((None, 3, length), lambda b, k, g, i: (b, 0, 0))
    return pl.pallas_call(
        functools.partial(kernel, scale=scale),
        grid=(batch, kv_heads, groups, length // _QUERIES),
        in_specs=[of_queries, of_keys, of_keys, columns, rows, *(of_queries for _ in gradients)],
        out_specs=[of_queries if output.ndim == 5 else of_keys for output in outputs],
        out_shape=[jax.ShapeDtypeStruct(output.shape, output.dtype) for output in outputs],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"),
        ),
    )(*inputs, *gradients)


def _forward(query, keys, values, columns, rows, mixed, *, scale):  # references to blocks in VMEM
    weights, _ = _weights(query, keys, columns, rows, scale)
    mixed[...] = _product(weights.astype(values.dtype), values[...], (1, 0)).astype(mixed.dtype)


def _backward(query, keys, values, columns, rows, gradient, to_query, to_keys, to_values, *, scale):
    @pl.when((pl.program_id(2) == 0) & (pl.program_id(3) == 0))
    def _():
        to_keys[...] = jnp.zeros_like(to_keys)
        to_values[...] = jnp.zeros_like(to_values)

    weights, visible = _weights(query, keys, columns, rows, scale)
    to_values[...] += _product(weights.astype(values.dtype).T, gradient[...], (1, 0))
    to_weights = _product(gradient[...], values[...], (1, 1))
    to_scores = weights * (to_weights - (weights * to_weights).sum(axis=1, keepdims=True))
    to_scores = jnp.where(visible, to_scores * scale, 0.0).astype(keys.dtype)
    to_query[...] = _product(to_scores, keys[...], (1, 0)).astype(to_query.dtype)
    to_keys[...] += _product(to_scores.T, query[...], (1, 0))


def _weights(query, keys, columns, rows, scale) -> tuple[Array, Array]:
    """Return the float32 softmax weights of one block of queries and their mask, [queries, L] each."""
    of_queries = _layout([columns[:, i : i + 1] for i in range(3)])
    of_keys = _layout([rows[i : i + 1, :] for i in range(3)])
    visible = attends(of_queries, of_keys)
    scores = jnp.where(visible, _product(query[...], keys[...], (1, 1)) * scale, _MASKED)
    powers = jnp.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True), visible


def _layout(fields: list[Array]) -> TokenLayout:
    positions, segments, prefix = fields  # int32 each
    return TokenLayout(positions, segments, prefix != 0)


def _product(left: Array, right: Array, axes: tuple[int, int]) -> Array:
    contracted = ((axes[:1], axes[1:]), ((), ()))
    return jax.lax.dot_general(left, right, contracted, preferred_element_type=jnp.float32)
