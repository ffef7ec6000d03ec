"""ROUGE for any language: rouge-score's scorer with a tokenizer for the language.

rouge-score's default tokenizer keeps only a-z and 0-9: it splits German words at umlauts and removes all Chinese
characters, so identical Chinese texts score 0. English keeps that tokenizer, so that scores match published ones.
Stemming is done in the tokenizer, because rouge-score ignores its stemmer option if a tokenizer is given.

Source: C.-Y. Lin, "ROUGE: a Package for Automatic Evaluation of Summaries", 2004.
"""

import functools
import importlib.metadata
import re
import unicodedata
from typing import Any

import numpy as np
from nltk.stem.cistem import Cistem
from rouge_score import rouge_scorer, tokenizers

from finetune_scaling.errors import ConfigError
from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.languages import WRITTEN_WITHOUT_SPACES, check_tokenizer, tokenizer_language
from finetune_scaling.metrics.metric import SegmentMetric

ROUGE_METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")

SENTENCES = "rougeLsum-sentences"
ONE_LINE = f"every segment has one line, so rougeLsum equals rougeL; {SENTENCES} splits sentences at their marks"

_STEMMED = ("en", "de")
_CLOSING = "[\"'\u201d\u2019\u00bb)\\]\u300d\u300f\uff09]*"
_SENTENCE_END = re.compile(
    f"([.!?\u2026\u061f\u06d4]+{_CLOSING}(?=\\s)|[\u3002\uff01\uff1f\uff0e\u0964\u0965\u1362]+{_CLOSING})"
)

# Characters that are tokens: kana, bopomofo, ideographs of all planes, and iteration marks.
_IDEOGRAM = (
    r"\u3005-\u3007\u3021-\u3029\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
_IDEOGRAM_OR_RUN = re.compile(f"[{_IDEOGRAM}]|[^{_IDEOGRAM}]+")


class UnicodeWords(tokenizers.Tokenizer):
    """Split text into lower-case words of letters, combining marks and digits of any script."""

    signature = "tok:unicode-words|stem:no"

    def tokenize(self, text: str) -> list[str]:
        """Return the words of `text`; NFC makes canonically equal texts (composed or decomposed umlauts) equal."""
        text = unicodedata.normalize("NFC", text.lower())
        return "".join(char if _is_word_character(char) else " " for char in text).split()


class IdeogramsAndWords(UnicodeWords):
    """Split text into Chinese and Japanese characters, and words and numbers of other scripts."""

    signature = "tok:characters|stem:no"

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of `text`: "用JAX训练3次" -> 用 jax 训 练 3 次."""
        return [token for word in super().tokenize(text) for token in _IDEOGRAM_OR_RUN.findall(word)]


class GermanStems(UnicodeWords):
    """Split text into Unicode words and stem them with Cistem (Weissweiler and Fraser, GSCL 2017)."""

    signature = "tok:unicode-words|stem:cistem"
    _stemmer = Cistem(case_insensitive=True)

    def tokenize(self, text: str) -> list[str]:
        """Return the stems of the words of `text`."""
        return [self._stemmer.stem(word) for word in super().tokenize(text)]


class RougeScoreDefault(tokenizers.DefaultTokenizer):
    """rouge-score's own tokenizer for English, with or without its Porter stemmer."""

    def __init__(self, stemming: bool) -> None:
        super().__init__(use_stemmer=stemming)
        self.signature = f"tok:rouge-score-default|stem:{'porter' if stemming else 'no'}"


def rouge_tokenizer(language: str, stemming: bool | None = None) -> tokenizers.Tokenizer:
    """Return the tokenizer of a language; its attribute `signature` identifies it.

    Args:
      stemming: None for the language's default (only German is stemmed).

    Raises ConfigError if stemming is requested for a language without a stemmer.
    """
    base = tokenizer_language(language)
    if stemming and base not in _STEMMED:
        raise ConfigError(f"no stemmer is available for language {language!r}, only for {_STEMMED}; omit -stem")
    if base == "en":
        return RougeScoreDefault(bool(stemming))
    if base == "de" and stemming is not False:
        return GermanStems()
    return unicode_tokenizer(language)


def unicode_tokenizer(language: str) -> UnicodeWords:
    """Return the unstemmed tokenizer of a language. Raises the error of `check_tokenizer`."""
    check_tokenizer("rouge and f1", language)
    return IdeogramsAndWords() if tokenizer_language(language) in WRITTEN_WITHOUT_SPACES else UnicodeWords()


class RougeLsum(SegmentMetric):
    """rougeLsum, which says in how many segments it can differ from rougeL."""

    def score(self, corpus: Corpus) -> dict[str, Any]:
        """Return score and signature, and a note if not every segment has several lines."""
        total = len(corpus.hypotheses)
        segments = zip(corpus.hypotheses, corpus.references, strict=True)
        several = sum(any("\n" in text.strip() for text in (own, *references)) for own, references in segments)
        if several == total:
            return super().score(corpus)
        some = f"{several} of {total} segments have several lines; in the others rougeLsum equals rougeL"
        return super().score(corpus) | {"note": some if several else ONE_LINE}


def rouge(metric: str, stemming: bool | None = None) -> SegmentMetric:
    """Return one of ROUGE_METRICS; with forced stemming its name is, e.g., "rougeL-stem" or "rougeL-nostem"."""
    suffix = "" if stemming is None else "-stem" if stemming else "-nostem"
    return (RougeLsum if metric == "rougeLsum" else SegmentMetric)(
        f"{metric}{suffix}",
        lambda corpus: 100.0 * rouge_f1(metric, corpus, stemming),
        lambda corpus: rouge_signature(metric, corpus.language, corpus.reference_count, stemming),
    )


def rouge_of_sentences() -> SegmentMetric:
    """Return rougeLsum over sentences that `split_sentences` finds, for texts that are not split into lines."""

    def split(corpus: Corpus) -> Corpus:
        hypotheses = [split_sentences(text) for text in corpus.hypotheses]
        references = [[split_sentences(text) for text in own] for own in corpus.references]
        return Corpus(hypotheses, references, corpus.language)

    def signature(corpus: Corpus) -> str:
        own = rouge_signature("rougeLsum", corpus.language, corpus.reference_count)
        return own.replace("|sent:lines|", "|sent:lines+marks|")

    return SegmentMetric(SENTENCES, lambda corpus: 100.0 * rouge_f1("rougeLsum", split(corpus)), signature)


def split_sentences(text: str) -> str:
    """Return text with a line break after every sentence, as rouge-score's rougeLsum reads it.

    A sentence ends at a full stop, exclamation mark, question mark or ellipsis, with the quotation marks and brackets
    that follow, before white space; at the marks of Chinese, Japanese, Indic and Ethiopic scripts also without it.
    Abbreviations before white space end sentences, too.
    """
    return _SENTENCE_END.sub(r"\1\n", text)


def rouge_f1(metric: str, corpus: Corpus, stemming: bool | None = None) -> np.ndarray:
    """Return the F1 of one of ROUGE_METRICS for every segment, float64[N], between 0 and 1.

    With several references, the highest F1 counts. rougeLsum treats non-empty lines as sentences, as rouge-score does.
    """
    scorer = rouge_scorer.RougeScorer([metric], tokenizer=rouge_tokenizer(corpus.language, stemming))
    pairs = zip(corpus.hypotheses, corpus.references, strict=True)
    return np.array([scorer.score_multi(list(own), text)[metric].fmeasure for text, own in pairs])


def rouge_signature(metric: str, language: str, reference_count: str, stemming: bool | None = None) -> str:
    """Return the signature of a score (mean F1, times 100) in sacrebleu's notation."""
    sentences = "|sent:lines" if metric == "rougeLsum" else ""
    tokenizer = rouge_tokenizer(language, stemming).signature
    version = importlib.metadata.version("rouge-score")
    return f"nrefs:{reference_count}|case:lc|{tokenizer}{sentences}|score:mean-f1-x100|version:rouge-score-{version}"


@functools.lru_cache(maxsize=2**16)
def _is_word_character(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN"
