"""Trace train steps for a TPU, with plain attention and with the one that is chosen for prefix LMs and causal rows.

Prints the number of kernels and the arrays with two dimensions of a row's length, as JSON.
"""

import dataclasses
import json
import re
import sys

from finetune_scaling.chips import find_slice
from finetune_scaling.models.ladder import model_config
from finetune_scaling.planning import compiled, topology
from finetune_scaling.planning.layout import Layout
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.mesh import ShardingConfig, make_mesh
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS

LENGTH = 176  # no other size of the model; kernels pad it to 256
SLICE = find_slice("v5e:2x2")


def main() -> None:
    topology.prepare_environment(SLICE)
    mesh = make_mesh(ShardingConfig(fsdp=2), topology.devices(SLICE))
    found = {}
    for attention, bidirectional in (("plain", True), ("auto", True), ("auto", False)):
        model = dataclasses.replace(model_config({"name": "100k"}, 512), attention=attention)
        step = Workload(model, configure(METHODS, {"name": "full"}), OptimizerConfig(), 8, LENGTH, 8)
        workload = dataclasses.replace(step, bidirectional=bidirectional)
        text = compiled.trace(workload, Layout(2, 2, 1), mesh, compiled.TRAINING).lowered.as_text()
        arrays = set(re.findall(rf"tensor<(\S*(?:{LENGTH}x{LENGTH}|256x256)\S*)>", text))
        name = f"{attention}, {'prefix LM' if bidirectional else 'causal'}"
        found[name] = {"kernels": text.count("tpu_custom_call"), "arrays": sorted(arrays)}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
