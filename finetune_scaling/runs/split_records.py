"""What a run records about its splits: digest, number of examples, and how many of them are in the training data."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from finetune_scaling.data.corpus import CorpusTexts
from finetune_scaling.data.data_cache import Entry, cached, is_large
from finetune_scaling.data.digests import examples_key
from finetune_scaling.data.examples import Examples
from finetune_scaling.data.overlap import NEAR_LIMIT, Overlap, Texts, find_overlap
from finetune_scaling.errors import CheckpointError
from finetune_scaling.files import Location

log = logging.getLogger(__name__)

SplitRecords = dict[str, dict[str, Any]]


def example_overlap(training: Examples, held_out: Mapping[str, Examples]) -> dict[str, Overlap]:
    """Count and log the held-out examples whose source and target are also in the training examples."""

    def find() -> Entry:
        found = find_overlap(_texts(training), {name: list(_texts(examples)) for name, examples in held_out.items()})
        return Entry({name: list(overlap) for name, overlap in found.items()})

    if is_large(len(training)):
        keys = {name: examples_key(examples) for name, examples in held_out.items()}
        found = cached("overlap", {"training": examples_key(training), "held_out": keys}, find)
    else:
        found = find()
    overlap = {name: Overlap(*counts) for name, counts in found.value.items()}
    _log_overlap(overlap, {name: len(examples) for name, examples in held_out.items()})
    return overlap


def text_overlap(training: CorpusTexts, dev: CorpusTexts) -> dict[str, Overlap]:
    """Count and log the dev texts that are also in the training texts."""
    overlap = find_overlap(((text,) for text in training), {"dev": [(text,) for text in dev]})
    _log_overlap(overlap, {"dev": len(dev)})
    return overlap


def split_records(
    digests: Mapping[str, str],
    sizes: Mapping[str, int],
    dropped: Mapping[str, int],
    overlap: Mapping[str, Overlap],
) -> SplitRecords:
    """Return one record per split; sizes: numbers of texts that the run uses."""
    records: SplitRecords = {}
    for name, size in sizes.items():
        records[name] = {"digest": digests[name], "examples": size, "dropped": dropped.get(name, 0)}
        if name in overlap:
            found = overlap[name]
            records[name] |= {
                "in_training": found.exact,
                "near_training": found.near,
                "source_in_training": found.source,
            }
    return records


def split_digests(records: SplitRecords) -> dict[str, str]:
    """Return the digest of every split."""
    return {name: record["digest"] for name, record in records.items()}


def changed_splits(metadata: Mapping[str, Any], digests: Mapping[str, str]) -> list[str]:
    """Return the splits whose digests differ from those in a checkpoint's metadata; older checkpoints have none."""
    trained = metadata.get("split_digests", {})
    return [name for name, digest in digests.items() if trained.get(name, digest) != digest]


def check_same_data(directory: Location, metadata: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Raise CheckpointError if a split changed since a checkpoint with this metadata was saved."""
    if changed := changed_splits(metadata, digests):
        name = changed[0]
        raise CheckpointError(
            f"{directory}: the data of {', '.join(changed)} changed since the run started ({name} was "
            f"{metadata['split_digests'][name]} and is {digests[name]}). Fix: restore the data, or choose another "
            "--workdir to train on the new one"
        )


def _texts(examples: Examples) -> Iterator[Texts]:
    return ((example["source"], example["target"]) for example in examples)


def _log_overlap(found: Mapping[str, Overlap], sizes: Mapping[str, int]) -> None:
    for name, (exact, near, source) in found.items():
        if exact or near or source:
            nearly = "near duplicates not counted" if near is None else f"{near} nearly"
            others = f", and of {source} more the source, with another target" if source else ""
            log.warning(
                "split %s: %d of its %d examples are also in the training data (%d exactly, %s)%s",
                *(name, exact + (near or 0), sizes[name], exact, nearly, others),
            )
        elif near is None:
            log.warning(
                "split %s: its near duplicates in the training data were not counted, because the training data has "
                "more than %d characters; none of its examples is exactly in it",
                *(name, NEAR_LIMIT),
            )
