"""Linear layers of a Hugging Face model that adapters extend, and the names of their adapters' tensors in PEFT."""

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.interop.families.family import LAYER, Tensor, to_file
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.hugging_face_model import leaf_shapes
from finetune_scaling.interop.peft.adapter_format import CONFIG, PeftAdapter
from finetune_scaling.models.config import DENSE_LAYERS

PREFIX = "base_model.model."


class Module(NamedTuple):
    """A linear layer, one per block: its name with LAYER, its shape [out, in], and the kernels of ours that it holds.

    A module holds several kernels where a family fuses them, as GPT-NeoX fuses queries, keys and values.
    """

    name: str
    shape: tuple[int, ...]
    layers: int
    kernels: tuple[Tensor, ...]

    @property
    def names(self) -> list[str]:
        """The module's name in each layer."""
        return [self.name.replace(LAYER, str(layer)) for layer in range(self.layers)]

    def keys(self, suffix: str) -> list[str]:
        """Return the names of an adapter tensor of each layer in the adapter's file."""
        return [f"{PREFIX}{name}.{suffix}" for name in self.names]

    def by_layer(self, suffix: str, stacked: np.ndarray) -> dict[str, np.ndarray]:
        """Return the adapter tensors of all layers by name, from one array with a leading axis of layers."""
        return dict(zip(self.keys(suffix), stacked, strict=True))

    def stack(self, adapter: PeftAdapter, suffix: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return an adapter tensor of all layers, [layers, *shape]; raises as `PeftAdapter.tensor` does."""
        return np.stack([adapter.tensor(key, shape) for key in self.keys(suffix)])

    @property
    def last_name(self) -> str:
        """The name by which target_modules and patterns refer to the module."""
        return self.name.rpartition(".")[2]

    @property
    def folders(self) -> list[str]:
        """The paths of the dense layers in our tree."""
        return [kernel.path.rpartition("/")[0] for kernel in self.kernels]

    def fuse(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Join the kernels' output axes, [..., out of the kernel], into the output axis of the module, [..., out]."""
        return to_file(self.kernels, [_as_columns(value) for value in values]).T.reshape(*values[0].shape[:-1], -1)

    def split(self, value: np.ndarray) -> list[np.ndarray]:
        """Split the output axis of the module into the output axes of its kernels: the inverse of `fuse`."""
        columns = _as_columns(value).T
        return [kernel.from_file(columns).reshape(*value.shape[:-1], -1) for kernel in self.kernels]


def _as_columns(value: np.ndarray) -> np.ndarray:
    return value.reshape(-1, value.shape[-1])


def linear_modules(match: FamilyMatch) -> list[Module]:
    """Return the linear layers of a model that our adapters can extend."""
    shapes, modules = leaf_shapes(match.config), []
    for group in match.tensors:
        path = group[0].path
        if path.endswith("/kernel") and path.split("/")[-2] in DENSE_LAYERS:
            shape = group[0].file_shape(shapes[path].shape[1:])
            modules.append(Module(group[0].name.removesuffix(".weight"), shape, match.config.layers, tuple(group)))
    return modules


def target_modules(extended: Sequence[Module], match: FamilyMatch) -> list[str]:
    """Return the value of target_modules that selects these modules and no others."""
    targets = [module.last_name for module in extended]
    others = [module.last_name for module in linear_modules(match) if module not in extended]
    assert len({*targets, *others}) == len(targets) + len(others), "two modules have the same name"
    return targets


def extended_modules(adapter: PeftAdapter, match: FamilyMatch, suffixes: Collection[str]) -> list[Module]:
    """Return the modules that an adapter extends, by tensors with all of these suffixes in every layer.

    Raises:
        CheckpointError: A tensor is missing, or extends no module of the model.
    """
    unused, extended, modules = set(adapter.tensors), [], linear_modules(match)
    for module in modules:
        keys = {key for suffix in suffixes for key in module.keys(suffix)}
        if not keys & unused:
            continue
        if missing := sorted(keys - unused):
            raise CheckpointError(
                f"{adapter.weights}: tensor {missing[0]} is missing; an adapter must extend a module in every layer. "
                "Fix: copy the adapter again, or merge it with peft and import the model."
            )
        unused -= keys
        extended.append(module)
    if unused:
        known = ", ".join(module.last_name for module in modules)
        raise CheckpointError(
            f"{adapter.weights}: tensor {min(unused)} extends no module of the base ({match.config.layers} layers of "
            f"{known}; tensors: {', '.join(suffixes)}). Fix: give --base=RUN the base of this adapter."
        )
    if not extended:
        raise CheckpointError(f"{adapter.weights}: has no tensors. Fix: copy the adapter again.")
    for module in modules:
        _check_target(adapter, module, suffixes, extended=module in extended)
    return extended


def _check_target(adapter: PeftAdapter, module: Module, suffixes: Collection[str], *, extended: bool) -> None:
    """Raise CheckpointError where a module has tensors but is no target, which PEFT would leave out, or the reverse."""
    first = module.keys(min(suffixes))[0]
    targets = [_is_target(adapter, name) for name in module.names]
    if extended and not all(targets):
        raise CheckpointError(
            f"{adapter.weights}: tensor {first} belongs to a module that target_modules or exclude_modules of {CONFIG} "
            "leaves out. Fix: copy both files from the same adapter."
        )
    if not extended and any(targets):
        raise CheckpointError(
            f"{adapter.weights}: tensor {first} is missing, although target_modules of {CONFIG} selects its module. "
            "Fix: copy the adapter again."
        )


def _is_target(adapter: PeftAdapter, name: str) -> bool:
    """Return whether target_modules and exclude_modules select a module, by the rules of PEFT."""
    targets, excluded = adapter.fields.get("target_modules"), adapter.fields.get("exclude_modules")
    if excluded and _selects(adapter, excluded, name):
        return False
    return targets in (None, "all-linear") or _selects(adapter, targets, name)


def _selects(adapter: PeftAdapter, patterns: Any, name: str) -> bool:
    """Return whether a regular expression of complete names, or a list of ends of names, selects a module."""
    try:
        if isinstance(patterns, str):
            return re.fullmatch(patterns, name) is not None
        return any(f".{name}".endswith(f".{end}") for end in patterns)
    except (re.error, TypeError) as error:
        raise ConfigError(
            f"{adapter.where}/{CONFIG}: {patterns!r} is neither a regular expression nor a list of modules ({error}). "
            "Fix: copy the adapter again."
        ) from error


def layer_names(folders: Collection[str]) -> list[str]:
    """Return the names of the dense layers at these paths: the value of an option such as `targets`."""
    names = {folder.rpartition("/")[2] for folder in folders}
    return [name for name in DENSE_LAYERS if name in names]
