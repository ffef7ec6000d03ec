"""TFDS builders of the package descriptions of this machine's apt sources, prepared once as array_record files.

The lists are downloaded once to the download directory, so that all datasets use one snapshot and one split.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from finetune_scaling.data.sources import apt, descriptions
from finetune_scaling.errors import DataError

_read_corpus = lru_cache(maxsize=1)(descriptions.read_corpus)


class _DebianBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Splits of records with an id and other text fields."""

    VERSION = tfds.core.Version("1.0.0")
    fields: tuple[str, ...]  # id first

    def _records(self, corpus: descriptions.DescriptionCorpus, split: str) -> Iterator[tuple[str, ...]]:
        """Yield the fields of every record."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=str(type(self).__doc__),
            features=tfds.features.FeaturesDict({field: tfds.features.Text() for field in self.fields}),
            homepage="https://www.debian.org/international/l10n/ddtp",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        corpus = _read_corpus(apt.fetch_lists(Path(dl_manager.download_dir, "debian_lists")))
        records = {split: list(self._records(corpus, split)) for split in descriptions.SPLITS}
        for split, found in records.items():
            if not found:
                raise DataError(
                    f"{self.info.full_name}: this machine's package lists have no text for its {split} split; use "
                    "another task"
                )
        return {split: self._generate_examples(found) for split, found in records.items()}

    def _generate_examples(self, records: list[tuple[str, ...]]) -> Iterator[tuple[str, dict[str, str]]]:
        return ((record[0], dict(zip(self.fields, record, strict=True))) for record in records)


def _configs(*names: str) -> list[tfds.core.BuilderConfig]:
    return [tfds.core.BuilderConfig(name=name) for name in names]


class DebianTranslation(_DebianBuilder):
    """Synopses and paragraphs of package descriptions in English and another language: id, en, de (or zh)."""

    BUILDER_CONFIGS = _configs("en-de", "en-zh")

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("id", *self.builder_config.name.split("-"))

    def _records(self, corpus: descriptions.DescriptionCorpus, split: str) -> Iterator[tuple[str, ...]]:
        _, source, target = self.fields
        return descriptions.translation_pairs(corpus, source, target, split)


class DebianSummarization(_DebianBuilder):
    """Long package descriptions and their one-line synopses: id, document, summary."""

    BUILDER_CONFIGS = _configs("de", "en", "zh")
    fields = ("id", "document", "summary")

    def _records(self, corpus: descriptions.DescriptionCorpus, split: str) -> Iterator[tuple[str, ...]]:
        return descriptions.summarization_pairs(corpus, self.builder_config.name, split)


class DebianText(_DebianBuilder):
    """Package descriptions as plain text of one language: id, text."""

    BUILDER_CONFIGS = _configs("de", "en", "zh")
    fields = ("id", "text")

    def _records(self, corpus: descriptions.DescriptionCorpus, split: str) -> Iterator[tuple[str, ...]]:
        return descriptions.texts(corpus, self.builder_config.name, split)
