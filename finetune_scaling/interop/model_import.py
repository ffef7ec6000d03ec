"""Import of a public model: a Hugging Face directory becomes a run directory that finetuning takes as its base.

The steps: find the source, read its config, check its tensors, stream its leaves into DIR/.conversion, move the
finished checkpoint to its place, and write result.json last. Each step can be interrupted and resumed.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AbstractMesh

from finetune_scaling import configuration
from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import absolute, disk_errors, local_path, write_atomically, write_json_atomically
from finetune_scaling.interop.checkpoint_stream import Leaf, plan_leaves, write_arrays
from finetune_scaling.interop.hugging_face_model import leaf_shapes
from finetune_scaling.interop.import_directory import WORK, begin_import, check_free, check_same
from finetune_scaling.interop.import_source import ImportSource, open_source
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.model_sharding import ModelSharding
from finetune_scaling.runs.checkpoints import CHECKPOINTS, read_metadata
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_directory import RunDirectory, lock_directory
from finetune_scaling.runs.run_paths import TOKENIZER
from finetune_scaling.runs.training_progress import TrainingProgress
from finetune_scaling.sharding.axes import MESH_AXES
from finetune_scaling.sharding.mesh import ShardingConfig
from finetune_scaling.sharding.processes import run_on_primary

_STEP = "0"
_SPARE_BYTES = 64 * 2**20  # for small files and the file system's own needs


@dataclasses.dataclass(frozen=True)
class ModelImport:
    """A request to import a public model.

    Attributes:
        source: A directory, or NAME[@REVISION] on the hub.
        out: Directory of the new base.
        dtype: Dtype of the stored parameters; None keeps the dtype of the files.
        sharding: The mesh for whose devices the checkpoint's files are sharded; any other mesh reads them too.
        tokenizer: Directory of the tokenizer; empty for the model's own.
        pretrain_tokens: Number of tokens that the model was trained on; None if unknown.
    """

    source: str
    out: str
    dtype: str | None = None
    sharding: ShardingConfig = dataclasses.field(default_factory=ShardingConfig)
    tokenizer: str = ""
    pretrain_tokens: int | None = None


def import_model(request: ModelImport) -> dict[str, Any]:
    """Import a model, resuming an interrupted import; return a summary.

    Processes of a multi-process program all call it and share the work. Everything is checked before the first write.

    Raises:
        CheckpointError, ConfigError, DataError: As `open_source` does.
        WorkdirError: `out` is in use, full, or holds something else.
    """
    out = local_path(request.out, "an imported model")
    source = open_source(request.source, request.tokenizer)
    mesh = _mesh(request.sharding)
    config = _run_config(request, source, out)
    run_on_primary(lambda: check_free(out))
    with lock_directory(out):
        if not run_on_primary(lambda: _is_finished(request, source, mesh, config, out)):
            _write_checkpoint(request, source, mesh, out)
            run_on_primary(lambda: _finish(out, config["name"]))
        record = run_on_primary(lambda: RunDirectory(out).result)
    facts = ("name", "revision", "commit", "family", "parameters", "arrays_digest", "tokenizer_sha256")
    return {"out": str(out), **{fact: {**record, **record["public"]}[fact] for fact in facts}}


def _run_config(request: ModelImport, source: ImportSource, out: Path) -> dict[str, Any]:
    """Return the config.json of the new run."""
    config = {
        "name": source.found.name if source.found.commit else Path(source.found.name).name,
        "model": configuration.plain(source.config),
        "tokenizer": str(absolute(out) / TOKENIZER) if source.tokenizer else "",
        "objective": {"name": "causal"},
        "sequence": {"length": source.config.max_length},
        "limits": {"max_steps": 1},
        "public": {**_origin(request, source), "dtype": request.dtype},
    }
    read_run_config(config)
    return config


def _origin(request: ModelImport, source: ImportSource) -> dict[str, Any]:
    return {
        "name": source.found.name,
        "family": source.family.model_type,
        "revision": source.found.revision,
        "commit": source.found.commit,
        "pretrain_tokens": request.pretrain_tokens,
    }


def _is_finished(
    request: ModelImport, source: ImportSource, mesh: Mapping[str, int], config: Mapping[str, Any], out: Path
) -> bool:
    """Return whether the directory holds the finished import; if not, begin it."""
    directory = RunDirectory(out)
    directory.check_config(config)
    if (result := directory.result) is not None:
        check_same(source, mesh, result, out)
        return True
    begin_import(source, request.dtype, mesh, config, out)
    return False


def _mesh(sharding: ShardingConfig) -> dict[str, int]:
    """Return the number of devices per axis over which parameters are sharded; fsdp below 1 takes all devices."""
    devices = jax.device_count() if sharding.fsdp < 1 else sharding.fsdp * sharding.tensor
    _, fsdp, tensor = sharding.shape(devices)
    return {"fsdp": fsdp, "tensor": tensor}


def _shard_shapes(request: ModelImport, model: ModelConfig, mesh: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shape of one device's shard of each leaf; the devices need not exist."""
    abstract_mesh = AbstractMesh((1, *mesh.values()), MESH_AXES)
    leaves = {f"trainable/{path}": leaf for path, leaf in leaf_shapes(model).items()}
    shardings = ModelSharding(model, abstract_mesh, request.sharding.axes).checkpoint(leaves)
    return {name.removeprefix("trainable/"): shardings[name].shard_shape(leaf.shape) for name, leaf in leaves.items()}


def _write_checkpoint(request: ModelImport, source: ImportSource, mesh: Mapping[str, int], out: Path) -> None:
    """Write checkpoints/0 unless it exists: in WORK first, then renamed when complete."""
    if run_on_primary((out / CHECKPOINTS / _STEP).exists):
        return
    shards = _shard_shapes(request, source.config, mesh)
    leaves = plan_leaves(source.files, source.family, source.config, request.dtype, shards)
    run_on_primary(lambda: _check_space(out, leaves))
    digests = write_arrays(out / WORK / _STEP / "state", leaves, source.files, Path(source.found.name).name)
    run_on_primary(lambda: _complete(_metadata(request, source, mesh, digests), out))


def _check_space(out: Path, leaves: list[Leaf]) -> None:
    """Raise WorkdirError where the disk lacks space for what is still to be written."""
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) + _SPARE_BYTES
    written = sum(file.stat().st_size for file in (out / WORK).rglob("*") if file.is_file())
    free = shutil.disk_usage(out).free
    if free < needed - written:
        raise WorkdirError(f"{out}: needs {needed - written:,} bytes, but the disk has {free:,}. Fix: free some space.")


def _metadata(
    request: ModelImport, source: ImportSource, mesh: Mapping[str, int], digests: Mapping[str, str]
) -> dict[str, Any]:
    """Return the metadata that accompany the checkpoint's arrays."""
    files = {"mesh": dict(mesh), **source.fingerprint()}
    tokenizer = files.pop("tokenizer_sha256")
    return {
        "model": configuration.plain(source.config),
        "method": {"name": "full"},
        "tokenizer_sha256": tokenizer,
        "base_digest": None,
        "tokens_per_step": 0,
        "public": {**_origin(request, source), **files},
        "position": dataclasses.asdict(TrainingProgress()),
        "best_step": None,
        "step": int(_STEP),
        "arrays_digest": digests["stored"],
        "trainable_digests": dict(digests),
    }


def _complete(metadata: Mapping[str, Any], out: Path) -> None:
    """Add the metadata to the arrays and move the checkpoint to its final path."""
    unfinished = out / WORK / _STEP
    with disk_errors(out):
        (unfinished / "facts").mkdir(exist_ok=True)
        write_json_atomically(unfinished / "facts" / "metadata", metadata)  # the file of Orbax's JSON handler
        for folder in (unfinished / "facts", unfinished / "state", unfinished):
            write_atomically(folder / "commit_success.txt", "")  # marks a copy in an object store as complete
        with (unfinished / "state" / "_METADATA").open("rb") as file:
            os.fsync(file.fileno())  # Orbax does not wait for the disk
        (out / CHECKPOINTS).mkdir(exist_ok=True)
        unfinished.rename(out / CHECKPOINTS / _STEP)


def _finish(out: Path, name: str) -> None:
    """Write the result record and remove the working files."""
    checkpoint = out / CHECKPOINTS / _STEP
    metadata = read_metadata(checkpoint)
    parameters = count_parameters(configuration.build(ModelConfig, metadata["model"], f"{checkpoint}: model"))
    unused = ("task", "pet_size", "finetune_examples", "best_step", "dev_loss", "loss", "base_digest")
    RunDirectory(out).write_result(
        {
            "name": name,
            "method": "full",
            "parameters": parameters.total,
            "parameters_non_embedding": parameters.non_embedding,
            "trainable_parameters": parameters.total,
            "pretrain_tokens": metadata["public"]["pretrain_tokens"],
            "steps": 0,
            "dev_losses": {},
            "stopped_by": "converted",
            "flops": 0,
            **{fact: metadata[fact] for fact in ("tokenizer_sha256", "arrays_digest", "public")},
            **dict.fromkeys(unused),
        }
    )
    shutil.rmtree(out / WORK, ignore_errors=True)
