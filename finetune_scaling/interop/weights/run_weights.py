"""The weights of a run, leaf by leaf: of its own checkpoint, or of its base with its adapter merged."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from finetune_scaling import configuration
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.models.config import DENSE_LAYERS, ModelConfig
from finetune_scaling.runs.checkpoints import read_trainable
from finetune_scaling.runs.model_loading import RunCheckpoint, find_base
from finetune_scaling.runs.streamed_checkpoint import StreamedCheckpoint
from finetune_scaling.trees import flatten
from finetune_scaling.tuning.method import TuningMethod, configure
from finetune_scaling.tuning.registry import METHODS

PROVENANCE = "finetune_scaling.json"  # the file of an exported directory that says which run it came from


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
    """A run and the model that it tuned.

    Attributes:
        found: The run and its checkpoint.
        model: Config of the model.
        tuning: The tuning method.
        adapter: The leaves that the run trained, by path; empty where it trained the model itself.
        weights: The leaves of the model that it trained, or of its base.
    """

    found: RunCheckpoint
    model: ModelConfig
    tuning: TuningMethod
    adapter: Mapping[str, np.ndarray]
    weights: StreamedCheckpoint


def read_run(found: RunCheckpoint) -> TrainedRun:
    """Read a run's adapter, if it has one; the leaves of its model stay unread.

    Raises:
        CheckpointError: A checkpoint is damaged, or the base is not the one that the adapter was trained on.
    """
    metadata = found.metadata
    model = configuration.build(ModelConfig, metadata["model"], f"{found.path}: model")
    tuning = configure(METHODS, metadata["method"])
    if tuning.trains_all:
        return TrainedRun(found, model, tuning, {}, StreamedCheckpoint(found.path))
    base = _base(found, metadata)
    return TrainedRun(found, model, tuning, flatten(read_trainable(found.path)[0]), StreamedCheckpoint(base.path))


def _base(found: RunCheckpoint, metadata: Mapping[str, Any]) -> RunCheckpoint:
    """Return the base of an adapter. Raises CheckpointError where its weights have changed since."""
    assert found.run_config.base is not None
    base = find_base(found.run_config.base)
    if metadata["base_digest"] != base.metadata["arrays_digest"]:
        raise CheckpointError(
            f"{found.directory}: was trained on a base with digest {metadata['base_digest'][:12]}..., but {base.path} "
            f"has digest {base.metadata['arrays_digest'][:12]}... Fix: restore the base that it was trained on."
        )
    return base


def provenance(run: TrainedRun) -> dict[str, Any]:
    """Return a run's name, step and method, and the digests of its checkpoint, base and tokenizer."""
    metadata = run.found.metadata
    return {
        "run": run.found.directory.name,
        "step": int(run.found.path.name),
        "method": configuration.plain(metadata["method"]),
        **{name: metadata[name] for name in ("arrays_digest", "base_digest", "tokenizer_sha256")},
    }


LeafReader = Callable[[str], Iterator[np.ndarray]]  # path -> the layers of a stacked leaf, or the one array of another


def base_leaves(run: TrainedRun) -> LeafReader:
    """Return a reader of the model's leaves without the adapter."""
    return lambda path: _layers(path, run.weights[path])


def _layers(path: str, leaf: np.ndarray) -> Iterator[np.ndarray]:
    return iter(leaf) if path.startswith("layers/") else iter([leaf])


def merged_config(run: TrainedRun) -> ModelConfig:
    """Return the config of the tuned model: the base's config with the biases that the method added."""
    added = {path.split("/")[-2] for path in run.adapter if path.endswith("/bias")} - {*run.model.biased}
    biased = tuple(name for name in DENSE_LAYERS if name in added or name in run.model.biased)
    return dataclasses.replace(run.model, biased=biased) if added else run.model


def merged_leaves(run: TrainedRun, keep_dtypes: bool) -> LeafReader:
    """Return a reader of the tuned model's leaves; changed leaves are float32 unless `keep_dtypes`.

    It merges leaf by leaf and layer by layer, so that the parameters need not fit in memory.

    Raises:
        ConfigError: The method cannot be merged into the model.
    """
    read_base, adapter = base_leaves(run), run.tuning.adapter
    if not run.tuning.mergeable:
        raise ConfigError(
            f"{run.found.directory}: method {run.tuning.name!r} cannot be merged into a model. Fix: export the base "
            "with --to-hf=DIR --no-merge, and the adapter with --to-peft=DIR if PEFT has it."
        )
    if adapter is None:
        return read_base
    trained: dict[str, dict[str, np.ndarray]] = {}  # leaves of each layer by name
    for path, leaf in run.adapter.items():
        folder, _, name = path.rpartition("/")
        trained.setdefault(folder, {})[name] = leaf

    def read(path: str) -> Iterator[np.ndarray]:
        folder, _, name = path.rpartition("/")
        if folder not in trained:
            yield from read_base(path)
            return
        leaves = {leaf: _layers(path, value) for leaf, value in trained[folder].items()}
        if name not in leaves:
            leaves[name] = (value if keep_dtypes else value.astype(np.float32) for value in read_base(path))
        for values in zip(*leaves.values(), strict=True):
            with jax.default_matmul_precision("highest"):  # accelerators would round the factors
                merged = adapter.merge(folder.rpartition("/")[2], dict(zip(leaves, values, strict=True)))
            yield np.asarray(merged[name])

    return read
