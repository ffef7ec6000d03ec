"""Several systems on the same examples, compared with the first: scores, intervals, p-values, and a table of them."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_scaling.errors import DataError
from finetune_scaling.evaluation.metric import Corpus, Metric, SegmentLevel
from finetune_scaling.evaluation.rows import read_rows, written_corpus
from finetune_scaling.evaluation.sacrebleu_metrics import SacrebleuMetric
from finetune_scaling.evaluation.significance import (
    CONFIDENCE,
    Outcome,
    Procedure,
    Ratio,
    compare_corpora,
    compare_ratios,
    holm,
)
from finetune_scaling.evaluation.text_metrics import read_corpus
from finetune_scaling.files import location

LOSSES = {"loss": "tokens", "loss_per_byte": "bytes"}  # metric of a run's rows -> what its loss is divided by
LEVEL = 0.05

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class System:
    """Name and origin of a system; its texts, where it wrote any; of a run, its rows in evaluation/."""

    name: str
    origin: str
    corpus: Corpus | None
    rows: Sequence[Mapping[str, Any]] = ()


def systems_from_files(
    files: Mapping[str, str], references: Sequence[str], sources: str | None, target_language: str
) -> list[System]:
    """Systems whose hypotheses lie in files, one segment a line. Raises DataError as `read_corpus` does."""
    return [System(name, path, read_corpus(path, references, sources, target_language)) for name, path in files.items()]


def systems_from_runs(runs: Mapping[str, str], split: str, target_language: str) -> list[System]:
    """Systems that are runs, by the rows that they wrote about a test set.

    Raises DataError: a run has no such rows, they are damaged, or runs were not scored on the same examples.
    """
    systems = []
    for name, run in runs.items():
        path = location(run) / "evaluation" / f"{split}.jsonl"
        rows = read_rows(path)
        systems.append(System(name, str(path), written_corpus(path, rows, target_language), rows))
    for system in systems[1:]:
        _check_same_examples(systems[0], system)
    return systems


def compare(systems: Sequence[System], metrics: Sequence[Metric | str], procedure: Procedure) -> dict[str, Any]:
    """Compares systems with the first one.

    Args:
      systems: two or more on the same examples, or one, which gets intervals only.
      metrics: metrics of texts, and names out of LOSSES for systems that are runs.

    Returns:
      JSON-like: baseline, procedure, and for each system and metric score, signature, mean, low and high (a 95 %
      bootstrap interval), lower_is_better, and difference, p_value and p_holm where it is not the baseline. p_holm is
      adjusted for all p-values of the result.

    Raises DataError: a system wrote no texts, or has no rows for a loss, or its tokens are not the baseline's.
    """
    entries: dict[str, dict[str, dict[str, Any]]] = {system.name: {} for system in systems}
    for metric in metrics:
        name = metric if isinstance(metric, str) else metric.name
        log.info("%s: %s, %d systems", name, procedure.test, len(systems))
        outcomes, signature = _outcomes(systems, metric, procedure)
        lower = isinstance(metric, str) or metric.lower_is_better
        for system, outcome in zip(systems, outcomes, strict=True):
            entries[system.name][name] = _entry(outcome, outcomes[0], signature, lower)
    _add_holm([entry for by_metric in entries.values() for entry in by_metric.values() if "p_value" in entry])
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
    """A comparison as text: a line for each metric and system, and what the p-values mean."""
    systems, procedure = result["systems"], result["procedure"]
    rows = [("metric", "system", "score", "95 % interval", "difference", "p", "p (Holm)", "")]
    for metric in systems[0]["metrics"]:
        first = systems[0]["metrics"][metric]
        shown = f"{metric} (lower is better)" if first["lower_is_better"] else metric
        digits = 2 if abs(first["score"]) >= 10 else 4
        for system in systems:
            rows.append((shown, system["name"], *_cells(system["metrics"][metric], digits)))
            shown = ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    count = sum("p_value" in entry for system in systems for entry in system["metrics"].values())
    draws = "shuffles" if procedure["test"] == "randomization" else "resamples"
    lines.append(
        f"{result['segments']} segments; paired {procedure['test']}, {procedure['samples']} {draws}, "
        f"seed {procedure['seed']}; intervals by bootstrap."
    )
    if count:
        lines.append(
            f"p compares with {result['baseline']}. With {count} comparisons some p fall below {LEVEL} by chance: "
            f"p (Holm) is adjusted for all of them, and * marks where it stays below."
        )
    return "\n".join(lines)


def _outcomes(systems: Sequence[System], metric: Metric | str, procedure: Procedure) -> tuple[list[Outcome], str]:
    if isinstance(metric, str):
        ratios = [_loss(system, metric, systems[0]) for system in systems]
        return compare_ratios(ratios, procedure), f"{procedure.signature}|unit:nats/{LOSSES[metric].removesuffix('s')}"
    corpora = [_texts(system, metric.name) for system in systems]
    if isinstance(metric, SacrebleuMetric):
        return compare_corpora(metric, corpora, procedure)
    if not isinstance(metric, SegmentLevel):
        raise TypeError(f"metric {metric.name} is neither sacrebleu's nor scored by segment")
    scores = [metric.segments(corpus) for corpus in corpora]
    signature = f"{procedure.signature}|{scores[0].signature}"
    return compare_ratios([Ratio.mean_of(score.values) for score in scores], procedure), signature


def _entry(outcome: Outcome, baseline: Outcome, signature: str, lower_is_better: bool) -> dict[str, Any]:
    entry = {
        "score": outcome.score,
        "signature": signature,
        "lower_is_better": lower_is_better,
        "mean": outcome.mean,
        "low": outcome.low,
        "high": outcome.high,
    }
    if outcome.p_value is None:
        return entry
    return entry | {"difference": outcome.score - baseline.score, "p_value": outcome.p_value}


def _add_holm(entries: Sequence[dict[str, Any]]) -> None:
    for entry, adjusted in zip(entries, holm([entry["p_value"] for entry in entries]), strict=True):
        entry["p_holm"] = adjusted


def _cells(entry: Mapping[str, Any], digits: int) -> tuple[str, ...]:
    cells = (f"{entry['score']:.{digits}f}", f"{entry['low']:.{digits}f} .. {entry['high']:.{digits}f}")
    if "p_value" not in entry:
        return (*cells, "", "", "", "")
    mark = "*" if entry["p_holm"] < LEVEL else ""
    return (*cells, f"{entry['difference']:+.{digits}f}", f"{entry['p_value']:.4f}", f"{entry['p_holm']:.4f}", mark)


def _texts(system: System, metric: str) -> Corpus:
    if system.corpus is None:
        raise DataError(f"{system.origin}: no row has a hypothesis, so there is no {metric}; score with --generate=N")
    return system.corpus


def _loss(system: System, metric: str, baseline: System) -> Ratio:
    """Loss over tokens or bytes, of all rows."""
    divisor = LOSSES[metric]
    if not system.rows or any(divisor not in row for row in system.rows):
        raise DataError(f"{system.origin}: has no {divisor} of every row, which {metric} needs; score the run again")
    if divisor == "tokens":
        _check_same_tokens(system, baseline)
    return Ratio(
        np.array([row["loss_sum"] for row in system.rows], np.float64),
        np.array([row[divisor] for row in system.rows], np.float64),
    )


def _check_same_examples(baseline: System, system: System) -> None:
    def differ(values: Callable[[Mapping[str, Any]], Any]) -> int | None:
        pairs = enumerate(zip(baseline.rows, system.rows, strict=True), start=1)
        return next((line for line, (left, right) in pairs if values(left) != values(right)), None)

    if len(baseline.rows) != len(system.rows):
        raise DataError(
            f"{system.origin}: {len(system.rows)} rows, but {baseline.origin} has {len(baseline.rows)}; "
            "score the runs on the same examples"
        )
    if line := differ(lambda row: (row["source"], row["reference"])):
        raise DataError(
            f"{system.origin}, line {line}: another example than in {baseline.origin}; score the runs on the same ones"
        )
    if line := differ(lambda row: "hypothesis" in row):
        raise DataError(
            f"{system.origin}, line {line}: a hypothesis in one and none in {baseline.origin}; "
            "score the runs with the same --generate"
        )


def _check_same_tokens(system: System, baseline: System) -> None:
    for line, (row, other) in enumerate(zip(system.rows, baseline.rows, strict=True), start=1):
        if row["tokens"] != other["tokens"]:
            raise DataError(
                f"{system.origin}, line {line}: {row['tokens']} tokens, but {other['tokens']} in {baseline.origin}: "
                "losses a token of different tokenizers do not compare; take loss_per_byte"
            )
