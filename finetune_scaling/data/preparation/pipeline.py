"""The two Beam pipelines of a preparation: finding duplicates, then writing shards. Which runner does it is Beam's own
flags' affair; shards are numbers, and each is made by one call, so that no runner and no number of workers shows.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from finetune_scaling.data.preparation import duplicates
from finetune_scaling.data.preparation.settings import Preparation, shard_file
from finetune_scaling.data.preparation.shards import write_shard
from finetune_scaling.errors import ConfigError, DataError, UserError
from finetune_scaling.files import Location, write_atomically

Step = Callable[[Preparation, int, Location], Any]


def write_shards(
    preparation: Preparation, numbers: Sequence[int], directory: Location, beam_flags: Sequence[str]
) -> None:
    """Makes these shards. Raises DataError with the first fault in the text; the shards without one are made."""
    beam = import_beam()
    _forget_failures(directory)
    with beam.Pipeline(options=_options(beam, beam_flags)) as pipeline:
        _ = (
            pipeline
            | "shards" >> beam.Create(numbers)
            | "spread" >> beam.Reshuffle()
            | "write" >> beam.Map(lambda number: _try(write_shard, preparation, number, directory))
        )
    _raise_failure(directory)


def find_duplicates(preparation: Preparation, directory: Location, beam_flags: Sequence[str]) -> None:
    """Writes each shard's repeats. A fault in the text raises DataError, and none is written."""
    beam = import_beam()
    _forget_failures(directory)
    with beam.Pipeline(options=_options(beam, beam_flags)) as pipeline:
        _ = (
            pipeline
            | "shards" >> beam.Create(range(preparation.shards))
            | "spread" >> beam.Reshuffle()
            | "hash" >> beam.FlatMap(lambda number: _hash(preparation, number, directory))
            | "buckets" >> beam.GroupByKey()
            | "compare" >> beam.FlatMap(lambda entry: _compare(entry[1]))
            | "by shard" >> beam.GroupByKey()
            | "write" >> beam.Map(lambda entry: duplicates.write_repeats(entry[0], entry[1], directory))
        )
    _raise_failure(directory)


def import_beam() -> Any:
    """The apache_beam module; ConfigError that names the extra where it is not installed."""
    try:
        logging.disable(logging.WARNING)  # on import it warns of optional parts that nothing here uses
        import apache_beam

        # It hands on all that worker processes say when they start; of unknown flags another logger warns.
        logging.getLogger("apache_beam.runners.portability.local_job_service").setLevel(logging.ERROR)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"prepare shards needs Apache Beam ({error}); install it with: pip install -e .[beam]"
        ) from None
    finally:
        logging.disable(logging.NOTSET)
    return apache_beam


def _options(beam: Any, beam_flags: Sequence[str]) -> Any:
    """Raises ConfigError for a runner that Beam does not have; of flags that it does not know Beam itself warns."""
    # Workers otherwise tell each of their steps; a flag of the user's own comes later and wins.
    options = beam.options.pipeline_options.PipelineOptions(["--default_sdk_harness_log_level=ERROR", *beam_flags])
    runner = options.view_as(beam.options.pipeline_options.StandardOptions).runner
    try:
        beam.runners.create_runner(runner or "DirectRunner")
    except ValueError as error:
        raise ConfigError(f"--beam: {str(error).splitlines()[0]}") from error
    return options


def _try(step: Step, preparation: Preparation, number: int, directory: Location) -> Any:
    """Takes a step; what the user can mend is written down, since no two runners hand on a worker's errors alike."""
    try:
        return step(preparation, number, directory)
    except UserError as error:
        write_atomically(shard_file(directory, number, "failure"), str(error).encode())
        return None


def _hash(preparation: Preparation, number: int, directory: Location) -> list[tuple[int, duplicates.Digests | None]]:
    found = _try(lambda *_: list(duplicates.hash_shard(preparation, number)), preparation, number, directory)
    return found if found is not None else [(bucket, None) for bucket in range(duplicates.buckets(preparation))]


def _compare(bucket: Iterable[duplicates.Digests | None]) -> Iterator[tuple[int, np.ndarray]]:
    """What repeats in a bucket; nothing where a shard's digests are missing, so that no shard is written down."""
    parts = list(bucket)
    complete = [part for part in parts if part is not None]
    if len(complete) == len(parts):
        yield from duplicates.find_repeats(complete)


def _failures(directory: Location) -> list[Location]:
    return sorted((directory / "shards").glob("*.failure"), key=os.fspath)


def _forget_failures(directory: Location) -> None:
    for path in _failures(directory):
        path.unlink()


def _raise_failure(directory: Location) -> None:
    for path in _failures(directory):
        raise DataError(path.read_text(encoding="utf-8"))
