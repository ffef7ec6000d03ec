"""Digests of the texts of a split, which show whether its data changed.

A digest covers the sequence of texts, not paths or formats: moving or compressing a file does not change it. All texts
of files are covered; of sources that are read at random (TFDS, grammar) their number and SAMPLED evenly spaced records.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_scaling.configuration import plain
from finetune_scaling.data.corpus import CorpusTexts
from finetune_scaling.data.data_cache import Entry, cached, is_large
from finetune_scaling.data.examples import Examples, PartExamples

SAMPLED = 1000
_DIGITS = 16  # of the hexadecimal digest


def examples_digest(examples: Examples) -> str:
    """Return the digest of the sources and targets of a complete split. That of unchanged large files is stored."""
    return _parts_digest(examples.parts)


def examples_key(examples: Examples) -> dict[str, Any]:
    """Return plain data that determines the texts of examples.

    A digest covers all texts of files; of other sources, of which it covers a sample, the description is added.
    """
    sources = [part.part.source for part in examples.parts]
    indices = examples.indices
    return {
        "digest": examples_digest(examples),
        "sources": [None if source.kind == "files" else plain(source) for source in sources],
        "indices": None if indices is None else hashlib.sha256(np.asarray(indices, np.int64).tobytes()).hexdigest(),
    }


@functools.lru_cache(maxsize=32)  # a part is equal to itself only
def _parts_digest(parts: tuple[PartExamples, ...]) -> str:
    identities = [part.identity for part in parts]
    if None in identities or not is_large(sum(map(len, parts))):
        return _compute_digest(parts)
    return cached("digests", {"parts": identities}, lambda: Entry(_compute_digest(parts))).value


def _compute_digest(parts: Sequence[PartExamples]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        indices = _covered(len(part), is_file=part.part.source.kind == "files")
        _add(digest, str(len(part)))
        for example in map(part.__getitem__, indices):
            _add(digest, example["source"], example["target"])
    return _text(digest)


def corpus_digest(texts: CorpusTexts) -> str:
    """Return the digest of pretraining text."""
    digest = hashlib.sha256()
    for number, kind in enumerate(texts.kinds):
        part = texts.part(number)
        _add(digest, str(len(part)))
        for text in map(part.__getitem__, _covered(len(part), is_file=kind == "files")):
            _add(digest, text)
    return _text(digest)


def joint_digest(digests: Sequence[str]) -> str:
    """Return the digest of several ones; of a single one that digest itself."""
    if len(digests) == 1:
        return digests[0]
    digest = hashlib.sha256()
    _add(digest, *digests)
    return _text(digest)


def _covered(count: int, *, is_file: bool) -> Sequence[int]:
    if is_file or count <= SAMPLED:
        return range(count)
    return np.linspace(0, count - 1, SAMPLED).astype(np.int64).tolist()


def _add(digest: "hashlib._Hash", *texts: str) -> None:
    """Add texts with their lengths, so that no two sequences of texts have the same bytes."""
    raw = [text.encode() for text in texts]
    digest.update(b"".join(b"%d:%b" % (len(text), text) for text in raw))


def _text(digest: "hashlib._Hash") -> str:
    return f"sha256:{digest.hexdigest()[:_DIGITS]}"
