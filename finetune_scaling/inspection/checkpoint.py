"""The content of a checkpoint: shapes, trainable and frozen parameters, base model, training progress."""

from typing import Any

import jax

from finetune_scaling import configuration
from finetune_scaling.errors import CheckpointError
from finetune_scaling.files import Location, check_record, file_size, finite_or_none
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.runs.checkpoints import read_array_shapes, read_metadata
from finetune_scaling.runs.run_directory import NUMBER
from finetune_scaling.trees import path_name
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS

_METADATA_SHAPE = {
    **dict.fromkeys(("arrays_digest!", "tokenizer_sha256!", "base_digest!"), str),
    **dict.fromkeys(("step!", "tokens_per_step!"), int),
    "model!": {},
    "method!": {},
    "position!": {
        "steps_evaluated!": list,
        "losses!": list,
        "best_step!": int,
        "best_loss!": NUMBER,
        "stopped_by!": str,
    },
}


def inspect_checkpoint(where: Location) -> dict[str, Any]:
    """Return the content of a checkpoint.

    Raises CheckpointError if it is damaged or deleted in the meantime; WorkdirError if it cannot be read at present.
    """
    try:
        return _inspect(where)
    except FileNotFoundError as error:
        raise CheckpointError(f"{where}: was deleted while it was read. Fix: inspect a newer one") from error


def _inspect(where: Location) -> dict[str, Any]:
    metadata, shapes = read_metadata(where), read_array_shapes(where)
    check_record(where, metadata, _METADATA_SHAPE)
    arrays = {
        part: {name.removeprefix(f"{part}/"): leaf for name, leaf in shapes.items() if name.startswith(f"{part}/")}
        for part in ("trainable", "optimizer")
    }
    model = configuration.build(ModelConfig, metadata["model"], f"{where}: model")
    position = metadata["position"]
    if len(position["steps_evaluated"]) != len(position["losses"]):
        raise CheckpointError(f"{where}: is damaged: its steps_evaluated and losses do not match. Fix: restore a copy")
    dev_losses = dict(zip(position["steps_evaluated"], position["losses"], strict=True))
    return {
        "kind": "checkpoint",
        "path": str(where),
        "step": metadata["step"],
        "method": metadata["method"],
        "pet_size": configure(METHODS, metadata["method"]).size,
        "model": metadata["model"],
        "parameters": _parameters(model, arrays["trainable"]),
        "arrays": {
            part: [
                {"name": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype), "size": leaf.size}
                for name, leaf in sorted(leaves.items())
            ]
            for part, leaves in arrays.items()
        },
        "array_bytes": {
            part: sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values()) for part, leaves in arrays.items()
        },
        "file_bytes": _bytes_below(where),
        "tokens_computed": metadata["step"] * metadata["tokens_per_step"],
        "dev_loss": dev_losses.get(metadata["step"]),
        "best_step": position["best_step"],
        "best_dev_loss": finite_or_none(position["best_loss"]),
        "stopped_by": position["stopped_by"],
        "digests": {
            "arrays": metadata["arrays_digest"],
            "base": metadata["base_digest"],
            "tokenizer": metadata["tokenizer_sha256"],
        },
    }


def _parameters(model: ModelConfig, trainable: dict[str, jax.ShapeDtypeStruct]) -> dict[str, int]:
    """Return parameter counts of the base model, added by the method, and trainable and frozen in both together."""
    base = count_parameters(model)
    tree = jax.eval_shape(LanguageModel(model).init, jax.random.key(0))
    names = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
    trained = sum(leaf.size for leaf in trainable.values())
    added = sum(leaf.size for name, leaf in trainable.items() if name not in names)
    return {
        "base": base.total,
        "base_non_embedding": base.non_embedding,
        "added": added,
        "trainable": trained,
        "frozen": base.total + added - trained,
    }


def _bytes_below(folder: Location) -> int:
    return sum(_bytes_below(entry) if entry.is_dir() else file_size(entry) for entry in folder.iterdir())
