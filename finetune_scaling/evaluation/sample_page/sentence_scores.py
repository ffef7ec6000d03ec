"""Sentence-level scores of single hypotheses: chrF or ROUGE-L."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rouge_score import rouge_scorer, tokenizers
from sacrebleu.metrics import CHRF

from finetune_scaling.configuration import choose
from finetune_scaling.evaluation.sample_page.samples import Sample
from finetune_scaling.metrics.rouge import IdeogramsAndWords, rouge_tokenizer
from finetune_scaling.progress import log_progress

DEFAULTS = {"translation": "chrf", "summarization": "rougeL"}
Scorer = Callable[[str, Sample], float]


class SentenceScores(NamedTuple):
    """Scores from 0 to 100 per sample and run; None for a hypothesis that was not decoded."""

    metric: str
    signature: str
    rows: list[tuple[float | None, ...]]


def sentence_scores(metric: str, samples: Sequence[Sample]) -> SentenceScores:
    """Score every hypothesis."""
    scorer, signature = choose(SCORERS, metric, "--score")(samples)
    rows = [
        tuple(None if text is None else scorer(text, sample) for text in sample.hypotheses)
        for sample in log_progress(samples, len(samples), "scored examples")
    ]
    return SentenceScores(metric, signature, rows)


def _chrf(samples: Sequence[Sample]) -> tuple[Scorer, str]:
    """Return sacrebleu's sentence chrF."""
    metric = CHRF()

    def score(text: str, sample: Sample) -> float:
        return metric.sentence_score(text, [sample.reference]).score

    score(samples[0].reference, samples[0])  # the signature contains the number of references, known after scoring
    return score, str(metric.get_signature())


def _rouge_l(samples: Sequence[Sample]) -> tuple[Scorer, str]:
    """Return the F1 of ROUGE-L, times 100, with the tokenizer of each sample's language."""
    languages = dict.fromkeys(sample.target_language for sample in samples)
    chosen = {language: _tokenizer(language) for language in languages}
    scorers = {key: rouge_scorer.RougeScorer(["rougeL"], tokenizer=value) for key, value in chosen.items()}

    def score(text: str, sample: Sample) -> float:
        return 100 * scorers[sample.target_language].score(sample.reference, text)["rougeL"].fmeasure

    signatures = dict.fromkeys(tokenizer.signature for tokenizer in chosen.values())  # type: ignore[attr-defined]
    return score, f"rougeL|case:lc|{' + '.join(signatures)}|score:sentence-f1-x100"


def _tokenizer(language: str | None) -> tokenizers.Tokenizer:
    """Return the tokenizer of a language; if it is unknown, ideographs and words."""
    return IdeogramsAndWords() if language is None else rouge_tokenizer(language)


SCORERS: dict[str, Callable[[Sequence[Sample]], tuple[Scorer, str]]] = {"chrf": _chrf, "rougeL": _rouge_l}
