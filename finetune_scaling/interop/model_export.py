"""Export of a model to a directory that transformers' AutoModelForCausalLM.from_pretrained loads."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune_scaling.data.tokenizers.hugging_face import GENERATION_CONFIG
from finetune_scaling.errors import ConfigError
from finetune_scaling.files import new_directory, write_json_atomically
from finetune_scaling.interop.families.family import Tensor, to_file
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.hugging_face_model import CONFIG, leaf_shapes
from finetune_scaling.interop.tokenizers.tokenizer_files import TokenizerFiles
from finetune_scaling.interop.weights.run_weights import (
    PROVENANCE,
    LeafReader,
    TrainedRun,
    base_leaves,
    merged_leaves,
    provenance,
)
from finetune_scaling.interop.weights.safetensors_writer import TensorSpec, write_tensors
from finetune_scaling.runs.metrics import ProgressReporter

SHARD_BYTES = 5_000_000_000  # as transformers shards models


def write_model(
    run: TrainedRun, match: FamilyMatch, out: Path, tokenizer: TokenizerFiles, *, merged: bool, dtype: str | None
) -> dict[str, Any]:
    """Write the directory of a run's model atomically; return a summary.

    Args:
        run: The run.
        match: Its model as one of a public family.
        out: The directory.
        tokenizer: The tokenizer's files.
        merged: Whether to write the tuned model, with the adapter merged; if not, its base.
        dtype: Dtype of the files; None keeps each leaf's dtype.

    Raises:
        ConfigError: The method cannot be merged, or float16 overflows.
        CheckpointError: The weights are damaged.
        WorkdirError: `out` is not empty, or the disk lacks space.
    """
    leaves = merged_leaves(run, keep_dtypes=dtype is None) if merged else base_leaves(run)
    shapes = {path: leaf.shape for path, leaf in leaf_shapes(match.config).items()}
    dtypes = _dtypes(run, shapes, dtype)
    groups = sorted(match.tensors, key=lambda group: dtypes[group[0].path] != "float32")
    assert {tensor.path for group in groups for tensor in group} == set(shapes), "the family has no tensor for a leaf"
    specs = _specs(match, groups, shapes, dtypes)
    total = sum(spec.bytes for spec in specs.values())
    with new_directory(out, total) as directory:
        write_tensors(directory, specs, _values(match, groups, leaves, dtypes), SHARD_BYTES)
        run.weights.check()
        tuned = run.found.run_config.public is None
        for name, content in _json_files(match, set(dtypes.values()), tokenizer, tuned=tuned).items():
            write_json_atomically(directory / name, content)
        write_json_atomically(directory / PROVENANCE, provenance(run))
        for name, data in tokenizer.files.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_bytes(data)
    return {
        "out": str(out),
        "family": match.family.model_type,
        "tensors": len(specs),
        "bytes": total,
        "tokenizer": tokenizer.reason or sorted(tokenizer.files),
    }


def _dtypes(run: TrainedRun, paths: Iterable[str], dtype: str | None) -> dict[str, str]:
    """Return the dtype in which each leaf is written; a bias that the method added has its kernel's dtype."""
    stored = run.weights.shapes
    sources = {path: path if path in stored else path.replace("/bias", "/kernel") for path in paths}
    return {path: dtype or str(stored[source].dtype) for path, source in sources.items()}


def _specs(
    match: FamilyMatch,
    groups: Sequence[Sequence[Tensor]],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, str],
) -> dict[str, TensorSpec]:
    """Return the shape and dtype of every tensor in the files."""
    specs: dict[str, TensorSpec] = {}
    for first, *_ in groups:
        shape = first.file_shape(shapes[first.path][first.stacked :])
        specs |= dict.fromkeys(first.names(match.config.layers), TensorSpec(shape, dtypes[first.path]))
    return specs


def _values(
    match: FamilyMatch, groups: Sequence[Sequence[Tensor]], leaves: LeafReader, dtypes: Mapping[str, str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and value of every tensor in the files; each leaf is read once."""
    progress = ProgressReporter("writing tensors", 0, len(groups))
    for done, group in enumerate(groups):
        layers = zip(*(leaves(tensor.path) for tensor in group), strict=True)
        for name, layer in zip(group[0].names(match.config.layers), layers, strict=True):
            values = [match.leaf(tensor.path, leaf) for tensor, leaf in zip(group, layer, strict=True)]
            yield name, _cast(name, to_file(group, values), dtypes[group[0].path])
        progress.update(done + 1)
    progress.close()


def _cast(name: str, value: np.ndarray, dtype: str) -> np.ndarray:
    """Cast to the dtype of the files. Raises ConfigError where float16 overflows."""
    with np.errstate(over="ignore"):
        cast = value.astype(dtype, copy=False)
    if dtype == "float16" and value.dtype != dtype and not np.isfinite(cast).all():
        raise ConfigError(f"--dtype=float16: {name} has values above 65,504. Fix: use bfloat16.")
    return cast


def _json_files(
    match: FamilyMatch, dtypes: set[str], tokenizer: TokenizerFiles, *, tuned: bool
) -> dict[str, Mapping[str, Any]]:
    # transformers loads all tensors in one dtype: name the widest, so that none is rounded.
    config = {**match.fields, "dtype": "float32" if "float32" in dtypes else min(dtypes)}
    return {CONFIG: {**config, **tokenizer.special_ids}, GENERATION_CONFIG: _generation_config(tokenizer, tuned)}


def _generation_config(tokenizer: TokenizerFiles, tuned: bool) -> Mapping[str, Any]:
    """Return the public model's own generation config; a tuned model also ends its texts with the tokenizer's eos."""
    config = tokenizer.generation or {"_from_model_config": True, **tokenizer.special_ids}
    ends = config.get("eos_token_id")
    if tuned and not {*tokenizer.end_ids} <= {*(ends if isinstance(ends, list) else [ends])}:
        return {**config, "eos_token_id": list(tokenizer.end_ids)}
    return config
