"""The content of a directory of any kind as plain data."""

import os
from collections.abc import Callable
from typing import Any

from finetune_scaling.data.preparation.settings import SETTINGS, STATISTICS, shard_file
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import RECORD_FILE, load_sentencepiece_tokenizer
from finetune_scaling.files import Location, check_record, disk_errors, read_json
from finetune_scaling.inspection.checkpoint import inspect_checkpoint
from finetune_scaling.inspection.directory_kind import Kind, find_directory
from finetune_scaling.inspection.run import inspect_run
from finetune_scaling.inspection.study import inspect_study
from finetune_scaling.runs.run_directory import RunDirectory


def inspect_tokenizer(path: Location) -> dict[str, Any]:
    """Return the content of a tokenizer's directory. Raises DataError if it is damaged."""
    tokenizer = load_sentencepiece_tokenizer(path)
    return {
        "kind": "tokenizer",
        "path": str(path),
        "vocab_size": tokenizer.vocab_size,
        "sentinels": len(tokenizer.special_tokens.sentinel_ids),
        "special_ids": {
            "pad": tokenizer.pad_id,
            "eos": tokenizer.eos_id,
            "bos": tokenizer.bos_id,
            "unk": tokenizer.unk_id,
            **tokenizer.special_tokens.mode_ids,
        },
        "digest": tokenizer.digest,
        "record": read_json(path / RECORD_FILE) if (path / RECORD_FILE).exists() else None,
    }


def inspect_corpus(path: Location) -> dict[str, Any]:
    """Return the settings of a prepared corpus, and its statistics once it is finished."""
    settings = read_json(path / SETTINGS)
    check_record(path / SETTINGS, settings, {"shards!": int})
    done = (path / STATISTICS).exists()
    made = [number for number in range(settings["shards"]) if shard_file(path, number, "json").exists()]
    statistics = read_json(path / STATISTICS) if done else None
    if done:
        check_record(path / STATISTICS, statistics, {"bytes!": int})
    return {
        "kind": "corpus",
        "path": str(path),
        "state": "done" if done else "started",
        "shards": settings["shards"],
        "shards_made": len(made),
        "settings": settings,
        "statistics": statistics,
        "bytes": statistics["bytes"] if statistics else None,
    }


_INSPECT: dict[Kind, Callable[[Location], dict[str, Any]]] = {
    "study": lambda where: inspect_study(where, RunDirectory(where).config),
    "run": inspect_run,
    "checkpoint": inspect_checkpoint,
    "corpus": inspect_corpus,
    "tokenizer": inspect_tokenizer,
}


def inspect(path: str | os.PathLike) -> dict[str, Any]:
    """Return the content of a local or remote directory as plain data, with its `kind`; no array is read.

    Raises WorkdirError if it is not a directory that this project wrote, and the errors of damaged files.
    """
    where, kind = find_directory(path, *_INSPECT)
    with disk_errors(where, reading=True):
        return _INSPECT[kind](where)
