"""Text metrics by name, and the scores of a corpus in several metrics."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import ConfigError
from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.languages import has_tokenizer
from finetune_scaling.metrics.learned.metric import ADAPTERS, read_learned_metric
from finetune_scaling.metrics.metric import Metric
from finetune_scaling.metrics.question_answering import exact_match, token_f1
from finetune_scaling.metrics.rouge import ROUGE_METRICS, rouge, rouge_of_sentences
from finetune_scaling.metrics.sacrebleu_metrics import BLEU_TOKENIZERS, bleu, chrf, ter

Scores = dict[str, dict[str, Any]]  # metric name -> {"score", "signature"}

DEFAULT_METRICS = ("bleu", "chrf", "chrf++", "ter", *ROUGE_METRICS)


def _metrics() -> Iterator[Metric]:
    yield from (bleu(tokenizer) for tokenizer in (None, *BLEU_TOKENIZERS))
    yield from (chrf(), chrf(word_order=2), ter())
    yield from (rouge(name, stemming) for stemming, name in itertools.product((None, True, False), ROUGE_METRICS))
    yield from (rouge_of_sentences(), exact_match(), token_f1())


# The metrics that are computed in this process; learned metrics run in separate processes.
METRICS: dict[str, Metric] = {metric.name: metric for metric in _metrics()}
LEARNED_METRICS = sorted(path.stem.removesuffix("_adapter") for path in ADAPTERS.glob("*_adapter.py"))


def score(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    target_language: str,
    sources: Sequence[str] | None = None,
    metrics: Sequence[str | Metric] | None = None,
) -> Scores:
    """Score a corpus of N segments.

    Args:
      hypotheses, references, target_language, sources: see Corpus.
      metrics: metrics, or their names (see `find_metric`); None selects the default metrics of the language.

    Returns:
      {metric: {"score": unrounded score, "signature": how it was computed}}; rougeLsum has a "note" where it cannot
      differ from rougeL. Scores are between 0 and 100, except TER,
      which counts errors and may exceed 100, and learned metrics, which have their own scales.

    Raises:
      DataError: as for Corpus.
      ConfigError: a metric is unknown, or needs something that is not installed or not given.
    """
    return score_corpus(Corpus(hypotheses, references, target_language, sources), metrics)


def score_corpus(corpus: Corpus, metrics: Sequence[str | Metric] | None = None) -> Scores:
    """Score a corpus; see `score`."""
    names = default_metrics(corpus.language) if metrics is None else metrics
    chosen = [find_metric(metric) for metric in names]
    return {metric.name: metric.score(corpus) for metric in chosen}


def default_metrics(language: str) -> tuple[str, ...]:
    """Return DEFAULT_METRICS, or the metrics that need no tokenizer if the language has none."""
    return DEFAULT_METRICS if has_tokenizer(language) else ("bleu-char", "chrf")


def find_metric(metric: str | Metric) -> Metric:
    """Return the metric of a name in METRICS or of a config file (FILE.py[:ARGUMENT]).

    Raises ConfigError if the name is unknown, the file cannot be read, or the program of a learned metric is missing.
    """
    if not isinstance(metric, str):
        return metric
    if metric in METRICS:
        return METRICS[metric]
    if metric in LEARNED_METRICS:
        raise ConfigError(f"{metric} is a learned metric. Fix: give its config file, configs/metrics/{metric}.py")
    if not metric.partition(":")[0].endswith(".py"):
        raise ConfigError(f"metric = {metric!r} is unknown{suggestion(metric, [*METRICS, *LEARNED_METRICS])}")
    learned = read_learned_metric(metric)
    learned.check_program()
    return learned


def metrics_from_flag(names: Sequence[str] | None) -> tuple[Metric, ...] | None:
    """Return the metrics that --metrics names, or None (the default metrics) if the flag was not given.

    Raises ConfigError if no name is given or one is repeated, and as `find_metric` does.
    """
    if names is None:
        return None
    metrics = tuple(map(find_metric, names))
    check_unique_names([metric.name for metric in metrics])
    return metrics


def check_unique_names(names: Sequence[str]) -> None:
    """Raise ConfigError if there is no name or a repeated one, since scores are keyed by metric name."""
    if not names:
        raise ConfigError("--metrics is empty; name at least one metric, or omit the flag")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(f"--metrics: {name} is given twice; set another `name` in the config of a learned metric")
