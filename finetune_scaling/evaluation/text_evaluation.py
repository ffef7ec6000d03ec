"""Loss on text under the base model's pretraining objective; tuned and untuned models read the same masked rows."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from finetune_scaling import configuration
from finetune_scaling.data.corpus import CorpusTexts
from finetune_scaling.data.loader import Batches, encode_corpus, pretraining_evaluation_batches
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.likelihood import likelihood
from finetune_scaling.evaluation.scoring import Losses, row_losses
from finetune_scaling.runs.evaluators import Evaluator, TextEvaluator
from finetune_scaling.runs.model_loading import TunedModel
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.runs.run_data import DEV_SEED
from finetune_scaling.runs.run_directory import RunDirectory

SPLIT = "text"  # the name of the only split in records


@dataclasses.dataclass(frozen=True, eq=False)
class TextEvaluation:
    """The first `rows` packed rows of a text, ready to be scored.

    Attributes:
      sizes: int64[rows], the UTF-8 bytes that each row's predicted tokens cover.
      length: tokens per row.
      settings: everything that determines the loss except the model, as plain data.
    """

    batches: Batches
    rows: int
    sizes: np.ndarray
    length: int
    settings: dict[str, Any]

    splits: ClassVar[tuple[str, ...]] = (SPLIT,)
    demonstrations: ClassVar[tuple[()]] = ()
    baselines: ClassVar[dict[str, Any]] = {}

    def score(self, model: TunedModel, batch_size: int) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
        """Return the loss (nats per token and per byte) and each row's sums; the batches have their own size."""
        losses = Losses(*(values[: self.rows] for values in row_losses(model, self.batches)))
        tokens, size = int(losses.tokens.sum()), int(self.sizes.sum())
        scores = {"loss": losses.mean, **likelihood(float(losses.sums.sum()), tokens, size)}
        columns = zip(losses.sums.tolist(), losses.tokens.tolist(), self.sizes.tolist(), strict=True)
        rows = [{"index": i, "loss_sum": loss, "tokens": n, "bytes": b} for i, (loss, n, b) in enumerate(columns)]
        summary = {**scores, "tokens": tokens, "bytes": size, "rows": self.rows}
        return {**scores, "metrics": {}, "splits": {SPLIT: summary}}, {SPLIT: rows}


def prepare_text_evaluation(
    evaluator: TextEvaluator, run_config: RunConfig, tokenizer: Tokenizer, batch_size: int
) -> TextEvaluation:
    """Pack and mask the text of an evaluator for a model of `run_config`; cached per process.

    Raises ConfigError if the evaluator names no text and there is no pretraining run to take it from, DataError if the
    text is missing.
    """
    if not _is_complete(evaluator):
        pretraining = _pretraining_config(run_config)
        if pretraining.corpus is None:
            check_text_is_named(evaluator)
        else:
            evaluator = dataclasses.replace(
                evaluator,
                texts=evaluator.texts or tuple(pretraining.corpus.dev),
                objective=evaluator.objective or pretraining.objective,
                length=evaluator.length or pretraining.sequence.length,
            )
    data_fields = dataclasses.replace(evaluator, untuned=True, every_steps=None)
    return _prepare(configuration.canonical_json(data_fields), tokenizer, batch_size)


def check_text_is_named(evaluator: TextEvaluator) -> None:
    """Raise ConfigError if an evaluator relies on a public model's pretraining text, which is not available."""
    if not _is_complete(evaluator):
        raise ConfigError("the pretraining text of a public model is not available; set texts, objective and length")


def check_public_model_evaluators(evaluators: Mapping[str, Evaluator]) -> None:
    """Raise ConfigError if an evaluator's objective needs input masks or mode tokens, which public models lack."""
    for name, one in evaluators.items():
        objective = one.objective if isinstance(one, TextEvaluator) else None
        if objective is None or objective.name == "causal":
            continue
        if objective.name == "ul2" or objective.bidirectional_input:
            raise ConfigError(
                f"evaluator {name}: public models were not trained with objective = {objective.name}; set "
                "objective.name to causal"
            )


def _is_complete(evaluator: TextEvaluator) -> bool:
    return all((evaluator.texts, evaluator.objective, evaluator.length))


def _pretraining_config(run_config: RunConfig) -> RunConfig:
    """Return the run config that pretrained the base model; a base may itself be a run on another base."""
    while not run_config.is_base:
        if run_config.base is None:
            raise ConfigError("there is no pretraining run to take text from; set texts, objective and length")
        run_config = read_run_config(RunDirectory(run_config.base.run).config)
    return run_config


# The evaluator is passed as JSON, because a CorpusPart cannot be hashed.
@functools.lru_cache(maxsize=8)
def _prepare(evaluator_json: str, tokenizer: Tokenizer, batch_size: int) -> TextEvaluation:
    evaluator = configuration.build(TextEvaluator, json.loads(evaluator_json), "evaluator")
    texts, objective, length = evaluator.texts, evaluator.objective, evaluator.length
    assert texts is not None
    assert objective is not None
    assert length is not None
    documents = encode_corpus(CorpusTexts(texts, "texts"), tokenizer, objective, length)
    batches = pretraining_evaluation_batches(
        documents, tokenizer, objective, batch_size=batch_size, length=length, seed=DEV_SEED
    )
    count = min(evaluator.rows or batches.rows_per_epoch, batches.rows_per_epoch)
    batches = dataclasses.replace(batches, keys=batches.keys[: -(-count // batch_size)])
    sizes, digest = _sizes_and_digest(batches, count, tokenizer)
    settings = {
        "kind": "text",
        "rows": count,
        "length": length,
        "objective": json.loads(evaluator_json)["objective"],
        "tokenizer_sha256": tokenizer.digest,
        "sha256": digest,
    }
    return TextEvaluation(batches, count, sizes, length, settings)


def _sizes_and_digest(batches: Batches, count: int, tokenizer: Tokenizer) -> tuple[np.ndarray, str]:
    """Return the bytes of each row's predicted tokens, int64[count], and the SHA-256 of tokens, targets and weights."""
    size_of = np.array([len(text) for text in tokenizer.token_bytes()], np.int64)
    sizes, digest = [], hashlib.sha256()
    for index in range(len(batches)):
        batch = batches[index]
        rows = count - index * batches.batch_size
        for name in ("tokens", "targets", "weights"):
            digest.update(batch[name][:rows].tobytes())
        sizes.append(np.where(batch["weights"] > 0, size_of[batch["targets"]], 0).sum(axis=1))
    return np.concatenate(sizes)[:count], digest.hexdigest()
