"""Scoring a model by evaluators: everything is opened and checked first, a base answers once for all runs on it."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import ConfigError, DataError, WorkdirError
from finetune_scaling.evaluation import records
from finetune_scaling.evaluation.metric import Metric
from finetune_scaling.evaluation.questions import Questions, Rows, read_questions
from finetune_scaling.evaluation.rows import EVALUATION
from finetune_scaling.evaluation.running_text import RunningText, read_running_text
from finetune_scaling.files import Location
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.runs.evaluators import Evaluator, TextEvaluator
from finetune_scaling.runs.model_loading import TunedModel, find_base, find_run, load_run_checkpoint, load_untuned
from finetune_scaling.runs.run_config import BaseConfig, RunConfig
from finetune_scaling.runs.run_directory import lock_directory
from finetune_scaling.sharding.mesh import ShardingConfig
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS

log = logging.getLogger(__name__)

Asked = Questions | RunningText


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """One evaluator and what it asks: opened, and known to fit the model's context."""

    name: str
    evaluator: Evaluator
    asked: Asked
    batch_size: int

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the scores beside the model."""
        return self.asked.settings

    def numbers(self, model: TunedModel) -> dict[str, float]:
        """Loss and metrics as columns: what a run writes down while it trains."""
        summary, _ = self.asked.score(model, self.batch_size)
        return records.columns(self.name, summary)


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A model to score. directory: where its evaluations go below; checkpoint: step and digest of its parameters (of a
    public model the digest of its files alone).

    base: whose answers stand beside its own; None where it has none. load: reads its parameters. is_base: whether it is
    scored as what runs are tuned from.
    """

    directory: Location
    run_config: RunConfig
    checkpoint: Mapping[str, Any]
    base: BaseConfig | None
    load: Callable[[], TunedModel]
    is_base: bool = False

    def record_path(self, prepared: Prepared) -> Location:
        """Where the record of an evaluation belongs: NAME.json; of a base, by step (or files) and settings."""
        folder = self.directory / EVALUATION
        if not self.is_base:
            return folder / f"{prepared.name}.json"
        digest = records.settings_digest(prepared.settings)
        return folder / self._parameters_name / f"{prepared.name}.{digest}.json"

    @property
    def _parameters_name(self) -> str:
        """Names a base's parameters among all that were scored in its directory."""
        if "step" in self.checkpoint:
            return f"step_{self.checkpoint['step']}"
        return f"weights_{self.checkpoint['files_sha256'][:12]}"


def found_subject(
    directory: str | Path,
    step: int | None,
    sharding: ShardingConfig,
    model_changes: Mapping[str, Any],
) -> tuple[Subject, ModelConfig]:
    """The subject that a directory holds, a finetuned run or a base, and its model's config; no array is read yet.

    Raises as `find_run` does.
    """
    found = find_run(directory, step, sharding, model_changes)
    run_config, metadata = found.run_config, found.metadata
    model = configuration.build(ModelConfig, metadata["model"], f"{found.path}: model")
    checkpoint = {"step": int(found.path.name), "arrays_digest": metadata["arrays_digest"]}
    if not run_config.is_base:
        return Subject(
            found.directory, run_config, checkpoint, run_config.base, lambda: load_run_checkpoint(found)
        ), model
    itself = BaseConfig(str(found.directory), checkpoint["step"])
    tokenizer = load_tokenizer(run_config.tokenizer)
    subject = Subject(
        found.directory,
        run_config,
        checkpoint,
        None,
        lambda: load_untuned(itself, tokenizer, sharding, model_changes),
        is_base=True,
    )
    return subject, model


def prepare_evaluators(
    evaluators: Mapping[str, Evaluator],
    run_config: RunConfig,
    tokenizer: Tokenizer,
    model: ModelConfig,
    finetuning: RunConfig | None = None,
    metrics: tuple[Metric, ...] | None = None,
) -> list[Prepared]:
    """Opens what evaluators ask of a model and checks that it fits.

    finetuning: for a base, the run config whose task it is asked; metrics: of generated text, None for the default.
    Raises ConfigError or DataError, naming the evaluator.
    """
    return [_prepare(name, one, run_config, tokenizer, model, finetuning, metrics) for name, one in evaluators.items()]


def _prepare(
    name: str,
    evaluator: Evaluator,
    run_config: RunConfig,
    tokenizer: Tokenizer,
    model: ModelConfig,
    finetuning: RunConfig | None,
    metrics: tuple[Metric, ...] | None,
) -> Prepared:
    size = run_config.evaluation.batch_size
    asked: Asked
    try:
        if isinstance(evaluator, TextEvaluator):
            asked = read_running_text(evaluator, run_config, tokenizer, size)
        else:
            asked = read_questions(evaluator, run_config, tokenizer, finetuning, metrics)
    except (ConfigError, DataError) as error:
        raise type(error)(f"evaluator {name}: {error}") from error
    prompt = configure(METHODS, run_config.method).prefix_length
    needed = asked.length + prompt
    if needed > model.max_length:
        soft = f" with a soft prompt of {prompt}" if prompt else ""
        raise ConfigError(
            f"evaluator {name}: {asked.explain_length()}{soft} need {needed} tokens, more than the model's context, "
            f"max_length = {model.max_length}; {asked.mend}"
        )
    return Prepared(name, evaluator, asked, size)


def done(subject: Subject, prepared: Prepared, out: Location | None = None) -> records.Record | None:
    """The record of an evaluation that is there already, the base's answers included where they are wanted.

    Raises WorkdirError where there is a record of other settings.
    """
    found = records.finished(out or subject.record_path(prepared), prepared.settings, subject.checkpoint)
    return None if found is None or _lacks_untuned(found, subject, prepared) else found


def evaluate(subject: Subject, prepared: Prepared, out: Location | None = None, again: bool = False) -> records.Record:
    """The record of an evaluation: the one that is there, or a new one, its rows beside it.

    out: file for the record, in place of its own. again: makes it anew, whatever is there.
    Raises WorkdirError where there is a record of other settings.
    """
    path = out or subject.record_path(prepared)
    record = None if again else records.finished(path, prepared.settings, subject.checkpoint)
    if record is None:
        record, rows = _scored(prepared, subject.checkpoint, subject.load())
        records.write_record(path, record, rows)
    if _lacks_untuned(record, subject, prepared):
        record["untuned"] = _untuned(subject, prepared)
        records.write_record(path, record, {})
    return record


def _lacks_untuned(record: records.Record, subject: Subject, prepared: Prepared) -> bool:
    """Whether what the base scores without tuning is wanted and missing."""
    return prepared.evaluator.untuned and subject.base is not None and "untuned" not in record


def _scored(prepared: Prepared, checkpoint: Mapping[str, Any], model: TunedModel) -> tuple[records.Record, Rows]:
    with model.sharding.use_mesh():
        summary, rows = prepared.asked.score(model, prepared.batch_size)
    record = {
        "evaluator": prepared.name,
        "checkpoint": dict(checkpoint),
        "settings": prepared.settings,
        **summary,
        "baselines": dict(prepared.asked.baselines),
        "demonstrations": [one.record() for one in prepared.asked.shown],
    }
    return record, rows


def _untuned(subject: Subject, prepared: Prepared) -> records.Record:
    """What the base scores without tuning: once for all runs on it, kept in its own directory."""
    assert subject.base is not None
    found = find_base(subject.base)
    run_config = subject.run_config
    base = BaseConfig(str(found.directory), int(found.path.name))
    checkpoint = {"step": base.step, "arrays_digest": found.metadata["arrays_digest"]}
    tokenizer = load_tokenizer(run_config.tokenizer)
    itself = Subject(
        found.directory,
        found.run_config,
        checkpoint,
        None,
        lambda: load_untuned(base, tokenizer, run_config.sharding, run_config.model),
        is_base=True,
    )
    path = itself.record_path(prepared)
    try:
        with lock_directory(path.parent, wait=True):  # runs that share a base may be scored at the same time
            record = evaluate(itself, prepared, again=records.is_of_another(path, checkpoint))
    except WorkdirError as error:
        raise WorkdirError(f"{error}; to leave the base's own scores out, give --nountuned") from error
    return {**records.own_scores(record), "record": f"{path.parent.parent.name}/{path.parent.name}/{path.name}"}
