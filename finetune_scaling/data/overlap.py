"""Held-out texts that also occur in the training data: exactly, nearly, or with their source alone.

A source is in the training data if it has the same letters and digits there, regardless of case. Nearly equal texts
have a Jaccard similarity of at least SIMILARITY between their sets of character n-grams, of letters and digits only and
regardless of case. Candidates are found by bottom-k sketches, the smallest hashes of each set (Broder 1997), and then
compared completely.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

SIMILARITY = 0.7
NEAR_LIMIT = 250_000_000  # characters of training text up to which near duplicates are counted
_N = 5  # characters of an n-gram
_SKETCH = 16  # hashes
_MIN_SHARED = 1 / 3  # of a sketch; sets of SIMILARITY share about 3/4
_BLOCK = 1024  # texts that are hashed together: their numbers and hashes share 64 bits
_BLOCK_CHARACTERS = 1_000_000  # after which a block ends, to bound its memory
_HASH_BITS = 54

Texts = tuple[str, ...]  # of one example: source and target; of a corpus: one text


class _LettersAndDigits(dict[int, int | None]):
    """A table of str.translate that deletes all other characters."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if chr(code).isalnum() else None
        return self[code]


_LETTERS = _LettersAndDigits()


class Overlap(NamedTuple):
    """Numbers of held-out texts in the training data: exactly, else nearly, else their source (None: not counted)."""

    exact: int
    near: int | None
    source: int | None


def find_overlap(training: Iterable[Texts], held_out: Mapping[str, Sequence[Texts]]) -> dict[str, Overlap]:
    """Count the texts of each held-out split that are also in the training data, which is read once.

    Near duplicates and sources are not counted if the training data has more than NEAR_LIMIT characters.
    """
    flat = [texts for split in held_out.values() for texts in split]
    positions, positions_of_source = _positions(flat), _positions(source for source, _ in map(_normalize, flat))
    exact, similar, same_source = np.zeros((3, len(flat)), np.bool_)
    index, characters = _SketchIndex(flat), 0
    for block in _blocks(training):
        for texts in block:
            if texts in positions:
                exact[positions[texts]] = True
            characters += sum(map(len, texts))
        if characters <= NEAR_LIMIT:
            normalized = [_normalize(texts) for texts in block]
            for source, _ in normalized:
                if source in positions_of_source:
                    same_source[positions_of_source[source]] = True
            index.mark_similar([text for _, text in normalized], similar)
    similar &= ~exact
    same_source &= ~(exact | similar)
    counts, start = {}, 0
    for name, split in held_out.items():
        own = slice(start, start := start + len(split))
        found = [int(marked[own].sum()) for marked in (exact, similar, same_source)]
        counts[name] = Overlap(*found) if characters <= NEAR_LIMIT else Overlap(found[0], None, None)
    return counts


def _positions(texts: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """Return the positions of each distinct text."""
    positions = defaultdict(list)
    for position, text in enumerate(texts):
        positions[text].append(position)
    return positions


class _SketchIndex:
    """The n-grams of held-out texts, and their sketches sorted by hash."""

    def __init__(self, held_out: Sequence[Texts]):
        blocks = ([text for _, text in map(_normalize, block)] for block in _blocks(held_out))
        self._sets = [hashes for block in blocks for hashes in _split(*_ngrams(block), len(block))]
        sketches = [hashes[:_SKETCH] for hashes in self._sets]
        self._sizes = np.array([len(sketch) for sketch in sketches], np.int64)
        hashes = np.concatenate([*sketches, np.zeros(0, np.uint64)])
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._texts = np.repeat(np.arange(len(sketches)), self._sizes)[order]

    def mark_similar(self, training: Sequence[str], similar: np.ndarray) -> None:
        """Set similar[i] for every held-out text i that is similar to one of at most _BLOCK normalized texts."""
        sets = _split(*_ngrams(training), len(training))
        for own, other in self._candidates(sets):
            if not similar[other]:
                similar[other] = _jaccard(sets[own], self._sets[other]) >= SIMILARITY

    def _candidates(self, sets: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
        """Yield (training text, held-out text) for all pairs whose sketches share enough hashes."""
        sketches = [hashes[:_SKETCH] for hashes in sets]
        hashes = np.concatenate(sketches)
        owners = np.repeat(np.arange(len(sketches)), [len(sketch) for sketch in sketches])
        first, last = (np.searchsorted(self._hashes, hashes, side) for side in ("left", "right"))
        counts = last - first
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        others = self._texts[np.repeat(first, counts) + within]
        pairs, shared = np.unique(np.repeat(owners, counts) * len(self._sets) + others, return_counts=True)
        for pair in pairs[shared >= _MIN_SHARED * self._sizes[pairs % len(self._sets)]].tolist():
            yield divmod(pair, len(self._sets))


def _blocks(examples: Iterable[Texts]) -> Iterator[list[Texts]]:
    """Yield lists of at most _BLOCK texts that end after _BLOCK_CHARACTERS."""
    block: list[Texts] = []
    characters = 0
    for texts in examples:
        block.append(texts)
        characters += sum(map(len, texts))
        if len(block) == _BLOCK or characters >= _BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _ngrams(block: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct n-gram hashes of each text, sorted per text, and the number of its text, uint64[n] each."""
    texts = [text.ljust(_N, "\0") for text in block]
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in texts], np.int64)
    count = len(codes) - _N + 1
    hashes = np.zeros(count, np.uint64)
    for offset in range(_N):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[offset : offset + count]
    hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)  # mixes the bits
    owners = np.repeat(np.arange(len(texts), dtype=np.uint64), lengths)[:count]
    inside = np.arange(count) + _N <= np.repeat(np.cumsum(lengths), lengths)[:count]
    shift = np.uint64(_HASH_BITS)
    keys = np.sort((owners << shift | hashes >> np.uint64(64 - _HASH_BITS))[inside])
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]  # np.unique is slower
    return keys & np.uint64((1 << _HASH_BITS) - 1), keys >> shift


def _split(hashes: np.ndarray, owners: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the hashes of each of `count` texts."""
    return np.split(hashes, np.searchsorted(owners, np.arange(1, count, dtype=np.uint64)))


def _normalize(texts: Texts) -> tuple[str, str]:
    """Return the letters and digits in lower case of the first text and of all texts; the texts if they have none."""
    letters = [unicodedata.normalize("NFKC", text).casefold().translate(_LETTERS) for text in texts]
    return letters[0] or texts[0], "".join(letters) or "\n".join(texts)


def _jaccard(left: np.ndarray, right: np.ndarray) -> float:
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)
