"""Finetunes on WMT14 English to German.

Argument: size of the base and method, as in wmt14_en_de.py:1b,lora. Learning rate and batch size are the
method's own. --config.finetune_examples=N takes N examples.
"""

from ml_collections import ConfigDict

from finetune_scaling.runs.config_template import finetuning_template, size_and_method


def get_config(argument: str = "1b,lora") -> ConfigDict:
    size, method = size_and_method(argument)
    config = finetuning_template("wmt14_en_de", method)
    config.name = f"wmt14_en_de {size} {method}"
    config.base.run = f"runs/pretrain/en_de/{size}"
    config.tokenizer = "runs/tokenizers/en_de"
    config.sequence.length = 544  # 256 + 256 tokens and the template's own
    config.sequence.bidirectional_input = True  # as the base was pretrained
    config.sequence.mode = "S"
    config.sharding.fsdp = -1  # over all devices
    config.model.remat = "full"
    config.limits.max_steps = 200_000
    config.limits.max_epochs = 100
    config.evaluation.times = 20
    config.evaluation.generate_examples = None  # all
    return config
