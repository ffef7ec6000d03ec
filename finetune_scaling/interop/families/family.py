"""Description of a family of public models: how its config is read and written, and how its tensors map to ours."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_scaling.models.config import ModelConfig

LAYER = "{layer}"  # placeholder for the layer number in a tensor's name
REST = "{rest}"  # placeholder for any suffix in the name of an ignored tensor


@dataclasses.dataclass(frozen=True)
class FusedSlice:
    """Slice `index` of a fused tensor whose leading axis is [groups, count, size], as GPT-NeoX fuses Q, K and V.

    There, groups are heads and count is 3.
    """

    index: int
    count: int
    groups: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Mapping of a Hugging Face tensor to a leaf of our parameter tree.

    Attributes:
        name: Name in the safetensors files. With LAYER it stands for one tensor per layer; ours are stacked.
        path: Path of our leaf, such as layers/attention/query/kernel.
        transposed: Whether the file holds [out, in], where our kernels are [in, out].
        fused: The slice that our leaf is of a fused tensor; None where the tensor is our leaf alone.
    """

    name: str
    path: str
    transposed: bool = False
    fused: FusedSlice | None = None

    @property
    def stacked(self) -> bool:
        """Whether our leaf stacks one tensor per layer along axis 0."""
        return LAYER in self.name

    def names(self, layers: int) -> list[str]:
        """Return the names in the files, in layer order."""
        return [self.name.replace(LAYER, str(layer)) for layer in range(layers)] if self.stacked else [self.name]

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the complete tensor in the files, given the shape of one layer of our leaf."""
        stored = shape[::-1] if self.transposed else shape
        return stored if self.fused is None else (stored[0] * self.fused.count, *stored[1:])

    def from_file(self, value: np.ndarray) -> np.ndarray:
        """Return one layer of our leaf as a view of the complete tensor in the files."""
        if self.fused is not None:
            groups = value.reshape(self.fused.groups, self.fused.count, -1, *value.shape[1:])
            value = groups[:, self.fused.index].reshape(-1, *value.shape[1:])
        return value.T if self.transposed else value


def to_file(tensors: Sequence[Tensor], leaves: Sequence[np.ndarray]) -> np.ndarray:
    """Return one tensor of the files from one layer of each leaf that it holds: the inverse of `Tensor.from_file`."""
    stored = [value.T if tensor.transposed else value for tensor, value in zip(tensors, leaves, strict=True)]
    slices = [tensor.fused for tensor in tensors if tensor.fused is not None]
    if not slices:
        return stored[0]
    rest = stored[0].shape[1:]
    by_index = {
        fused.index: value.reshape(fused.groups, -1, *rest) for fused, value in zip(slices, stored, strict=True)
    }
    return np.stack([by_index[i] for i in range(slices[0].count)], axis=1).reshape(-1, *rest)


def grouped(tensors: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """Group mappings by the name of their tensor in the files."""
    groups: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.name, []).append(tensor)
    return groups


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of public models.

    Attributes:
        model_type: Its model_type in config.json.
        read_config: Convert the fields of a config.json, with the file's name for messages, to our config. Raises
            ConfigError, naming the field, for anything that our decoder does not compute.
        tensors: Return every tensor of a model of this config.
        write_config: The inverse of read_config. It may write a config that the family cannot express: the exporter
            reads the fields back and compares (matching_family.py). May raise ConfigError.
        ignored: Names, with LAYER and REST, of tensors that the config already determines, or that do not belong to
            the language model.
    """

    model_type: str
    read_config: Callable[[Mapping[str, Any], str], ModelConfig]
    tensors: Callable[[ModelConfig], tuple[Tensor, ...]]
    write_config: Callable[[ModelConfig], dict[str, Any]]
    ignored: tuple[str, ...] = ()
