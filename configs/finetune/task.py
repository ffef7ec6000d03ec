"""Finetune a base on a named task. Argument: task, size of the base and method, as in task.py:wmt14_en_de,1b,lora; or
task and method, as in task.py:wmt14_en_de,lora, with --config.base.run=DIR, for example a converted public model.

TASK.py:SIZE,METHOD next to this file is the same config. Learning rate and batch size default to the method's;
--config.finetune_examples=N trains on N examples. To add a task, add it to finetune_scaling/data/tasks.py and to a
table below.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from finetune_scaling.configuration import choose
from finetune_scaling.runs.config_template import (
    finetuning_template,
    set_base,
    short_finetuning_template,
    size_and_method,
)


class LargeTask(NamedTuple):
    """A task of arXiv 2402.17193: its bilingual base, and room for source, target and the template's tokens."""

    base: str
    length: int


class SmallTask(NamedTuple):
    """A task for small bases; the first finetune_examples of the data are used, None: all."""

    base: str
    size: str
    max_steps: int
    length: int
    max_source_tokens: int
    max_target_tokens: int
    finetune_examples: int | None = 4000


LARGE = {
    "wmt14_en_de": LargeTask("en_de", 544),
    "wmt19_en_zh": LargeTask("en_zh", 544),
    "mlsum": LargeTask("en_de", 800),
}
SMALL = {
    "grammar_translation": SmallTask("grammar", "100k", 400, 72, 24, 24),
    "grammar_summarization": SmallTask("grammar", "100k", 400, 144, 96, 24),
    "debian_en_de": SmallTask("debian", "800k", 800, 256, 112, 128),
    "debian_en_zh": SmallTask("debian", "800k", 800, 192, 88, 80, finetune_examples=None),
    "debian_summarization": SmallTask("debian", "800k", 800, 256, 192, 40),
}


def get_config(argument: str = "grammar_translation,100k,lora") -> ConfigDict:
    task, _, size_and_method = argument.partition(",")
    return task_config(task, size_and_method)


def task_config(task: str, argument: str = "") -> ConfigDict:
    """Return the config of a task; argument: "SIZE,METHOD", with a default for every task."""
    settings = choose({**LARGE, **SMALL}, task, "the config's task")
    small = isinstance(settings, SmallTask)
    size, method = size_and_method(argument or (f"{settings.size},lora" if small else "1b,lora"))
    config = _small_config(task, method, settings) if small else _large_config(task, method, settings)
    config.name = "" if size is None else f"{task} {size} {method}"
    set_base(config, settings.base, size)
    config.sequence.length = settings.length
    return config


def _small_config(task: str, method: str, settings: SmallTask) -> ConfigDict:
    config = short_finetuning_template(task, method)
    config.finetune_examples = settings.finetune_examples
    config.sequence.max_source_tokens = settings.max_source_tokens
    config.sequence.max_target_tokens = settings.max_target_tokens
    config.limits.max_steps = settings.max_steps
    return config


def _large_config(task: str, method: str, settings: LargeTask) -> ConfigDict:
    config = finetuning_template(task, method)
    config.sharding.fsdp = -1  # over all devices
    config.model.remat = "full"
    config.limits.max_steps = 300_000 if (task, method) == ("wmt19_en_zh", "full") else 200_000
    config.limits.max_epochs = 100
    config.evaluation.times = 20
    config.evaluation.generate_examples = None  # all
    return config
