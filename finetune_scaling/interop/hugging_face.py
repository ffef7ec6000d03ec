"""Models from Hugging Face directories: config.json and safetensors files in, our config and parameters out.

Nothing is unpickled and no torch is needed. Tensors go where their family's table says; what is missing, left over or
of another shape is an error that names it.
"""

import concurrent.futures
import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.files import location, read_json, sha256
from finetune_scaling.interop.families.family import LAYER, REST, Family, Tensor
from finetune_scaling.interop.families.gemma import GEMMA2, GEMMA3, GEMMA3_TEXT
from finetune_scaling.interop.families.gpt_neox import GPT_NEOX
from finetune_scaling.interop.families.llama import LLAMA
from finetune_scaling.interop.families.mistral import MISTRAL
from finetune_scaling.interop.families.nearest import unknown_model
from finetune_scaling.interop.families.olmo2 import OLMO2
from finetune_scaling.interop.families.qwen import QWEN2, QWEN3
from finetune_scaling.interop.weights.files import WeightFiles, weight_files
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.trees import Tree, path_name

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, OLMO2, GEMMA2, GEMMA3_TEXT, GEMMA3, GPT_NEOX)
}

_CONFIG = "config.json"
_ROWS = 4096  # that are compared at a time


def load_llama(directory: str | Path) -> tuple[ModelConfig, Params]:
    """The model in a Hugging Face directory of Llama's architecture; parameters keep the dtype of the files.

    Raises ConfigError, naming the field, for what our decoder does not compute, and CheckpointError, naming file and
    tensor, where the weights are not those of the config.
    """
    return load_model(directory, {LLAMA.model_type: LLAMA})


def load_model(
    directory: str | Path,
    families: Mapping[str, Family] = FAMILIES,
    place: Callable[[Tree], Tree] | None = None,
) -> tuple[ModelConfig, Params]:
    """The model in a Hugging Face directory, of whichever of the families; otherwise like load_llama.

    place: from the parameters' shapes to their shardings, each parameter going there as it is read; None: one device.
    """
    directory = Path(directory)
    family, config = read_family(directory, families)
    with WeightFiles.open(directory) as files:
        return config, _parameters(files, family, config, place)


def check_model(directory: str | Path, families: Mapping[str, Family] = FAMILIES) -> ModelConfig:
    """The config of such a model, of whose weights the headers alone are read; raises as load_model does."""
    directory = Path(directory)
    family, config = read_family(directory, families)
    with WeightFiles.open(directory) as files:
        check_tensors(files, family, config)
    return config


def is_model(directory: str | Path) -> bool:
    """Whether a directory's config.json is that of a public model, known or not: it names a type of model."""
    file = location(directory) / _CONFIG
    fields = read_json(file, mend="put a good copy back") if file.is_file() else None
    return isinstance(fields, dict) and ("model_type" in fields or "architectures" in fields)


def files_digest(directory: str | Path) -> str:
    """SHA-256 of the SHA-256 of config.json and of each file of weights, read to the last byte, several at a time."""
    directory = Path(directory)
    files = [directory / _CONFIG, *weight_files(directory)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = pool.map(sha256, files)
    lines = [f"{digest}  {file.name}\n" for file, digest in zip(files, digests, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_family(directory: Path, families: Mapping[str, Family]) -> tuple[Family, ModelConfig]:
    """The family of a directory's model and its config; raises as load_model does."""
    return _read_family(read_fields(directory), str(directory / _CONFIG), families)


def listed_model(fields: Mapping[str, Any], where: str) -> ModelConfig:
    """The config of a model of which the fields of a config.json are known; raises ConfigError that names `where`."""
    return _read_family(fields, where, FAMILIES)[1]


def _read_family(fields: Mapping[str, Any], where: str, families: Mapping[str, Family]) -> tuple[Family, ModelConfig]:
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in families:
        raise unknown_model(fields, families.values(), where)
    try:
        return families[kind], families[kind].read_config(fields, where)
    except ConfigError as error:
        if where in str(error):
            raise
        raise ConfigError(f"{where}: {error}") from error  # about a field of ours that the file's give


def read_fields(directory: Path) -> dict[str, Any]:
    """The fields of a directory's config.json. Raises CheckpointError or ConfigError where there are none."""
    file = directory / _CONFIG
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; name a directory that a model was saved into")
    fields = read_json(file, mend="copy it again")
    if not isinstance(fields, dict):
        raise ConfigError(f"{file}: not a group of fields; this is no model's config")
    return fields


def _parameters(
    files: WeightFiles, family: Family, config: ModelConfig, place: Callable[[Tree], Tree] | None
) -> Params:
    shapes = jax.eval_shape(LanguageModel(config).init, jax.random.key(0))
    table = {tensor.ours: tensor for tensor in family.tensors(config)}
    check_tensors(files, family, config)
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wheres = jax.tree.map(lambda _: one_device, shapes) if place is None else place(shapes)

    def read(path: Any, leaf: Any, where: Any) -> jax.Array:
        return jax.device_put(_leaf(files, table[path_name(path)], leaf.shape), where)

    return jax.tree_util.tree_map_with_path(read, shapes, wheres)


def _leaf(files: WeightFiles, tensor: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """One leaf of our tree; layers are read into their places one by one."""
    if LAYER not in tensor.theirs:
        return tensor.to_ours(files.read(tensor.theirs))
    leaf = np.empty(shape, files.dtype(tensor.theirs.replace(LAYER, "0")))
    for layer, name in enumerate(tensor_names(tensor, shape[0])):
        leaf[layer] = tensor.to_ours(files.read(name))
    return leaf


def check_tensors(files: WeightFiles, family: Family, config: ModelConfig) -> None:
    """Checks by their headers that files hold a model and nothing else.

    Raises CheckpointError, naming the tensor, where one is missing, is of another shape or no floating-point numbers,
    is not of one dtype in all layers, or where nothing is made of one.
    """
    shapes = leaf_shapes(config)
    table = family.tensors(config)
    _check_names(files, family, config, table)
    for tensor in table:
        _check_shapes(files, tensor, shapes[tensor.ours].shape, config.layers)


def leaf_shapes(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """The leaves of a plain model by path: layers/attention/query/kernel."""
    tree = jax.eval_shape(LanguageModel(config).init, jax.random.key(0))
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _check_shapes(files: WeightFiles, tensor: Tensor, ours: tuple[int, ...], layers: int) -> None:
    expected = tensor.theirs_shape(ours[1:] if LAYER in tensor.theirs else ours)
    names = tensor_names(tensor, layers)
    for name in names:
        if files.shape(name) != expected:
            raise CheckpointError(
                f"{files.where(name)}: tensor {name} is {list(files.shape(name))}, but {_CONFIG} makes it "
                f"{list(expected)}; the two are not of one model"
            )
        if files.dtype(name) != files.dtype(names[0]):
            raise CheckpointError(
                f"{files.where(name)}: tensor {name} is {files.dtype(name)}, but {names[0]} is "
                f"{files.dtype(names[0])}; save the model in one dtype"
            )


def _check_names(files: WeightFiles, family: Family, config: ModelConfig, table: Sequence[Tensor]) -> None:
    """Raises CheckpointError where a tensor is missing, or there is one that nothing is made of."""
    needed = {name for tensor in table for name in tensor_names(tensor, config.layers)}
    if missing := sorted(needed - files.names):
        raise CheckpointError(
            f"{files.directory}: tensor {missing[0]} is missing{_more(missing)}; copy all files again"
        )
    escaped = [re.escape(name).replace(re.escape(LAYER), r"\d+") for name in family.ignored]
    harmless = [name.replace(re.escape(REST), ".+") for name in escaped]
    left = [name for name in sorted(files.names - needed) if not any(re.fullmatch(p, name) for p in harmless)]
    head, embedding = _tables(family, config)
    if config.tied_head and head in left:
        left.remove(head)
        _check_tied(files, head, embedding)
    if left:
        raise CheckpointError(
            f"{files.directory}: tensor {left[0]} belongs to nothing in the model of {_CONFIG}{_more(left)}; the two "
            "are not of one model, or it is of a variant that is not read yet"
        )


def _tables(family: Family, config: ModelConfig) -> tuple[str, str]:
    """Their names of an untied head and of the embedding."""
    names = {tensor.ours: tensor.theirs for tensor in family.tensors(dataclasses.replace(config, tied_head=False))}
    return names["head"], names["embedding"]


def _check_tied(files: WeightFiles, head: str, embedding: str) -> None:
    """Some files keep a tied head beside the embedding: it has to be the same."""
    rows = files.shape(embedding)[0]
    parts = (slice(first, first + _ROWS) for first in range(0, rows, _ROWS))  # neither is held as a whole
    same = files.shape(head) == files.shape(embedding) and files.dtype(head) == files.dtype(embedding)
    if not (same and all(np.array_equal(files.read(head, part), files.read(embedding, part)) for part in parts)):
        raise CheckpointError(
            f"{files.directory}: tie_word_embeddings is true, but {head} is not {embedding}; set it to false in "
            f"{_CONFIG} if the head is meant"
        )


def tensor_names(tensor: Tensor, layers: int) -> list[str]:
    """The names in their files of one kind of tensor, layer after layer."""
    theirs = tensor.theirs
    return [theirs.replace(LAYER, str(layer)) for layer in range(layers)] if LAYER in theirs else [theirs]


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
