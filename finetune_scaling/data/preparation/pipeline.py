"""The two Beam pipelines of a preparation: finding duplicates, then writing shards.

The elements are shard numbers, and one call writes a shard, so the result does not depend on the runner or the number
of workers.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from finetune_scaling.data.preparation import duplicates
from finetune_scaling.data.preparation.settings import Preparation, shard_file
from finetune_scaling.data.preparation.shards import write_shard
from finetune_scaling.errors import ConfigError, DataError, UserError
from finetune_scaling.files import Location, write_atomically


def write_shards(
    preparation: Preparation, numbers: Sequence[int], directory: Location, beam_flags: Sequence[str]
) -> None:
    """Write these shards. Raises DataError with the first error in the text; shards without errors are written."""

    def write(number: int) -> None:
        _try(lambda: write_shard(preparation, number, directory), number, directory)

    with _pipeline(directory, beam_flags) as (beam, pipeline):
        _ = pipeline | "shards" >> beam.Create(numbers) | "reshuffle" >> beam.Reshuffle() | "write" >> beam.Map(write)


def find_duplicates(preparation: Preparation, directory: Location, beam_flags: Sequence[str]) -> None:
    """Write the repeated positions of each shard. Raises DataError, and writes none, if the text has an error."""

    def hash_texts(number: int) -> list[tuple[int, duplicates.Digests]]:
        return _try(lambda: list(duplicates.hash_shard(preparation, number)), number, directory) or []

    def write(entry: tuple[int, Any]) -> None:
        if not _failures(directory):
            duplicates.write_repeats(*entry, directory)

    with _pipeline(directory, beam_flags) as (beam, pipeline):
        _ = (
            pipeline
            | "shards" >> beam.Create(range(preparation.shards))
            | "reshuffle" >> beam.Reshuffle()
            | "hash" >> beam.FlatMap(hash_texts)
            | "buckets" >> beam.GroupByKey()
            | "compare" >> beam.FlatMap(lambda entry: duplicates.find_repeats(entry[1]))
            | "by shard" >> beam.GroupByKey()
            | "write" >> beam.Map(write)
        )


def import_beam() -> Any:
    """Import apache_beam. Raises ConfigError that names the extra if it is not installed."""
    try:
        logging.disable(logging.WARNING)  # importing it warns of missing optional parts that are not used here
        import apache_beam

        # This logger forwards everything that starting workers print; unknown flags are reported by another.
        logging.getLogger("apache_beam.runners.portability.local_job_service").setLevel(logging.ERROR)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"prepare shards needs Apache Beam ({error}); install it with: pip install -e .[beam]"
        ) from None
    finally:
        logging.disable(logging.NOTSET)
    return apache_beam


@contextlib.contextmanager
def _pipeline(directory: Location, beam_flags: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """Yield apache_beam and a pipeline, which runs at the end. Raises DataError with the first recorded failure."""
    beam = import_beam()
    for path in _failures(directory):
        path.unlink()
    with beam.Pipeline(options=_options(beam, beam_flags)) as pipeline:
        yield beam, pipeline
    for path in _failures(directory):
        raise DataError(path.read_text(encoding="utf-8"))


def _try(step: Callable[[], Any], number: int, directory: Location) -> Any:
    """Run a step and record user errors in a file, because runners differ in how they report a worker's errors."""
    try:
        return step()
    except UserError as error:
        write_atomically(shard_file(directory, number, "failure"), str(error).encode())
        return None


def _failures(directory: Location) -> list[Location]:
    return sorted((directory / "shards").glob("*.failure"), key=str)


def _options(beam: Any, beam_flags: Sequence[str]) -> Any:
    """Parse Beam's flags. Raises ConfigError for an unknown runner; Beam warns of unknown flags."""
    # Workers otherwise log every step; a later flag of the user takes precedence.
    options = beam.options.pipeline_options.PipelineOptions(["--default_sdk_harness_log_level=ERROR", *beam_flags])
    runner = options.view_as(beam.options.pipeline_options.StandardOptions).runner
    try:
        beam.runners.create_runner(runner or "DirectRunner")
    except ValueError as error:
        raise ConfigError(f"--beam: {str(error).splitlines()[0]}") from error
    return options
