"""Prepare a corpus: record the settings, write the missing shards, then index and statistics."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_scaling import configuration
from finetune_scaling.data.data_paths import with_absolute_data
from finetune_scaling.data.encoding import quantiles
from finetune_scaling.data.preparation.pipeline import find_duplicates, write_shards
from finetune_scaling.data.preparation.settings import INDEX, SETTINGS, STATISTICS, Preparation, shard_file
from finetune_scaling.data.preparation.shards import finished_record, read_array, write_array
from finetune_scaling.errors import DataError, WorkdirError
from finetune_scaling.files import Location, disk_errors, read_json, write_json_atomically

log = logging.getLogger(__name__)

_DROPPED = ("empty_documents", "duplicates", "too_short", "too_long")
_SUMS = ("documents", *_DROPPED, "chunks", "text_tokens", "bytes")


def prepare_shards(preparation: Preparation, directory: Location, beam_flags: Sequence[str] = ()) -> dict[str, Any]:
    """Write the missing parts of a prepared corpus; return the content of statistics.json.

    Raises WorkdirError if the directory cannot be written or has other settings, DataError if the text is invalid or
    all of it is filtered out, ConfigError without Apache Beam.
    """
    _record_settings(preparation, directory)
    missing = [number for number in range(preparation.shards) if finished_record(directory, number) is None]
    log.info("%s: %d of %d shards are missing", directory, len(missing), preparation.shards)
    if missing:
        (directory / STATISTICS).unlink(missing_ok=True)
        if preparation.filters.drop_duplicates and not all(_has_repeats(directory, number) for number in missing):
            find_duplicates(preparation, directory, beam_flags)
        write_shards(preparation, missing, directory, beam_flags)
    return _write_statistics(preparation, directory)


def _record_settings(preparation: Preparation, directory: Location) -> None:
    """Write the settings, or compare them with those of an earlier call."""
    settings, path = preparation.record(), directory / SETTINGS
    with disk_errors(directory):
        (directory / "shards").mkdir(parents=True, exist_ok=True)
        for leftover in (directory / "shards").glob(".*"):  # partial files of an interrupted call
            leftover.unlink()
        existing = path.exists()
    if not existing:
        write_json_atomically(path, settings)
        return
    recorded = read_json(path, fix="choose another --out, or delete this one")
    differing = configuration.differing_fields(with_absolute_data(recorded), settings)
    if differing:
        raise WorkdirError(
            f"{directory}: was prepared with other settings (different in {', '.join(differing)}; see its {SETTINGS}); "
            "choose another --out, or delete this one"
        )


def _has_repeats(directory: Location, number: int) -> bool:
    try:
        read_array(shard_file(directory, number, "repeats.npy"))
    except (OSError, EOFError, ValueError):  # missing or damaged
        return False
    return True


def _write_statistics(preparation: Preparation, directory: Location) -> dict[str, Any]:
    """Combine the shards' indexes and counts. Raises DataError if a shard is missing or no document is left."""
    shards = [finished_record(directory, number) for number in range(preparation.shards)]
    records = [record for record in shards if record is not None]
    if len(records) < len(shards):
        raise DataError(
            f"{shard_file(directory, shards.index(None), 'array_record')}: not written by any worker; give an --out "
            "that all workers share, and run the same command again"
        )
    sums = {name: sum(record[name] for record in records) for name in _SUMS}
    if not sums["documents"]:
        dropped = ", ".join(f"{name}: {sums[name]}" for name in _DROPPED)
        raise DataError(f"{directory}: all documents are dropped ({dropped}); check field and filters")
    index = np.concatenate([read_array(shard_file(directory, number, "npy")) for number in range(preparation.shards)])
    write_array(directory / INDEX, index)
    statistics = {
        **sums,
        "chunk_tokens": quantiles(index >> 1),
        "settings": preparation.record(),
        "shards": [{name: record[name] for name in ("chunks", "bytes", "sha256")} for record in records],
    }
    write_json_atomically(directory / STATISTICS, statistics)
    return statistics
