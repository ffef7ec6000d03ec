"""What a family of public models is, as data: how its config reads and is written, and where its tensors go."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_scaling.models.config import ModelConfig

LAYER = "{layer}"  # in a tensor's name: the number of its layer
REST = "{rest}"  # in the name of what is ignored: whatever follows


@dataclasses.dataclass(frozen=True)
class Part:
    """One of several of our tensors in one of theirs, whose leading axis is [groups, of, size of a part in a group].

    GPT-NeoX keeps queries, keys and values so: groups are heads, of is 3.
    """

    index: int
    of: int
    groups: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where one kind of tensor goes.

    theirs: its name in their files, with LAYER where there is one for each layer; these are stacked. ours: its path in
    our tree. transposed: whether theirs is [out, in], where our kernels are [in, out]. part: which part of theirs it
    is, where theirs holds several.
    """

    theirs: str
    ours: str
    transposed: bool = False
    part: Part | None = None

    def theirs_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the whole tensor in their files, of ours, without the axis of layers."""
        theirs = shape[::-1] if self.transposed else shape
        return theirs if self.part is None else (theirs[0] * self.part.of, *theirs[1:])

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Our tensor of one layer, a view, from the whole one in their files."""
        if self.part is not None:
            part = self.part
            divided = theirs.reshape(part.groups, part.of, -1, *theirs.shape[1:])
            theirs = divided[:, part.index].reshape(-1, *theirs.shape[1:])
        return theirs.T if self.transposed else theirs


def to_theirs(tensors: Sequence[Tensor], ours: Sequence[np.ndarray]) -> np.ndarray:
    """One tensor of their files from those of ours, of one layer, that are in it: the inverse of `to_ours`."""
    parts = [value.T if tensor.transposed else value for tensor, value in zip(tensors, ours, strict=True)]
    if tensors[0].part is None:
        return parts[0]
    places = [tensor.part.index for tensor in tensors if tensor.part is not None]
    groups, rest = tensors[0].part.groups, parts[0].shape[1:]
    in_order = [parts[places.index(i)].reshape(groups, -1, *rest) for i in range(tensors[0].part.of)]
    return np.stack(in_order, axis=1).reshape(-1, *rest)


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models.

    model_type: as in its config.json. read_config: config.json, with the file's name for messages -> our config; raises
    ConfigError that names the field for what our decoder does not compute. tensors: config -> all that a model has.
    write_config: the inverse of read_config. It need not check that the family has all that a config says: whoever
    writes a model reads these fields back and compares (interop/export.py). It may raise ConfigError.
    ignored: names, with LAYER and REST, of tensors that hold nothing that is not in the config, or that are not of the
    language model.
    """

    model_type: str
    read_config: Callable[[Mapping[str, Any], str], ModelConfig]
    tensors: Callable[[ModelConfig], tuple[Tensor, ...]]
    write_config: Callable[[ModelConfig], dict[str, Any]]
    ignored: tuple[str, ...] = ()
