"""Specifications of evaluators: what a model is scored on in addition to its own test sets, by name.

    evaluation.evaluators = {
        "zero_shot": {"task": {...}},      # directions without training data
        "few_shot_1": {},                  # one demonstration before each prompt; few_shot_5: five
        "pretraining": {"every_steps": 100},
    }

The fields of an evaluator named in PRESETS override the preset's; any other evaluator defines all fields.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from finetune_scaling.configuration import FieldTypes, Text, build, check_at_least, choose, suggestion, without_unset
from finetune_scaling.data.corpus import CorpusPart
from finetune_scaling.data.objectives import ObjectiveConfig
from finetune_scaling.data.task import TaskBlock
from finetune_scaling.data.templates import placeholders
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.names import check_file_names

DEFAULT_EXAMPLES, DEFAULT_GENERATED = 200, 100  # default numbers of held-out examples that are scored and decoded
TEST_EVALUATOR = "test"  # evaluates the run's own test sets
_DEMONSTRATION_FIELDS = ("input", "target")  # in this order
Directions = Literal["own", "zero_shot"]


@dataclasses.dataclass(frozen=True)
class TaskEvaluator:
    """Target loss and metrics of generated text on a task's held-out examples.

    task: None: the one that `directions` selects: the model's own task, or its language pairs without training data
      (evaluation/zero_shot.py).
    splits: names of its splits; None: all its test sets.
    shots: demonstrations before each prompt, in the format `demonstration`, sampled with `seed` from the split
      `shots_from` among examples that fit the sequence limits and have at most `max_shot_tokens` tokens.
    examples, generate: how many examples of each split are scored, and how many of these are decoded; None: all.
    decoding: None: the run's evaluation.decoding.
    untuned: score the base model without tuning, too.
    every_steps: also evaluate during training, with values in metrics.jsonl; None: only after training.
    """

    task: TaskBlock | None = None
    directions: Directions = "own"
    splits: tuple[str, ...] | None = None
    shots: int = 0
    shots_from: str = "train"
    max_shot_tokens: int | None = None
    demonstration: Text = "{input}{target}\n\n"
    seed: int = 0
    examples: int | None = DEFAULT_EXAMPLES
    generate: int | None = DEFAULT_GENERATED
    decoding: DecodingConfig | None = None
    untuned: bool = True
    every_steps: int | None = None
    kind: Literal["task"] = "task"

    def __post_init__(self) -> None:
        check_at_least(self, ("shots", "seed", "generate"), 0)
        check_at_least(self, ("max_shot_tokens", "examples", "every_steps"), 1)
        if placeholders(self.demonstration, "demonstration", _DEMONSTRATION_FIELDS) != list(_DEMONSTRATION_FIELDS):
            raise ConfigError(
                f"demonstration = {self.demonstration!r} must contain {{input}} and then {{target}}, once each"
            )
        if not self.demonstration.endswith("\n"):
            # A newline is always one token, so it does not change the encoding of the prompt after it.
            raise ConfigError(f"demonstration = {self.demonstration!r} must end with a newline")
        if self.task is not None and self.directions != "own":
            raise ConfigError(
                f"directions = {self.directions!r} selects a task, but task is given, too. Fix: remove one of them"
            )


@dataclasses.dataclass(frozen=True)
class TextEvaluator:
    """Loss on running text under the pretraining objective, which measures forgetting.

    texts, objective, length: None: those of the base model's pretraining, with its held-out text.
    rows: number of packed rows that are scored; None: all. untuned, every_steps: see TaskEvaluator.
    """

    texts: tuple[CorpusPart, ...] | None = None
    objective: ObjectiveConfig | None = None
    length: int | None = None
    rows: int | None = DEFAULT_EXAMPLES
    untuned: bool = True
    every_steps: int | None = None
    kind: Literal["text"] = "text"

    def __post_init__(self) -> None:
        check_at_least(self, ("length", "rows", "every_steps"), 1)


Evaluator = TaskEvaluator | TextEvaluator
EvaluatorBlock = Annotated[Mapping[str, Any], FieldTypes(lambda _: TaskEvaluator | TextEvaluator)]

KINDS: dict[str, type[TaskEvaluator] | type[TextEvaluator]] = {"task": TaskEvaluator, "text": TextEvaluator}

PRESETS: dict[str, dict[str, Any]] = {
    TEST_EVALUATOR: {"examples": None, "generate": None},
    "dev": {"splits": ("dev",), "examples": None, "generate": None},
    "zero_shot": {"directions": "zero_shot"},
    "few_shot_1": {"shots": 1},
    "few_shot_5": {"shots": 5},
    "pretraining": {"kind": "text"},
}
_FEW_SHOT = re.compile(r"few_shot_([1-9]\d*)")
_NAME = re.compile(r"[\w-]+")  # used in column names before a dot


def read_evaluators(blocks: Mapping[str, Any] | None, where: str = "evaluation.evaluators") -> dict[str, Evaluator]:
    """Return the evaluators of a config by name. Raises ConfigError that names the first wrong field."""
    check_file_names(blocks or {}, where)
    return {name: _read(name, block, f"{where}.{name}") for name, block in (blocks or {}).items()}


def select_evaluators(names: Iterable[str], configured: Mapping[str, Evaluator], where: str) -> dict[str, Evaluator]:
    """Return the named evaluators: those of the config, else presets. Raises ConfigError for an unknown name."""
    return {name: configured[name] if name in configured else preset(name, configured, where) for name in names}


def preset(name: str, also_known: Iterable[str] = (), where: str = "evaluators") -> Evaluator:
    """Return the preset of this name. Raises ConfigError that suggests the nearest name if there is none."""
    settings = _preset_settings(name)
    if settings is None:
        raise ConfigError(f"{where}: no evaluator is called {name!r}{suggestion(name, [*also_known, *PRESETS])}")
    return _build(settings, name)


def _read(name: str, block: Any, where: str) -> Evaluator:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: {name!r} is not a valid name; use letters, digits, _ and -")
    if not isinstance(block, Mapping):
        raise ConfigError(f"{where} must be a group of fields, not {block!r}")
    settings = _preset_settings(name)
    if settings is None and not block:
        raise ConfigError(f"{where} is empty, and there is no preset of this name{suggestion(name, PRESETS)}")
    if "task" in block and block["task"] is not None:
        settings = {key: value for key, value in (settings or {}).items() if key != "directions"}
    return _build({**(settings or {}), **block}, where)


def _build(settings: Mapping[str, Any], where: str) -> Evaluator:
    kind = choose(KINDS, settings.get("kind", "task"), f"{where}.kind")
    try:
        return build(kind, settings, where)
    except ConfigError as error:
        if where in str(error):
            raise
        raise ConfigError(f"{where}: {error}") from error


def _preset_settings(name: str) -> dict[str, Any] | None:
    few = _FEW_SHOT.fullmatch(name)
    return {"shots": int(few[1])} if few else PRESETS.get(name)


def with_overrides(evaluator: Evaluator, examples: int | None, generate: int | None, untuned: bool | None) -> Evaluator:
    """Return an evaluator with the values of command-line flags; None keeps its own."""
    sizes = {"rows": examples} if isinstance(evaluator, TextEvaluator) else {"examples": examples, "generate": generate}
    given: dict[str, Any] = {name: value for name, value in (sizes | {"untuned": untuned}).items() if value is not None}
    return dataclasses.replace(evaluator, **given)


def with_decoding(evaluator: Evaluator, decoding: DecodingConfig | None) -> Evaluator:
    """Return an evaluator with `decoding` if it does not have its own; None changes nothing."""
    if isinstance(evaluator, TextEvaluator):
        return evaluator
    return dataclasses.replace(evaluator, decoding=evaluator.decoding or decoding)


def read_decoding(evaluation: Mapping[str, Any], where: str = "evaluation") -> DecodingConfig | None:
    """Return the decoding settings in the group `evaluation` of a config; None if it has none."""
    fields = without_unset(evaluation.get("decoding") or {})
    return build(DecodingConfig, fields, f"{where}.decoding") if fields else None
