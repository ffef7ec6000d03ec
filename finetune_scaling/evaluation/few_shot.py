"""Few-shot prompts: the same demonstrations from the task's own examples in front of every input of a direction.

    input = demonstration 1 ... demonstration k, then the input that the task's template writes

Demonstrations are part of the input: loss is computed on the example's own target only. In a model's chat format they
are earlier turns of the conversation.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune_scaling.data.chat_template import ChatTemplate, Turn
from finetune_scaling.data.encoders.interface import ExampleEncoder
from finetune_scaling.data.encoders.make import make_encoder
from finetune_scaling.data.encoders.special_tokens import check_patterns
from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.data.examples import Example, Examples
from finetune_scaling.data.task import Task
from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.runs.evaluators import TaskEvaluator

# Candidates for demonstrations; independent of k, so that the demonstrations of k = 1 are a prefix of those of k = 5.
_CANDIDATES = 2000

Direction = tuple[str, str]  # source and target language


class Demonstration(NamedTuple):
    """A demonstration: the position of its example in the split, its text, and the number of tokens of the text."""

    split: str
    position: int
    example: Example
    text: str
    tokens: int

    def record(self) -> dict[str, Any]:
        """Return the demonstration as it is written to the record."""
        return {"split": self.split, "index": self.position, "text": self.text, **self.example}


@dataclasses.dataclass(frozen=True)
class FewShotTemplate(Template):
    """A task's template with a prefix per direction, the text of its demonstrations, in front of every input."""

    prefixes: Mapping[Direction, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Skip the checks: the patterns come from a checked template."""

    def render(self, example: Mapping[str, Any]) -> tuple[str, str]:
        """Return (demonstrations and input text, target text)."""
        own_input, target = super().render(example)
        return self.prefixes[direction(example)] + own_input, target


@dataclasses.dataclass(frozen=True)
class FewShotChatTemplate(ChatTemplate):
    """A task's chat template with the turns of its demonstrations, by direction, in front of every example."""

    turns: Mapping[Direction, tuple[Turn, ...]] = dataclasses.field(default_factory=dict)

    def _earlier_turns(self, example: Mapping[str, Any]) -> Sequence[Turn]:
        return self.turns[direction(example)]


def direction(example: Mapping[str, Any]) -> Direction:
    """Return the source and target language of an example."""
    return example["source_language"], example["target_language"]


def choose_demonstrations(
    evaluator: TaskEvaluator,
    task: Task,
    directions: Sequence[Direction],
    tokenizer: Tokenizer,
    sequence_format: SequenceFormat,
) -> dict[Direction, list[Demonstration]]:
    """Return `evaluator.shots` demonstrations per direction: the first in a seeded order that no limit truncates.

    Raises DataError if the split has too few of them.
    """
    if evaluator.shots_from in (evaluator.splits or task.test):
        raise ConfigError(
            f"shots_from = {evaluator.shots_from!r} is also scored; draw demonstrations from another split"
        )
    if isinstance(task.template, ChatTemplate) and evaluator.demonstration != TaskEvaluator.demonstration:
        raise ConfigError(
            "demonstration is for text templates; in the model's chat format demonstrations are earlier turns. Fix: "
            "remove demonstration"
        )
    check_patterns(tokenizer, {"demonstration": evaluator.demonstration})
    examples = task.examples(evaluator.shots_from)
    chosen = {}
    for number, languages in enumerate(directions):
        candidates = _candidates(
            evaluator, task, languages, examples, tokenizer, sequence_format, seed=[evaluator.seed, number]
        )
        found = list(itertools.islice(candidates, evaluator.shots))
        if len(found) < evaluator.shots:
            raise DataError(
                f"shots = {evaluator.shots}, but only {len(found)} of up to {_CANDIDATES:,} {'-'.join(languages)} "
                f"examples in split {evaluator.shots_from!r} of task {task.name} fit max_source_tokens, "
                "max_target_tokens and max_shot_tokens; raise a limit, or lower shots"
            )
        chosen[languages] = found
    return chosen


def with_demonstrations(
    task: Task, sequence_format: SequenceFormat, chosen: Mapping[Direction, Sequence[Demonstration]]
) -> tuple[Task, SequenceFormat]:
    """Return the task with demonstrations in front of its inputs, and a format with room for them."""
    longest = max(sum(one.tokens for one in found) for found in chosen.values())
    template = _with_demonstrations(task.template, chosen)
    longer = dataclasses.replace(sequence_format, length=sequence_format.length + longest)
    return dataclasses.replace(task, template=template), longer


def _with_demonstrations(template: Template, chosen: Mapping[Direction, Sequence[Demonstration]]) -> Template:
    if isinstance(template, ChatTemplate):
        turns = {languages: tuple(template.render(one.example) for one in found) for languages, found in chosen.items()}
        return FewShotChatTemplate(**vars(template), turns=turns)
    prefixes = {languages: "".join(one.text for one in found) for languages, found in chosen.items()}
    return FewShotTemplate(template.input, template.target, prefixes, languages=template.languages)


def _candidates(
    evaluator: TaskEvaluator,
    task: Task,
    languages: Direction,
    examples: Examples,
    tokenizer: Tokenizer,
    sequence_format: SequenceFormat,
    seed: Sequence[int],
) -> Iterator[Demonstration]:
    """Yield the examples of a direction that no limit truncates, in a seeded order."""
    indices = _indices(examples, languages)
    encoder = make_encoder(tokenizer, task.template)
    order = np.random.default_rng(seed).choice(len(indices), min(_CANDIDATES, len(indices)), replace=False)
    for number in order.tolist():
        example = examples[indices[number]]
        text = _text(evaluator, task.template, example)
        one = Demonstration(evaluator.shots_from, indices[number], example, text, tokens=0)
        tokens = _tokens(one, task.template, encoder)
        source_ids, target_ids = tokenizer.encode(example["source"]), encoder.targets([example])[0]
        if (
            0 < len(source_ids) <= sequence_format.max_source_tokens
            and 0 < len(target_ids) < sequence_format.max_target_tokens
            and tokens <= (evaluator.max_shot_tokens or tokens)
        ):
            yield one._replace(tokens=tokens)


def _text(evaluator: TaskEvaluator, template: Template, example: Example) -> str:
    own_input, target = template.render(example)
    return evaluator.demonstration.format(input=own_input, target=target)


def _tokens(one: Demonstration, template: Template, encoder: ExampleEncoder) -> int:
    """Return the number of tokens that a demonstration adds to a prompt."""
    if not isinstance(template, ChatTemplate):
        return len(encoder.tokenizer.encode(one.text))
    longer = make_encoder(encoder.tokenizer, _with_demonstrations(template, {direction(one.example): [one]}))
    return len(longer.inputs([one.example])[0]) - len(encoder.inputs([one.example])[0])


def _indices(examples: Examples, languages: Direction) -> Sequence[int]:
    """Return the indices of the examples of a direction; a range if they are contiguous."""
    ranges, start = [], 0
    for part, size in zip(examples.parts, examples.part_sizes, strict=True):
        if (part.part.source_language, part.part.target_language) == languages:
            ranges.append(range(start, start + size))
        start += size
    return ranges[0] if len(ranges) == 1 else [index for one in ranges for index in one]
