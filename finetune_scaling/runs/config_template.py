"""Configs to start from: every field that a run config has, at its default, so that any can be changed on the command
line, which changes no field that a config does not have.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.training import TokenizerConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.ladder import LADDER
from finetune_scaling.runs.run_config import BaseConfig, RunConfig
from finetune_scaling.training.optimizers import ScheduleConfig
from finetune_scaling.tuning.registry import METHODS


def run_config_template(method: str = "full") -> ConfigDict:
    """Every field of a RunConfig at its default, with the options of `method`; a field without one is a placeholder.

    `corpus`, `task`, `base` and `evaluation.evaluators` are None: a config fills those that it needs.
    Raises ConfigError for an unknown method.
    """
    declaration = configuration.choose(METHODS, method, "method.name")
    config = config_group(RunConfig)
    config.model = {"name": FieldReference(None, field_type=str), **_placeholders(ModelConfig)}
    config.method = config_group(declaration.options)
    config.method.name = method
    config.schedule = config_group(ScheduleConfig)
    return config.lock()


def pretraining_template(size: str, corpus: Mapping[str, Any]) -> ConfigDict:
    """A run config that pretrains a rung of the ladder on a corpus; the config says for how long, and the lengths."""
    config = run_config_template()
    config.model.name = _rung(size)
    config.corpus = {**corpus, "prepared": FieldReference(None, field_type=str)}
    return config


def tokenizer_template(corpus: Mapping[str, Any], **fields: Any) -> ConfigDict:
    """The config of `prepare tokenizer`: fields of a TokenizerConfig, and the corpus that it learns from."""
    config = ConfigDict({"tokenizer": config_group(TokenizerConfig), "corpus": corpus})
    config.tokenizer.update(fields)
    return config


def finetuning_template(task: str, method: str) -> ConfigDict:
    """A run config that finetunes a base on a named task by `method`; the config says which base, and the lengths."""
    config = run_config_template(method)
    config.task = {
        "name": task,
        "max_source_tokens": FieldReference(None, field_type=int),
        "max_target_tokens": FieldReference(None, field_type=int),
        "template": {name: FieldReference(None, field_type=str) for name in ("input", "target")},
        "sources": {"data_dir": FieldReference(None, field_type=str)},
    }
    config.base = config_group(BaseConfig)
    return config


def short_finetuning_template(task: str, method: str) -> ConfigDict:
    """A finetuning run of hundreds of steps, not hundreds of thousands, for small bases.

    Rates are higher than the methods' own, and LoRA goes without parameter scaling, which would hardly move its
    zero-initialised factor in so few steps.
    """
    config = finetuning_template(task, method)
    config.batch.size = 16
    config.limits.max_steps = 400
    config.limits.patience = 3
    config.schedule.learning_rate = {"full": 0.005, "lora": 0.01}.get(method)
    config.optimizer.parameter_scale = method != "lora"
    config.evaluation.dev_examples = 256
    config.evaluation.test_examples = 500
    config.evaluation.generate_examples = 100
    return config


def size_and_method(argument: str) -> tuple[str, str]:
    """A finetuning config's argument, "1b,lora"; ConfigError where it is not a rung of the ladder and a method."""
    parts = argument.split(",")
    if len(parts) != 2:
        raise ConfigError(f"the config's argument is {argument!r}; write :SIZE,METHOD, as in config.py:1b,lora")
    configuration.choose(METHODS, parts[1], "the config's method")
    return _rung(parts[0]), parts[1]


def _rung(size: str) -> str:
    configuration.choose(LADDER, size, "the config's size")
    return size


def config_group(kind: type) -> ConfigDict:
    """Every field of a dataclass as a group of a config: nested dataclasses as groups, the rest as typed values."""
    hints = typing.get_type_hints(kind)
    return ConfigDict({field.name: _value(hints[field.name], _default(field)) for field in dataclasses.fields(kind)})


def _value(hint: Any, default: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        values = config_group(hint)  # type: ignore[arg-type]
        return values if default is None else _filled(values, default)
    kind = _scalar_kind(hint)
    if kind is not None:
        return FieldReference(default, field_type=kind)
    return tuple(configuration.plain(default)) if isinstance(default, tuple) else configuration.plain(default)


def _filled(values: ConfigDict, default: Any) -> ConfigDict:
    values.update(configuration.plain(default))
    return values


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _scalar_kind(hint: Any) -> type | None:
    """int, float, str or bool where a field takes such a value, None allowed or not; None for any other field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        return _scalar_kind(kinds[0]) if len(kinds) == 1 else None
    if origin is typing.Literal:
        return str
    return hint if hint in (int, float, str, bool) else None


def _placeholders(kind: type) -> dict[str, Any]:
    """Every field of a dataclass, to be filled on the command line: groups where a field is a dataclass."""
    return {name: _placeholder(hint) for name, hint in typing.get_type_hints(kind).items()}


def _placeholder(hint: Any) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [option for option in options if option is not type(None)]
    if dataclasses.is_dataclass(kinds[0]):
        return {name: value for kind in kinds for name, value in _placeholders(kind).items()}  # type: ignore[arg-type]
    return FieldReference(None, field_type=_scalar_kind(hint) or typing.get_origin(kinds[0]))
