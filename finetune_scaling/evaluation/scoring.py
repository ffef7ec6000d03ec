"""Scores of a model on examples: loss of every target, and metrics of generated text."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune_scaling.data.encoders.make import make_encoder
from finetune_scaling.data.encoding import SequenceFormat, encode_prompts
from finetune_scaling.data.loader import Batches, evaluation_batches
from finetune_scaling.data.task import Task
from finetune_scaling.decoding.generation import generate, make_decoder
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.decoding.stopping import cut
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.likelihood import covered_targets, likelihood, perplexity, utf8_bytes
from finetune_scaling.metrics.metric import Metric
from finetune_scaling.metrics.registry import Scores, score
from finetune_scaling.runs.model_loading import TunedModel
from finetune_scaling.sharding.batches import local_rows, shard_batch
from finetune_scaling.training.step import make_evaluation_step
from finetune_scaling.trees import Tree

Example = Mapping[str, Any]
GREEDY = DecodingConfig()
MANY_CUT = 0.05  # share of hypotheses cut off at the length limit, above which the limit may be wrong


class Losses(NamedTuple):
    """Per example, the loss summed over target tokens in nats, float64[N], and their number, int64[N]."""

    sums: np.ndarray
    tokens: np.ndarray

    @property
    def mean(self) -> float:
        """Log-perplexity in nats per token, averaged over all tokens."""
        return float(self.sums.sum() / max(1, self.tokens.sum()))


def row_losses(model: TunedModel, batches: Batches, trainable: Tree | None = None) -> Losses:
    """Return the loss of every row of finite `batches`, which are enlarged where they do not fill the devices.

    trainable: replaces the model's trainable parameters.
    """
    sharding = model.sharding.batch()
    step = make_evaluation_step(model.config, model.tuning, model.sharding.rules)
    trainable = model.trainable if trainable is None else trainable
    full = batches.enlarged(model.sharding.batch_shards)
    local = full.select_rows(local_rows(sharding, full.batch_size))
    rows = []
    for k in range(len(local)):
        inputs = {name: value for name, value in local[k].items() if name != "example"}
        rows.append(step(trainable, model.frozen, shard_batch(inputs, sharding, full.batch_size)))
    count = len(batches) * batches.batch_size
    sums, tokens = (np.concatenate([np.asarray(row[i]) for row in rows])[:count] for i in (0, 1))
    return Losses(sums.astype(np.float64), tokens.astype(np.int64))


def example_losses(
    model: TunedModel, task: Task, sequence_format: SequenceFormat, examples: Sequence[Example], batch_size: int
) -> Losses:
    """Return the loss of every example's target."""
    batches = evaluation_batches(examples, model.tokenizer, task.template, sequence_format, batch_size=batch_size)
    return Losses(*(values[: len(examples)] for values in row_losses(model, batches)))


class Hypothesis(NamedTuple):
    """A generated text, and whether it was cut off at the length limit before it ended."""

    text: str
    at_limit: bool


def generate_hypotheses(
    model: TunedModel,
    task: Task,
    sequence_format: SequenceFormat,
    examples: Sequence[Example],
    batch_size: int,
    decoding: DecodingConfig = GREEDY,
) -> list[Hypothesis]:
    """Return the best generated text for every example. Newlines are kept: rougeLsum treats lines as sentences."""
    tokenizer = model.tokenizer
    special_tokens = make_encoder(tokenizer, task.template).special_tokens
    decoder = make_decoder(
        model.config,
        model.tuning,
        decoding,
        longest=decoding.limit(sequence_format.max_target_tokens),
        end_ids=special_tokens.end_ids,
        pad_id=tokenizer.pad_id,
        bidirectional_input=sequence_format.bidirectional_input,
        axes=model.sharding.rules,
    )
    generations = generate(
        decoder,
        decoding,
        model.trainable,
        model.frozen,
        encode_prompts(examples, tokenizer, task.template, sequence_format),
        batch_size=batch_size,
        token_bytes=tokenizer.token_bytes() if decoding.stop else (),
        sharding=model.sharding.batch(),
        multiple=model.sharding.batch_shards,
    )
    return [_hypothesis(tokenizer.decode(texts[0].tokens), texts[0].at_limit, decoding) for texts in generations]


def _hypothesis(text: str, at_limit: bool, decoding: DecodingConfig) -> Hypothesis:
    kept = cut(text, decoding.stop)
    return Hypothesis(kept.strip(), at_limit and kept == text)


def score_split(
    model: TunedModel,
    task: Task,
    sequence_format: SequenceFormat,
    examples: Sequence[Example],
    *,
    batch_size: int,
    generate_examples: int | None,
    metrics: Sequence[str | Metric] | None = None,
    decoding: DecodingConfig = GREEDY,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score examples; return a summary and one row per example.

    The summary has loss (nats per token), tokens, examples, bytes of the targets, the values of `likelihood`, entropy
    (true nats per token, if the data has it), and `metrics` (None: the default ones) of the first `generate_examples`
    (None: all), and at_limit, how many of these were cut off at the length limit. Rows have index, source, reference,
    target_language, loss_sum, tokens, bytes, hypothesis and at_limit.
    """
    losses = example_losses(model, task, sequence_format, examples, batch_size)
    sizes = utf8_bytes(covered_targets(examples, model.tokenizer, task.template, sequence_format))
    count = len(examples) if generate_examples is None else min(generate_examples, len(examples))
    decoded = list(itertools.islice(examples, count))
    written = generate_hypotheses(model, task, sequence_format, decoded, batch_size, decoding) if count else []
    limited = sum(one.at_limit for one in written)
    summary: dict[str, Any] = {
        "loss": losses.mean,
        "tokens": int(losses.tokens.sum()),
        "examples": len(examples),
        "bytes": int(sizes.sum()),
        **likelihood(float(losses.sums.sum()), int(losses.tokens.sum()), int(sizes.sum())),
        **_entropy(examples, losses),
        "generated": count,
        "at_limit": limited,
        "metrics": text_scores(decoded, [one.text for one in written], metrics) if count else {},
    }
    return summary, [_row(example, losses, sizes, index, written) for index, example in enumerate(examples)]


def limit_warning(summary: Mapping[str, Any], limit: int) -> str:
    """Return a sentence on the generated texts that were cut off at `limit` tokens; empty if there are none."""
    if not summary["at_limit"]:
        return ""
    limited, count = summary["at_limit"], summary["generated"]
    cut = f"{limited} of {count} hypotheses ({limited / count:.0%}) were cut off at the limit of {limit} tokens"
    fix = "; raise the task's max_target_tokens or decoding.max_new_tokens if the references are as long"
    return cut + (fix if limited > MANY_CUT * count else "")


def pooled_values(tests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return `pooled_scores` with plain metric scores instead of signatures, the format of result.json."""
    result = pooled_scores(tests)
    return result | {"metrics": {name: entry["score"] for name, entry in result["metrics"].items()}}


def pooled_scores(tests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Pool test sets: losses and entropy weighted by tokens or bytes, metrics as unweighted means over the sets."""
    if not tests:
        raise ConfigError("the task has no test set; add one under task.test")
    tokens = sum(test["tokens"] for test in tests.values())
    result: dict[str, Any] = {
        name: sum(test[name] * test["tokens"] for test in tests.values()) / tokens
        for name in ("loss", "entropy")
        if all(name in test for test in tests.values())
    }
    result["perplexity"] = perplexity(result["loss"])
    if all("loss_per_byte" in test for test in tests.values()):
        size = sum(test["bytes"] for test in tests.values())
        result["loss_per_byte"] = sum(test["loss_per_byte"] * test["bytes"] for test in tests.values()) / size
        result["perplexity_per_byte"] = perplexity(result["loss_per_byte"])
    for name in ("generated", "at_limit"):
        result[name] = sum(test.get(name, 0) for test in tests.values())
    return result | {"metrics": mean_scores([test["metrics"] for test in tests.values() if test["metrics"]])}


def mean_scores(scored: Sequence[Scores]) -> Scores:
    """Return each metric's unweighted mean over test sets, with the signatures of all sets."""
    return {name: _weighted_mean(name, [(1, scores) for scores in scored]) for name in (scored[0] if scored else ())}


def text_scores(
    examples: Sequence[Example], texts: Sequence[str], metrics: Sequence[str | Metric] | None = None
) -> Scores:
    """Score texts against the examples' references; target languages are averaged, weighted by their examples."""
    by_language: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        by_language.setdefault(example["target_language"], []).append(index)
    parts = []
    for language, rows in by_language.items():
        references, sources = [[examples[i]["target"]] for i in rows], [examples[i]["source"] for i in rows]
        parts.append((len(rows), score([texts[i] for i in rows], references, language, sources, metrics)))
    if len(parts) == 1:
        return parts[0][1]
    shared = [name for name in parts[0][1] if all(name in scores for _, scores in parts)]
    return {name: _weighted_mean(name, parts) for name in shared}


def baseline_texts(task: Task, examples: Sequence[Example]) -> list[str]:
    """Return the texts of the model-free baseline: the copied source, or the first sentence of a document."""
    if task.kind == "translation":
        return [example["source"] for example in examples]
    return [_first_sentence(example["source"]) for example in examples]


def _first_sentence(text: str) -> str:
    ends = [end for mark in (". ", "。", "\n") if (end := text.find(mark)) >= 0]
    return text[: min(ends) + 1].strip() if ends else text


def _weighted_mean(name: str, parts: Sequence[tuple[int, Scores]]) -> dict[str, Any]:
    total = sum(count for count, _ in parts)
    notes = dict.fromkeys(scores[name]["note"] for _, scores in parts if "note" in scores[name])
    return {
        "score": math.fsum(count * scores[name]["score"] for count, scores in parts) / total,
        "signature": " + ".join(dict.fromkeys(scores[name]["signature"] for _, scores in parts)),
        **({"note": " + ".join(notes)} if notes else {}),
    }


def _entropy(examples: Sequence[Example], losses: Losses) -> dict[str, float]:
    entropies = [example["target_nll"] for example in examples if example.get("target_nll") is not None]
    if len(entropies) < len(examples):
        return {}
    return {"entropy": math.fsum(entropies) / max(1, int(losses.tokens.sum()))}


def _row(
    example: Example, losses: Losses, sizes: np.ndarray, index: int, written: Sequence[Hypothesis]
) -> dict[str, Any]:
    row = {
        "index": index,
        "loss_sum": float(losses.sums[index]),
        "tokens": int(losses.tokens[index]),
        "bytes": int(sizes[index]),
        "source": example["source"],
        "reference": example["target"],
        "target_language": example["target_language"],
    }
    if index < len(written):
        row |= {"hypothesis": written[index].text, "at_limit": written[index].at_limit}
    return row
