"""Pretraining text: shares of the parts, and impossible shares."""

import pytest

from finetune_scaling.data.corpus import CorpusPart, CorpusTexts, document_counts
from finetune_scaling.errors import ConfigError


def parts(*weights: float) -> list[CorpusPart]:
    source = {"kind": "grammar", "dataset": "monolingual", "split": "train", "size": 10, "languages": ("A",)}
    return [CorpusPart(source, weight=weight) for weight in weights]


@pytest.mark.parametrize(
    ("weights", "counts"), [((0.0, 0.0), [10, 10]), ((1.0, 1.0), [10, 10]), ((1.0, 0.5), [10, 5]), ((1, 3), [3, 10])]
)
def test_each_part_contributes_its_share_of_first_documents(weights, counts):
    texts = CorpusTexts(parts(*weights))
    assert texts.counts == document_counts(parts(*weights)) == counts
    unweighted = CorpusTexts(parts(0.0))
    assert list(texts) == [*list(unweighted)[: counts[0]], *list(unweighted)[: counts[1]]]


def test_a_part_without_documents_is_an_error():
    for read in (CorpusTexts, document_counts):
        with pytest.raises(ConfigError, match=r"corpus\[1\]\.weight = 0\.01 selects none of its 10 documents"):
            read(parts(1.0, 0.01))
