"""The metrics of generated text by name, and scores of a corpus or of files against references."""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

from finetune_scaling.configuration import choose
from finetune_scaling.errors import DataError
from finetune_scaling.evaluation.answers import exact_match, token_f1
from finetune_scaling.evaluation.languages import WITHOUT_TOKENIZER, base_language
from finetune_scaling.evaluation.metric import Corpus, Metric
from finetune_scaling.evaluation.rouge import ROUGE_METRICS, rouge
from finetune_scaling.evaluation.sacrebleu_metrics import BLEU_TOKENIZERS, bleu, chrf, ter
from finetune_scaling.evaluation.segments import read_parallel_segments

Scores = dict[str, dict[str, Any]]

DEFAULT_METRICS = ("bleu", "chrf", "chrf++", "ter", *ROUGE_METRICS)


def _metrics() -> Iterator[Metric]:
    yield from (bleu(tokenizer) for tokenizer in (None, *BLEU_TOKENIZERS))
    yield from (chrf(), chrf(word_order=2), ter())
    yield from (rouge(name, stemming) for stemming, name in itertools.product((None, True, False), ROUGE_METRICS))
    yield from (exact_match(), token_f1())


# Every metric of this process by its name; learned ones run in processes of their own.
METRICS: dict[str, Metric] = {metric.name: metric for metric in _metrics()}


def score(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    target_language: str,
    sources: Sequence[str] | None = None,
    metrics: Sequence[str | Metric] | None = None,
) -> Scores:
    """Scores a corpus of N segments.

    Args:
      hypotheses, references, target_language, sources: see Corpus.
      metrics: names out of METRICS, or metrics; the default ones of the language where None.

    Returns:
      {metric: {"score": unrounded, "signature": how it was computed}}; 0 to 100 but for TER, which counts errors and
      may exceed 100, and for learned metrics, which have their own scales.

    Raises:
      DataError: as Corpus does. ConfigError: a metric is unknown, or needs what is not installed or not given.
    """
    return score_corpus(Corpus(hypotheses, references, target_language, sources), metrics)


def score_corpus(corpus: Corpus, metrics: Sequence[str | Metric] | None = None) -> Scores:
    """`score` of a corpus."""
    names = default_metrics(corpus.language) if metrics is None else metrics
    chosen = [find_metric(metric) for metric in names]
    return {metric.name: metric.score(corpus) for metric in chosen}


def default_metrics(language: str) -> tuple[str, ...]:
    """DEFAULT_METRICS, but for a language without a tokenizer only those that need none."""
    return ("bleu-char", "chrf") if base_language(language) in WITHOUT_TOKENIZER else DEFAULT_METRICS


def find_metric(metric: str | Metric) -> Metric:
    """A metric by its name. Raises ConfigError where there is none of that name."""
    return choose(METRICS, metric, "metric") if isinstance(metric, str) else metric


def read_corpus(
    hypotheses: str | os.PathLike,
    references: Sequence[str | os.PathLike],
    sources: str | os.PathLike | None,
    target_language: str,
) -> Corpus:
    """A corpus from files, one segment a line; one or more files of references.

    Raises:
      DataError: a file cannot be read, is empty, is not UTF-8, or has another number of lines than the hypotheses; a
        reference is empty.
    """
    if not references:
        raise DataError("no file of references was given; name at least one")
    paths = [hypotheses, *references, *([] if sources is None else [sources])]
    texts, *others = read_parallel_segments(paths)
    for path, segments in zip(references, others, strict=False):
        _check_references(path, segments)
    per_segment = list(zip(*others[: len(references)], strict=True))
    return Corpus(texts, per_segment, target_language, None if sources is None else others[-1])


def score_files(
    hypotheses: str | os.PathLike,
    references: Sequence[str | os.PathLike],
    sources: str | os.PathLike | None,
    target_language: str,
    metrics: Sequence[str | Metric] | None = None,
) -> dict[str, Scores]:
    """Scores a file of hypotheses against files of references: {"metrics": {...}}. Raises as `score` does."""
    return {"metrics": score_corpus(read_corpus(hypotheses, references, sources, target_language), metrics)}


def _check_references(path: str | os.PathLike, segments: Sequence[str]) -> None:
    empty = next((line for line, text in enumerate(segments, start=1) if not text.strip()), None)
    if empty:
        raise DataError(f"{path}, line {empty}: an empty reference; leave this line out of every file")
