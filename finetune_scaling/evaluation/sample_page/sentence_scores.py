"""A score for each single hypothesis: sentence-level chrF, or ROUGE-L."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rouge_score import rouge_scorer, tokenizers
from sacrebleu.metrics import CHRF

from finetune_scaling.configuration import choose
from finetune_scaling.evaluation.sample_page.samples import Example
from finetune_scaling.metrics.rouge import IdeogramsAndWords, rouge_tokenizer

DEFAULTS = {"translation": "chrf", "summarization": "rougeL"}
Scorer = Callable[[str, Example], float]


class SentenceScores(NamedTuple):
    """rows: per example, per run the score from 0 to 100, or None where it was not decoded."""

    metric: str
    signature: str
    rows: list[tuple[float | None, ...]]


def sentence_scores(metric: str, examples: Sequence[Example], progress: Callable[[int], None]) -> SentenceScores:
    """Scores every hypothesis; progress is told how many examples are done. ConfigError on an unknown metric."""
    make = choose(SCORERS, metric, "--score")
    scorer, signature = make(examples)
    rows = []
    for number, example in enumerate(examples, start=1):
        rows.append(tuple(None if text is None else scorer(text, example) for text in example.hypotheses))
        progress(number)
    return SentenceScores(metric, signature, rows)


def _chrf(examples: Sequence[Example]) -> tuple[Scorer, str]:
    """sacrebleu's sentence chrF."""
    metric = CHRF()
    score = functools.partial(_sentence_chrf, metric)
    if examples:
        score(examples[0].reference, examples[0])  # a signature tells the number of references, known once it scored
    return score, str(metric.get_signature())


def _sentence_chrf(metric: CHRF, text: str, example: Example) -> float:
    return metric.sentence_score(text, [example.reference]).score


def _rouge_l(examples: Sequence[Example]) -> tuple[Scorer, str]:
    """F1 of ROUGE-L, times 100, with the tokenizer of each example's language."""
    languages = dict.fromkeys(example.target_language for example in examples)
    chosen = {language: _tokenizer(language) for language in languages}
    scorers = {key: rouge_scorer.RougeScorer(["rougeL"], tokenizer=value) for key, value in chosen.items()}

    def score(text: str, example: Example) -> float:
        return 100 * scorers[example.target_language].score(example.reference, text)["rougeL"].fmeasure

    signatures = dict.fromkeys(tokenizer.signature for tokenizer in chosen.values())  # type: ignore[attr-defined]
    return score, f"rougeL|case:lc|{' + '.join(signatures)}|score:sentence-f1-x100"


def _tokenizer(language: str | None) -> tokenizers.Tokenizer:
    """Of a row whose language is not known: words, and characters where there are no spaces; the signature says so."""
    return IdeogramsAndWords() if language is None else rouge_tokenizer(language)


SCORERS: dict[str, Callable[[Sequence[Example]], tuple[Scorer, str]]] = {"chrf": _chrf, "rougeL": _rouge_l}
