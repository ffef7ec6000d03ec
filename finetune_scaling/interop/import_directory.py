"""The directory that a model is imported into: checks that it is free or holds this import, and resumption."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.hugging_face import MODEL_FIELDS, read_model_fields, read_tokenizer_files
from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import disk_errors, read_json, write_atomically, write_json_atomically
from finetune_scaling.interop.checkpoint_stream import PIECE_BYTES
from finetune_scaling.interop.import_source import ImportSource
from finetune_scaling.runs.checkpoints import CHECKPOINTS
from finetune_scaling.runs.run_directory import CONFIG, LOCK, RunDirectory
from finetune_scaling.runs.run_paths import TOKENIZER
from finetune_scaling.strict_json import format_json

log = logging.getLogger(__name__)

WORK = ".conversion"  # subdirectory of an unfinished import
_SOURCE = "source.json"  # in WORK: what determines the pieces that are written


def check_free(out: Path) -> None:
    """Raise WorkdirError where the directory holds anything but an import."""
    with disk_errors(out):
        names = {entry.name for entry in out.iterdir()} if out.exists() else set()
        config = read_json(out / CONFIG) if CONFIG in names else None
    if (isinstance(config, dict) and config.get("public")) or (out / WORK / _SOURCE).exists():
        return
    if others := sorted(names - {WORK, LOCK}):
        raise WorkdirError(f"{out}: holds other files ({', '.join(others[:4])}). Fix: give --out=DIR a new directory.")


def begin_import(
    source: ImportSource, dtype: str | None, mesh: Mapping[str, int], config: Mapping[str, Any], out: Path
) -> None:
    """Record this import in the directory; discard what an import of other files or settings left unfinished."""
    work = out / WORK
    identity = {**source.fingerprint(), "mesh": dict(mesh), "dtype": dtype, "piece_bytes": PIECE_BYTES}
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


def check_same(source: ImportSource, mesh: Mapping[str, int], result: Mapping[str, Any], out: Path) -> None:
    """Raise WorkdirError where a finished import was made of other files or for another mesh."""
    current = {**source.fingerprint(), "mesh": dict(mesh)}
    recorded = {name: result["public"].get(name, result.get(name)) for name in current}
    if source.found.commit is not None:  # whose files never change
        recorded["weights"] = current["weights"]
    if recorded["mesh"] is None:  # older imports did not record it
        recorded["mesh"] = current["mesh"]
    if differing := configuration.differing_fields(recorded, current):
        raise WorkdirError(
            f"{out}: was imported from other files than {source.directory} holds now, or its files are sharded for "
            f"another mesh (they differ in {', '.join(differing[:4])}). Every mesh can read them. Fix: keep the flags, "
            "give --out=DIR a new directory, or delete this one."
        )


def _copy_tokenizer(source: ImportSource, folder: Path) -> None:
    """Make `folder` hold exactly the tokenizer's files; the source may be `folder` itself."""
    files: dict[str, bytes] = {}
    if source.tokenizer is not None:
        files = read_tokenizer_files(source.tokenizer_directory)
        files[MODEL_FIELDS] = (format_json(read_model_fields(source.directory), indent=2) + "\n").encode()
    for name, data in files.items():
        write_atomically(folder / name, data)
    for entry in folder.rglob("*"):
        if entry.is_file() and entry.relative_to(folder).as_posix() not in files:
            entry.unlink()
