"""A task's held-out examples as an evaluator scores them: loss of targets, and metrics of generated text."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from finetune_scaling import configuration
from finetune_scaling.configuration import suggestion
from finetune_scaling.data.encoders.interface import ExampleEncoder
from finetune_scaling.data.encoders.make import make_encoder
from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.data.objectives import ObjectiveConfig
from finetune_scaling.data.task import Task, load_task
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.evaluation.few_shot import (
    Demonstration,
    Direction,
    choose_demonstrations,
    direction,
    with_demonstrations,
)
from finetune_scaling.evaluation.scoring import (
    Example,
    baseline_texts,
    mean_scores,
    pooled_scores,
    score_split,
    text_scores,
)
from finetune_scaling.evaluation.zero_shot import zero_shot_task
from finetune_scaling.metrics.learned.metric import LearnedMetric
from finetune_scaling.metrics.metric import Metric
from finetune_scaling.runs.evaluators import TaskEvaluator
from finetune_scaling.runs.model_loading import TunedModel
from finetune_scaling.runs.run_config import RunConfig, SequenceConfig
from finetune_scaling.runs.run_data import held_out_subset

BASELINES = {"translation": "copy", "summarization": "lead_1"}  # model-free baseline of each kind of task
Rows = dict[str, list[dict[str, Any]]]  # split -> one row per example


class EvaluatedSplit(NamedTuple):
    """The examples of a split; the first `generate` of them are decoded."""

    examples: Sequence[Example]
    generate: int


@dataclasses.dataclass(frozen=True, eq=False)
class TaskEvaluation:
    """An evaluator's splits of a task, with demonstrations in front of every prompt, ready to be scored.

    Attributes:
      demonstrations: the few-shot demonstrations of all directions.
      settings: everything that determines the scores except the model, as plain data.
      decoding: how text is generated.
      metrics: metrics of generated text; None for the default ones.
    """

    task: Task
    sequence_format: SequenceFormat
    splits: Mapping[str, EvaluatedSplit]
    demonstrations: Sequence[Demonstration]
    settings: dict[str, Any]
    decoding: DecodingConfig
    metrics: tuple[Metric, ...] | None

    @property
    def length(self) -> int:
        """Tokens per sequence, without the soft prompt."""
        return self.sequence_format.length

    @property
    def generates(self) -> bool:
        """Whether any example is decoded."""
        return any(split.generate for split in self.splits.values())

    def score(self, model: TunedModel, batch_size: int) -> tuple[dict[str, Any], Rows]:
        """Return a summary, pooled and per split, and the rows of every split."""
        summaries, rows = {}, {}
        for name, (examples, generate) in self.splits.items():
            summaries[name], rows[name] = score_split(
                model,
                self.task,
                self.sequence_format,
                examples,
                batch_size=batch_size,
                generate_examples=generate,
                metrics=self.metrics,
                decoding=self.decoding,
            )
        return {**pooled_scores(summaries), "splits": summaries}, rows

    @functools.cached_property
    def baselines(self) -> dict[str, Any]:
        """Metrics of the model-free baseline (copied source or first sentence) on the examples that are decoded."""
        decoded = [list(examples[:generate]) for examples, generate in self.splits.values() if generate]
        scored = [text_scores(some, baseline_texts(self.task, some), self.metrics) for some in decoded]
        return {BASELINES[self.task.kind]: {"metrics": mean_scores(scored)}} if scored else {}


def prepare_task_evaluation(
    evaluator: TaskEvaluator,
    run_config: RunConfig,
    tokenizer: Tokenizer,
    finetuning: RunConfig | None = None,
    metrics: tuple[Metric, ...] | None = None,
) -> TaskEvaluation:
    """Open an evaluator's splits for a model of `run_config`; cached per process.

    Args:
      finetuning: for a model without a task, the run config whose task it is scored on.

    Raises:
      ConfigError: there is no such task or split.
      DataError: files or demonstrations are missing.
    """
    source = finetuning if run_config.task is None and finetuning is not None else run_config
    task = evaluator.task or source.task
    if task is None:
        what = "a pretraining run" if source.is_base else "an imported adapter"
        raise ConfigError(
            f"{what} has no task; give a finetuning run's config (--config), or set the evaluator's `task`"
        )
    decoding = evaluator.decoding or source.evaluation.decoding
    # Only the fields that determine the data, so that evaluators share cached data.
    data_fields = dataclasses.replace(evaluator, task=None, decoding=None, untuned=True, every_steps=None)
    trained = source.objective if source.is_base else source.sequence
    return _prepare(data_fields, configuration.canonical_json(task), trained, tokenizer, decoding, metrics)


def check_evaluator_splits(evaluator: TaskEvaluator, run_config: RunConfig) -> None:
    """Open an evaluator's splits without a tokenizer. Raises the errors of `prepare_task_evaluation`."""
    _open_splits(evaluator, _evaluated_task(evaluator, evaluator.task or run_config.task or {}))


def _evaluated_task(evaluator: TaskEvaluator, fields: Mapping[str, Any]) -> Task:
    task = load_task(fields)
    return zero_shot_task(task) if evaluator.directions == "zero_shot" else task


# The runs of a study share their evaluations.
@functools.lru_cache(maxsize=32)
def _prepare(
    evaluator: TaskEvaluator,
    task_text: str,
    trained: SequenceConfig | ObjectiveConfig,
    tokenizer: Tokenizer,
    decoding: DecodingConfig,
    metrics: tuple[Metric, ...] | None,
) -> TaskEvaluation:
    task = _evaluated_task(evaluator, json.loads(task_text))
    splits = _open_splits(evaluator, task)
    if isinstance(trained, SequenceConfig):
        sequence_format = trained.format(task.max_source_tokens, task.max_target_tokens)
    else:
        example = next(iter(splits.values())).examples[0]
        template_tokens = len(make_encoder(tokenizer, task.template).inputs([{**example, "source": ""}])[0])
        sequence_format = base_sequence_format(trained, task, template_tokens)
    chosen: dict[Direction, list[Demonstration]] = {}
    if evaluator.shots:
        directions = list(dict.fromkeys(direction(example) for one in splits.values() for example in one.examples))
        chosen = choose_demonstrations(evaluator, task, directions, tokenizer, sequence_format)
        task, sequence_format = with_demonstrations(task, sequence_format, chosen)
    encoder = make_encoder(tokenizer, task.template)
    encoder.check_stop_strings(decoding.stop)
    settings = _settings(evaluator, task, sequence_format, splits, encoder)
    settings["decoding"] = configuration.plain(decoding)
    if metrics is not None:
        settings["metrics"] = [one.identity if isinstance(one, LearnedMetric) else one.name for one in metrics]
    demonstrations = [one for per_direction in chosen.values() for one in per_direction]
    return TaskEvaluation(task, sequence_format, splits, demonstrations, settings, decoding, metrics)


def _open_splits(evaluator: TaskEvaluator, task: Task) -> dict[str, EvaluatedSplit]:
    names = list(task.test) if evaluator.splits is None else list(evaluator.splits)
    if not names:
        raise DataError(f"task {task.name} has no test set; name another split, e.g. dev")
    for name in names:
        if name not in task.splits():
            raise DataError(f"task {task.name} has no split {name!r}{suggestion(name, task.splits())}")
    splits = {}
    for name in names:
        examples = list(held_out_subset(task.examples(name), evaluator.examples))
        generate = len(examples) if evaluator.generate is None else min(evaluator.generate, len(examples))
        splits[name] = EvaluatedSplit(examples, generate)
    return splits


def base_sequence_format(objective: ObjectiveConfig, task: Task, template_tokens: int) -> SequenceFormat:
    """Return the format of a task's sequences for a base model: its attention and mode token, and the task's limits."""
    mode: Literal["", "S"] = "S" if objective.name == "ul2" else ""
    return SequenceFormat(
        length=bool(mode) + template_tokens + task.max_source_tokens + task.max_target_tokens,
        max_source_tokens=task.max_source_tokens,
        max_target_tokens=task.max_target_tokens,
        bidirectional_input=objective.bidirectional,
        mode=mode,
    )


def _settings(
    evaluator: TaskEvaluator,
    task: Task,
    sequence_format: SequenceFormat,
    splits: Mapping[str, EvaluatedSplit],
    encoder: ExampleEncoder,
) -> dict[str, Any]:
    """Identify the evaluated data by content rather than by path, so that files may move."""
    return {
        "kind": evaluator.kind,
        "task": task.name,
        "shots": evaluator.shots,
        "form": configuration.plain(sequence_format),
        "template": {
            name: value
            for name, value in configuration.plain(task.template).items()
            if name in ("name", "input", "target", "system", "variables")
        },
        "demonstration": evaluator.demonstration if evaluator.shots else None,
        "tokenizer_sha256": encoder.tokenizer.digest,
        **({"encoding": encoder.identity} if encoder.identity else {}),
        "sets": {
            name: {"examples": len(one.examples), "generated": one.generate, "sha256": _digest(task, one.examples)}
            for name, one in splits.items()
        },
    }


def _digest(task: Task, examples: Sequence[Example]) -> str:
    """Return the SHA-256 of inputs (with demonstrations), targets, languages and references."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([*task.template.render(example), *direction(example), example["target"]]).encode())
    return digest.hexdigest()
