"""(IA)^3 in PEFT's format: a vector per module, [out, 1] if it scales outputs and [1, in] if it scales inputs."""

from typing import Any

import numpy as np

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.peft.adapter_format import (
    ConvertedAdapter,
    PeftAdapter,
    PeftMethod,
    Tensors,
    check_unread_fields,
)
from finetune_scaling.interop.peft.modules import (
    Module,
    extended_modules,
    layer_names,
    linear_modules,
    target_modules,
)
from finetune_scaling.interop.weights.run_weights import TrainedRun
from finetune_scaling.tuning.ia3 import Ia3Adapter

VECTOR = "ia3_l"
# The shape of a vector says whether it scales inputs, so feedforward_modules need not be read.
_IRRELEVANT = frozenset({"exclude_modules", "feedforward_modules", "init_ia3_weights", "target_modules"})


def _export(run: TrainedRun, match: FamilyMatch) -> tuple[dict[str, Any], Tensors]:
    adapter = run.tuning.adapter
    assert isinstance(adapter, Ia3Adapter)
    scaled = [module for module in linear_modules(match) if any(_path(f) in run.adapter for f in module.folders)]
    on_inputs = [module for module in scaled if any(f.rpartition("/")[2] in adapter.inputs for f in module.folders)]
    tensors: dict[str, np.ndarray] = {}
    for module in scaled:
        if module in on_inputs:
            tensors |= module.by_layer(VECTOR, _shared_input_vector(run, module)[:, None])
        else:
            ones = np.ones((module.layers, module.shape[0] // len(module.folders)), np.float32)
            vectors = [run.adapter.get(_path(folder), ones) for folder in module.folders]
            tensors |= module.by_layer(VECTOR, module.fuse(vectors)[:, :, None])
    fields = {
        "target_modules": target_modules(scaled, match),
        "feedforward_modules": [module.last_name for module in on_inputs],
        "fan_in_fan_out": False,
    }
    return fields, tensors


def _path(folder: str) -> str:
    return f"{folder}/ia3"


def _shared_input_vector(run: TrainedRun, module: Module) -> np.ndarray:
    """Return the vector [layers, in] of a module's inputs. Raises ConfigError where fused kernels differ in it."""
    vectors = [run.adapter.get(_path(folder)) for folder in module.folders]
    first = vectors[0]
    if first is None or not all(vector is not None and np.array_equal(vector, first) for vector in vectors):
        raise ConfigError(
            f"{run.found.directory}: method.inputs scales the inputs of {', '.join(module.folders)} differently, but "
            f"they are one module ({module.last_name}) in this family. Fix: merge the adapter: --to-hf=DIR."
        )
    return first


def _read(adapter: PeftAdapter, match: FamilyMatch) -> ConvertedAdapter:
    check_unread_fields(adapter.parsed_fields(), _IRRELEVANT)
    leaves: dict[str, np.ndarray] = {}
    targets: dict[bool, set[str]] = {True: set(), False: set()}
    for module in extended_modules(adapter, match, (VECTOR,)):
        on_inputs = adapter.tensors[module.keys(VECTOR)[0]].shape[:1] == (1,) and module.shape[0] != 1
        vectors = module.stack(adapter, VECTOR, (1, module.shape[1]) if on_inputs else (module.shape[0], 1))
        vectors = vectors.reshape(module.layers, -1)
        parts = [vectors] * len(module.folders) if on_inputs else module.split(vectors)
        untrained = all((vector == 1).all() for vector in parts)
        for folder, vector in zip(module.folders, parts, strict=True):
            if untrained or (vector != 1).any():  # of fused kernels, those with ones next to others are not targets
                leaves[_path(folder)] = vector
                targets[on_inputs].add(folder)
    method = {"name": "ia3", "outputs": layer_names(targets[False]), "inputs": layer_names(targets[True])}
    return ConvertedAdapter(method, leaves)


IA3 = PeftMethod("IA3", ("ia3",), _export, _read)
