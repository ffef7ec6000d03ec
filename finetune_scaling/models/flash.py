"""Attention on TPUs by Pallas kernels, forward and backward, that keep scores out of HBM.

Causal rows take JAX's splash attention (splash.py). The kernels of this module serve prefix LMs, soft prompts, and
models with both local and global layers, whose window is traced. They are FlashAttention (Dao et al., 2022; Dao, 2023)
with masks that are computed from the layout of the tokens. Blocks of scores that are masked entirely are not computed,
and their keys are not fetched (block_map.py). Scores are transposed, [keys, queries], so that the statistics of the
softmax, one per query, are in lanes.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.block_map import NO_WINDOW, block_map, fetched_blocks
from finetune_scaling.models.splash import splash_attention
from finetune_scaling.models.token_layout import TokenLayout, attends
from finetune_scaling.sharding.axes import AxisRules, partition_spec, shard_count

Array = jax.Array

_BLOCK = 512  # queries and keys per block, about
_LANES = 128
_MAX_PAIRS = 2**17  # of blocks of queries and keys, 4 bytes each; a v5e has 1 MiB of scalar memory
_MASKED = -1e30


class _Scoring(NamedTuple):
    """Scores: softcap tanh(scale q'k / softcap); softcap: None omits the tanh."""

    scale: float
    softcap: float | None


def flash_attention(
    query: Array,
    keys: Array,
    values: Array,
    layout: TokenLayout,
    rules: AxisRules,
    window: Array | int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Array:
    """Return softmax attention of every token to the visible tokens of its row.

    query [B, L, heads, H], keys and values [B, L, kv_heads, H], layout [B, L] -> [B, L, heads, H]. window: as in
    `token_layout.attends`, an array if it differs between layers. scale: of the scores; None is H ** -0.5. softcap, c:
    scores become c tanh(scores / c). On the mesh in context each device computes its own rows and heads.

    Raises ConfigError if the rows are not causal and a device has more blocks than fit into a TPU's scalar memory, for
    example of 8 rows of more than 65,536 tokens.
    """
    scoring = _Scoring(query.shape[3] ** -0.5 if scale is None else scale, softcap)
    if layout.prefix is None and not isinstance(window, jax.Array):
        return _on_mesh(functools.partial(_causal, window=window, scoring=scoring), query, keys, values, layout, rules)
    limit = jnp.asarray(NO_WINDOW if window is None else window, jnp.int32)
    layout = layout._replace(prefix=jnp.zeros_like(layout.segments) if layout.prefix is None else layout.prefix)
    return _on_mesh(functools.partial(_masked, scoring=scoring), query, keys, values, layout, rules, limit)


def _on_mesh(
    attention: Any, query: Array, keys: Array, values: Array, layout: TokenLayout, rules: AxisRules, *scalars: Array
) -> Array:
    """Compute attention on the mesh in context, each device its own rows and heads."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attention(query, keys, values, layout, *scalars)
    query_spec = partition_spec(mesh, rules, ("batch", None, "heads", None), query.shape)
    # Each device needs the keys of its own heads: copies of them if there are fewer than devices.
    devices = shard_count(mesh, rules.heads) if query_spec[2] else 1
    copies = math.lcm(keys.shape[2], devices) // keys.shape[2]
    keys, values = (jnp.repeat(array, copies, axis=2) for array in (keys, values))
    rows = jax.tree.map(lambda _: PartitionSpec(query_spec[0], None), layout)
    return jax.shard_map(
        attention,
        in_specs=(query_spec, query_spec, query_spec, rows, *(PartitionSpec() for _ in scalars)),
        out_specs=query_spec,
        check_vma=False,  # a kernel does not declare over which mesh axes its results vary
    )(query, keys, values, layout, *scalars)


def _causal(
    query: Array, keys: Array, values: Array, layout: TokenLayout, *, window: int | None, scoring: _Scoring
) -> Array:
    """Compute flash_attention on one device, of rows without bidirectional input and soft prompt."""
    length, block = query.shape[1], _block_size(query.shape[1])
    scaled = query * scoring.scale
    query, keys, values = (_pad(array, -length % block).swapaxes(1, 2) for array in (scaled, keys, values))
    segments = _pad(layout.segments, -length % block)
    mixed = splash_attention(query, keys, values, segments, window=window, softcap=scoring.softcap, block=block)
    return mixed.swapaxes(1, 2)[:, :length]


def _masked(
    query: Array, keys: Array, values: Array, layout: TokenLayout, window: Array, *, scoring: _Scoring
) -> Array:
    """Compute flash_attention on one device, with any mask."""
    batch, length, heads, head_dim = query.shape
    block = _block_size(length)
    padding = -length % block
    _check_blocks(batch, length, (length + padding) // block)
    layout = jax.tree.map(lambda field: _pad(field.astype(jnp.int32), padding), layout)  # with segment PADDING
    groups = heads // keys.shape[2]
    query = _pad(query, padding).reshape(batch, -1, keys.shape[2], groups, head_dim).transpose(0, 2, 3, 1, 4)
    keys, values = (_pad(array, padding).swapaxes(1, 2) for array in (keys, values))
    mixed = _kernels(query, keys, values, layout, window, scoring, block)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, -1, heads, head_dim)[:, :length]


def _block_size(length: int) -> int:
    """Return the tokens per block, a multiple of the lanes that divides a row into equal blocks with little padding."""
    blocks = max(1, round(length / _BLOCK))
    return -(-length // (blocks * _LANES)) * _LANES


def _check_blocks(rows: int, length: int, blocks: int) -> None:
    if rows * blocks**2 > _MAX_PAIRS:
        raise ConfigError(
            f"model.attention = 'flash': {rows} rows of {length} tokens per device are too many for its scalar memory. "
            "Fix: use more devices or batch.accumulation, or model.attention = 'blockwise'"
        )


def _pad(array: Array, padding: int) -> Array:
    return jnp.pad(array, ((0, 0), (0, padding)) + ((0, 0),) * (array.ndim - 2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _kernels(
    query: Array, keys: Array, values: Array, layout: TokenLayout, window: Array, scoring: _Scoring, block: int
) -> Array:
    """Compute attention of query [B, K, G, L, H] to keys and values [B, K, L, H] in blocks of `block` tokens."""
    return _kernels_forward(query, keys, values, layout, window, scoring, block)[0]


def _kernels_forward(
    query: Array, keys: Array, values: Array, layout: TokenLayout, window: Array, scoring: _Scoring, block: int
) -> tuple[Array, tuple[Any, ...]]:
    batch, kv_heads, groups, length, head_dim = query.shape
    statistic = pltpu.VMEM((1, block), jnp.float32)
    mixed, normalizers = _call(
        functools.partial(_forward, scoring=scoring),
        [(query, "bkgqh"), (keys, "bksh"), (values, "bksh")],
        [(query, "bkgqh"), (jax.ShapeDtypeStruct((batch, kv_heads, groups, 1, length), jnp.float32), "bkg1q")],
        [statistic, statistic, pltpu.VMEM((head_dim, block), jnp.float32)],
        _Blocks(layout, window, block, by_keys=False),
    )
    return mixed, (query, keys, values, layout, window, mixed, normalizers)


def _kernels_backward(scoring: _Scoring, block: int, saved: tuple[Any, ...], gradient: Array) -> tuple[Any, ...]:
    query, keys, values, layout, window, mixed, normalizers = saved
    # The gradient of a query's scores is relative to their mean under the softmax, which is this product.
    means = jnp.einsum("bkglh,bkglh->bkgl", mixed, gradient, preferred_element_type=jnp.float32)[:, :, :, None]
    inputs = [(query, "bkgqh"), (keys, "bksh"), (values, "bksh"), (gradient, "bkgqh")]
    inputs += [(normalizers, "bkg1q"), (means, "bkg1q")]
    summed = pltpu.VMEM((block, query.shape[4]), jnp.float32)
    blocks = _Blocks(layout, window, block, by_keys=False)
    kernel = functools.partial(_query_gradient, scoring=scoring)
    (to_query,) = _call(kernel, inputs, [(query, "bkgqh")], [summed], blocks)
    blocks = _Blocks(layout, window, block, by_keys=True)
    kernel = functools.partial(_key_gradients, scoring=scoring)
    to_keys, to_values = _call(kernel, inputs, [(keys, "bksh"), (values, "bksh")], [summed, summed], blocks)
    return to_query, to_keys, to_values, None, None


_kernels.defvjp(_kernels_forward, _kernels_backward)


class _Blocks(NamedTuple):
    """The blocks of queries and keys that a kernel computes.

    by_keys: the outer loop is over blocks of keys and the inner ones over the heads of a group and blocks of queries;
    otherwise over the heads of a group and blocks of queries, and the inner one over blocks of keys.
    """

    layout: TokenLayout
    window: Array
    block: int
    by_keys: bool


def _call(kernel: Any, inputs: list, outputs: list, scratch: list, blocks: _Blocks) -> list[Array]:
    """Run a kernel.

    inputs, outputs: pairs of an array and its axes: b rows, k key/value heads, g heads of a group, q queries, s keys;
    the others are not split.
    """
    layout, window, block, by_keys = blocks
    batch, kv_heads, groups, length = inputs[0][0].shape[:4]
    count = length // block
    steps = _Steps(count, by_keys)
    visible = block_map(layout, window, block)
    fetched = fetched_blocks(visible.swapaxes(1, 2) if by_keys else visible).reshape(-1)
    fields = jax.tree.leaves(layout)
    inputs = [(jnp.stack(fields, axis=1), "b3q"), (jnp.stack(fields, axis=2), "bs3"), *inputs]
    return pl.pallas_call(
        functools.partial(kernel, steps=steps),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, kv_heads, count, groups, count) if by_keys else (batch, kv_heads, groups, count, count),
            in_specs=[_spec(array, axes, block, steps) for array, axes in inputs],
            out_specs=[_spec(array, axes, block, steps) for array, axes in outputs],
            scratch_shapes=scratch,
        ),
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array, _ in outputs],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",) * 3 + ("arbitrary" if by_keys else "parallel", "arbitrary"),
        ),
    )(window[None], fetched, *(array for array, _ in inputs))


class _Steps(NamedTuple):
    """The order of a kernel's steps, with `width` blocks per row. See _Blocks."""

    width: int
    by_keys: bool

    def indices(self, b: Any, k: Any, *inner: Any, blocks: Any) -> dict[str, Any]:
        """Return the index along each axis of the arrays' blocks that a step reads. blocks: of `fetched_blocks`."""
        outer = inner[0] if self.by_keys else inner[1]
        fetched = blocks[(b * self.width + outer) * self.width + inner[2]]
        fetched = jnp.where(fetched < 0, ~fetched, fetched)
        if self.by_keys:
            return {"b": b, "k": k, "s": inner[0], "g": inner[1], "q": fetched}
        return {"b": b, "k": k, "g": inner[0], "q": inner[1], "s": fetched}

    def current(self, blocks: Any) -> tuple[Any, Any, Any]:
        """Return whether a step is the first and the last one of its result, and whether it is not masked entirely."""
        b, outer, *inner = (pl.program_id(axis) for axis in ((0, 2, 3, 4) if self.by_keys else (0, 3, 4)))
        first = functools.reduce(jnp.logical_and, [index == 0 for index in inner])
        ends = [pl.num_programs(axis) - 1 for axis in ((3, 4) if self.by_keys else (4,))]
        last = functools.reduce(jnp.logical_and, [index == end for index, end in zip(inner, ends, strict=True)])
        return first, last, blocks[(b * self.width + outer) * self.width + inner[-1]] >= 0


def _spec(array: Any, axes: str, block: int, steps: _Steps) -> pl.BlockSpec:
    sizes = {"b": None, "k": None, "g": None, "q": block, "s": block}

    def index(*grid: Any) -> tuple[Any, ...]:
        *ids, _, blocks = grid
        indices = steps.indices(*ids, blocks=blocks)
        return tuple(indices.get(axis, 0) for axis in axes)

    return pl.BlockSpec(tuple(sizes.get(axis, size) for axis, size in zip(axes, array.shape, strict=True)), index)


# The arguments of a kernel are references: prefetched scalars, then blocks in VMEM.


def _forward(
    window, blocks, of_queries, of_keys, query, keys, values, mixed, normalizers, most, total, sums, *, scoring, steps
):
    first, last, visible = steps.current(blocks)

    @pl.when(first)
    def _():
        most[...] = jnp.full_like(most, _MASKED)
        total[...] = jnp.zeros_like(total)
        sums[...] = jnp.zeros_like(sums)

    @pl.when(visible)
    def _():
        found, mask, _ = _scores(window, of_queries, of_keys, query, keys, scoring)
        larger = jnp.maximum(most[...], found.max(axis=0, keepdims=True))
        powers = jnp.where(mask, jnp.exp(found - larger), 0.0)
        shrink = jnp.exp(most[...] - larger)
        most[...] = larger
        total[...] = shrink * total[...] + powers.sum(axis=0, keepdims=True)
        sums[...] = shrink * sums[...] + _product(values[...], powers.astype(values.dtype), (0, 0))

    @pl.when(last)
    def _():
        divisor = jnp.where(total[...] == 0, 1.0, total[...])  # of padding, which attends to nothing
        mixed[...] = (sums[...] / divisor).T.astype(mixed.dtype)
        normalizers[...] = most[...] + jnp.log(divisor)


def _query_gradient(
    window, blocks, of_queries, of_keys, query, keys, values, gradient, normalizers, means, to_query, sums,
    *, scoring, steps,
):  # fmt: skip
    first, last, visible = steps.current(blocks)

    @pl.when(first)
    def _():
        sums[...] = jnp.zeros_like(sums)

    @pl.when(visible)
    def _():
        _, to_scores = _score_gradients(
            window, of_queries, of_keys, query, keys, values, gradient, normalizers, means, scoring
        )
        sums[...] += _product(to_scores.astype(keys.dtype), keys[...], (0, 0))

    @pl.when(last)
    def _():
        to_query[...] = sums[...].astype(to_query.dtype)


def _key_gradients(
    window, blocks, of_queries, of_keys, query, keys, values, gradient, normalizers, means, to_keys, to_values,
    key_sums, value_sums, *, scoring, steps,
):  # fmt: skip
    first, last, visible = steps.current(blocks)

    @pl.when(first)
    def _():
        key_sums[...] = jnp.zeros_like(key_sums)
        value_sums[...] = jnp.zeros_like(value_sums)

    @pl.when(visible)
    def _():
        weights, to_scores = _score_gradients(
            window, of_queries, of_keys, query, keys, values, gradient, normalizers, means, scoring
        )
        value_sums[...] += _product(weights.astype(gradient.dtype), gradient[...], (1, 0))
        key_sums[...] += _product(to_scores.astype(query.dtype), query[...], (1, 0))

    @pl.when(last)
    def _():
        to_keys[...] = key_sums[...].astype(to_keys.dtype)
        to_values[...] = value_sums[...].astype(to_values.dtype)


def _score_gradients(
    window, of_queries, of_keys, query, keys, values, gradient, normalizers, means, scoring
) -> tuple[Array, Array]:
    """Return the weights of one block and the gradients of its products q'k, [keys, queries] each, in float32."""
    found, mask, slope = _scores(window, of_queries, of_keys, query, keys, scoring)
    weights = jnp.where(mask, jnp.exp(found - normalizers[...]), 0.0)
    to_weights = _product(values[...], gradient[...], (1, 1))
    return weights, weights * (to_weights - means[...]) * slope


def _scores(window, of_queries, of_keys, query, keys, scoring) -> tuple[Array, Array, Array | float]:
    """Return the masked scores of one block, their mask, and their derivatives by q'k; [keys, queries] each."""
    queries = _layout([of_queries[i : i + 1, :] for i in range(3)])
    mask = attends(queries, _layout([of_keys[:, i : i + 1] for i in range(3)]), window[0])
    found, slope = _product(keys[...], query[...], (1, 1)) * scoring.scale, scoring.scale
    if scoring.softcap is not None:
        capped = jnp.tanh(found / scoring.softcap)
        found, slope = scoring.softcap * capped, scoring.scale * (1 - capped * capped)
    return jnp.where(mask, found, _MASKED), mask, slope


def _layout(fields: list[Array]) -> TokenLayout:
    positions, segments, prefix = fields  # int32 each
    return TokenLayout(positions, segments, prefix != 0)


def _product(left: Array, right: Array, axes: tuple[int, int]) -> Array:
    contracted = ((axes[:1], axes[1:]), ((), ()))
    return jax.lax.dot_general(left, right, contracted, preferred_element_type=jnp.float32)
