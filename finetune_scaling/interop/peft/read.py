"""A PEFT adapter's directory read: its method as our configs name it, and its parameters as leaves of ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.files import read_json
from finetune_scaling.interop.families.standard_form import StandardForm
from finetune_scaling.interop.peft.adapter_config import (
    CONFIG,
    PROMPT_TENSOR,
    WEIGHTS,
    LoraSettings,
    PromptSettings,
    read_settings,
)
from finetune_scaling.interop.peft.lora import A, B, Module, check_keys, folder_of, modules, split
from finetune_scaling.models.config import DENSE_LAYERS

_FLOATS = tuple(map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16)))


class ReadAdapter(NamedTuple):
    """method: the block of a config; leaves: what it trains, by path, float32. fields: of adapter_config.json."""

    method: Mapping[str, Any]
    leaves: Mapping[str, np.ndarray]
    fields: Mapping[str, Any]


def read_adapter(directory: Path, form: StandardForm) -> ReadAdapter:
    """The adapter in a directory, for a base in its standard form.

    Raises ConfigError, naming the field, for what our adapters do not compute, and CheckpointError, naming file and
    tensor, where the tensors are damaged, or are not those of an adapter for this base.
    """
    fields = read_json(_there(directory / CONFIG), mend="copy it again")
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{directory / CONFIG}: not a group of fields; this is no adapter's config")
    settings = read_settings(fields, str(directory / CONFIG))
    tensors = _read_tensors(_there(directory / WEIGHTS))
    where = str(directory / WEIGHTS)
    if isinstance(settings, PromptSettings):
        return ReadAdapter(*_prompt(settings, tensors, form, where), fields)
    return ReadAdapter(*_lora(settings, tensors, form, where), fields)


def _there(file: Path) -> Path:
    if file.is_file():
        return file
    pickled = file.with_suffix(".bin").is_file()
    mend = "save it as safetensors: pickled weights (.bin) are not read" if pickled else "name the adapter's directory"
    raise CheckpointError(f"{file}: no such file; {mend}")


def _read_tensors(file: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(file, framework="np") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not a whole safetensors file ({error}); copy it again") from error
    for name, value in tensors.items():
        if value.dtype not in _FLOATS:
            raise CheckpointError(f"{file}: {name} holds {value.dtype}; quantised adapters are not read")
        if not np.isfinite(value.astype(np.float32)).all():
            raise CheckpointError(f"{file}: {name} holds numbers that are not finite; copy it again, or train it anew")
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def _prompt(
    settings: PromptSettings, tensors: Mapping[str, np.ndarray], form: StandardForm, where: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if others := sorted({*tensors} - {PROMPT_TENSOR}):
        raise CheckpointError(f"{where}: {others[0]} is not part of a soft prompt")
    if PROMPT_TENSOR not in tensors:
        raise CheckpointError(f"{where}: {PROMPT_TENSOR} is missing; copy the adapter again")
    prompt = tensors[PROMPT_TENSOR]
    _check_shape(PROMPT_TENSOR, prompt, (settings.length, form.config.model_dim), where)
    return {"name": "prompt", "length": settings.length}, {"prompt/embedding": prompt}


def _lora(
    settings: LoraSettings, tensors: Mapping[str, np.ndarray], form: StandardForm, where: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One rank and scale for all, as ours has: smaller ranks are filled up with zeros, other scales go into B."""
    layers = form.config.layers
    found = check_keys(tensors, modules(form.family, form.config), layers, where)
    if not found:
        raise CheckpointError(f"{where}: holds no tensors; copy the adapter again")
    scale = settings.scale_of("")
    factors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for module in found:
        pairs = [_layer(module, layer, settings, tensors, where) for layer in range(layers)]
        for part, pair in zip(module.parts, split(*_stacked(pairs, module)), strict=True):
            if pair[0].shape[-1]:
                factors[folder_of(part)] = pair
    rank = max(a.shape[-1] for a, _ in factors.values())
    leaves = {}
    for folder, (a, b) in factors.items():
        missing = rank - a.shape[-1]
        leaves[f"{folder}/lora_a"] = np.pad(a, ((0, 0), (0, 0), (0, missing)))
        leaves[f"{folder}/lora_b"] = np.pad(b, ((0, 0), (0, missing), (0, 0)))
    names = {folder.rpartition("/")[2] for folder in factors}
    targets = [name for name in DENSE_LAYERS if name in names]
    return {"name": "lora", "rank": rank, "alpha": scale * rank, "targets": targets}, leaves


def _layer(
    module: Module,
    layer: int,
    settings: LoraSettings,
    tensors: Mapping[str, np.ndarray],
    where: str,
) -> tuple[np.ndarray, np.ndarray]:
    """A [R, D] and B [F, R] of one layer as they are in the file, B for the scale that most modules have."""
    name = module.name_in(layer)
    rank = settings.rank_of(name)
    a, b = tensors[module.key(layer, A)], tensors[module.key(layer, B)]
    _check_shape(module.key(layer, A), a, (rank, module.shape[1]), where)
    _check_shape(module.key(layer, B), b, (module.shape[0], rank), where)
    own, common = settings.scale_of(name), settings.scale_of("")
    return a, b if own == common else b * np.float32(own / common)


def _stacked(pairs: Sequence[tuple[np.ndarray, np.ndarray]], module: Module) -> tuple[np.ndarray, list[np.ndarray]]:
    """A [layers, D, R] and B [layers, R, F] of each part, ranks filled up where layers differ."""
    rank = max(len(a) for a, _ in pairs)
    a = np.stack([np.pad(a, ((0, rank - len(a)), (0, 0))).T for a, _ in pairs])
    wide = [np.pad(b, ((0, 0), (0, rank - b.shape[1]))) for _, b in pairs]
    return a, [np.stack([part.to_ours(b) for b in wide]) for part in module.parts]


def _check_shape(name: str, value: np.ndarray, expected: tuple[int, ...], where: str) -> None:
    if value.shape != expected:
        raise CheckpointError(
            f"{where}: {name} is {list(value.shape)}, but {CONFIG} and the base make it {list(expected)}; is it an "
            "adapter for another base?"
        )
