"""Comparison of several systems on the same examples: scores, intervals and p-values against the first system."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_scaling.errors import DataError
from finetune_scaling.evaluation.example_rows import EVALUATION, check_same_examples, decoded_rows, read_rows
from finetune_scaling.files import Location, location
from finetune_scaling.metrics.corpus import Corpus, read_corpus
from finetune_scaling.metrics.metric import Metric, SegmentLevel
from finetune_scaling.metrics.sacrebleu_metrics import SacrebleuMetric
from finetune_scaling.metrics.significance import (
    CONFIDENCE,
    Procedure,
    RatioScore,
    SystemResult,
    compare_corpora,
    compare_ratios,
    holm,
)

LOSSES = {"loss": "tokens", "loss_per_byte": "bytes"}  # metric of runs -> the row field that its loss is divided by
SIGNIFICANCE_LEVEL = 0.05

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class System:
    """A system to compare: its name, its file, its texts (None if it decoded none), and for a run all its rows."""

    name: str
    origin: str
    corpus: Corpus | None
    rows: Sequence[Mapping[str, Any]] = ()


def systems_from_files(
    files: Mapping[str, str], references: Sequence[str], sources: str | None, target_language: str
) -> list[System]:
    """Return systems whose hypotheses are in files (name -> path). Raises the errors of `read_corpus`."""
    return [System(name, path, read_corpus(path, references, sources, target_language)) for name, path in files.items()]


def systems_from_runs(runs: Mapping[str, str], split: str, target_language: str) -> list[System]:
    """Return runs (name -> directory) as systems, from their rows evaluation/SPLIT.jsonl.

    Raises DataError if a run has no such rows, they are damaged, or the runs were scored on different examples.
    """
    systems = []
    for name, run in runs.items():
        path = location(run) / EVALUATION / f"{split}.jsonl"
        rows = read_rows(path)
        systems.append(System(name, str(path), _decoded_corpus(path, rows, target_language), rows))
    first = systems[0]
    for system in systems[1:]:
        check_same_examples(system.origin, system.rows, first.origin, first.rows)
        for line, (row, other) in enumerate(zip(system.rows, first.rows, strict=True), start=1):
            if ("hypothesis" in row) != ("hypothesis" in other):
                raise DataError(
                    f"{system.origin}, line {line}: only one of this file and {first.origin} has a hypothesis; "
                    "score the runs with the same --generate"
                )
    return systems


def _decoded_corpus(path: Location, rows: Sequence[Mapping[str, Any]], target_language: str) -> Corpus | None:
    """Return the decoded rows in a language as a corpus, or None if no row was decoded."""
    decoded = decoded_rows(path, rows, target_language)
    if not decoded:
        return None
    texts, references, sources = ([row[name] for row in decoded] for name in ("hypothesis", "reference", "source"))
    try:
        return Corpus(texts, [[text] for text in references], target_language, sources)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def compare(systems: Sequence[System], metrics: Sequence[Metric | str], procedure: Procedure) -> dict[str, Any]:
    """Compare systems with the first one.

    Args:
      systems: two or more systems on the same examples, or one, which gets intervals only.
      metrics: text metrics, and names in LOSSES if the systems are runs.

    Returns:
      A JSON-compatible mapping with baseline, procedure, and for each system and metric score, signature, mean, low and
      high (a 95 % bootstrap interval) and lower_is_better; for all but the baseline also difference, p_value and
      p_holm, which is adjusted for all p-values of the result.

    Raises:
      DataError: a system has no texts, no rows with the divisor of a loss, or other tokens than the baseline.
    """
    entries: dict[str, dict[str, dict[str, Any]]] = {system.name: {} for system in systems}
    for metric in metrics:
        name = metric if isinstance(metric, str) else metric.name
        log.info("%s: %s, %d systems", name, procedure.test, len(systems))
        results, signature = _results(systems, metric, procedure)
        lower_is_better = isinstance(metric, str) or metric.lower_is_better
        for system, result in zip(systems, results, strict=True):
            about = {"signature": signature, "lower_is_better": lower_is_better}
            entries[system.name][name] = _entry(result, results[0]) | about
    compared = [entry for by_metric in entries.values() for entry in by_metric.values() if "p_value" in entry]
    for entry, adjusted in zip(compared, holm([entry["p_value"] for entry in compared]), strict=True):
        entry["p_holm"] = adjusted
    corpus = systems[0].corpus
    return {
        "baseline": systems[0].name,
        "segments": len(systems[0].rows) if corpus is None else len(corpus.hypotheses),
        "procedure": dataclasses.asdict(procedure) | {"interval_resamples": procedure.resamples},
        "confidence": CONFIDENCE,
        "systems": [
            {"name": system.name, "origin": system.origin, "metrics": entries[system.name]} for system in systems
        ],
    }


def table(result: Mapping[str, Any]) -> str:
    """Format the result of `compare` as a text table, one line per metric and system, with notes on the p-values."""
    systems, procedure = result["systems"], result["procedure"]
    rows = [("metric", "system", "score", "95 % interval", "difference", "p", "p (Holm)", "")]
    for metric in systems[0]["metrics"]:
        first = systems[0]["metrics"][metric]
        label = f"{metric} (lower is better)" if first["lower_is_better"] else metric
        digits = 2 if abs(first["score"]) >= 10 else 4
        for system in systems:
            rows.append((label, system["name"], *_cells(system["metrics"][metric], digits)))
            label = ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    count = sum("p_value" in entry for system in systems for entry in system["metrics"].values())
    unit = "shuffles" if procedure["test"] == "randomization" else "resamples"
    lines.append(
        f"{result['segments']} segments; paired {procedure['test']}, {procedure['samples']} {unit}, "
        f"seed {procedure['seed']}; bootstrap intervals."
    )
    if count:
        lines.append(
            f"p-values compare with {result['baseline']}. p (Holm) is corrected for all {count} comparisons; "
            f"* marks p (Holm) < {SIGNIFICANCE_LEVEL}."
        )
    return "\n".join(lines)


def _results(systems: Sequence[System], metric: Metric | str, procedure: Procedure) -> tuple[list[SystemResult], str]:
    if isinstance(metric, str):
        ratios = [_loss(system, metric, systems[0]) for system in systems]
        return compare_ratios(ratios, procedure), f"{procedure.signature}|unit:nats/{LOSSES[metric].removesuffix('s')}"
    corpora = [_texts(system, metric.name) for system in systems]
    if isinstance(metric, SacrebleuMetric):
        return compare_corpora(metric, corpora, procedure)
    assert isinstance(metric, SegmentLevel)  # all other metrics
    scores = [metric.segments(corpus) for corpus in corpora]
    signature = f"{procedure.signature}|{scores[0].signature}"
    return compare_ratios([RatioScore.mean_of(score.values) for score in scores], procedure), signature


def _entry(result: SystemResult, baseline: SystemResult) -> dict[str, Any]:
    entry = {name: value for name, value in result._asdict().items() if value is not None}
    return entry if result.p_value is None else entry | {"difference": result.score - baseline.score}


def _cells(entry: Mapping[str, Any], digits: int) -> tuple[str, ...]:
    cells = (f"{entry['score']:.{digits}f}", f"{entry['low']:.{digits}f} .. {entry['high']:.{digits}f}")
    if "p_value" not in entry:
        return (*cells, "", "", "", "")
    mark = "*" if entry["p_holm"] < SIGNIFICANCE_LEVEL else ""
    return (*cells, f"{entry['difference']:+.{digits}f}", f"{entry['p_value']:.4f}", f"{entry['p_holm']:.4f}", mark)


def _texts(system: System, metric: str) -> Corpus:
    if system.corpus is None:
        raise DataError(
            f"{system.origin}: no row has a hypothesis, so {metric} cannot be computed; score with --generate=N"
        )
    return system.corpus


def _loss(system: System, metric: str, baseline: System) -> RatioScore:
    """Return the loss per token or per byte over all rows."""
    divisor = LOSSES[metric]
    if not system.rows or any(divisor not in row for row in system.rows):
        raise DataError(f"{system.origin}: {metric} needs the field {divisor!r} in every row; score the run again")
    for line, (row, other) in enumerate(zip(system.rows, baseline.rows, strict=True), start=1):
        if divisor == "tokens" and row["tokens"] != other["tokens"]:
            raise DataError(
                f"{system.origin}, line {line}: {row['tokens']} tokens, but {other['tokens']} in {baseline.origin}: "
                "losses per token are not comparable across tokenizers; use loss_per_byte"
            )
    return RatioScore(
        np.array([row["loss_sum"] for row in system.rows], np.float64),
        np.array([row[divisor] for row in system.rows], np.float64),
    )
