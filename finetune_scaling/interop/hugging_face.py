"""Models from Hugging Face directories: config.json and safetensors files in, our config and parameters out.

Nothing is unpickled and no torch is needed. Tensors go where their family's table says; what is missing, left over or
of another shape is an error that names it.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.files import location, read_json, sha256
from finetune_scaling.interop.family import LAYER, Family, Tensor
from finetune_scaling.interop.gemma import GEMMA2, GEMMA3_TEXT
from finetune_scaling.interop.gpt_neox import GPT_NEOX
from finetune_scaling.interop.llama import LLAMA
from finetune_scaling.interop.mistral import MISTRAL
from finetune_scaling.interop.nearest import unknown_model
from finetune_scaling.interop.olmo2 import OLMO2
from finetune_scaling.interop.qwen import QWEN2, QWEN3
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.tuning.partition import Tree, path_name

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, OLMO2, GEMMA2, GEMMA3_TEXT, GPT_NEOX)
}

_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


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
    family, config = _read_family(directory, families)
    with _Files.open(directory) as files:
        return config, _parameters(files, family, config, place)


def check_model(directory: str | Path, families: Mapping[str, Family] = FAMILIES) -> ModelConfig:
    """The config of such a model, of whose weights the headers alone are read; raises as load_model does."""
    directory = Path(directory)
    family, config = _read_family(directory, families)
    with _Files.open(directory) as files:
        _check_names(files, family, config, list(family.tensors(config)))
    return config


def is_model(directory: str | Path) -> bool:
    """Whether a directory's config.json is that of a public model, known or not: it names a type of model."""
    file = location(directory) / _CONFIG
    fields = read_json(file, mend="put a good copy back") if file.is_file() else None
    return isinstance(fields, dict) and ("model_type" in fields or "architectures" in fields)


def files_digest(directory: str | Path) -> str:
    """SHA-256 of the SHA-256 of config.json and of each file of weights, read to the last byte, several at a time."""
    directory = Path(directory)
    files = [directory / _CONFIG, *_weight_files(directory)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = pool.map(sha256, files)
    lines = [f"{digest}  {file.name}\n" for file, digest in zip(files, digests, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read_family(directory: Path, families: Mapping[str, Family]) -> tuple[Family, ModelConfig]:
    fields = read_fields(directory)
    where = str(directory / _CONFIG)
    if fields.get("model_type") not in families:
        raise unknown_model(fields, families.values(), where)
    family = families[fields["model_type"]]
    return family, family.read_config(fields, where)


def read_fields(directory: Path) -> dict[str, Any]:
    """The fields of a directory's config.json. Raises CheckpointError or ConfigError where there are none."""
    file = directory / _CONFIG
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; name a directory that a model was saved into")
    fields = read_json(file, mend="copy it again")
    if not isinstance(fields, dict):
        raise ConfigError(f"{file}: not a group of fields; this is no model's config")
    return fields


def _parameters(files: "_Files", family: Family, config: ModelConfig, place: Callable[[Tree], Tree] | None) -> Params:
    shapes = jax.eval_shape(LanguageModel(config).init, jax.random.key(0))
    table = {tensor.ours: tensor for tensor in family.tensors(config)}
    _check_names(files, family, config, list(table.values()))
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wheres = jax.tree.map(lambda _: one_device, shapes) if place is None else place(shapes)

    def read(path: Any, leaf: Any, where: Any) -> jax.Array:
        return jax.device_put(_leaf(files, table[path_name(path)], leaf.shape), where)

    return jax.tree_util.tree_map_with_path(read, shapes, wheres)


def _leaf(files: "_Files", tensor: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """One leaf of our tree; layers are read into their places one by one."""
    if LAYER not in tensor.theirs:
        return files.read(tensor, tensor.theirs, shape)
    first = files.read(tensor, tensor.theirs.replace(LAYER, "0"), shape[1:])
    leaf = np.empty(shape, first.dtype)
    leaf[0] = first
    for layer in range(1, shape[0]):
        leaf[layer] = files.read(tensor, tensor.theirs.replace(LAYER, str(layer)), shape[1:])
    return leaf


def _check_names(files: "_Files", family: Family, config: ModelConfig, table: list[Tensor]) -> None:
    """Raises CheckpointError where a tensor is missing, or there is one that nothing is made of."""
    needed = {name for tensor in table for name in _names(tensor.theirs, config.layers)}
    if missing := sorted(needed - files.names):
        raise CheckpointError(
            f"{files.directory}: tensor {missing[0]} is missing{_more(missing)}; copy all files again"
        )
    harmless = [re.escape(name).replace(re.escape(LAYER), r"\d+") for name in family.ignored]
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


def _check_tied(files: "_Files", head: str, embedding: str) -> None:
    """Some files keep a tied head beside the embedding: it has to be the same."""
    if not np.array_equal(files.raw(head), files.raw(embedding)):
        raise CheckpointError(
            f"{files.directory}: tie_word_embeddings is true, but {head} is not {embedding}; set it to false in "
            f"{_CONFIG} if the head is meant"
        )


def _names(theirs: str, layers: int) -> list[str]:
    return [theirs.replace(LAYER, str(layer)) for layer in range(layers)] if LAYER in theirs else [theirs]


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


class _Files:
    """The tensors of a directory's safetensors files, by name."""

    def __init__(self, directory: Path, opened: Mapping[str, Any]):
        self.directory = directory
        self._of = {name: file for file in opened for name in opened[file].keys()}  # noqa: SIM118, not a mapping
        self._opened = opened
        self.names = set(self._of)

    @classmethod
    @contextlib.contextmanager
    def open(cls, directory: Path) -> Iterator["_Files"]:
        """Opens all files, of which nothing but the headers is read."""
        with contextlib.ExitStack() as stack:
            opened = {}
            for file in _weight_files(directory):
                try:
                    opened[file.name] = stack.enter_context(safe_open(file, framework="np"))
                except (SafetensorError, OSError) as error:
                    raise CheckpointError(f"{file}: not a whole safetensors file ({error}); copy it again") from error
            yield cls(directory, opened)

    def read(self, tensor: Tensor, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor of that name, as ours, of `shape`."""
        value = self.raw(name)
        expected = tensor.theirs_shape(shape)
        if value.shape != expected:
            raise CheckpointError(
                f"{self.directory / self._of[name]}: tensor {name} is {list(value.shape)}, but {_CONFIG} makes it "
                f"{list(expected)}; the two are not of one model"
            )
        return tensor.to_ours(value)

    def raw(self, name: str) -> np.ndarray:
        """A tensor as it is in its file."""
        value = self._opened[self._of[name]].get_tensor(name)
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise CheckpointError(
                f"{self.directory / self._of[name]}: tensor {name} holds {value.dtype}, not numbers of float32, "
                "bfloat16 or float16; quantised weights are not read"
            )
        return value


def _weight_files(directory: Path) -> list[Path]:
    index = directory / _INDEX
    if index.is_file():
        files = [directory / Path(name).name for name in _indexed_files(index)]
        if missing := [file for file in files if not file.is_file()]:
            raise CheckpointError(f"{missing[0]}: {_INDEX} names this file, but it is not there; copy it too")
        return files
    if (directory / _WEIGHTS).is_file():
        return [directory / _WEIGHTS]
    raise CheckpointError(
        f"{directory}: has no {_WEIGHTS} and no {_INDEX}. Pickled weights (.bin, .pt) are not read, since to open them "
        "is to run what they say: save the model as safetensors"
    )


def _indexed_files(index: Path) -> list[str]:
    """The files that an index names, at least one."""
    content = read_json(index, mend="copy it again")
    places = content.get("weight_map") if isinstance(content, dict) else None
    names = set(places.values()) if isinstance(places, dict) else set()
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{index}: names no files; copy it again")
    return sorted(names)
