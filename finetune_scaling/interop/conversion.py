"""Public models in: a Hugging Face directory becomes a run directory that finetuning takes as its base.

In DIR/.conversion everything is made that could be half done, and taken up again; the checkpoint gets its name when it
is whole, and result.json comes last.
"""

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.hugging_face import (
    MODEL_FIELDS,
    TOKENIZER_FILES,
    HuggingFaceTokenizer,
    has_tokenizer,
    load_hugging_face_tokenizer,
    read_model_fields,
)
from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import (
    absolute,
    disk_errors,
    local_path,
    read_json,
    sha256,
    write_atomically,
    write_json_atomically,
)
from finetune_scaling.interop.families.family import Family
from finetune_scaling.interop.hub import Found, find, find_config
from finetune_scaling.interop.hugging_face import FAMILIES, check_tensors, read_family, read_fields
from finetune_scaling.interop.incoming import PIECE_BYTES, Journal, Leaf, digest_of, leaves_of, write_state
from finetune_scaling.interop.weights.files import WeightFiles, weight_files
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.model_sharding import ModelSharding
from finetune_scaling.runs.checkpoints import CHECKPOINTS, read_metadata
from finetune_scaling.runs.model_loading import TOKENIZER
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_directory import CONFIG, LOCK, RESULT, RunDirectory, lock_directory
from finetune_scaling.runs.training_progress import TrainingProgress
from finetune_scaling.sharding.axes import MESH_AXES
from finetune_scaling.sharding.mesh import ShardingConfig
from finetune_scaling.sharding.roles import run_on_primary

log = logging.getLogger(__name__)

WORK = ".conversion"
_SOURCE = "source.json"  # in WORK: what is being converted, and how
_STEP = "0"
_OURS = {WORK, CONFIG, RESULT, LOCK, TOKENIZER, CHECKPOINTS}
_SPARE_BYTES = 64 * 2**20  # for the small files, and what the file system takes for itself


@dataclasses.dataclass(frozen=True)
class Conversion:
    """source: a directory or a name on the hub, @REVISION; out: the new base's directory.

    dtype: of the stored parameters, None for the files' own; sharding: the mesh whose devices the base is for, each of
    which then reads files of its own; tokenizer: its directory, "" for the model's own; pretrain_tokens: that the model
    has seen, None where nobody told.
    """

    source: str
    out: str
    dtype: str | None = None
    sharding: ShardingConfig = dataclasses.field(default_factory=ShardingConfig)
    tokenizer: str = ""
    pretrain_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class _Model:
    """A public model that was found and checked, none of its numbers read."""

    found: Found
    family: Family
    config: ModelConfig
    tokenizer: HuggingFaceTokenizer | None
    tokens: Path


def convert(conversion: Conversion) -> dict[str, Any]:
    """Converts a model, going on where an earlier call was stopped; returns the main figures.

    Several processes that run together all call it and share the work. Raises CheckpointError, ConfigError or DataError
    where files, config or tokenizer are missing, damaged, not of one model or not supported, before anything is
    written; WorkdirError where `out` is in use, full, or holds something else.
    """
    out = local_path(conversion.out, "a converted model")
    model = _opened(conversion)
    config = _config(conversion, model, out)
    run_on_primary(lambda: _check_free(out))
    with lock_directory(out):
        directory = RunDirectory(out)
        run_on_primary(lambda: directory.check_config(config))
        result = run_on_primary(lambda: directory.result)
        if result is not None:
            run_on_primary(lambda: _check_same(conversion, model, result, out))
        else:
            run_on_primary(lambda: _claim(conversion, model, config, out))
            _make_checkpoint(conversion, model, out)
            run_on_primary(lambda: _finish(directory, config))
        return _figures(out, run_on_primary(lambda: directory.result))


def described_model(source: str) -> ModelConfig:
    """The model that a source's config.json describes; of a name on the hub no other file is fetched.

    Raises as `convert` does.
    """
    return read_family(find_config(source).directory, FAMILIES)[1]


def _opened(conversion: Conversion) -> _Model:
    """The model, with all checked that its small files and headers tell."""
    name, directory, revision, commit = run_on_primary(lambda: _plain(find(conversion.source)))
    found = Found(name, Path(directory), revision, commit)
    family, config = read_family(found.directory, FAMILIES)
    with WeightFiles.open(found.directory) as files:
        check_tensors(files, family, config)
    tokens = Path(conversion.tokenizer or found.directory)
    tokenizer = None
    if conversion.tokenizer or has_tokenizer(tokens):
        tokenizer = load_hugging_face_tokenizer(tokens, read_fields(found.directory))
    else:
        log.warning(
            "%s: has no tokenizer; runs on this base have to be given one (--config.tokenizer=DIR), or convert it with "
            "--tokenizer=DIR",
            found.directory,
        )
    return _Model(found, family, config, tokenizer, tokens)


def _plain(found: Found) -> list[Any]:
    return [found.name, str(found.directory), found.revision, found.commit]


def _config(conversion: Conversion, model: _Model, out: Path) -> dict[str, Any]:
    """What the new run's config.json says."""
    found = model.found
    config = {
        "name": found.name if found.commit else Path(found.name).name,
        "model": configuration.plain(model.config),
        "tokenizer": str(absolute(out) / TOKENIZER) if model.tokenizer else "",
        "objective": {"name": "causal"},
        "sequence": {"length": model.config.max_length},
        "limits": {"max_steps": 1},
        "public": {
            "name": found.name,
            "family": model.family.model_type,
            "revision": found.revision,
            "commit": found.commit,
            "dtype": conversion.dtype,
            "pretrain_tokens": conversion.pretrain_tokens,
        },
    }
    read_run_config(config)
    return config


def _check_free(out: Path) -> None:
    """Raises WorkdirError where something else is in the directory."""
    with disk_errors(out):
        strangers = sorted({entry.name for entry in out.iterdir()} - _OURS) if out.exists() else []
    if strangers:
        raise WorkdirError(f"{out}: holds something else ({', '.join(strangers[:4])}); give --out=DIR a new directory")
    if (out / CONFIG).exists():
        config = read_json(out / CONFIG)
        if not (isinstance(config, dict) and config.get("public")):
            raise WorkdirError(f"{out}: holds a run or a study; give --out=DIR a new directory")
    elif not (out / WORK / _SOURCE).exists():  # what is there is not ours, whatever it is called
        found = [name for name in (CHECKPOINTS, TOKENIZER, RESULT) if (out / name).exists()]
        if found:
            raise WorkdirError(f"{out}: holds {', '.join(found)} of something else; give --out=DIR a new directory")


def _claim(conversion: Conversion, model: _Model, config: Mapping[str, Any], out: Path) -> None:
    """Makes the directory this conversion's: what another one left half done gives way to it."""
    identity = _identity(conversion, model)
    work = out / WORK
    with disk_errors(out):
        left = read_json(work / _SOURCE) if (work / _SOURCE).exists() else None
        if left is not None and not configuration.equal(left, identity):
            log.warning("%s: what was half converted there is of other files or settings; starting anew", out)
        if left is None or not configuration.equal(left, identity):
            for folder in (work, out / CHECKPOINTS):
                shutil.rmtree(folder, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        write_json_atomically(work / _SOURCE, identity)
        RunDirectory(out).write_config(config)
        _copy_tokenizer(model, out / TOKENIZER)


def _identity(conversion: Conversion, model: _Model) -> dict[str, Any]:
    """All that decides the pieces that are written, told without reading the weights."""
    directory = model.found.directory
    return {
        "config_sha256": sha256(directory / "config.json"),
        "weights": _weights(directory),
        "tokenizer_sha256": model.tokenizer.digest if model.tokenizer else None,
        "dtype": conversion.dtype,
        "mesh": _mesh(conversion),
        "piece_bytes": PIECE_BYTES,
    }


def _weights(directory: Path) -> dict[str, list[int]]:
    """Size and time of change of each file of weights, which are theirs unless somebody deceives."""
    return {file.name: [(stat := file.stat()).st_size, stat.st_mtime_ns] for file in weight_files(directory)}


def _check_same(conversion: Conversion, model: _Model, result: Mapping[str, Any], out: Path) -> None:
    """Raises WorkdirError where a finished base was made of other files than are there now, or cut for another mesh."""
    directory, public = model.found.directory, result["public"]
    now: dict[str, Any] = {
        "config.json": sha256(directory / "config.json"),
        "tokenizer": model.tokenizer and model.tokenizer.digest,
    }
    then: dict[str, Any] = {"config.json": public["config_sha256"], "tokenizer": result["tokenizer_sha256"]}
    if model.found.commit is None:  # a commit's files are what they are, whenever they were fetched
        now |= _weights(directory)
        then |= public["weights"]
    if differing := [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]:
        raise WorkdirError(
            f"{out}: was converted from other files than are in {directory} now (they differ in "
            f"{', '.join(differing[:4])}); give --out=DIR a new directory, or delete this one"
        )
    cut, wanted = public.get("mesh"), _mesh(conversion)
    if cut not in (None, wanted):  # it was not recorded from the beginning
        raise WorkdirError(
            f"{out}: its files are cut for {_told(cut)}, not for {_told(wanted)}; every mesh reads them, so leave the "
            "flags as they were, or give --out=DIR a new directory"
        )


def _told(mesh: Mapping[str, int]) -> str:
    return " ".join(f"--{name}={count}" for name, count in mesh.items())


def _copy_tokenizer(model: _Model, folder: Path) -> None:
    """Puts the tokenizer's files into the base, and nothing else; they may be those that are there already."""
    files: dict[str, bytes] = {}
    if model.tokenizer is not None:
        there = [name for name in TOKENIZER_FILES if (model.tokens / name).is_file()]
        files = {name: (model.tokens / name).read_bytes() for name in there}
        fields = read_model_fields(model.found.directory)
        files[MODEL_FIELDS] = (json.dumps(fields, indent=2) + "\n").encode()
    for name, data in files.items():
        write_atomically(folder / name, data)
    for left in folder.iterdir() if folder.is_dir() else ():
        if left.name not in files:
            left.unlink()


def _make_checkpoint(conversion: Conversion, model: _Model, out: Path) -> None:
    """Writes checkpoints/0 where it is not there yet: in WORK first, and under its name when it is whole."""
    if run_on_primary((out / CHECKPOINTS / _STEP).exists):
        return
    work = out / WORK
    unfinished = work / _STEP
    with WeightFiles.open(model.found.directory) as files:
        leaves = leaves_of(files, model.family, model.config, conversion.dtype, _shards(conversion, model.config))
        run_on_primary(lambda: _check_room(out, leaves))
        journal = Journal(work)
        try:
            write_state(unfinished / "state", leaves, files, journal, Path(model.found.name).name)
            multihost_utils.sync_global_devices("all pieces are written")
            run_on_primary(lambda: _complete(conversion, model, out, leaves, journal))
        finally:
            journal.close()


def _mesh(conversion: Conversion) -> dict[str, int]:
    """Over how many devices the parameters will be divided, by axis; all that are here where fsdp says so."""
    sharding = conversion.sharding
    devices = jax.device_count() if sharding.fsdp < 1 else sharding.fsdp * sharding.tensor
    _, fsdp, tensor = sharding.shape(devices)
    return {"fsdp": fsdp, "tensor": tensor}


def _shards(conversion: Conversion, model: ModelConfig) -> Any:
    """From leaves to the shape of what one device of the mesh holds of each; the mesh need not be here."""
    mesh = AbstractMesh((1, *_mesh(conversion).values()), MESH_AXES)
    model_sharding = ModelSharding(model, mesh, conversion.sharding.axes)

    def shards(leaves: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        named = model_sharding.checkpoint({f"trainable/{path}": leaf for path, leaf in leaves.items()})
        return {path: named[f"trainable/{path}"].shard_shape(leaf.shape) for path, leaf in leaves.items()}

    return shards


def _check_room(out: Path, leaves: list[Leaf]) -> None:
    """Raises WorkdirError where the disk cannot hold what is still to be written."""
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) + _SPARE_BYTES
    written = sum(file.stat().st_size for file in (out / WORK).rglob("*") if file.is_file())
    free = shutil.disk_usage(out).free
    if free < needed - written:
        raise WorkdirError(f"{out}: needs {needed - written:,} bytes, and the disk has {free:,} left; free some space")


def _complete(conversion: Conversion, model: _Model, out: Path, leaves: list[Leaf], journal: Journal) -> None:
    """Adds the metadata to the arrays and gives the checkpoint its name."""
    unfinished = out / WORK / _STEP
    position = dataclasses.asdict(TrainingProgress())
    metadata = {
        "model": configuration.plain(model.config),
        "method": {"name": "full"},
        "tokenizer_sha256": model.tokenizer.digest if model.tokenizer else None,
        "base_digest": None,
        "tokens_per_step": 0,
        "public": {
            "name": model.found.name,
            "revision": model.found.revision,
            "commit": model.found.commit,
            "family": model.family.model_type,
            "pretrain_tokens": conversion.pretrain_tokens,
            "mesh": _mesh(conversion),
            "config_sha256": sha256(model.found.directory / "config.json"),
            "weights": _weights(model.found.directory),
        },
        "position": position,
        "best_step": None,
        "step": int(_STEP),
        "arrays_digest": digest_of(leaves, journal),
    }
    with disk_errors(out):
        (unfinished / "facts").mkdir(exist_ok=True)
        write_json_atomically(unfinished / "facts" / "metadata", metadata)  # where Orbax's JSON handler has them
        for folder in (unfinished / "facts", unfinished / "state", unfinished):
            write_atomically(folder / "commit_success.txt", "")  # a copy in a bucket counts as whole by them
        _synchronize(unfinished / "state" / "_METADATA")
        (out / CHECKPOINTS).mkdir(exist_ok=True)
        unfinished.rename(out / CHECKPOINTS / _STEP)


def _synchronize(file: Path) -> None:
    """Puts on the disk what a library wrote without waiting for that."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _finish(directory: RunDirectory, config: Mapping[str, Any]) -> None:
    """Writes the result of a run that is done, and clears away what it was made with."""
    where = directory.path / CHECKPOINTS / _STEP
    metadata = read_metadata(where)
    parameters = count_parameters(configuration.build(ModelConfig, metadata["model"], f"{where}: model"))
    directory.write_result(
        {
            "name": config["name"],
            "task": None,
            "method": "full",
            "pet_size": None,
            "parameters": parameters.total,
            "parameters_non_embedding": parameters.non_embedding,
            "trainable_parameters": parameters.total,
            "pretrain_tokens": metadata["public"]["pretrain_tokens"],
            "finetune_examples": None,
            "steps": 0,
            "best_step": None,
            "dev_loss": None,
            "dev_losses": {},
            "stopped_by": "converted",
            "loss": None,
            "flops": 0,
            "tokenizer_sha256": metadata["tokenizer_sha256"],
            "base_digest": None,
            "arrays_digest": metadata["arrays_digest"],
            "public": metadata["public"],
        }
    )
    shutil.rmtree(directory.path / WORK, ignore_errors=True)


def _figures(out: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    public = record["public"]
    return {
        "out": str(out),
        **{name: public[name] for name in ("name", "revision", "commit", "family")},
        **{name: record[name] for name in ("parameters", "arrays_digest", "tokenizer_sha256")},
    }
