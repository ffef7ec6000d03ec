"""Question-answering metrics for any language: exact match and token F1.

English texts are normalized as in SQuAD: lower case, without ASCII punctuation and the articles a, an, the. Other
languages use ROUGE's unstemmed tokens: Unicode words, or characters in Chinese and Japanese.

Source: Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", EMNLP 2016, section 6.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.languages import tokenizer_language
from finetune_scaling.metrics.metric import SegmentMetric
from finetune_scaling.metrics.rouge import unicode_tokenizer

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match() -> SegmentMetric:
    """Return the percentage of segments whose tokens equal those of a reference."""
    return SegmentMetric("exact_match", lambda corpus: _best(corpus, _equal), _signature)


def token_f1() -> SegmentMetric:
    """Return the mean token F1 against the best reference, times 100."""
    return SegmentMetric("f1", lambda corpus: _best(corpus, _f1), _signature)


def squad_tokens(text: str) -> list[str]:
    """Return the tokens of an English text, normalized as in SQuAD."""
    return _ARTICLE.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split()


def _best(corpus: Corpus, agreement: Callable[[Sequence[str], Sequence[str]], float]) -> np.ndarray:
    """Return 100 times the best agreement with a reference for every segment, float64[N]."""
    tokens = _tokenizer(corpus.language)
    return np.array(
        [
            100.0 * max(agreement(tokens(text), tokens(reference)) for reference in own)
            for text, own in zip(corpus.hypotheses, corpus.references, strict=True)
        ]
    )


def _equal(hypothesis: Sequence[str], reference: Sequence[str]) -> float:
    return float(hypothesis == reference)


def _f1(hypothesis: Sequence[str], reference: Sequence[str]) -> float:
    if not hypothesis or not reference:
        return _equal(hypothesis, reference)
    shared = (Counter(hypothesis) & Counter(reference)).total()
    return 2 * shared / (len(hypothesis) + len(reference))


def _tokenizer(language: str) -> Callable[[str], list[str]]:
    return squad_tokens if tokenizer_language(language) == "en" else unicode_tokenizer(language).tokenize


def _signature(corpus: Corpus) -> str:
    english = tokenizer_language(corpus.language) == "en"
    tokens = "norm:squad|tok:spaces" if english else unicode_tokenizer(corpus.language).signature
    return f"nrefs:{corpus.reference_count}|case:lc|{tokens}|score:mean-x100"
