"""Few-shot prompts: a fixed choice of a task's own examples as demonstrations before every question.

    input of a question = demonstration 1 ... demonstration k, then the input that the task's template writes

Demonstrations are part of the input: the loss is taken of the question's own target alone.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.data.examples import Example, Examples
from finetune_scaling.data.task import Task
from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.runs.evaluators import TaskEvaluator

_TRIED = (
    2000  # examples that are looked at for demonstrations; as many for every k, so that those of 1 begin those of 5
)

Direction = tuple[str, str]  # source and target language


class Demonstration(NamedTuple):
    """An example that is shown: its place in its split, the text that it is written as, and the tokens of that."""

    split: str
    place: int
    example: Example
    text: str
    tokens: int

    def record(self) -> dict[str, Any]:
        """What is written down of it."""
        return {"split": self.split, "index": self.place, "text": self.text, **self.example}


@dataclasses.dataclass(frozen=True)
class FewShotTemplate(Template):
    """A task's template with text in front of every input: the demonstrations of the example's own direction."""

    fronts: Mapping[Direction, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nothing to check: the patterns are those of a template."""

    def render(self, example: Mapping[str, Any]) -> tuple[str, str]:
        """(input text, target text), demonstrations in front of the input."""
        own_input, target = super().render(example)
        return self.fronts[direction(example)] + own_input, target


def direction(example: Mapping[str, Any]) -> Direction:
    """The languages of an example."""
    return example["source_language"], example["target_language"]


def demonstrations(
    evaluator: TaskEvaluator,
    task: Task,
    directions: Sequence[Direction],
    tokenizer: Tokenizer,
    form: SequenceFormat,
) -> dict[Direction, list[Demonstration]]:
    """`evaluator.shots` demonstrations for each direction: the first of a seeded order that keep all limits whole.

    Raises DataError where the split has too few of them.
    """
    if evaluator.shots_from in (evaluator.splits or task.test):
        raise ConfigError(
            f"shots_from = {evaluator.shots_from!r} is scored, too; draw demonstrations from another split"
        )
    examples = task.examples(evaluator.shots_from)
    found = {}
    for place, languages in enumerate(directions):
        fitting = _fitting(evaluator, task, languages, examples, tokenizer, form, seed=[evaluator.seed, place])
        chosen = [shown for shown, _ in zip(fitting, range(evaluator.shots), strict=False)]
        if len(chosen) < evaluator.shots:
            limit = "" if evaluator.max_shot_tokens is None else f", and max_shot_tokens = {evaluator.max_shot_tokens}"
            raise DataError(
                f"{evaluator.shots} demonstrations {'-'.join(languages)} are asked for, but of up to {_TRIED:,} "
                f"examples of {task.name}'s split {evaluator.shots_from!r} {len(chosen)} keep the limits of "
                f"{form.max_source_tokens} source and {form.max_target_tokens} target tokens{limit}; raise a limit, or "
                "lower shots"
            )
        found[languages] = chosen
    return found


def with_demonstrations(
    task: Task, form: SequenceFormat, shown: Mapping[Direction, Sequence[Demonstration]]
) -> tuple[Task, SequenceFormat]:
    """The task with demonstrations before its questions, and the form with room for them: questions are cut as ever."""
    fronts = {languages: "".join(one.text for one in chosen) for languages, chosen in shown.items()}
    longest = max(sum(one.tokens for one in chosen) for chosen in shown.values())
    template = FewShotTemplate(task.template.input, task.template.target, fronts)
    return dataclasses.replace(task, template=template), dataclasses.replace(form, length=form.length + longest)


def _fitting(
    evaluator: TaskEvaluator,
    task: Task,
    languages: Direction,
    examples: Examples,
    tokenizer: Tokenizer,
    form: SequenceFormat,
    seed: Sequence[int],
) -> Iterator[Demonstration]:
    """Examples of a direction that no limit cuts, in the order of the seed."""
    places = _places(examples, languages)
    drawn = np.random.default_rng(seed).choice(len(places), min(_TRIED, len(places)), replace=False)
    for number in drawn.tolist():
        example = examples[places[number]]
        own_input, target = task.template.render(example)
        text = evaluator.demonstration.format(input=own_input, target=target)
        source_ids, ids = tokenizer.encode_batch([example["source"], text])
        target_ids = tokenizer.continuation.encode(target)
        if (
            0 < len(source_ids) <= form.max_source_tokens
            and 0 < len(target_ids) < form.max_target_tokens
            and len(ids) <= (evaluator.max_shot_tokens or len(ids))
        ):
            yield Demonstration(evaluator.shots_from, places[number], example, text, len(ids))


def _places(examples: Examples, languages: Direction) -> Sequence[int]:
    """Indices of the examples of a direction; a range where they lie together."""
    ranges, start = [], 0
    for part, size in zip(examples.parts, examples.part_sizes, strict=True):
        if (part.part.source_language, part.part.target_language) == languages:
            ranges.append(range(start, start + size))
        start += size
    if not ranges:
        raise DataError(f"there are no examples {'-'.join(languages)} to show; name another split under shots_from")
    return ranges[0] if len(ranges) == 1 else [index for one in ranges for index in one]
