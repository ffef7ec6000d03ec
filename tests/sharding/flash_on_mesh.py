"""Compare flash attention, interpreted on eight CPU devices, with plain attention on one. Prints the largest
differences as JSON: {mesh: {output: difference}}.

Run in a separate process, since the number of devices is fixed when JAX starts.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from finetune_scaling.models import attention, flash
from finetune_scaling.models.token_layout import TokenLayout, attention_mask
from finetune_scaling.sharding.axes import DEFAULT_RULES
from finetune_scaling.sharding.mesh import ShardingConfig, make_mesh

ROWS, LENGTH, HEADS, KV_HEADS, HEAD_DIM = 8, 140, 8, 2, 8  # more than a block of queries, fewer kv heads than devices
MESHES = [(8, 1), (1, 8), (2, 4), (4, 2), (2, 2)]  # fsdp, tensor; data is the rest


def layout() -> TokenLayout:
    """Return a layout with two packed segments of different lengths per row, and a bidirectional input."""
    positions = np.tile(np.arange(LENGTH), (ROWS, 1))
    ends = 40 + 9 * np.arange(ROWS)[:, None]
    second = positions >= ends
    fields = (positions - second * ends, 1 + second, (positions < 20) & ~second)
    return TokenLayout(*(jnp.asarray(f, t) for f, t in zip(fields, (jnp.int32, jnp.int32, bool), strict=True)))


def value_and_gradients(attend, arrays):
    *inputs, gradient = arrays
    mixed, pull = jax.vjp(attend, *inputs)
    return dict(zip(("mixed", "query", "keys", "values"), (mixed, *pull(gradient)), strict=True))


def in_plain(tokens, arrays):
    return value_and_gradients(lambda *inputs: attention.attend(*inputs, attention_mask(tokens, tokens)), arrays)


def in_flash(tokens, arrays, fsdp, tensor):
    attend = lambda *inputs: flash.flash_attention(*inputs, tokens, DEFAULT_RULES)  # noqa: E731
    with jax.set_mesh(make_mesh(ShardingConfig(fsdp, tensor), jax.devices())):
        return jax.jit(functools.partial(value_and_gradients, attend))(arrays)


def differences(outputs, expected):
    return {part: float(np.abs(np.asarray(outputs[part]) - expected[part]).max()) for part in expected}


def main() -> None:
    call = flash.pl.pallas_call
    flash.pl.pallas_call = lambda *inputs, **options: call(*inputs, **{**options, "interpret": True})
    rng, tokens = np.random.default_rng(0), layout()
    arrays = [
        jnp.asarray(rng.normal(size=(ROWS, LENGTH, n, HEAD_DIM)), jnp.float32)
        for n in (HEADS, KV_HEADS, KV_HEADS, HEADS)
    ]
    expected = in_plain(tokens, arrays)
    found = {}
    for fsdp, tensor in MESHES:
        name = f"{8 // (fsdp * tensor)}x{fsdp}x{tensor}"
        found[name] = differences(in_flash(tokens, arrays, fsdp, tensor), expected)
    causal = tokens._replace(prefix=None)
    found["1x2x4, causal"] = differences(in_flash(causal, arrays, 2, 4), in_plain(causal, arrays))
    json.dump({"sizes": {part: float(jnp.abs(array).max()) for part, array in expected.items()}, **found}, sys.stdout)


if __name__ == "__main__":
    main()
