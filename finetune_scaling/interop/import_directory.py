"""The directory that a model is imported into: whose it is, what it may hold, and whether to resume in it."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.hugging_face import MODEL_FIELDS, TOKENIZER_FILES, read_model_fields
from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import disk_errors, read_json, write_atomically, write_json_atomically
from finetune_scaling.interop.checkpoint_stream import PIECE_BYTES
from finetune_scaling.interop.hugging_face_model import CONFIG as MODEL_CONFIG
from finetune_scaling.interop.import_source import ImportSource
from finetune_scaling.runs.checkpoints import CHECKPOINTS
from finetune_scaling.runs.model_loading import TOKENIZER
from finetune_scaling.runs.run_directory import CONFIG, LOCK, RESULT, RunDirectory

log = logging.getLogger(__name__)

WORK = ".conversion"  # subdirectory of an unfinished import
_SOURCE = "source.json"  # in WORK: what determines the pieces that are written
_KNOWN = {WORK, CONFIG, RESULT, LOCK, TOKENIZER, CHECKPOINTS}


def check_free(out: Path) -> None:
    """Raise WorkdirError where the directory holds anything but an import."""
    with disk_errors(out):
        unknown = sorted({entry.name for entry in out.iterdir()} - _KNOWN) if out.exists() else []
    if unknown:
        raise WorkdirError(f"{out}: holds other files ({', '.join(unknown[:4])}). Fix: give --out=DIR a new directory.")
    if (out / CONFIG).exists():
        config = read_json(out / CONFIG)
        if not (isinstance(config, dict) and config.get("public")):
            raise WorkdirError(f"{out}: holds a run or a study. Fix: give --out=DIR a new directory.")
    elif not (out / WORK / _SOURCE).exists():  # no import has begun here, so such files are not ours
        found = [name for name in (CHECKPOINTS, TOKENIZER, RESULT) if (out / name).exists()]
        if found:
            raise WorkdirError(f"{out}: holds other files ({', '.join(found)}). Fix: give --out=DIR a new directory.")


def claim(
    source: ImportSource, dtype: str | None, mesh: Mapping[str, int], config: Mapping[str, Any], out: Path
) -> None:
    """Record this import in the directory; discard what an import of other files or settings left unfinished."""
    work, identity = out / WORK, _identity(source, dtype, mesh)
    with disk_errors(out):
        previous = read_json(work / _SOURCE) if (work / _SOURCE).exists() else None
        if previous is None or not configuration.equal(previous, identity):
            if previous is not None:
                log.warning("%s: holds an unfinished import of other files or settings; starting over", out)
            for folder in (work, out / CHECKPOINTS):
                shutil.rmtree(folder, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        write_json_atomically(work / _SOURCE, identity)
        RunDirectory(out).write_config(config)
        _copy_tokenizer(source, out / TOKENIZER)


def _identity(source: ImportSource, dtype: str | None, mesh: Mapping[str, int]) -> dict[str, Any]:
    """Return everything that determines the pieces, without reading the weights."""
    return {
        "config_sha256": source.config_sha256,
        "weights": source.weight_stamps(),
        "tokenizer_sha256": source.tokenizer_sha256,
        "dtype": dtype,
        "mesh": dict(mesh),
        "piece_bytes": PIECE_BYTES,
    }


def check_same(source: ImportSource, mesh: Mapping[str, int], result: Mapping[str, Any], out: Path) -> None:
    """Raise WorkdirError where a finished import was made of other files or for another mesh."""
    public = result["public"]
    current: dict[str, Any] = {MODEL_CONFIG: source.config_sha256, "tokenizer": source.tokenizer_sha256}
    recorded: dict[str, Any] = {MODEL_CONFIG: public["config_sha256"], "tokenizer": result["tokenizer_sha256"]}
    if source.found.commit is None:  # the files of a commit never change
        current |= source.weight_stamps()
        recorded |= public["weights"]
    if differing := [name for name in sorted({*current, *recorded}) if current.get(name) != recorded.get(name)]:
        raise WorkdirError(
            f"{out}: was imported from other files than {source.directory} holds now (they differ in "
            f"{', '.join(differing[:4])}). Fix: give --out=DIR a new directory, or delete this one."
        )
    sharded = public.get("mesh")
    if sharded not in (None, dict(mesh)):  # older imports did not record it
        raise WorkdirError(
            f"{out}: its files are sharded for {_flags(sharded)}, not {_flags(mesh)}. Every mesh can read them. Fix: "
            "keep the flags, or give --out=DIR a new directory."
        )


def _flags(mesh: Mapping[str, int]) -> str:
    return " ".join(f"--{name}={count}" for name, count in mesh.items())


def _copy_tokenizer(source: ImportSource, folder: Path) -> None:
    """Make `folder` hold exactly the tokenizer's files; the source may be `folder` itself."""
    files: dict[str, bytes] = {}
    if source.tokenizer is not None:
        present = [name for name in TOKENIZER_FILES if (source.tokenizer_directory / name).is_file()]
        files = {name: (source.tokenizer_directory / name).read_bytes() for name in present}
        files[MODEL_FIELDS] = (json.dumps(read_model_fields(source.directory), indent=2) + "\n").encode()
    for name, data in files.items():
        write_atomically(folder / name, data)
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name not in files:
            entry.unlink()
