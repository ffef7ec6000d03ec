"""Models in Hugging Face directories: config.json and safetensors files become a ModelConfig and parameters.

Nothing is unpickled and torch is not needed. A tensor that is missing, unexpected or of another shape is an error that
names it.
"""

import concurrent.futures
import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import numpy as np

from finetune_scaling.data.tokenizers.hugging_face import GENERATION_CONFIG
from finetune_scaling.errors import CheckpointError
from finetune_scaling.files import read_json_object, sha256
from finetune_scaling.interop.families.family import Family, Tensor
from finetune_scaling.interop.families.registry import parse_config
from finetune_scaling.interop.weights.safetensors_reader import WeightFiles, weight_files
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.paths import user_path
from finetune_scaling.runs.run_directory import ADAPTER_CONFIG
from finetune_scaling.trees import Tree, path_name

CONFIG = "config.json"
_CHUNK_ROWS = 4096  # rows of a tied head that are compared at a time


def load_model(directory: str | Path, shardings: Callable[[Tree], Tree] | None = None) -> tuple[ModelConfig, Params]:
    """Load the model in a Hugging Face directory; parameters keep the dtype of the files.

    Args:
        directory: The directory that `save_pretrained` wrote.
        shardings: Maps the tree of parameter shapes to their shardings; None puts all on one device.

    Raises:
        ConfigError: The family or a field of config.json is not supported.
        CheckpointError: The weights are missing, damaged or do not match config.json.
    """
    family, config, files = open_model(Path(user_path(directory)))
    shapes = jax.eval_shape(LanguageModel(config).init, jax.random.key(0))
    tensors = {tensor.path: tensor for tensor in family.tensors(config)}
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    targets = jax.tree.map(lambda _: one_device, shapes) if shardings is None else shardings(shapes)

    def read(path: Any, leaf: Any, sharding: Any) -> jax.Array:
        return jax.device_put(_read_leaf(files, tensors[path_name(path)], leaf.shape), sharding)

    return config, jax.tree_util.tree_map_with_path(read, shapes, targets)


def open_model(directory: Path) -> tuple[Family, ModelConfig, WeightFiles]:
    """Return the family, config and files of a model, of whose weights only the headers are read.

    Raises as `load_model` does; CheckpointError also where a tensor is unexpected, is not floating-point, or has
    another dtype than the same tensor of other layers.
    """
    family, config = read_family(directory)
    check_no_adapter(directory)
    files, tensors, shapes = WeightFiles(directory), family.tensors(config), leaf_shapes(config)
    files.rename(_names_of_transformers(files.names, family, config))
    _check_names(files, family, config, tensors)
    for tensor in tensors:
        _check_shapes(files, tensor, shapes[tensor.path].shape, config.layers)
    return family, config, files


def files_digest(directory: str | Path) -> str:
    """Return a SHA-256 over the SHA-256 of config.json, of GENERATION_CONFIG if it exists, and of every weight file."""
    directory = Path(user_path(directory))
    generation = directory / GENERATION_CONFIG  # has the ids that end a text
    files = [directory / CONFIG, *([generation] if generation.is_file() else []), *weight_files(directory)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = pool.map(sha256, files)
    names = [file.relative_to(directory).as_posix() for file in files]
    lines = [f"{digest}  {name}\n" for name, digest in zip(names, digests, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_family(directory: Path) -> tuple[Family, ModelConfig]:
    """Return the family and config of the model in a directory; raises as `load_model` does."""
    return parse_config(read_fields(directory), str(directory / CONFIG))


def check_no_adapter(directory: Path) -> None:
    """Raise CheckpointError where a directory holds a PEFT adapter, which transformers would apply to its model."""
    if not (file := directory / ADAPTER_CONFIG).is_file():
        return
    raise CheckpointError(
        f"{file}: is the config of a PEFT adapter, which is not part of a model. Fix: import its base from a directory "
        "without it, and then the adapter with --from-peft=DIR --base=RUN --out=OUT."
    )


def read_fields(directory: Path) -> dict[str, Any]:
    """Return the fields of a directory's config.json. Raises CheckpointError or WorkdirError where there are none."""
    file = directory / CONFIG
    if not file.is_file():
        check_no_adapter(directory)
        raise CheckpointError(f"{file}: no such file. Fix: name a directory that a model was saved into.")
    return read_json_object(file, fix="copy it again")


def _read_leaf(files: WeightFiles, tensor: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Read one leaf of our tree, layer by layer into its stack."""
    if not tensor.stacked:
        return tensor.from_file(files.read(tensor.name))
    names = tensor.names(shape[0])
    leaf = np.empty(shape, files.dtype(names[0]))
    for layer, name in enumerate(names):
        leaf[layer] = tensor.from_file(files.read(name))
    return leaf


def leaf_shapes(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the leaves of a model without adapters by path, such as layers/attention/query/kernel."""
    tree = jax.eval_shape(LanguageModel(config).init, jax.random.key(0))
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _check_shapes(files: WeightFiles, tensor: Tensor, leaf_shape: tuple[int, ...], layers: int) -> None:
    expected = tensor.file_shape(leaf_shape[tensor.stacked :])
    names = tensor.names(layers)
    for name in names:
        if files.shape(name) != expected:
            raise CheckpointError(
                f"{files.file(name)}: tensor {name} has shape {list(files.shape(name))}, but {CONFIG} implies "
                f"{list(expected)}. Fix: copy {CONFIG} and the weights from the same model."
            )
        if files.dtype(name) != files.dtype(names[0]):
            raise CheckpointError(
                f"{files.file(name)}: tensor {name} is {files.dtype(name)}, but {names[0]} is "
                f"{files.dtype(names[0])}. Fix: save the model in one dtype."
            )


def _names_of_transformers(stored: Set[str], family: Family, config: ModelConfig) -> dict[str, str]:
    """Return the names that transformers gives to stored tensors with others.

    It adds or removes the prefix of the model without its head, and takes the head for a tied embedding that is
    missing.
    """
    untied = family.tensors(dataclasses.replace(config, tied_head=False))
    needed = {name for tensor in untied for name in tensor.names(config.layers)}
    embedding, head = (next(tensor.name for tensor in untied if tensor.path == path) for path in ("embedding", "head"))
    prefix = embedding.partition(".")[0] + "."
    names = {}
    for name in stored - needed if embedding.count(".") == 2 else ():  # not within a multimodal model
        other = name.removeprefix(prefix) if name.removeprefix(prefix) in needed else prefix + name
        if other in needed:
            names[name] = other
    found = {names.get(name, name): name for name in stored}
    if config.tied_head and embedding not in found and head in found:
        names[found[head]] = embedding
    return names


def _check_names(files: WeightFiles, family: Family, config: ModelConfig, tensors: Sequence[Tensor]) -> None:
    """Raise CheckpointError where a tensor is missing or unexpected."""
    needed = {name for tensor in tensors for name in tensor.names(config.layers)}
    if missing := sorted(needed - files.names):
        wrapped = next((name for name in sorted(files.names) if name.endswith(f".{missing[0]}")), None)
        prefix = wrapped.removesuffix(missing[0]) if wrapped else ""
        fix = (
            f"the names begin with {prefix!r}, so save the model that is inside of this wrapper"
            if prefix
            else f"copy all files again, or {CONFIG} and the weights from the same model"
        )
        raise CheckpointError(f"{files.directory}: tensor {missing[0]} is missing{_and_more(missing)}. Fix: {fix}.")
    extra = [name for name in sorted(files.names - needed) if not re.fullmatch(family.ignored, name)]
    untied = {tensor.path: tensor.name for tensor in family.tensors(dataclasses.replace(config, tied_head=False))}
    if config.tied_head and untied["head"] in extra:
        extra.remove(untied["head"])
        _check_tied(files, untied["head"], untied["embedding"])
    if extra:
        raise CheckpointError(
            f"{files.directory}: tensor {extra[0]} is not part of the model in {CONFIG}{_and_more(extra)}. Fix: copy "
            f"{CONFIG} and the weights from the same model; if they are, this variant is not supported."
        )


def _check_tied(files: WeightFiles, head: str, embedding: str) -> None:
    """Check that a tied head which is stored as well equals the embedding; compares chunks to bound memory."""
    rows = files.shape(embedding)[0]
    chunks = (slice(first, first + _CHUNK_ROWS) for first in range(0, rows, _CHUNK_ROWS))
    same = files.shape(head) == files.shape(embedding) and files.dtype(head) == files.dtype(embedding)
    if not (same and all(np.array_equal(files.read(head, chunk), files.read(embedding, chunk)) for chunk in chunks)):
        raise CheckpointError(
            f"{files.directory}: tie_word_embeddings is true, but {head} differs from {embedding}. Fix: set "
            f"tie_word_embeddings to false in {CONFIG} to use the head."
        )


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
