"""LoRA's factors in our tree and in PEFT's files, which are the same numbers under other names.

Ours are one adapter a dense layer. Where a family keeps several of them in one tensor (queries, keys and values of
GPT-NeoX), PEFT has one adapter for all: that of rank k r whose A has the k adapters' A below each other, and whose B
their B as blocks, zero elsewhere. It computes the same, and comes apart again.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from finetune_scaling.errors import CheckpointError
from finetune_scaling.interop.families.family import LAYER, Family, Tensor, to_theirs
from finetune_scaling.interop.hugging_face import leaf_shapes
from finetune_scaling.models.config import DENSE_LAYERS, ModelConfig

Factors = Mapping[str, np.ndarray]  # layers/attention/query/lora_a [layers, D, rank], .../lora_b [layers, rank, F]

_PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"


class Module(NamedTuple):
    """A linear layer of theirs: its name, with LAYER, its shape [out, in], and our kernels that are in it."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Tensor, ...]

    def name_in(self, layer: int) -> str:
        """Its name in one layer."""
        return self.name.replace(LAYER, str(layer))

    def key(self, layer: int, factor: str) -> str:
        """The name of a factor of one layer, A or B, in their files."""
        return f"{_PREFIX}{self.name_in(layer)}{factor}"

    @property
    def last_name(self) -> str:
        """What target_modules and patterns call it."""
        return self.name.rpartition(".")[2]


def modules(family: Family, config: ModelConfig) -> list[Module]:
    """The linear layers of a model that an adapter of ours can extend."""
    parts: dict[str, list[Tensor]] = {}
    for tensor in family.tensors(config):
        folder, _, leaf = tensor.ours.rpartition("/")
        if leaf == "kernel" and folder.rpartition("/")[2] in DENSE_LAYERS:
            parts.setdefault(tensor.theirs.removesuffix(".weight"), []).append(tensor)
    leaves = leaf_shapes(config)
    shapes = {name: group[0].theirs_shape(leaves[group[0].ours].shape[1:]) for name, group in parts.items()}
    return [Module(name, shapes[name], tuple(group)) for name, group in parts.items()]


def folder_of(part: Tensor) -> str:
    """Where a dense layer's leaves are in our tree."""
    return part.ours.rpartition("/")[0]


def adapted(module: Module, factors: Factors) -> list[Tensor]:
    """The parts of a module that have an adapter."""
    return [part for part in module.parts if f"{folder_of(part)}/lora_a" in factors]


def to_peft(module: Module, factors: Factors) -> dict[str, np.ndarray]:
    """The tensors of their files for a module with an adapter, of all layers: A [k r, D] and B [F, k r]."""
    extended = adapted(module, factors)
    a = [factors[f"{folder_of(part)}/lora_a"] for part in extended]
    rank, total = a[0].shape[-1], a[0].shape[-1] * len(a)
    tensors = {}
    for layer in range(len(a[0])):
        tensors[module.key(layer, A)] = np.concatenate([factor[layer].T for factor in a])
        wide = [np.zeros((total, _width(part, module, factors)), a[0].dtype) for part in module.parts]
        for place, part in enumerate(extended):
            rows = slice(place * rank, (place + 1) * rank)
            wide[module.parts.index(part)][rows] = factors[f"{folder_of(part)}/lora_b"][layer]
        tensors[module.key(layer, B)] = to_theirs(module.parts, wide)
    return tensors


def _width(part: Tensor, module: Module, factors: Factors) -> int:
    """Outputs of a part; parts of one tensor have the same number."""
    own = f"{folder_of(part)}/lora_b"
    return factors[own if own in factors else f"{folder_of(adapted(module, factors)[0])}/lora_b"].shape[-1]


def split(a: np.ndarray, parts: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """A and B of each part of a module, with the ranks that bear on it: the inverse of `to_peft`.

    a: [layers, D, R]; parts: B of each, [layers, R, F]. Ranks that are zero in B for one part and not for another
    belonged to the other alone; those that are zero for all are new, and every part can train them on.
    """
    bears = np.array([(b != 0).any((0, 2)) for b in parts])  # [parts, R]
    kept = bears | ~bears.any(0)
    return [(a[:, :, ranks], b[:, ranks]) for ranks, b in zip(kept, parts, strict=True)]


def check_keys(names: Iterable[str], wanted: Sequence[Module], layers: int, where: str) -> list[Module]:
    """The modules that tensors of these names extend, each in every layer.

    Raises CheckpointError, naming the tensor, for one that extends nothing in the model, and for one that is missing.
    """
    left = set(names)
    found = []
    for module in wanted:
        keys = {module.key(layer, factor) for layer in range(layers) for factor in (A, B)}
        if not keys & left:
            continue
        if missing := sorted(keys - left):
            raise CheckpointError(f"{where}: {missing[0]} is missing; an adapter has to extend a module in every layer")
        left -= keys
        found.append(module)
    if left:
        known = ", ".join(module.last_name for module in wanted)
        raise CheckpointError(
            f"{where}: {min(left)} extends nothing that adapters of ours can: they extend {known}, by lora_A and "
            f"lora_B, in {layers} layers; is it an adapter for another base?"
        )
    return found
