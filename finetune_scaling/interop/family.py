"""What a family of public models is, as data: how its config reads, and where its tensors go."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from finetune_scaling.models.config import ModelConfig

LAYER = "{layer}"  # in a tensor's name: the number of its layer


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where one kind of tensor goes.

    theirs: its name in their files, with LAYER where there is one for each layer; these are stacked. ours: its path in
    our tree. transposed: whether theirs is [out, in], where our kernels are [in, out].
    """

    theirs: str
    ours: str
    transposed: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models.

    model_type: as in its config.json. read_config: config.json, with the file's name for messages -> our config; raises
    ConfigError that names the field for what our decoder does not compute. tensors: config -> all that a model has.
    ignored: names, with LAYER, of tensors that hold nothing that is not in the config.
    """

    model_type: str
    read_config: Callable[[Mapping[str, Any], str], ModelConfig]
    tensors: Callable[[ModelConfig], tuple[Tensor, ...]]
    ignored: tuple[str, ...] = ()
