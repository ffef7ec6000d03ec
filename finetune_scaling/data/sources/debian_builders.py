"""TFDS builders of the package descriptions of this machine's apt sources, prepared once as array_record files.

The lists are downloaded once to the download directory, so that all datasets use one snapshot and one split.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from finetune_scaling.data.sources import apt, descriptions
from finetune_scaling.errors import DataError

Records = Callable[[descriptions.Corpus, str], Iterator[dict[str, str]]]

_HOMEPAGE = "https://www.debian.org/international/l10n/ddtp"
_VERSION = tfds.core.Version("1.0.0")
_read_corpus = lru_cache(maxsize=1)(descriptions.read_corpus)


class DebianTranslation(tfds.core.GeneratorBasedBuilder):
    """Synopses and paragraphs of package descriptions in English and another language: id, en, de (or zh)."""

    VERSION = _VERSION
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f"en-{target}") for target in ("de", "zh")]  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, ("id", *self.builder_config.name.split("-")))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return _splits(dl_manager, partial(_translations, *self.builder_config.name.split("-")), self.info.full_name)

    def _generate_examples(self, records: Any) -> Iterator[tuple[str, dict[str, str]]]:
        return _keyed(records)


class DebianSummarization(tfds.core.GeneratorBasedBuilder):
    """Long package descriptions and their one-line synopses: id, document, summary."""

    VERSION = _VERSION
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=language) for language in ("de", "en", "zh")]  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, ("id", "document", "summary"))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return _splits(dl_manager, partial(_summaries, self.builder_config.name), self.info.full_name)

    def _generate_examples(self, records: Any) -> Iterator[tuple[str, dict[str, str]]]:
        return _keyed(records)


class DebianText(tfds.core.GeneratorBasedBuilder):
    """Package descriptions as plain text of one language: id, text."""

    VERSION = _VERSION
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=language) for language in ("de", "en", "zh")]  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, ("id", "text"))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return _splits(dl_manager, partial(_texts, self.builder_config.name), self.info.full_name)

    def _generate_examples(self, records: Any) -> Iterator[tuple[str, dict[str, str]]]:
        return _keyed(records)


def _translations(source: str, target: str, corpus: descriptions.Corpus, split: str) -> Iterator[dict[str, str]]:
    for key, first, second in descriptions.translation_pairs(corpus, source, target, split):
        yield {"id": key, source: first, target: second}


def _summaries(language: str, corpus: descriptions.Corpus, split: str) -> Iterator[dict[str, str]]:
    for key, document, summary in descriptions.summarization_pairs(corpus, language, split):
        yield {"id": key, "document": document, "summary": summary}


def _texts(language: str, corpus: descriptions.Corpus, split: str) -> Iterator[dict[str, str]]:
    for key, text in descriptions.texts(corpus, language, split):
        yield {"id": key, "text": text}


def _info(builder: tfds.core.GeneratorBasedBuilder, fields: tuple[str, ...]) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=builder,
        description=str(type(builder).__doc__),
        features=tfds.features.FeaturesDict({field: tfds.features.Text() for field in fields}),
        homepage=_HOMEPAGE,
    )


def _splits(dl_manager: tfds.download.DownloadManager, records: Records, name: str) -> dict[str, Any]:
    corpus = _read_corpus(apt.fetch_lists(Path(dl_manager.download_dir, "debian_lists")))
    records_of = {split: list(records(corpus, split)) for split in descriptions.SPLITS}
    for split, found in records_of.items():
        if not found:
            raise DataError(
                f"{name}: this machine's package lists have no text for its {split} split; use another task"
            )
    return {split: _keyed(found) for split, found in records_of.items()}


def _keyed(records: list[dict[str, str]]) -> Iterator[tuple[str, dict[str, str]]]:
    return ((record["id"], record) for record in records)
