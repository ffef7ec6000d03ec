"""A run's weights, tensor by tensor: of its own checkpoint, or of its base's with its adapter merged in."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from finetune_scaling import configuration
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.training.checkpoints import read_trainable
from finetune_scaling.training.tuned import FoundRun, find_base
from finetune_scaling.tuning.lora import LoraAdapter, merge
from finetune_scaling.tuning.method import Tuning, configure
from finetune_scaling.tuning.partition import path_name
from finetune_scaling.tuning.registry import METHODS

Flat = Mapping[str, np.ndarray]  # by path: layers/attention/query/kernel


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
    """A run, what it trained, and the run whose model is underneath (itself, where it trained all of it).

    trained: its trained leaves; whole: the run that holds the model underneath.
    """

    found: FoundRun
    model: ModelConfig
    tuning: Tuning
    trained: Flat
    whole: FoundRun

    @property
    def is_whole(self) -> bool:
        """Whether it trained a whole model, and no adapter."""
        return self.whole is self.found

    @functools.cached_property
    def base_weights(self) -> Flat:
        """The weights of the model underneath, in the dtypes of its checkpoint. Raises as `read_trainable` does."""
        return self.trained if self.is_whole else flat(read_trainable(self.whole.where)[0])


def read_run(found: FoundRun) -> TrainedRun:
    """A run that was found. Raises CheckpointError where a checkpoint is damaged, or its base is another by now."""
    trained, facts = read_trainable(found.where)
    model = configuration.build(ModelConfig, facts["model"], f"{found.where}: model")
    tuning = configure(METHODS, facts["method"])
    return TrainedRun(found, model, tuning, flat(trained), found if tuning.size is None else _base(found, facts))


def _base(found: FoundRun, facts: Mapping[str, Any]) -> FoundRun:
    """The base of an adapter. Raises CheckpointError where it is another one than the adapter was trained on."""
    assert found.experiment.base is not None
    base = find_base(found.experiment.base)
    if facts["base_digest"] != base.facts["arrays_digest"]:
        raise CheckpointError(
            f"{found.directory}: was trained on another base (digest {facts['base_digest'][:12]}...) than the one that "
            f"is there now ({base.facts['arrays_digest'][:12]}...): {base.where}; put the right base back"
        )
    return base


def flat(tree: Any) -> dict[str, Any]:
    """A tree's leaves by path."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def leaf_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of a plain model's leaves by path."""
    tree = jax.eval_shape(LanguageModel(config).init, jax.random.key(0))
    return {name: leaf.shape for name, leaf in flat(tree).items()}


Tensors = Callable[[str, int | None], np.ndarray]  # (path, layer of a stacked one) -> one tensor


def plain_tensors(run: TrainedRun) -> Tensors:
    """The tensors of the model underneath, without what an adapter changes."""

    def tensor(path: str, layer: int | None) -> np.ndarray:
        leaf = run.base_weights[path]
        return leaf if layer is None else leaf[layer]

    return tensor


def merged_tensors(run: TrainedRun, keep_dtypes: bool) -> Tensors:
    """The tensors of the tuned model; kernels that an adapter changes are float32 unless `keep_dtypes`.

    Raises ConfigError where the method changes something else than kernels.
    """
    if run.is_whole:
        return plain_tensors(run)
    adapter = run.tuning.adapter
    if not isinstance(adapter, LoraAdapter):
        raise ConfigError(
            f"{run.found.directory}: a soft prompt cannot be merged into a model, whose texts it stands before; write "
            "it as an adapter: --to-peft=DIR (and its base beside it: --to-hf=DIR --no-merge)"
        )
    plain = plain_tensors(run)

    def tensor(path: str, layer: int | None) -> np.ndarray:
        value, folder = plain(path, layer), path.rpartition("/")[0]
        if f"{folder}/lora_a" not in run.trained:
            return value
        factors = {name: run.trained[f"{folder}/{name}"][layer] for name in ("lora_a", "lora_b")}
        kernel = value if keep_dtypes else value.astype(np.float32)
        with jax.default_matmul_precision("highest"):  # accelerators would round the factors
            return np.asarray(merge({"kernel": kernel, **factors}, adapter)["kernel"])

    return tensor
