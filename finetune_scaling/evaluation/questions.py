"""What an evaluator asks of a model, opened and checked before any parameter is read: questions of a task."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from finetune_scaling import configuration
from finetune_scaling.configuration import suggestion
from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.data.examples import check_references
from finetune_scaling.data.objectives import ObjectiveConfig
from finetune_scaling.data.task import Task, load_task
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.evaluation.few_shot import (
    Demonstration,
    Direction,
    demonstrations,
    direction,
    with_demonstrations,
)
from finetune_scaling.evaluation.learned.metric import LearnedMetric
from finetune_scaling.evaluation.metric import Metric
from finetune_scaling.evaluation.scoring import (
    Example,
    baseline_texts,
    mean_scores,
    pooled_scores,
    score_split,
    text_scores,
)
from finetune_scaling.evaluation.zero_shot import zero_shot_task
from finetune_scaling.runs.evaluators import TaskEvaluator
from finetune_scaling.runs.model_loading import TunedModel
from finetune_scaling.runs.run_config import RunConfig, SequenceConfig
from finetune_scaling.runs.run_data import held_out_subset

BASELINES = {"translation": "copy", "summarization": "lead_1"}  # what costs nothing, by the kind of task
Rows = dict[str, list[dict[str, Any]]]  # per-example records of each set


class QuestionSet(NamedTuple):
    """A set of examples, and how many of them are decoded."""

    examples: Sequence[Example]
    generate: int


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
    """A task's held-out examples in the form in which a model reads them, demonstrations in front.

    settings: all that decides the scores beside the model, as plain data. decoding: how it writes; metrics: of that,
    None for the default ones.
    """

    task: Task
    form: SequenceFormat
    sets: Mapping[str, QuestionSet]
    shown: Sequence[Demonstration]
    settings: dict[str, Any]
    decoding: DecodingConfig
    metrics: tuple[Metric, ...] | None

    @property
    def length(self) -> int:
        """Tokens of a sequence, soft prompt apart."""
        return self.form.length

    def explain_length(self) -> str:
        """What the tokens of a sequence are taken by, for an error."""
        if not self.shown:
            return f"questions and answers of {self.length} tokens"
        per_direction: dict[tuple[str, str], int] = {}
        for one in self.shown:
            languages = direction(one.example)
            per_direction[languages] = per_direction.get(languages, 0) + one.tokens
        longest = max(per_direction.values())
        count = len(self.shown) // len(per_direction)
        return f"{count} demonstrations of {longest} tokens and questions and answers of {self.length - longest}"

    @property
    def mend(self) -> str:
        """What to do where a sequence is too long."""
        return (
            "lower shots, or set or lower max_shot_tokens"
            if self.shown
            else "lower sequence.length, or max_source_tokens and max_target_tokens of a task that a base is asked"
        )

    def score(self, model: TunedModel, batch_size: int) -> tuple[dict[str, Any], Rows]:
        """Scores a model: a summary, pooled and for each set, and the sets' records."""
        tests, rows = {}, {}
        for name, (examples, generate) in self.sets.items():
            tests[name], rows[name] = score_split(
                model,
                self.task,
                self.form,
                examples,
                batch_size=batch_size,
                generate_examples=generate,
                metrics=self.metrics,
                decoding=self.decoding,
            )
        return {**pooled_scores(tests), "splits": tests}, rows

    @functools.cached_property
    def baselines(self) -> dict[str, Any]:
        """Metrics of what costs nothing on the examples that are decoded: the copied source, or the first sentence."""
        decoded = [list(examples[:generate]) for examples, generate in self.sets.values() if generate]
        scored = [text_scores(some, baseline_texts(self.task, some), self.metrics) for some in decoded]
        return {BASELINES[self.task.kind]: {"metrics": mean_scores(scored)}} if scored else {}


def read_questions(
    evaluator: TaskEvaluator,
    run_config: RunConfig,
    tokenizer: Tokenizer,
    finetuning: RunConfig | None = None,
    metrics: tuple[Metric, ...] | None = None,
) -> Questions:
    """The questions of an evaluator for a model of `run_config`; opened once in a process.

    finetuning: for what has no task of its own, the run config whose task it is asked, in the form of its sequences.
    Raises ConfigError where there is no such task or set, DataError where its files or demonstrations are missing.
    """
    asking = finetuning if run_config.task is None and finetuning is not None else run_config
    task = evaluator.task or asking.task
    if task is None:
        what = "a pretraining run" if asking.is_base else "an adapter that came in alone"
        raise ConfigError(f"{what} has no task; give a finetuning run's config (--config), or the evaluator a task")
    decoding = evaluator.decoding or asking.evaluation.decoding
    # Of the evaluator what decides the questions.
    alone = dataclasses.replace(evaluator, task=None, decoding=None, untuned=True, every_steps=None)
    form = asking.objective if asking.is_base else asking.sequence
    return _read(alone, configuration.canonical_json(task), form, tokenizer, decoding, metrics)


def check_sets(evaluator: TaskEvaluator, run_config: RunConfig) -> None:
    """Opens the sets of an evaluator, for which no tokenizer has to be there yet. Raises as `read_questions` does."""
    task = load_task(evaluator.task or run_config.task or {})
    if evaluator.directions == "zero_shot":
        task = zero_shot_task(task)
    _open(evaluator, task)


# Runs of one study share questions: read, drawn and encoded once in a process.
@functools.lru_cache(maxsize=32)
def _read(
    evaluator: TaskEvaluator,
    task_text: str,
    trained: SequenceConfig | ObjectiveConfig,
    tokenizer: Tokenizer,
    decoding: DecodingConfig,
    metrics: tuple[Metric, ...] | None,
) -> Questions:
    task = load_task(json.loads(task_text))
    if evaluator.directions == "zero_shot":
        task = zero_shot_task(task)
    sets = _open(evaluator, task)
    if isinstance(trained, SequenceConfig):
        form = trained.format(task.max_source_tokens, task.max_target_tokens)
    else:
        form = _form_for_base(trained, task, sets, tokenizer)
    shown: dict[Direction, list[Demonstration]] = {}
    if evaluator.shots:
        directions = list(dict.fromkeys(direction(example) for one in sets.values() for example in one.examples))
        shown = demonstrations(evaluator, task, directions, tokenizer, form)
        task, form = with_demonstrations(task, form, shown)
    settings = _settings(evaluator, task, form, sets, tokenizer)
    settings["decoding"] = configuration.plain(decoding)
    if decoding.stop:
        tokenizer.token_bytes()  # raises, before anything is scored, where they are not known
    if metrics is not None:
        settings["metrics"] = [one.identity if isinstance(one, LearnedMetric) else one.name for one in metrics]
    every = [one for chosen in shown.values() for one in chosen]
    return Questions(task, form, sets, every, settings, decoding, metrics)


def _open(evaluator: TaskEvaluator, task: Task) -> dict[str, QuestionSet]:
    """The evaluator's share of each of its sets."""
    names = list(task.test) if evaluator.splits is None else list(evaluator.splits)
    if not names:
        raise DataError(f"task {task.name} has no test set; name a split, e.g. dev")
    for name in names:
        if name not in task.splits():
            raise DataError(f"task {task.name} has no split {name!r}{suggestion(name, task.splits())}")
    sets = {}
    for name in names:
        chosen = held_out_subset(task.examples(name), evaluator.examples)
        examples = [chosen[i] for i in range(len(chosen))]
        generate = len(examples) if evaluator.generate is None else min(evaluator.generate, len(examples))
        check_references(task.name, name, examples, generate)
        sets[name] = QuestionSet(examples, generate)
    return sets


def _form_for_base(
    objective: ObjectiveConfig, task: Task, sets: Mapping[str, QuestionSet], tokenizer: Tokenizer
) -> SequenceFormat:
    example = next(iter(sets.values())).examples[0]
    template = len(tokenizer.encode(task.template.render({**example, "source": ""})[0]))
    return form_of_pretraining(objective, task, template)


def form_of_pretraining(objective: ObjectiveConfig, task: Task, template_tokens: int) -> SequenceFormat:
    """Sequences for a model that was only pretrained: attention and mode as then, room for the task's limits."""
    mode: Literal["", "S"] = "S" if objective.name == "ul2" else ""
    return SequenceFormat(
        length=bool(mode) + template_tokens + task.max_source_tokens + task.max_target_tokens,
        max_source_tokens=task.max_source_tokens,
        max_target_tokens=task.max_target_tokens,
        bidirectional_input=objective.bidirectional_input and objective.name != "causal",
        mode=mode,
    )


def _settings(
    evaluator: TaskEvaluator,
    task: Task,
    form: SequenceFormat,
    sets: Mapping[str, QuestionSet],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """By content and not by place: the same texts elsewhere are the same questions."""
    return {
        "kind": evaluator.kind,
        "task": task.name,
        "shots": evaluator.shots,
        "form": configuration.plain(form),
        "template": {"input": task.template.input, "target": task.template.target},
        "demonstration": evaluator.demonstration if evaluator.shots else None,
        "tokenizer_sha256": tokenizer.digest,
        "sets": {
            name: {"examples": len(one.examples), "generated": one.generate, "sha256": _digest(task, one.examples)}
            for name, one in sets.items()
        },
    }


def _digest(task: Task, examples: Sequence[Example]) -> str:
    """SHA-256 of what the model is given and of what it is held to, demonstrations included."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([*task.template.render(example), *direction(example), example["target"]]).encode())
    return digest.hexdigest()
