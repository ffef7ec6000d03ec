"""Evaluators as data: what a model is scored on beside its own test sets, by name, in a config or on a command line.

    evaluation.evaluators = {
        "zero_shot": {"task": {...}},      # directions that were never trained on
        "few_shot_1": {},                  # one demonstration before each question; few_shot_5: five, and so on
        "pretraining": {"every_steps": 100},
    }

A name that PRESETS knows starts from its settings, which the fields change; any other name gives them all.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from finetune_scaling.configuration import build, choose, suggestion, without_unset
from finetune_scaling.data.corpus import CorpusPart
from finetune_scaling.data.objectives import ObjectiveConfig
from finetune_scaling.data.templates import check_pattern, placeholders
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError

EXAMPLES, GENERATED = 200, 100  # held-out examples that an evaluator takes unless told otherwise
TEST_EVALUATOR = "test"  # the evaluator whose metrics are the run's own
_SHOWN = ("input", "target")  # what a demonstration is made of, in this order
DIRECTIONS = Literal["own", "zero_shot"]


@dataclasses.dataclass(frozen=True)
class TaskEvaluator:
    """Loss of targets and scores of generated text, on a task's held-out examples.

    task: None takes the one that `directions` says: the model's own, or its languages that were never trained on
      (evaluation/zero_shot.py).
    splits: names of its sets; None: all its test sets.
    shots: demonstrations before each question, drawn with `seed` from the split `shots_from` among those that keep the
      limits of sequences whole and take at most `max_shot_tokens` tokens each; written as `demonstration` says.
    examples, generate: how many are scored, and how many of these decoded, of each set; None: all.
    decoding: how texts are written; None: as the run's own evaluation.decoding says.
    untuned: the base without tuning answers the same questions.
    every_steps: while training, too, the values going to metrics.jsonl; None: once training has ended.
    """

    task: Mapping[str, Any] | None = None
    directions: DIRECTIONS = "own"
    splits: tuple[str, ...] | None = None
    shots: int = 0
    shots_from: str = "train"
    max_shot_tokens: int | None = None
    demonstration: str = "{input}{target}\n\n"
    seed: int = 0
    examples: int | None = EXAMPLES
    generate: int | None = GENERATED
    decoding: DecodingConfig | None = None
    untuned: bool = True
    every_steps: int | None = None
    kind: Literal["task"] = "task"

    def __post_init__(self) -> None:
        _check(self, {"shots": 0, "max_shot_tokens": 1, "seed": 0, "examples": 1, "generate": 0, "every_steps": 1})
        check_pattern(self.demonstration, "demonstration", _SHOWN)
        if placeholders(self.demonstration) != list(_SHOWN):
            raise ConfigError(
                f"demonstration = {self.demonstration!r} must hold {{input}} and then {{target}}, each once"
            )
        if not self.demonstration.endswith("\n"):
            # A newline is always a token of its own: the question behind it is then encoded as it is alone.
            raise ConfigError(f"demonstration = {self.demonstration!r} must end with a newline; add one")
        if self.task is not None and self.directions != "own":
            raise ConfigError(
                f"directions = {self.directions!r} chooses a task, but one is given; leave one of them out"
            )


@dataclasses.dataclass(frozen=True)
class TextEvaluator:
    """Loss on running text under the base's objective: what finetuning makes a model forget.

    texts, objective, length: None takes those that the base was pretrained with, its held-out text for `texts`.
    rows: packed rows of text to score; None: all. untuned, every_steps: as for a task.
    """

    texts: tuple[CorpusPart, ...] | None = None
    objective: ObjectiveConfig | None = None
    length: int | None = None
    rows: int | None = EXAMPLES
    untuned: bool = True
    every_steps: int | None = None
    kind: Literal["text"] = "text"

    def __post_init__(self) -> None:
        _check(self, {"length": 1, "rows": 1, "every_steps": 1})


Evaluator = TaskEvaluator | TextEvaluator

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
_NAME = re.compile(r"\w[\w-]*")  # it names files, and columns before a dot


def read_evaluators(blocks: Mapping[str, Any] | None, where: str = "evaluation.evaluators") -> dict[str, Evaluator]:
    """The evaluators of a config by name. ConfigError names the first wrong field."""
    return {name: _read(name, block, f"{where}.{name}") for name, block in (blocks or {}).items()}


def select_evaluators(names: Iterable[str], configured: Mapping[str, Evaluator], where: str) -> dict[str, Evaluator]:
    """The evaluators of these names: those that a config has, else presets.

    Raises ConfigError with the nearest known name.
    """
    return {name: configured[name] if name in configured else preset(name, configured, where) for name in names}


def preset(name: str, also_known: Iterable[str] = (), where: str = "evaluators") -> Evaluator:
    """The evaluator of a name without a config."""
    settings = _preset_settings(name)
    if settings is None:
        raise ConfigError(f"{where}: no evaluator is called {name!r}{suggestion(name, [*also_known, *PRESETS])}")
    return _build(settings, name)


def _read(name: str, block: Any, where: str) -> Evaluator:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name is made of letters, digits, _ and -; it names files and columns")
    if not isinstance(block, Mapping):
        raise ConfigError(f"{where} must be a group of fields, not {block!r}")
    settings = _preset_settings(name)
    if settings is None and not block:
        raise ConfigError(f"{where} says nothing, and no evaluator is called so{suggestion(name, PRESETS)}")
    if "task" in block and block["task"] is not None:
        settings = {key: value for key, value in (settings or {}).items() if key != "directions"}
    return _build({**(settings or {}), **block}, where)


def _build(settings: Mapping[str, Any], where: str) -> Evaluator:
    kind = choose(KINDS, settings.get("kind", "task"), f"{where}.kind")
    try:
        return build(kind, settings, where)
    except ConfigError as error:
        raise error if where in str(error) else ConfigError(f"{where}: {error}") from error


def _preset_settings(name: str) -> dict[str, Any] | None:
    few = _FEW_SHOT.fullmatch(name)
    return {"shots": int(few[1])} if few else PRESETS.get(name)


def _check(evaluator: Any, least: Mapping[str, int]) -> None:
    for name, lowest in least.items():
        value = getattr(evaluator, name)
        if value is not None and value < lowest:
            raise ConfigError(f"{name} = {value} must be at least {lowest}")


def with_overrides(evaluator: Evaluator, examples: int | None, generate: int | None, untuned: bool | None) -> Evaluator:
    """An evaluator with what a command line says otherwise; None changes nothing."""
    changes: dict[str, Any] = {} if untuned is None else {"untuned": untuned}
    if isinstance(evaluator, TextEvaluator):
        return dataclasses.replace(evaluator, **changes | ({} if examples is None else {"rows": examples}))
    changes |= {} if examples is None else {"examples": examples}
    changes |= {} if generate is None else {"generate": generate}
    return dataclasses.replace(evaluator, **changes)


def with_decoding(evaluator: Evaluator, decoding: DecodingConfig | None) -> Evaluator:
    """An evaluator whose texts are written as `decoding` says, unless it says so itself; None changes nothing."""
    if isinstance(evaluator, TextEvaluator):
        return evaluator
    return dataclasses.replace(evaluator, decoding=evaluator.decoding or decoding)


def read_decoding(evaluation: Mapping[str, Any], where: str = "evaluation") -> DecodingConfig | None:
    """How the group `evaluation` of a config says that texts are written; None where it says nothing of that."""
    fields = without_unset(evaluation.get("decoding") or {})
    return build(DecodingConfig, fields, f"{where}.decoding") if fields else None
