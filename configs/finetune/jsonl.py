"""Finetune on your JSONL files; copy this file and change the task.

Argument: method (default: lora), as in jsonl.py:lora with the base --config.base.run=DIR, for example a converted
public model; or size and method, as in jsonl.py:800k,lora, for a base that configs/pretrain/debian.py pretrained.
--config.task.sources.data_dir=DIR is the directory of train.jsonl, dev.jsonl and test.jsonl, whose lines are objects
such as {"en": "a house", "de": "ein Haus"}.
"""

from ml_collections import ConfigDict

from finetune_scaling.data.task import jsonl_task
from finetune_scaling.runs.config_template import set_base, short_finetuning_template, size_and_method


def get_config(argument: str = "lora") -> ConfigDict:
    size, method = size_and_method(argument)
    config = short_finetuning_template("jsonl", method)
    config.name = "" if size is None else f"jsonl {size} {method}"
    config.task = jsonl_task(
        name="jsonl",
        kind="translation",  # or summarization, with equal languages
        languages=("en", "de"),
        fields=("en", "de"),
        train="train.jsonl",  # .jsonl or .tsv; plain, .gz, .xz or .zst; local or a URL
        dev="dev.jsonl",
        test={"test": "test.jsonl"},
        # None: the default of the kind. With name="chat" the messages of the model's chat format (docs/data.md).
        template=dict.fromkeys(("name", "input", "target", "system")),
        sources={"data_dir": None},
    )
    set_base(config, "debian", size)
    config.sequence.length = 256
    config.sequence.max_source_tokens = 112
    config.sequence.max_target_tokens = 128
    config.limits.max_steps = 800
    return config
