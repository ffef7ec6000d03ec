"""Metrics of generated text against references: BLEU, chrF, TER and ROUGE, each with its signature."""

import importlib.util
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric

from finetune_scaling.configuration import choose
from finetune_scaling.errors import DataError
from finetune_scaling.evaluation.languages import WRITTEN_WITHOUT_SPACES, base_language
from finetune_scaling.evaluation.rouge import ROUGE_METRICS, mean_rouge, rouge_signature
from finetune_scaling.evaluation.segments import read_parallel_segments

Scores = dict[str, dict[str, Any]]


def score(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    target_language: str,
    sources: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
) -> Scores:
    """Scores a corpus of N segments.

    Args:
      hypotheses: N texts; an empty one is a hypothesis like any other.
      references: N lists, references[i] being the one or more references of hypotheses[i].
      target_language: code of the language of hypotheses and references; it chooses the tokenizers.
      sources: N texts; no metric here reads them, but their number is checked.
      metrics: names out of METRICS; all of them by default.

    Returns:
      {metric: {"score": unrounded, 0 to 100, "signature": how it was computed}}. TER counts errors: 0 is best, and it
      may exceed 100.

    Raises:
      DataError: no segments, unequal counts, a segment without reference, or not a language code.
      ConfigError: a metric is unknown.
    """
    _check_counts(hypotheses, references, sources)
    base_language(target_language)
    scorers = {name: choose(METRICS, name, "metric") for name in (METRICS if metrics is None else metrics)}
    return {name: scorer(name, hypotheses, references, target_language) for name, scorer in scorers.items()}


def score_files(
    hypotheses: str | os.PathLike,
    references: Sequence[str | os.PathLike],
    sources: str | os.PathLike | None,
    target_language: str,
) -> dict[str, Scores]:
    """Scores a file of hypotheses against one or more files of references, one segment a line: {"metrics": {...}}.

    Raises:
      DataError: a file cannot be read, is empty, is not UTF-8, or has another number of lines than the hypotheses.
    """
    if not references:
        raise DataError("no file of references was given; name at least one")
    paths = [hypotheses, *references, *([] if sources is None else [sources])]
    texts, *others = read_parallel_segments(paths)
    per_segment = list(zip(*others[: len(references)], strict=True))
    return {"metrics": score(texts, per_segment, target_language)}


def bleu_tokenizer(language: str) -> str:
    """sacrebleu's tokenizer for a language: zh, ja-mecab (characters where MeCab is not installed), or 13a."""
    base = base_language(language)
    if base == "zh":
        return "zh"
    if base == "ja":
        return "ja-mecab" if _has_mecab() else "char"
    return "13a"


def _bleu(language: str) -> Metric:
    return BLEU(tokenize=bleu_tokenizer(language))


def _chrf(language: str) -> Metric:
    return CHRF()


def _ter(language: str) -> Metric:
    # Without asian_support a Chinese sentence is one word, and one wrong character makes all of it wrong;
    # sacrebleu applies it only together with `normalized`.
    asian = base_language(language) in WRITTEN_WITHOUT_SPACES
    return TER(normalized=asian, asian_support=asian)


_SACREBLEU: Mapping[str, Callable[[str], Metric]] = {"bleu": _bleu, "chrf": _chrf, "ter": _ter}


def _sacrebleu_score(
    name: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str
) -> dict[str, Any]:
    metric = _SACREBLEU[name](language)
    streams = [list(stream) for stream in itertools.zip_longest(*references)]
    value = metric.corpus_score(list(hypotheses), streams).score
    return {"score": value, "signature": str(metric.get_signature())}


def _rouge_score(
    name: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str
) -> dict[str, Any]:
    value = mean_rouge(name, hypotheses, references, language)
    return {"score": value, "signature": rouge_signature(name, language, _reference_count(references))}


METRICS: Mapping[str, Callable[..., dict[str, Any]]] = {
    **dict.fromkeys(_SACREBLEU, _sacrebleu_score),
    **dict.fromkeys(ROUGE_METRICS, _rouge_score),
}


def _reference_count(references: Sequence[Sequence[str]]) -> str:
    """The number of references of every segment, or "var" as sacrebleu writes it."""
    counts = {len(own) for own in references}
    return str(counts.pop()) if len(counts) == 1 else "var"


def _check_counts(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], sources: Sequence[str] | None
) -> None:
    if not hypotheses:
        raise DataError("there are no segments to score; give at least one hypothesis and its reference")
    if len(references) != len(hypotheses):
        raise DataError(
            f"{len(hypotheses)} hypotheses, but references for {len(references)}; "
            "references[i] must be the list of references of hypotheses[i]"
        )
    if sources is not None and len(sources) != len(hypotheses):
        raise DataError(
            f"{len(hypotheses)} hypotheses, but {len(sources)} sources; give one source for each hypothesis"
        )
    for index, own in enumerate(references):
        if isinstance(own, str) or not own:
            raise DataError(f"references[{index}] is {own!r}; give a list of one or more references for every segment")


def _has_mecab() -> bool:
    return all(importlib.util.find_spec(module) is not None for module in ("MeCab", "ipadic"))
