"""Finetunes on one-line synopses of package descriptions.

Argument: size of the base and method, as in debian_summarization.py:800k,lora.
"""

from ml_collections import ConfigDict

from finetune_scaling.runs.config_template import short_finetuning_template, size_and_method


def get_config(argument: str = "800k,lora") -> ConfigDict:
    size, method = size_and_method(argument)
    config = short_finetuning_template("debian_summarization", method)
    config.name = f"debian_summarization {size} {method}"
    config.base.run = f"runs/pretrain/debian/{size}"
    config.tokenizer = "runs/tokenizers/debian"
    config.finetune_examples = 4000
    config.sequence.length = 256
    config.sequence.max_source_tokens = 192
    config.sequence.max_target_tokens = 40
    config.sequence.bidirectional_input = True  # as the base was pretrained
    config.sequence.mode = "S"
    config.limits.max_steps = 800
    return config
