"""Description of a family of public models: how its config is read and written, and how its tensors map to ours."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_scaling import configuration
from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.models.config import ModelConfig

LAYER = "{layer}"  # placeholder for the layer number in a tensor's name


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


def dense_tensors(
    config: ModelConfig, modules: Mapping[str, str], fused: Mapping[str, FusedSlice] = {}
) -> list[Tensor]:
    """Return the kernels and biases of a block's dense layers; both arguments are by path below layers/."""
    tensors = []
    for path, module in modules.items():
        name, leaf = path.rpartition("/")[2], f"layers/{path}"
        if name in config.dense_layers:
            tensors.append(Tensor(f"{module}.weight", f"{leaf}/kernel", transposed=True, fused=fused.get(path)))
        if name in config.biased:
            tensors.append(Tensor(f"{module}.bias", f"{leaf}/bias", fused=fused.get(path)))
    return tensors


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


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of public models.

    Attributes:
        model_type: Its model_type in config.json.
        architecture: The name of its model class in transformers.
        read: Convert the fields of a config.json to fields of our config. Raises ConfigError, naming the field, for
            any option that the decoder does not implement.
        write: The inverse of `read`. It may write a config that the family cannot express: the exporter reads the
            fields back and compares (matching_family.py). May raise ConfigError.
        tensors: Return every tensor of a model of this config.
        defaults: Values of absent fields, as in transformers' config class.
        ignored: Regular expression of the names of tensors that the config already determines, or that do not belong
            to the language model.
    """

    model_type: str
    architecture: str
    read: Callable[[Fields], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]
    tensors: Callable[[ModelConfig], tuple[Tensor, ...]]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ignored: str = ""

    def fields(self, values: Mapping[str, Any], where: str) -> Fields:
        """Return checked access to the fields of a config.json, which `where` names in messages."""
        return Fields({**self.defaults, **values}, where)

    def config(self, fields: Fields) -> ModelConfig:
        """Convert a config.json's fields. Raises ConfigError for any option that the decoder does not implement."""
        values = self.read(fields)
        fields.check_rest()
        return configuration.build(ModelConfig, values, fields.where)

    def read_config(self, values: Mapping[str, Any], where: str) -> ModelConfig:
        """Convert the fields of a config.json; raises as `config` does, naming `where` and the field."""
        return self.config(self.fields(values, where))

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """Return the fields of a config.json; see `write`."""
        return {"architectures": [self.architecture], "model_type": self.model_type, **self.write(config)}
