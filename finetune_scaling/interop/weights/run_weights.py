"""A run's weights, leaf by leaf: of its own checkpoint, or of its base's with its adapter merged in."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from finetune_scaling import configuration
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.runs.checkpoints import read_trainable
from finetune_scaling.runs.model_loading import RunCheckpoint, find_base
from finetune_scaling.runs.streamed_checkpoint import StreamedCheckpoint
from finetune_scaling.trees import flatten
from finetune_scaling.tuning.lora import LoraAdapter, merge
from finetune_scaling.tuning.method import TuningMethod, configure
from finetune_scaling.tuning.registry import METHODS

Factors = Mapping[str, np.ndarray]  # what an adapter trained, by path: layers/attention/query/lora_a, ...


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
    """A run, and the model that it tuned.

    model, tuning: of the run's checkpoint; adapter: the leaves that it added to a base, none where it trained a whole
    model; weights: those of that model, or of the base.
    """

    found: RunCheckpoint
    model: ModelConfig
    tuning: TuningMethod
    adapter: Factors
    weights: StreamedCheckpoint

    @property
    def is_whole(self) -> bool:
        """Whether it trained a whole model, and no adapter."""
        return self.tuning.size is None


def read_run(found: RunCheckpoint) -> TrainedRun:
    """A run that was found; of a whole model no weight is read yet.

    Raises CheckpointError where a checkpoint is damaged, or where an adapter's base is another by now.
    """
    metadata = found.metadata
    model = configuration.build(ModelConfig, metadata["model"], f"{found.path}: model")
    tuning = configure(METHODS, metadata["method"])
    if tuning.size is None:
        return TrainedRun(found, model, tuning, {}, StreamedCheckpoint(found.path))
    base = _base(found, metadata)
    return TrainedRun(found, model, tuning, flatten(read_trainable(found.path)[0]), StreamedCheckpoint(base.path))


def _base(found: RunCheckpoint, metadata: Mapping[str, Any]) -> RunCheckpoint:
    """The base of an adapter. Raises CheckpointError where it is another one than the adapter was trained on."""
    assert found.run_config.base is not None
    base = find_base(found.run_config.base)
    if metadata["base_digest"] != base.metadata["arrays_digest"]:
        raise CheckpointError(
            f"{found.directory}: was trained on another base (digest {metadata['base_digest'][:12]}...) than the one "
            f"that is there now ({base.metadata['arrays_digest'][:12]}...): {base.path}; put the right base back"
        )
    return base


Layers = Callable[[int | None], np.ndarray]  # a leaf by its layers; None: the whole of one that is not stacked
Leaves = Callable[[str], Layers]  # by path


def plain_leaves(run: TrainedRun) -> Leaves:
    """The leaves of the model underneath, without what an adapter changes."""

    def read(path: str) -> Layers:
        leaf = run.weights[path]
        return lambda layer: leaf if layer is None else leaf[layer]

    return read


def merged_leaves(run: TrainedRun, keep_dtypes: bool) -> Leaves:
    """The leaves of the tuned model; kernels that an adapter changes are float32 unless `keep_dtypes`.

    Raises ConfigError where the method changes something else than kernels.
    """
    plain, adapter = plain_leaves(run), run.tuning.adapter
    if run.is_whole:
        return plain
    if not isinstance(adapter, LoraAdapter):
        raise ConfigError(
            f"{run.found.directory}: a soft prompt cannot be merged into a model, whose texts it stands before; write "
            "it as an adapter: --to-peft=DIR (and its base beside it: --to-hf=DIR --no-merge)"
        )

    def read(path: str) -> Layers:
        folder, _, name = path.rpartition("/")
        layers = plain(path)
        if name != "kernel" or f"{folder}/lora_a" not in run.adapter:
            return layers
        a, b = (run.adapter[f"{folder}/{factor}"] for factor in ("lora_a", "lora_b"))

        def merged(layer: int | None) -> np.ndarray:
            kernel = layers(layer) if keep_dtypes else layers(layer).astype(np.float32)
            with jax.default_matmul_precision("highest"):  # accelerators would round the factors
                return np.asarray(merge({"kernel": kernel, "lora_a": a[layer], "lora_b": b[layer]}, adapter)["kernel"])

        return merged

    return read
