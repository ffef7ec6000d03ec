"""Compile small programs with known collectives and print their HLO texts as JSON: programs.py cpu|tpu.

They use shard_map, so that every collective is explicit.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from finetune_scaling.chips import find_slice
from finetune_scaling.planning import topology


def devices():
    if sys.argv[1] == "cpu":
        return jax.devices()  # eight, by XLA_FLAGS
    topology.prepare_environment(find_slice("v5e:2x4"))
    return topology.devices(find_slice("v5e:2x4"))


MESH = Mesh(np.array(devices()).reshape(4, 2), ("a", "b"))
STEPS = 6  # of the loops


def text(function, in_specs, out_specs, *shapes):
    mapped = jax.shard_map(function, mesh=MESH, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(MESH, spec))
        for shape, spec in zip(shapes, in_specs, strict=True)
    ]
    return jax.jit(mapped).lower(*arguments).compile().as_text()


def gather_in_loop(x, weights):  # [128, 128] over a, [STEPS, 512, 256] over a in the second
    def body(carry, shard):  # shard [128, 256]
        kernel = jax.lax.all_gather(shard, "a", axis=0, tiled=True)  # [512, 256]
        product = jnp.matmul(carry, kernel, precision="highest")  # by default TPUs gather it in bfloat16
        return jnp.tanh(jnp.matmul(product, kernel.T, precision="highest")), None

    return jax.lax.scan(body, x, weights)[0]


def nested(x, weights):  # a sum over b in a loop of STEPS inside a loop of 3
    def outer(carry, _):
        def inner(carry, shard):
            return jnp.tanh(jax.lax.psum(carry @ shard, "b")), None

        return jax.lax.scan(inner, carry, weights)[0], None

    return jax.lax.scan(outer, x, None, length=3)[0]


def scatter(x):  # [512, 256] replicated -> [128, 256]
    return jax.lax.psum_scatter(x, "a", scatter_dimension=0, tiled=True)


def exchange(x):
    return jax.lax.all_to_all(x, "a", split_axis=0, concat_axis=1, tiled=True)


def pass_on(x):
    return jax.lax.ppermute(x, "a", [(0, 1), (1, 2), (2, 3), (3, 0)])


def data_dependent(x):  # unknown trip count
    def unfinished(carry):
        return carry[0].sum() < 100.0

    def body(carry):
        return (jax.lax.psum(carry[0], "b") + 1.0,)

    return jax.lax.while_loop(unfinished, body, (x,))[0]


def early_ending(x):  # at most STEPS iterations
    def unfinished(carry):
        return (carry[1] < STEPS) & (carry[0].sum() < 100.0)

    def body(carry):
        return jax.lax.psum(carry[0], "b") + 1.0, carry[1] + 1

    return jax.lax.while_loop(unfinished, body, (x, jnp.zeros((), jnp.int32)))[0]


print(
    json.dumps(
        {
            "gather_in_loop": text(gather_in_loop, (P(), P(None, "a")), P(), (128, 512), (STEPS, 512, 256)),
            "nested": text(nested, (P(), P()), P(), (128, 128), (STEPS, 128, 128)),
            "scatter": text(scatter, (P(),), P("a"), (512, 256)),
            "exchange": text(exchange, (P("a"),), P("a"), (2048, 256)),
            "pass_on": text(pass_on, (P("a"),), P("a"), (512, 256)),
            "data_dependent": text(data_dependent, (P("a"),), P("a"), (512, 256)),
            "early_ending": text(early_ending, (P("a"),), P("a"), (512, 256)),
        }
    )
)
