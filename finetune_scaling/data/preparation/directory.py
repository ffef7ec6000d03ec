"""A preparation from beginning to end: claims its directory, has the missing shards made, and closes it."""

import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_scaling import configuration
from finetune_scaling.data.encoding import quantiles
from finetune_scaling.data.preparation.arrays import write_array
from finetune_scaling.data.preparation.pipeline import find_duplicates, write_shards
from finetune_scaling.data.preparation.settings import INDEX, SETTINGS, STATISTICS, Preparation, shard_file
from finetune_scaling.data.preparation.shards import finished, read_index, read_repeats
from finetune_scaling.errors import DataError, WorkdirError
from finetune_scaling.files import Location, disk_errors, write_json_atomically

log = logging.getLogger(__name__)

_SUMS = ("documents", "empty_documents", "duplicates", "too_short", "too_long", "chunks", "text_tokens", "bytes")


def prepare_shards(preparation: Preparation, directory: Location, beam_flags: Sequence[str] = ()) -> dict[str, Any]:
    """Makes what is missing of a prepared corpus; returns its statistics, as statistics.json holds them.

    Raises WorkdirError where the directory cannot be written or holds another preparation, DataError where the text is
    faulty or none of it is left, ConfigError without Apache Beam.
    """
    _claim(preparation, directory)
    missing = [number for number in range(preparation.shards) if finished(directory, number) is None]
    log.info("%s: %d of %d shards to be made", directory, len(missing), preparation.shards)
    if missing:
        (directory / STATISTICS).unlink(missing_ok=True)
        if preparation.filters.drop_duplicates:
            _find_missing_duplicates(preparation, missing, directory, beam_flags)
        write_shards(preparation, missing, directory, beam_flags)
    return _close(preparation, directory)


def _claim(preparation: Preparation, directory: Location) -> None:
    """Writes down what is prepared, or compares it with what is written there."""
    settings, path = preparation.record(), directory / SETTINGS
    with disk_errors(directory):
        (directory / "shards").mkdir(parents=True, exist_ok=True)
        for leftover in (directory / "shards").glob(".*"):  # half-written when a preparation was killed
            leftover.unlink()
        there = path.read_text(encoding="utf-8") if path.exists() else None
    if there is None:
        write_json_atomically(path, settings)
        return
    differing = configuration.differing_fields(_parse(there, path), settings)
    if differing:
        raise WorkdirError(
            f"{directory}: holds a preparation of other settings (they differ in {', '.join(differing)}; see its "
            f"{SETTINGS}); choose another --out, or delete this one"
        )


def _find_missing_duplicates(
    preparation: Preparation, missing: Sequence[int], directory: Location, beam_flags: Sequence[str]
) -> None:
    if not all(_knows_repeats(directory, number) for number in missing):
        find_duplicates(preparation, directory, beam_flags)


def _knows_repeats(directory: Location, number: int) -> bool:
    try:
        read_repeats(directory, number)
    except (OSError, EOFError, ValueError):  # absent or damaged
        return False
    return True


def _close(preparation: Preparation, directory: Location) -> dict[str, Any]:
    """Joins the shards' indexes and counts. DataError where a shard is not there, or no document is left."""
    shards = [finished(directory, number) for number in range(preparation.shards)]
    whole = [facts for facts in shards if facts is not None]
    if len(whole) < len(shards):
        raise DataError(
            f"{shard_file(directory, shards.index(None), 'array_record')}: the workers left no whole shard there; give "
            "an --out that all of them share, and run the same command again"
        )
    sums = {name: sum(facts[name] for facts in whole) for name in _SUMS}
    if not sums["documents"]:
        raise DataError(f"{directory}: no document is left ({_dropped(sums)}); check the source's field and the limits")
    index = np.concatenate([read_index(directory, number) for number in range(preparation.shards)])
    write_array(directory / INDEX, index)
    statistics = {
        **sums,
        "chunk_tokens": quantiles(index >> 1),
        "settings": preparation.record(),
        "shards": [{name: facts[name] for name in ("chunks", "bytes", "sha256")} for facts in whole],
    }
    write_json_atomically(directory / STATISTICS, statistics)
    return statistics


def _parse(text: str, path: Location) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise WorkdirError(f"{path}: not valid JSON ({error}); choose another --out, or delete this one") from None


def _dropped(sums: dict[str, int]) -> str:
    names = ("empty_documents", "duplicates", "too_short", "too_long")
    return ", ".join(f"{name}: {sums[name]}" for name in names)
