"""Runs out: a directory that transformers' AutoModelForCausalLM.from_pretrained loads, without any code of ours."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune_scaling.errors import ConfigError
from finetune_scaling.files import new_directory
from finetune_scaling.interop.families.family import LAYER, Tensor, to_theirs
from finetune_scaling.interop.families.standard_form import StandardForm
from finetune_scaling.interop.hugging_face import leaf_shapes
from finetune_scaling.interop.provenance import PROVENANCE
from finetune_scaling.interop.tokenizers.tokenizer_files import TokenizerFiles
from finetune_scaling.interop.weights.run_weights import Leaves, TrainedRun, merged_leaves, plain_leaves
from finetune_scaling.interop.weights.safetensors_writer import Shape, TensorFiles, written
from finetune_scaling.runs.metrics import ProgressReporter

SHARD_BYTES = 5_000_000_000  # as transformers divides models
CONFIG, GENERATION = "config.json", "generation_config.json"


@dataclasses.dataclass(frozen=True)
class Export:
    """A model that is to be written: all is known of it but its tensors' numbers.

    by_name: for each tensor of theirs those of ours that are in it. dtypes: of each leaf of ours, as it is written.
    leaves: reads them; check: tells, when all were read, whether they were what was written once.
    """

    form: StandardForm
    by_name: Mapping[str, Sequence[Tensor]]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    leaves: Leaves
    check: Callable[[], None]

    @property
    def files(self) -> dict[str, Shape]:
        """Every tensor of theirs, layer after layer."""
        layers = range(self.form.config.layers)
        stacked = {name: group for name, group in self.by_name.items() if LAYER in name}
        single = {
            name: self._shape(group, stacked=False) for name, group in self.by_name.items() if name not in stacked
        }
        head, *tail = single.items()  # the embeddings come before the layers, as in their models
        body = {
            name.replace(LAYER, str(layer)): self._shape(group, stacked=True)
            for layer in layers
            for name, group in stacked.items()
        }
        return {**dict([head]), **body, **dict(tail)}

    def _shape(self, group: Sequence[Tensor], stacked: bool) -> Shape:
        first = group[0]
        ours = self.shapes[first.ours]
        return Shape(first.theirs_shape(ours[1:] if stacked else ours), self.dtypes[first.ours])

    def write(self, files: TensorFiles) -> None:
        """Writes all tensors, leaf by leaf of ours, so that each is read once; those in one tensor together."""
        progress = ProgressReporter("writing tensors", 0, len(self.by_name))
        for done, name in enumerate(self.by_name):
            self._write_layers(name, files)
            progress.update(done + 1)
        progress.close()

    def _write_layers(self, name: str, files: TensorFiles) -> None:
        """A tensor of theirs in all layers."""
        group = self.by_name[name]
        opened = [self.leaves(tensor.ours) for tensor in group]
        for layer in range(self.form.config.layers) if LAYER in name else (None,):
            ours = [self.form.leaf(tensor.ours, leaf(layer)) for tensor, leaf in zip(group, opened, strict=True)]
            files.write(name.replace(LAYER, str(layer)), self._rounded(name, to_theirs(group, ours)))

    def _rounded(self, name: str, value: np.ndarray) -> np.ndarray:
        """A tensor in the dtype that it is written in. Raises ConfigError where that has no room for its numbers."""
        dtype = self.dtypes[self.by_name[name][0].ours]
        with np.errstate(over="ignore"):
            rounded = value.astype(dtype, copy=False)
        if dtype == "float16" and value.dtype != dtype and not np.isfinite(rounded).all():
            raise ConfigError(f"--dtype=float16: {name} has numbers above 65,504, its largest; take bfloat16")
        return rounded


def plan_export(run: TrainedRun, form: StandardForm, *, merged: bool, dtype: str | None) -> Export:
    """What is to be written of a run in its standard form: its tuned model, or the one underneath.

    dtype: None keeps each leaf's own. Raises ConfigError where a soft prompt would be merged.
    """
    by_name: dict[str, list[Tensor]] = {}
    table = form.family.tensors(form.config)
    for tensor in table:
        by_name.setdefault(tensor.theirs, []).append(tensor)
    leaves = merged_leaves(run, keep_dtypes=dtype is None) if merged else plain_leaves(run)
    dtypes = {path: dtype or str(leaf.dtype) for path, leaf in run.weights.shapes.items()}
    shapes = {path: leaf.shape for path, leaf in leaf_shapes(form.config).items()}
    assert {tensor.ours for tensor in table} == set(shapes), "a leaf that would be left out"
    return Export(form, by_name, shapes, dtypes, leaves, run.weights.check)


def write_model(export: Export, out: Path, tokenizer: TokenizerFiles, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a model's directory, which is there as a whole or not at all; returns the figures for its user.

    Raises WorkdirError where `out` is not empty, or has not the room.
    """
    shapes = export.files
    total = sum(tensor.bytes for tensor in shapes.values())
    with new_directory(out, total) as directory:
        with written(directory, shapes, SHARD_BYTES) as files:
            export.write(files)
        export.check()
        for name, content in _json_files(export, tokenizer, provenance).items():
            (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for name, data in tokenizer.files.items():
            (directory / name).write_bytes(data)
    return {
        "out": str(out),
        "family": export.form.family.model_type,
        "tensors": len(shapes),
        "bytes": total,
        "tokenizer": tokenizer.reason or sorted(tokenizer.files),
    }


def _json_files(
    export: Export, tokenizer: TokenizerFiles, provenance: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    specials = {f"{name}_token_id": number for name, number in tokenizer.special_ids.items()}
    dtypes = sorted(set(export.dtypes.values()))
    # transformers reads all in one dtype: the widest, so that nothing is lost.
    config = {**export.form.fields, "dtype": "float32" if "float32" in dtypes else dtypes[0]}
    config |= {name: number for name, number in specials.items() if name != "pad_token_id"}
    return {CONFIG: config, GENERATION: {"_from_model_config": True, **specials}, PROVENANCE: provenance}
