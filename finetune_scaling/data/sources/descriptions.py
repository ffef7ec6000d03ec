"""Package descriptions: parsing of apt's lists, splits by clusters, translation and summarization pairs.

A description is a synopsis of one line and paragraphs. Its translations are keyed by the md5 of the English text, so
that they always belong to the same version.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from finetune_scaling.data.sources.apt import LANGUAGES, list_files, read_list
from finetune_scaling.errors import DataError
from finetune_scaling.messages import one_line

SPLITS = ("train", "validation", "test")
_HELD_OUT_PERCENT = 5  # of the clusters, for each of validation and test
_MIN_SHARED_PARAGRAPH = 100  # bytes of UTF-8; unrelated packages share shorter ones ("This package contains ...")
_MAX_HELD_OUT_CLUSTER = 0.01  # of all descriptions; larger clusters (Haskell's libraries) would dominate the test set


class Description(NamedTuple):
    """One text in one language."""

    package: str
    synopsis: str
    paragraphs: tuple[str, ...]


class DescriptionCorpus(NamedTuple):
    """Descriptions by md5 of the English text and by language, and each one's split."""

    descriptions: Mapping[str, Mapping[str, Description]]
    splits: Mapping[str, str]

    def of_split(self, split: str) -> Iterator[tuple[str, Mapping[str, Description]]]:
        """Yield (md5, descriptions by language) of a split, in an order that does not depend on the machine."""
        return ((md5, self.descriptions[md5]) for md5 in sorted(self.descriptions) if self.splits[md5] == split)


def read_corpus(folder: Path) -> DescriptionCorpus:
    """Read a directory of apt's lists and assign splits. Raises DataError if it has no descriptions."""
    descriptions: dict[str, dict[str, Description]] = defaultdict(dict)
    for language, apt_name in LANGUAGES.items():
        for path in list_files(folder, f"Translation-{apt_name}"):
            for md5, description in parse_descriptions(read_list(path)):
                descriptions[md5].setdefault(language, description)
    if not descriptions:
        raise DataError(f"{folder} has no descriptions; delete it and prepare again")
    sources = {
        stanza["Package"]: stanza.get("Source", stanza["Package"]).split(" ")[0]
        for path in list_files(folder, "Packages")
        for stanza in parse_stanzas(read_list(path))
        if "Package" in stanza
    }
    return DescriptionCorpus(descriptions, split_by_clusters(descriptions, sources))


def parse_stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the stanzas of a list as field -> value; continuation lines lose one space of indentation."""
    for block in text.split("\n\n"):
        stanza: dict[str, str] = {}
        field = ""
        for line in block.splitlines():
            if line.startswith((" ", "\t")):
                if field:
                    stanza[field] += "\n" + line[1:]
            elif ":" in line:
                field, _, value = line.partition(":")
                stanza[field] = value.strip()
        if stanza:
            yield stanza


def parse_descriptions(text: str) -> Iterator[tuple[str, Description]]:
    """Yield (md5 of the English text, description) of each stanza of a Translation list."""
    for stanza in parse_stanzas(text):
        fields = [field for field in stanza if field.startswith("Description-") and field != "Description-md5"]
        if fields and "Package" in stanza and "Description-md5" in stanza:
            synopsis, _, body = stanza[fields[0]].partition("\n")
            yield stanza["Description-md5"], Description(stanza["Package"], one_line(synopsis), _paragraphs(body))


def split_by_clusters(
    descriptions: Mapping[str, Mapping[str, Description]], sources: Mapping[str, str]
) -> dict[str, str]:
    """Assign a split to each description; those that share a long paragraph, synopsis or source package share a split.

    sources: source package by package name. A cluster's split depends on a hash of its first source name, so that other
    packages do not affect it; very large clusters are training data.
    """
    clusters = _clusters(descriptions, sources)
    sizes = Counter(clusters.values())
    names: dict[int, str] = {}
    for md5, cluster in clusters.items():
        name = min(_source(description, sources) for description in descriptions[md5].values())
        names[cluster] = min(name, names.get(cluster, name))
    limit = max(1.0, _MAX_HELD_OUT_CLUSTER * len(descriptions))
    return {md5: "train" if sizes[cluster] > limit else _split_of(names[cluster]) for md5, cluster in clusters.items()}


def translation_pairs(
    corpus: DescriptionCorpus, source: str, target: str, split: str
) -> Iterator[tuple[str, str, str]]:
    """Yield (id, source text, target text): synopses and paragraphs, if both languages have equally many paragraphs.

    Pairs are distinct. Untranslated pairs are dropped, and so are pairs with a side that occurs in a later split of
    train, validation, test.
    """
    held_out = {
        text for later in _later(split) for _, *pair in _aligned(corpus, source, target, later) for text in pair
    }
    seen: set[tuple[str, str]] = set()
    for key, first, second in _aligned(corpus, source, target, split):
        if (first, second) not in seen and first not in held_out and second not in held_out:
            seen.add((first, second))
            yield key, first, second


def summarization_pairs(corpus: DescriptionCorpus, language: str, split: str) -> Iterator[tuple[str, str, str]]:
    """Yield (id, document, summary): paragraphs joined by blank lines, and the synopsis.

    Documents are distinct, and do not occur in a later split of train, validation, test.
    """
    seen = {document for later in _later(split) for _, document, _ in _documents(corpus, language, later)}
    for key, document, summary in _documents(corpus, language, split):
        if document not in seen:
            seen.add(document)
            yield key, document, summary


def texts(corpus: DescriptionCorpus, language: str, split: str) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of each distinct description of a language: the synopsis, then one paragraph per line."""
    seen: set[str] = set()
    for md5, by_language in corpus.of_split(split):
        if language in by_language:
            description = by_language[language]
            text = "\n".join((description.synopsis, *description.paragraphs)).strip()
            if text and text not in seen:
                seen.add(text)
                yield f"{description.package}/{md5[:8]}", text


def _aligned(corpus: DescriptionCorpus, source: str, target: str, split: str) -> Iterator[tuple[str, str, str]]:
    for md5, by_language in corpus.of_split(split):
        if source in by_language and target in by_language:
            first, second = by_language[source], by_language[target]
            if len(first.paragraphs) == len(second.paragraphs):
                sides = zip((first.synopsis, *first.paragraphs), (second.synopsis, *second.paragraphs), strict=True)
                for index, (left, right) in enumerate(sides):
                    if left and right and left != right:
                        yield f"{first.package}/{md5[:8]}/{index}", left, right


def _documents(corpus: DescriptionCorpus, language: str, split: str) -> Iterator[tuple[str, str, str]]:
    for md5, by_language in corpus.of_split(split):
        description = by_language.get(language)
        if description and description.paragraphs and description.synopsis:
            yield f"{description.package}/{md5[:8]}", "\n\n".join(description.paragraphs), description.synopsis


def _later(split: str) -> tuple[str, ...]:
    return SPLITS[SPLITS.index(split) + 1 :]


def _clusters(descriptions: Mapping[str, Mapping[str, Description]], sources: Mapping[str, str]) -> dict[str, int]:
    """Return the number of each description's cluster: the connected components of descriptions and their keys."""
    keys: dict[tuple[str, str], int] = {}  # numbered after the descriptions
    edges = [
        (number, len(descriptions) + keys.setdefault(key, len(keys)))
        for number, by_language in enumerate(descriptions.values())
        for key in _keys(by_language.values(), sources)
    ]
    size = len(descriptions) + len(keys)
    graph = scipy.sparse.coo_array((np.ones(len(edges)), np.transpose(edges)), shape=(size, size))
    _, clusters = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return dict(zip(descriptions, clusters.tolist(), strict=False))


def _keys(descriptions: Iterable[Description], sources: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for description in descriptions:
        yield "source", _source(description, sources)
        yield "synopsis", description.synopsis
        for paragraph in description.paragraphs:
            if len(paragraph.encode()) >= _MIN_SHARED_PARAGRAPH:
                yield "paragraph", paragraph


def _source(description: Description, sources: Mapping[str, str]) -> str:
    return sources.get(description.package, description.package)


def _split_of(name: str) -> str:
    percent = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100
    return SPLITS[1] if percent < _HELD_OUT_PERCENT else SPLITS[2] if percent < 2 * _HELD_OUT_PERCENT else SPLITS[0]


def _paragraphs(body: str) -> tuple[str, ...]:
    paragraphs: list[list[str]] = [[]]
    for line in body.splitlines():
        if line.strip() == ".":
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    return tuple(text for text in (one_line(" ".join(lines)) for lines in paragraphs) if text)
