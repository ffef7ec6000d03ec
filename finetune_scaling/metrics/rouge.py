"""ROUGE that is right outside English too: rouge-score's scorer with a tokenizer made for the language.

rouge-score's default tokenizer keeps only a-z and 0-9: it cuts German words at their umlauts and leaves nothing of a
Chinese text, so that identical Chinese texts score 0. English keeps that tokenizer, and so its published comparability.
Stemming belongs inside the tokenizer object: rouge-score ignores its own stemmer option beside one.

Source: C.-Y. Lin, "ROUGE: a Package for Automatic Evaluation of Summaries", 2004.
"""

import functools
import importlib.metadata
import re
import unicodedata

import numpy as np
from rouge_score import rouge_scorer, tokenizers

from finetune_scaling.errors import ConfigError
from finetune_scaling.metrics import cistem
from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.languages import WRITTEN_WITHOUT_SPACES, base_language, check_tokenizer
from finetune_scaling.metrics.metric import SegmentMetric

ROUGE_METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")

_STEMMED = ("en", "de")

# Characters that are a token each: kana, bopomofo, ideographs of every plane, and their iteration marks.
_IDEOGRAM = (
    r"\u3005-\u3007\u3021-\u3029\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
_IDEOGRAM_OR_RUN = re.compile(f"[{_IDEOGRAM}]|[^{_IDEOGRAM}]+")


class UnicodeWords(tokenizers.Tokenizer):
    """Lower-case words of letters, combining marks and digits of any script; everything else separates them."""

    signature = "tok:unicode-words|stem:no"

    def tokenize(self, text: str) -> list[str]:
        """The words of `text`; canonically equal texts (an umlaut as one code point or as two) have equal words."""
        text = unicodedata.normalize("NFC", text.lower())
        return "".join(char if _is_word_character(char) else " " for char in text).split()


class IdeogramsAndWords(UnicodeWords):
    """Each Chinese or Japanese character is a token; words and numbers of other scripts stay whole."""

    signature = "tok:characters|stem:no"

    def tokenize(self, text: str) -> list[str]:
        """The tokens of `text`: "用JAX训练3次" -> 用 jax 训 练 3 次."""
        return [token for word in super().tokenize(text) for token in _IDEOGRAM_OR_RUN.findall(word)]


class GermanStems(UnicodeWords):
    """Unicode words, each reduced to its Cistem stem."""

    signature = "tok:unicode-words|stem:cistem"

    def tokenize(self, text: str) -> list[str]:
        """The stems of the words of `text`."""
        return [cistem.stem(word) for word in super().tokenize(text)]


class RougeScoreDefault(tokenizers.DefaultTokenizer):
    """rouge-score's own tokenizer, for English, with or without its Porter stemmer."""

    def __init__(self, stemming: bool) -> None:
        super().__init__(use_stemmer=stemming)
        self.signature = f"tok:rouge-score-default|stem:{'porter' if stemming else 'no'}"


def rouge_tokenizer(language: str, stemming: bool | None = None) -> tokenizers.Tokenizer:
    """The tokenizer of a language code; its `signature` names it.

    stemming: None as is usual for the language: German stems, no other does. Raises ConfigError where it is asked for
    and the language has no stemmer here.
    """
    base = base_language(language)
    if stemming and base not in _STEMMED:
        raise ConfigError(f"there is no stemmer for language {language!r}; leave out -stem, which {_STEMMED} have")
    if base == "en":
        return RougeScoreDefault(bool(stemming))
    if base == "de" and stemming is not False:
        return GermanStems()
    return unicode_tokenizer(language)


def unicode_tokenizer(language: str) -> UnicodeWords:
    """Unstemmed words of a language, or characters of Chinese and Japanese. Raises DataError as `check_tokenizer`."""
    check_tokenizer("rouge and f1", language)
    return IdeogramsAndWords() if base_language(language) in WRITTEN_WITHOUT_SPACES else UnicodeWords()


def rouge(metric: str, stemming: bool | None = None) -> SegmentMetric:
    """One of ROUGE_METRICS; its name says so where stemming is forced: "rougeL-stem", "rougeL-nostem"."""
    suffix = "" if stemming is None else "-stem" if stemming else "-nostem"
    return SegmentMetric(
        f"{metric}{suffix}",
        lambda corpus: 100.0 * rouge_f1(metric, corpus, stemming),
        lambda corpus: rouge_signature(metric, corpus.language, corpus.reference_count, stemming),
    )


def rouge_f1(metric: str, corpus: Corpus, stemming: bool | None = None) -> np.ndarray:
    """F1 of one of ROUGE_METRICS for every segment, float64[N], 0 to 1.

    Of several references of a segment the one with the highest F1 counts. For rougeLsum the sentences of a segment are
    its non-empty lines, as in rouge-score.
    """
    scorer = rouge_scorer.RougeScorer([metric], tokenizer=rouge_tokenizer(corpus.language, stemming))
    pairs = zip(corpus.hypotheses, corpus.references, strict=True)
    return np.array([scorer.score_multi(list(own), text)[metric].fmeasure for text, own in pairs])


def rouge_signature(metric: str, language: str, reference_count: str, stemming: bool | None = None) -> str:
    """How a score was computed, in the form of sacrebleu's signatures; the score is the mean F1, times 100."""
    sentences = "|sent:lines" if metric == "rougeLsum" else ""
    tokenizer = rouge_tokenizer(language, stemming).signature
    version = importlib.metadata.version("rouge-score")
    return f"nrefs:{reference_count}|case:lc|{tokenizer}{sentences}|score:mean-f1-x100|version:rouge-score-{version}"


@functools.lru_cache(maxsize=2**16)
def _is_word_character(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN"
