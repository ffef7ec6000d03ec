"""Translated package descriptions of a Debian or Ubuntu machine; debian_builders.py builds the datasets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune_scaling.data.sources.tfds_source import TfdsRecords, TfdsSource, open_tfds, prepare_tfds

DebianSplit = Literal["train", "validation", "test"]
DebianDataset = Literal[
    "translation/en-de", "translation/en-zh",
    "summarization/de", "summarization/en", "summarization/zh",
    "text/de", "text/en", "text/zh",
]  # fmt: skip


@dataclass(frozen=True)
class DebianSource:
    """A split of a dataset of the machine's package descriptions.

    dataset: translation (fields id, en and de or zh), summarization (id, document, summary) or text (id, text).
    """

    dataset: DebianDataset
    split: DebianSplit
    data_dir: str | None = None  # None: TFDS's default, ~/tensorflow_datasets or TFDS_DATA_DIR
    kind: Literal["debian"] = "debian"

    def __str__(self) -> str:
        return f"debian_{self.dataset}, split {self.split!r}"

    @property
    def tfds(self) -> TfdsSource:
        """The same split as a source of TFDS."""
        return TfdsSource(f"debian_{self.dataset}", self.split, self.data_dir)


def open_debian(source: DebianSource, fields: Sequence[str] = ()) -> TfdsRecords:
    """Open a prepared split. Raises DataError that explains how to prepare it."""
    return open_tfds(source.tfds, fields)


def prepare_debian(source: DebianSource) -> dict[str, Any]:
    """Download the machine's package lists and prepare the dataset if necessary; return its split sizes.

    Raises DataError if apt is missing, the download fails, or the lists have no text of the dataset's languages.
    """
    return prepare_tfds(source.tfds)
