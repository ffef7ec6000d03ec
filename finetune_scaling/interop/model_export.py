"""Export of a model to a directory that transformers' AutoModelForCausalLM.from_pretrained loads."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune_scaling.errors import ConfigError
from finetune_scaling.files import new_directory
from finetune_scaling.interop.families.family import Tensor, grouped, to_file
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.hugging_face_model import CONFIG, leaf_shapes
from finetune_scaling.interop.tokenizers.tokenizer_files import TokenizerFiles
from finetune_scaling.interop.weights.run_weights import PROVENANCE, LeafReader, TrainedRun, base_leaves, merged_leaves
from finetune_scaling.interop.weights.safetensors_writer import TensorFiles, TensorSpec, open_model_files
from finetune_scaling.runs.metrics import ProgressReporter

SHARD_BYTES = 5_000_000_000  # as transformers shards models
GENERATION_CONFIG = "generation_config.json"


@dataclasses.dataclass(frozen=True)
class ModelExport:
    """A model to be written, with everything but the values of its tensors.

    Attributes:
        match: The model as one of a public family.
        tensors: Our leaves in each tensor of the files, by the tensor's name.
        shapes: Shapes of our leaves.
        dtypes: Dtypes in which our leaves are written.
        leaves: Reader of our leaves.
        check: Called after all leaves were read; raises where they are damaged.
    """

    match: FamilyMatch
    tensors: Mapping[str, Sequence[Tensor]]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    leaves: LeafReader
    check: Callable[[], None]

    def specs(self) -> dict[str, TensorSpec]:
        """Return the shape and dtype of every tensor in the files, in the order of transformers' models."""
        first, *rest = self.tensors.values()
        stacked = [group for group in rest if group[0].stacked]
        single = [group for group in rest if not group[0].stacked]
        per_layer = [(group, layer) for layer in range(self.match.config.layers) for group in stacked]
        order = [(first, 0), *per_layer, *((group, 0) for group in single)]
        return {self._names(group)[layer]: self._spec(group[0]) for group, layer in order}

    def _names(self, group: Sequence[Tensor]) -> list[str]:
        return group[0].names(self.match.config.layers)

    def _spec(self, tensor: Tensor) -> TensorSpec:
        return TensorSpec(tensor.file_shape(self.shapes[tensor.path][tensor.stacked :]), self.dtypes[tensor.path])

    def write(self, files: TensorFiles) -> None:
        """Write all tensors; each of our leaves is read once."""
        progress = ProgressReporter("writing tensors", 0, len(self.tensors))
        for done, group in enumerate(self.tensors.values()):
            readers = [self.leaves(tensor.path) for tensor in group]
            for i, name in enumerate(self._names(group)):
                layer = i if group[0].stacked else None
                leaves = [
                    self.match.leaf(tensor.path, read(layer)) for tensor, read in zip(group, readers, strict=True)
                ]
                files.write(name, self._cast(group[0], to_file(group, leaves)))
            progress.update(done + 1)
        progress.close()

    def _cast(self, tensor: Tensor, value: np.ndarray) -> np.ndarray:
        """Cast to the dtype of the files. Raises ConfigError where float16 overflows."""
        dtype = self.dtypes[tensor.path]
        with np.errstate(over="ignore"):
            cast = value.astype(dtype, copy=False)
        if dtype == "float16" and value.dtype != dtype and not np.isfinite(cast).all():
            raise ConfigError(f"--dtype=float16: {tensor.name} has values above 65,504. Fix: use bfloat16.")
        return cast


def plan_export(run: TrainedRun, match: FamilyMatch, *, merged: bool, dtype: str | None) -> ModelExport:
    """Return what is to be written of a run: its tuned model if `merged`, else its base.

    Args:
        run: The run.
        match: Its model as one of a public family.
        merged: Whether to merge the adapter.
        dtype: Dtype of the files; None keeps that of each leaf.

    Raises:
        ConfigError: The method cannot be merged.
    """
    tensors = match.family.tensors(match.config)
    leaves = merged_leaves(run, keep_dtypes=dtype is None) if merged else base_leaves(run)
    shapes = {path: leaf.shape for path, leaf in leaf_shapes(match.config).items()}
    assert {tensor.path for tensor in tensors} == set(shapes), "the family has no tensor for a leaf"
    stored = run.weights.shapes
    # A bias that the method added has the dtype of its layer's kernel.
    sources = {path: path if path in stored else path.replace("/bias", "/kernel") for path in shapes}
    dtypes = {path: dtype or str(stored[source].dtype) for path, source in sources.items()}
    return ModelExport(match, grouped(tensors), shapes, dtypes, leaves, run.weights.check)


def write_model(
    export: ModelExport, out: Path, tokenizer: TokenizerFiles, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a model's directory atomically; return a summary.

    Raises:
        WorkdirError: `out` is not empty, or the disk lacks space.
    """
    specs = export.specs()
    total = sum(spec.bytes for spec in specs.values())
    with new_directory(out, total) as directory:
        with open_model_files(directory, specs, SHARD_BYTES) as files:
            export.write(files)
        export.check()
        for name, content in _json_files(export, tokenizer, provenance).items():
            (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for name, data in tokenizer.files.items():
            (directory / name).write_bytes(data)
    return {
        "out": str(out),
        "family": export.match.family.model_type,
        "tensors": len(specs),
        "bytes": total,
        "tokenizer": tokenizer.reason or sorted(tokenizer.files),
    }


def _json_files(
    export: ModelExport, tokenizer: TokenizerFiles, provenance: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    specials = {f"{name}_token_id": number for name, number in tokenizer.special_ids.items()}
    dtypes = sorted(set(export.dtypes.values()))
    # transformers loads all tensors in one dtype: name the widest, so that none is rounded.
    config = {**export.match.fields, "dtype": "float32" if "float32" in dtypes else dtypes[0]}
    config |= {name: number for name, number in specials.items() if name != "pad_token_id"}
    return {CONFIG: config, GENERATION_CONFIG: {"_from_model_config": True, **specials}, PROVENANCE: provenance}
