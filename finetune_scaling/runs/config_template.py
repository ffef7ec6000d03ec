"""Config templates with every field of a run config at its default.

A config file can set only the fields that a template has, so it has them all. It accepts values of any type: they are
checked when the config is read.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.training import TokenizerConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.ladder import LADDER
from finetune_scaling.runs.run_config import BaseConfig, RunConfig
from finetune_scaling.training.optimizers import ScheduleConfig
from finetune_scaling.tuning.registry import METHODS


def run_config_template(method: str = "full") -> ConfigDict:
    """Return every field of a RunConfig with its default and the options of `method`; required fields are None.

    `corpus`, `task`, `base` and `evaluation.evaluators` are None: a config sets those that it needs.
    Raises ConfigError for an unknown method.
    """
    declaration = configuration.choose(METHODS, method, "method.name")
    config = config_group(RunConfig)
    config.model = {"name": None, **_unset_fields(ModelConfig)}
    config.method = config_group(declaration.options)
    config.method.name = method
    config.schedule = config_group(ScheduleConfig)
    return config.lock()


def pretraining_template(size: str, corpus: Mapping[str, Any]) -> ConfigDict:
    """Return a config that pretrains a size of the model ladder on a corpus, without limits and sequence length."""
    config = run_config_template()
    config.model.name = _known_size(size)
    config.corpus = {**corpus, "prepared": None}
    return config


def tokenizer_template(corpus: Mapping[str, Any], **fields: Any) -> ConfigDict:
    """Return a config of `prepare tokenizer`: the fields of a TokenizerConfig, and the training corpus."""
    config = ConfigDict({"tokenizer": config_group(TokenizerConfig), "corpus": corpus}, type_safe=False)
    config.tokenizer.update(fields)
    return config


def finetuning_template(task: str, method: str) -> ConfigDict:
    """Return a config that finetunes with `method` on a named task, without base model and sequence length."""
    config = run_config_template(method)
    config.task = {
        "name": task,
        "max_source_tokens": None,
        "max_target_tokens": None,
        "template": dict.fromkeys(("name", "input", "target", "system")),
        "sources": {"data_dir": None},
    }
    config.base = config_group(BaseConfig)
    return config


def short_finetuning_template(task: str, method: str) -> ConfigDict:
    """Return a finetuning config of hundreds of steps instead of hundreds of thousands, for small base models."""
    config = finetuning_template(task, method)
    short_runs = METHODS[method].short_runs
    config.batch.size = 16
    config.limits.max_steps = 400
    config.limits.patience = 3
    config.schedule.learning_rate = short_runs.learning_rate
    config.optimizer.parameter_scale = short_runs.parameter_scale
    config.evaluation.dev_examples = 256
    config.evaluation.test_examples = 500
    config.evaluation.generate_examples = 100
    return config


def size_and_method(argument: str) -> tuple[str | None, str]:
    """Parse a finetuning config's argument, "1b,lora", or "lora" for a base that --config.base.run names.

    Raises ConfigError if it is not a size of the ladder and a method.
    """
    *sizes, method = argument.split(",")
    if len(sizes) > 1 or (not sizes and method in LADDER):
        raise ConfigError(f"the config's argument is {argument!r}; write :SIZE,METHOD, for example config.py:1b,lora")
    configuration.choose(METHODS, method, "the config's method")
    try:
        return (_known_size(sizes[0]) if sizes else None), method
    except ConfigError as error:
        raise ConfigError(f"{error} (for any other base, write :{method} and --config.base.run=DIR)") from None


def set_base(config: ConfigDict, family: str, size: str | None) -> None:
    """Set the base of a finetuning config to a size of a family that is pretrained here, and the format of its prompts.

    Without a size, the base is the one that --config.base.run names, with its own tokenizer, and causal as public
    models are.
    """
    config.tokenizer = ""  # the base's own
    if size is not None:
        config.base.run = f"runs/pretrain/{family}/{size}"
        config.tokenizer = f"runs/tokenizers/{family}"
        config.sequence.bidirectional_input = True  # as the base was pretrained
        config.sequence.mode = "S"


def _known_size(size: str) -> str:
    configuration.choose(LADDER, size, "the config's size")
    return size


def config_group(kind: type) -> ConfigDict:
    """Return every field of a dataclass with its default as a config group, nested dataclasses as groups."""
    hints = typing.get_type_hints(kind)
    fields = {field.name: _value(hints[field.name], _default(field)) for field in dataclasses.fields(kind)}
    return ConfigDict(fields, type_safe=False)


def _value(hint: Any, default: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        group = config_group(hint)  # type: ignore[arg-type]
        if default is not None:
            group.update(configuration.plain(default))
        return group
    return tuple(configuration.plain(default)) if isinstance(default, tuple) else configuration.plain(default)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _unset_fields(kind: type) -> dict[str, Any]:
    """Return every field of a dataclass with the value None; fields of nested dataclasses as groups."""
    return {name: _unset(hint) for name, hint in typing.get_type_hints(kind).items()}


def _unset(hint: Any) -> dict[str, Any] | None:
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if dataclasses.is_dataclass(kind)]
    return {name: value for kind in kinds for name, value in _unset_fields(kind).items()} or None  # type: ignore[arg-type]
