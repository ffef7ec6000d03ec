"""Translated package descriptions of a Debian or Ubuntu machine; debian_builders.py builds the datasets."""

from dataclasses import dataclass
from typing import Literal

from finetune_scaling.data.sources.tfds_source import TfdsSource

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
    split: Literal["train", "validation", "test"]
    data_dir: str | None = None  # None: TFDS's default, ~/tensorflow_datasets or TFDS_DATA_DIR
    kind: Literal["debian"] = "debian"

    def __str__(self) -> str:
        return f"debian_{self.dataset}, split {self.split!r}"

    @property
    def tfds(self) -> TfdsSource:
        """The same split as a source of TFDS."""
        return TfdsSource(f"debian_{self.dataset}", self.split, self.data_dir)
