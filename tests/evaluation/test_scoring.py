"""Scores of a model on examples: losses, hypotheses, and averages over languages."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.data.encoding import SequenceFormat, encode_prompts
from finetune_scaling.data.task import Task, load_task
from finetune_scaling.decoding.generation import Generation
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation import scoring
from finetune_scaling.evaluation.scoring import pooled_values
from finetune_scaling.metrics.registry import score
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.runs.model_loading import TunedModel, initialize_model
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_data import task_and_format
from finetune_scaling.tuning.partition import combine


@pytest.fixture(scope="module")
def base(tiny_runs) -> tuple[TunedModel, Task, SequenceFormat, list[dict[str, Any]]]:
    """Return the tiny base model, its task, and 7 test examples."""
    run_config = read_run_config(tiny_runs.config("full"))
    task, sequence_format = task_and_format(run_config)
    examples = task.examples("test")
    return initialize_model(run_config), task, sequence_format, [examples[i] for i in range(7)]


@pytest.fixture(scope="module")
def log_probabilities(base) -> Callable[[list[int], int], np.ndarray]:
    """Return a function from ids [n] to log p(next) [length, V]; the first `bidirectional` ids attend to each other."""
    tuned, _, sequence_format, _ = base
    model = LanguageModel(tuned.config)
    params = combine(tuned.trainable, tuned.frozen)

    @jax.jit
    def forward(ids: jax.Array, real: jax.Array, prefix: jax.Array) -> jax.Array:
        layout = TokenLayout(jnp.arange(ids.size, dtype=jnp.int32)[None], real.astype(jnp.int32)[None], prefix[None])
        hidden, _ = model.forward(params, model.embed(params, ids[None]), layout)
        return jax.nn.log_softmax(model.unembed(params, hidden)[0])

    def compute(ids: list[int], bidirectional: int) -> np.ndarray:
        positions = np.arange(sequence_format.length)
        padded = np.pad(np.array(ids, np.int32), (0, sequence_format.length - len(ids)))
        return np.asarray(forward(padded, positions < len(ids), positions < bidirectional))

    return compute


def test_losses_equal_the_target_log_probabilities(base, log_probabilities):
    tuned, task, sequence_format, examples = base
    losses = scoring.example_losses(tuned, task, sequence_format, examples, batch_size=7)
    prompts = encode_prompts(examples, tuned.tokenizer, task.template, sequence_format)
    for example, prompt, total, count in zip(examples, prompts, losses.sums, losses.tokens, strict=True):
        target = tuned.tokenizer.encode(task.template.render(example)[1])
        target = [*target, tuned.tokenizer.eos_id] if len(target) < sequence_format.max_target_tokens else target
        target = target[: sequence_format.max_target_tokens]
        table = log_probabilities([*prompt, *target[:-1]], bidirectional=len(prompt))
        expected = -sum(table[len(prompt) - 1 + position, token] for position, token in enumerate(target))
        assert count == len(target)
        assert total == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [3, 7])
def test_losses_do_not_depend_on_the_batch(base, batch_size):
    tuned, task, sequence_format, examples = base
    losses = scoring.example_losses(tuned, task, sequence_format, examples, batch_size)
    alone = [scoring.example_losses(tuned, task, sequence_format, [example], batch_size) for example in examples]
    np.testing.assert_allclose(losses.sums, [one.sums[0] for one in alone], rtol=1e-6)
    assert losses.tokens.tolist() == [one.tokens[0] for one in alone]
    assert losses.mean == pytest.approx(losses.sums.sum() / losses.tokens.sum())


def test_a_split_has_a_summary_and_a_row_per_example(base):
    tuned, task, sequence_format, examples = base
    summary, rows = scoring.score_split(tuned, task, sequence_format, examples, batch_size=7, generate_examples=2)
    assert (summary["examples"], summary["generated"], len(rows)) == (7, 2, 7)
    assert summary["tokens"] == sum(row["tokens"] for row in rows)
    assert summary["loss"] == pytest.approx(sum(row["loss_sum"] for row in rows) / summary["tokens"])
    assert summary["entropy"] == pytest.approx(math.fsum(e["target_nll"] for e in examples) / summary["tokens"])
    assert summary["perplexity"] == pytest.approx(math.exp(summary["loss"]))
    assert summary["bytes"] == sum(row["bytes"] for row in rows)
    assert summary["loss_per_byte"] == pytest.approx(sum(row["loss_sum"] for row in rows) / summary["bytes"])
    assert [(row["source"], row["reference"]) for row in rows] == [(e["source"], e["target"]) for e in examples]
    assert [row["target_language"] for row in rows] == [e["target_language"] for e in examples]
    texts = [row["hypothesis"] for row in rows if "hypothesis" in row]
    assert summary["metrics"] == scoring.text_scores(examples[:2], texts)
    without, rows = scoring.score_split(tuned, task, sequence_format, examples, batch_size=7, generate_examples=0)
    assert without == {**summary, "generated": 0, "at_limit": 0, "metrics": {}}
    assert not any("hypothesis" in row for row in rows)


def test_entropy_needs_the_entropy_of_every_example(base):
    tuned, task, sequence_format, examples = base
    unknown = [{name: value for name, value in examples[0].items() if name != "target_nll"}, *examples[1:]]
    summary, _ = scoring.score_split(tuned, task, sequence_format, unknown, batch_size=7, generate_examples=0)
    assert "entropy" not in summary


def test_rouge_lsum_treats_lines_as_sentences(base, monkeypatch):
    tuned, task, sequence_format, examples = base
    lines = [*tuned.tokenizer.encode("d e\na b "), tuned.tokenizer.eos_id]
    monkeypatch.setattr(scoring, "generate", lambda *_, **__: [[Generation(lines)], [Generation([])]])
    written = scoring.generate_hypotheses(tuned, task, sequence_format, examples[:2], 2)
    assert [one.text for one in written] == ["d e\na b", ""]
    reference = [{"source": "a b", "target": "a b\nd e", "target_language": "en"}]
    scores = scoring.text_scores(reference, [written[0].text])
    assert scores["rougeLsum"]["score"] == pytest.approx(100)
    assert scores["rougeL"]["score"] == pytest.approx(50)
    assert "note" not in scores["rougeLsum"]


def test_hypotheses_that_the_length_limit_ends_are_counted(base, monkeypatch):
    tuned, task, sequence_format, examples = base
    words = tuned.tokenizer.encode("a b c d e")
    texts = [Generation(words, at_limit=True), Generation(words), Generation(words, at_limit=True)]
    monkeypatch.setattr(scoring, "generate", lambda *_, **__: [[text] for text in texts])
    decoding = DecodingConfig(stop=("nowhere",))
    summary, rows = scoring.score_split(
        tuned, task, sequence_format, examples[:3], batch_size=3, generate_examples=None, decoding=decoding
    )
    assert (summary["generated"], summary["at_limit"]) == (3, 2)
    assert [row["at_limit"] for row in rows] == [True, False, True]
    assert "2 of 3 hypotheses (67%) were cut off at the limit of 12 tokens; raise" in scoring.limit_warning(summary, 12)
    few = scoring.limit_warning({"at_limit": 1, "generated": 100}, 12)
    assert "1 of 100" in few
    assert "raise" not in few
    assert scoring.limit_warning({**summary, "at_limit": 0}, 12) == ""
    assert (pooled_values({"x": summary, "y": summary})["generated"], pooled_values({"x": summary})["at_limit"]) == (
        6,
        2,
    )
    stopped = DecodingConfig(stop=(tuned.tokenizer.decode(words[-1:]).strip(),))  # which ends at the limit by itself
    assert not any(
        one.at_limit for one in scoring.generate_hypotheses(tuned, task, sequence_format, examples, 3, stopped)
    )


def test_languages_are_scored_separately_and_weighted_by_examples():
    german = [{"source": "a house", "target": "Das ist ein Haus am See .", "target_language": "de"}] * 3
    chinese = [{"source": "a house", "target": "这 是 一 座 湖 边 的 房 子 。", "target_language": "zh"}]
    mixed = [german[0], chinese[0], german[1], german[2]]
    texts = ["Das ist ein Haus .", "这 是 房 子 。", "Das Haus am See .", "Das ist ein Haus am See ."]
    found = scoring.text_scores(mixed, texts)
    apart = {
        "de": score([texts[0], texts[2], texts[3]], [[e["target"]] for e in german], "de"),
        "zh": score([texts[1]], [[chinese[0]["target"]]], "zh"),
    }
    for name, entry in found.items():
        expected = (3 * apart["de"][name]["score"] + apart["zh"][name]["score"]) / 4
        assert entry["score"] == pytest.approx(expected)
    assert "tok:13a" in found["bleu"]["signature"]
    assert "tok:zh" in found["bleu"]["signature"]
    assert scoring.text_scores(german, texts[:3]) == score(texts[:3], [[e["target"]] for e in german], "de")


def test_baseline_texts(tiny_runs):
    translation = load_task(tiny_runs.config("full")["task"])
    assert scoring.baseline_texts(translation, [{"source": "a b. c"}]) == ["a b. c"]
    summarization = load_task({"name": "grammar_summarization"})
    documents = [{"source": text} for text in ("One. Two. Three", "一。二。", "first\nsecond", "no end")]
    assert scoring.baseline_texts(summarization, documents) == ["One.", "一。", "first", "no end"]


def test_pooled_test_sets():
    metrics = [{"bleu": {"score": 10.0, "signature": "s"}}, {"bleu": {"score": 20.0, "signature": "s"}}]
    tests = {
        "2020": {"loss": 1.0, "tokens": 100, "entropy": 0.5, "metrics": metrics[0]},
        "2021": {"loss": 2.0, "tokens": 300, "entropy": 0.7, "metrics": metrics[1]},
    }
    assert pooled_values(tests)["loss"] == pytest.approx(1.75)
    assert pooled_values(tests)["entropy"] == pytest.approx(0.65)
    assert pooled_values(tests)["metrics"] == {"bleu": 15.0}
    del tests["2020"]["entropy"]
    assert "entropy" not in pooled_values(tests)
    with pytest.raises(ConfigError, match="has no test set"):
        pooled_values({})
