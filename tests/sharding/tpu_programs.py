"""Compile train steps for TPUs without a TPU and write their HLO texts: python tpu_programs.py DIR NAME...

Run in a separate process, since libtpu reads its settings when it is loaded.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from finetune_scaling.models.ladder import paper_model
from finetune_scaling.models.model_sharding import ModelSharding
from finetune_scaling.planning.chips import find_slice
from finetune_scaling.planning.topology import devices, prepare_environment
from finetune_scaling.sharding.mesh import ShardingConfig, make_mesh
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.training.step import init_state, make_train_step, state_shardings
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS

# All sizes differ, so that shapes identify arrays; all are divisible by four.
SMALL = paper_model(
    "2m", layers=6, model_dim=384, heads=4, head_dim=128, ffn_dim=1280, vocab_size=3072, remat="full", max_length=512
)
LARGE = paper_model("16b", remat="full")
FIELDS = {"tokens": jnp.int32, "targets": jnp.int32, "positions": jnp.int32, "segments": jnp.int32}
PROGRAMS = {
    "full": (SMALL, {"name": "full"}, "v5e:2x2", (16, 256)),
    "lora": (SMALL, {"name": "lora", "rank": 8}, "v5e:2x2", (16, 256)),
    "prompt": (SMALL, {"name": "prompt", "length": 24}, "v5e:2x2", (16, 256)),
    "16b": (LARGE, {"name": "full"}, "v5e:8x8", (128, 512)),
}


def compile_step(name: str):
    model, block, topology, shape = PROGRAMS[name]
    chips = devices(find_slice(topology))
    sharding = ShardingConfig(fsdp=-1)
    model_sharding = ModelSharding(model, make_mesh(sharding, chips), sharding.axes)
    tuning, optimizer = configure(METHODS, block), OptimizerConfig()
    trainable, frozen = jax.eval_shape(
        lambda: attach(model, tuning, jax.random.key(0), None, np.arange(8, model.vocab_size))
    )
    state = jax.eval_shape(lambda tree: init_state(tree, optimizer), trainable)
    batch = {
        field: jax.ShapeDtypeStruct(shape, dtype, sharding=model_sharding.batch())
        for field, dtype in {**FIELDS, "weights": jnp.float32, "prefix": jnp.bool_}.items()
    }
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=model_sharding.replicated())
    step = make_train_step(model, tuning, optimizer)
    with model_sharding.use_mesh():
        return step.lower(
            with_shardings(state, state_shardings(trainable, optimizer, model_sharding)),
            with_shardings(frozen, model_sharding.parameters(frozen)),
            batch,
            rate,
        ).compile()


def with_shardings(tree, shardings):
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings
    )


def main(folder: Path, names: list[str]) -> None:
    prepare_environment(find_slice(PROGRAMS[names[0]][2]))
    for name in names:
        program = compile_step(name)
        memory = program.memory_analysis()
        (folder / f"{name}.txt").write_text(program.as_text())
        facts = {"argument": memory.argument_size_in_bytes, "output": memory.output_size_in_bytes}
        (folder / f"{name}.json").write_text(json.dumps(facts | {"temporary": memory.temp_size_in_bytes}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
