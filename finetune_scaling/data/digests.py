"""Digests of the texts of a split, which show whether its data changed.

A digest covers the sequence of texts, not paths or formats: moving or compressing a file does not change it. All texts
of files are covered; of sources that are read at random (TFDS, grammar) their number and SAMPLED evenly spaced records.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from finetune_scaling.data.corpus import CorpusTexts
from finetune_scaling.data.examples import Examples

SAMPLED = 1000
_DIGITS = 16  # of the hexadecimal digest


def examples_digest(examples: Examples) -> str:
    """Return the digest of the sources and targets of a complete split."""
    digest = hashlib.sha256()
    for part in examples.parts:
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
