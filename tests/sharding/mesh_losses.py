"""Train each method for 20 steps on meshes of 8 devices; print {method: {mesh: losses}} as JSON.

Run in a separate process, since the number of devices is fixed when JAX starts.
"""

import functools
import json
import sys

import jax
import numpy as np

from finetune_scaling.models.ladder import model_config
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.model_sharding import ModelSharding
from finetune_scaling.sharding.axes import AxisRules
from finetune_scaling.sharding.batches import shard_batch
from finetune_scaling.sharding.mesh import ShardingConfig, make_mesh
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.training.step import init_state, make_train_step
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS

STEPS, BATCH, LENGTH, VOCABULARY = 20, 16, 12, 64
MODEL = model_config(
    {
        "layers": 2,
        "model_dim": 32,
        "heads": 8,
        "kv_heads": 2,
        "head_dim": 8,
        "ffn_dim": 64,
        "compute_dtype": "float32",
        "max_length": 32,
    },
    VOCABULARY,
)
RUNS = {  # options and learning rate; methods without an entry have DEFAULT_RUN
    "prompt": ({"length": 3}, 0.3),
    "lora": ({"rank": 2}, 0.01),
    "dora": ({"rank": 2, "dropout": 0.2}, 0.01),
    "ia3": ({}, 0.05),
    "prefix": ({"length": 3, "mlp_width": 8}, 0.05),
    "bottleneck": ({"width": 4}, 0.01),
}
DEFAULT_RUN: tuple[dict, float] = ({}, 0.01)
# Meshes of each method as fsdp, tensor; data is the rest. Few, since each costs a compilation: the shardings of all
# parameters are those of full tuning.
MESHES = {
    "full": [(1, 1), (8, 1), (1, 8), (2, 4), (4, 2), (2, 2)],
    "lora": [(8, 1), (1, 8), (2, 2)],
}
LONG_INPUTS = ("full", "lora", "prompt")  # a prompt makes the sharded sequence longer
ALONG_LENGTH = AxisRules(length=("tensor",), heads=(), kv_heads=(), ffn=(), vocab=())


def batch(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step % 4)
    tokens = rng.integers(4, VOCABULARY, (BATCH, LENGTH + 1)).astype(np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": (rng.random((BATCH, LENGTH)) < 0.7).astype(np.float32),  # unequal weights per row
        "positions": np.tile(np.arange(LENGTH, dtype=np.int32), (BATCH, 1)),
        "segments": np.ones((BATCH, LENGTH), np.int32),
        "prefix": np.tile(np.arange(LENGTH) < 4, (BATCH, 1)),
    }


@functools.cache
def pretrained() -> Params:
    """Return the base of the methods other than full tuning, whose own parameters are initialized on every mesh."""
    return jax.device_get(jax.jit(LanguageModel(MODEL).init)(jax.random.key(0)))


def losses(
    method: str, sharding: ShardingConfig, devices: list[jax.Device], accumulation: int = 2, steps: int = STEPS
) -> list[float]:
    mesh = make_mesh(sharding, devices)
    model_sharding = ModelSharding(MODEL, mesh, sharding.axes)
    options, rate = RUNS.get(method, DEFAULT_RUN)
    # Parameter scaling would make updates of zero-initialized parameters too small to see in so few steps.
    optimizer = OptimizerConfig(parameter_scale=METHODS[method].short_runs.parameter_scale)
    tuning = configure(METHODS, {"name": method, **options})
    base = None if method == "full" else jax.device_put(pretrained(), model_sharding.parameters(pretrained()))
    trainable, frozen = attach(MODEL, tuning, jax.random.key(0), base, range(8, VOCABULARY), model_sharding)
    state = init_state(trainable, optimizer, model_sharding)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(MODEL, tuning, optimizer, accumulation, sharding.axes)
    found = []
    with model_sharding.use_mesh():
        for number in range(steps):
            rows = shard_batch(batch(number), model_sharding.batch(), BATCH)
            seed = [np.array([0, number], np.uint32)] if tuning.uses_dropout else []
            state, numbers = step(state, frozen, rows, np.float32(rate), *seed)
            found.append(float(numbers.loss_sum / numbers.tokens))
    jax.tree.map(lambda leaf, before: _check_sharding(leaf, before), state, shardings)
    return found


def _check_sharding(leaf: jax.Array, before: jax.sharding.Sharding) -> None:
    assert leaf.sharding.is_equivalent_to(before, leaf.ndim), (leaf.sharding, before)


def main() -> None:
    found = {}
    for method in sys.argv[1:] or METHODS:
        found[method] = {"one device": losses(method, ShardingConfig(), jax.devices()[:1])}
        for fsdp, tensor in MESHES.get(method, [(2, 2)]):
            name = f"{8 // (fsdp * tensor)}x{fsdp}x{tensor}"
            found[method][name] = losses(method, ShardingConfig(fsdp, tensor), jax.devices())
        if method in LONG_INPUTS:
            found[method]["long inputs"] = losses(method, ShardingConfig(2, 4, ALONG_LENGTH), jax.devices())
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
