"""Compile train steps for four TPUs without a TPU and write their HLO texts and bytes: python tpu_programs.py DIR

Run in a separate process, since libtpu reads its settings when it is loaded.
"""

import json
import sys
from pathlib import Path

from finetune_scaling.chips import find_slice
from finetune_scaling.models.ladder import model_config
from finetune_scaling.planning.compiled import TRAINING, trace
from finetune_scaling.planning.layout import Layout
from finetune_scaling.planning.topology import devices, prepare_environment
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.mesh import ShardingConfig, make_mesh
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS

# All sizes differ, so that shapes identify arrays; all are divisible by four.
SHAPE = {"layers": 6, "model_dim": 384, "heads": 4, "head_dim": 128, "ffn_dim": 1280}
MODEL = model_config({"name": "2m", **SHAPE, "max_length": 512}, vocab_size=3072)
OPTIONS = {"full": {}, "lora": {"rank": 8}, "prompt": {"length": 24}}
SLICE, LAYOUT = find_slice("v5e:2x2"), Layout(1, 4, 1, remat="full")


def main(folder: Path) -> None:
    prepare_environment(SLICE)
    mesh = make_mesh(ShardingConfig(fsdp=4), devices(SLICE))
    for name, options in OPTIONS.items():
        tuning = configure(METHODS, {"name": name, **options})
        step = Workload(MODEL, tuning, OptimizerConfig(), batch=128, length=256, evaluation_batch=128)
        program = trace(step, LAYOUT, mesh, TRAINING).lowered.compile()
        (folder / f"{name}.txt").write_text(program.as_text())
        memory = program.memory_analysis()
        sizes = {"argument": memory.argument_size_in_bytes, "output": memory.output_size_in_bytes}
        (folder / f"{name}.json").write_text(json.dumps(sizes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
