"""Loss on running text under the base's pretraining objective: tuned and untuned models read the same masked rows."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_scaling import configuration
from finetune_scaling.data.corpus import CorpusPart, Texts
from finetune_scaling.data.loader import Batches, pretraining_evaluation_batches
from finetune_scaling.data.objectives import ObjectiveConfig
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.likelihood import likelihood
from finetune_scaling.evaluation.scoring import Losses, row_losses
from finetune_scaling.runs.evaluators import TextEvaluator
from finetune_scaling.runs.model_loading import TunedModel
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.runs.run_data import DEV_SEED
from finetune_scaling.runs.run_directory import RunDirectory

SET = "text"  # the one set of rows of running text


@dataclasses.dataclass(frozen=True, eq=False)
class RunningText:
    """The first `rows` packed rows of some text.

    sizes: int64[rows], the bytes that the predicted tokens of each stand for. settings: all that decides the loss
    beside the model.
    """

    batches: Batches
    rows: int
    sizes: np.ndarray
    length: int
    settings: dict[str, Any]

    mend = "lower the evaluator's length"
    shown = ()
    baselines: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def explain_length(self) -> str:
        """What the tokens of a sequence are taken by, for an error."""
        return f"rows of {self.length} tokens"

    def score(self, model: TunedModel, batch_size: int) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
        """Loss in nats a token and a byte, and the rows' own sums; `batch_size` is that of the rows already."""
        every = row_losses(model, self.batches)
        losses = Losses(every.sums[: self.rows], every.tokens[: self.rows])
        tokens, size = int(losses.tokens.sum()), int(self.sizes.sum())
        figures = {"loss": losses.mean, **likelihood(float(losses.sums.sum()), tokens, size)}
        columns = {"loss_sum": losses.sums.tolist(), "tokens": losses.tokens.tolist(), "bytes": self.sizes.tolist()}
        rows = [{"index": i, **{name: column[i] for name, column in columns.items()}} for i in range(self.rows)]
        summary = {**figures, "tokens": tokens, "bytes": size, "rows": self.rows}
        return {**figures, "metrics": {}, "splits": {SET: summary}}, {SET: rows}


def read_running_text(
    evaluator: TextEvaluator, run_config: RunConfig, tokenizer: Tokenizer, batch_size: int
) -> RunningText:
    """The rows of an evaluator for a model of `run_config`; encoded once in a process.

    Raises ConfigError where there is no base whose text could be taken, DataError where the text is missing.
    """
    source = None if _is_complete(evaluator) else _pretraining(run_config)
    if source is not None and source.corpus is None:
        check_of_public(evaluator)
    texts = evaluator.texts or (source.corpus.dev if source and source.corpus else None)
    assert texts is not None
    objective = evaluator.objective or source.objective  # type: ignore[union-attr]
    length = evaluator.length or source.sequence.length  # type: ignore[union-attr]
    return _read(
        configuration.canonical_json(texts),
        configuration.canonical_json(objective),
        length,
        evaluator.rows,
        tokenizer,
        batch_size,
    )


def check_of_public(evaluator: TextEvaluator) -> None:
    """Raises ConfigError where an evaluator would take the text that a public model was pretrained on."""
    if not _is_complete(evaluator):
        raise ConfigError("a public model has no pretraining text of its own; give texts, objective and length")


def _is_complete(evaluator: TextEvaluator) -> bool:
    return all((evaluator.texts, evaluator.objective, evaluator.length))


def _pretraining(run_config: RunConfig) -> RunConfig:
    """The run config that pretrained the base, or the base of the base."""
    while not run_config.is_base:
        if run_config.base is None:
            raise ConfigError("nothing that was pretrained is below the run; give texts, objective and length")
        run_config = read_run_config(RunDirectory(run_config.base.run).config)
    return run_config


@functools.lru_cache(maxsize=8)
def _read(
    texts: str, objective: str, length: int, rows: int | None, tokenizer: Tokenizer, batch_size: int
) -> RunningText:
    parts = [configuration.build(CorpusPart, part, "texts") for part in json.loads(texts)]
    built = configuration.build(ObjectiveConfig, json.loads(objective), "objective")
    batches = pretraining_evaluation_batches(
        Texts(parts, "texts"), tokenizer, built, batch_size=batch_size, length=length, seed=DEV_SEED
    )
    count = min(rows or batches.rows_per_epoch, batches.rows_per_epoch)
    few = dataclasses.replace(batches, keys=batches.keys[: -(-count // batch_size)])
    sizes, digest = _read_through(few, count, tokenizer)
    settings = {
        "kind": "text",
        "rows": count,
        "length": length,
        "objective": json.loads(objective),
        "tokenizer_sha256": tokenizer.digest,
        "sha256": digest,
    }
    return RunningText(few, count, sizes, length, settings)


def _read_through(batches: Batches, count: int, tokenizer: Tokenizer) -> tuple[np.ndarray, str]:
    """Bytes of each row's predicted tokens, int64[count]; SHA-256 of the rows' tokens, and of which are predicted."""
    size_of = np.array([len(text) for text in tokenizer.token_bytes()], np.int64)
    sizes, digest = [], hashlib.sha256()
    for number in range(len(batches)):
        batch = batches[number]
        left = count - number * batches.batch_size
        for name in ("tokens", "targets", "weights"):
            digest.update(batch[name][:left].tobytes())
        sizes.append(np.where(batch["weights"] > 0, size_of[batch["targets"]], 0).sum(axis=1))
    return np.concatenate(sizes)[:count], digest.hexdigest()
