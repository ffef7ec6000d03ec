"""Finetunes on WMT19 English to Chinese.

Argument: size of the base and method, as in wmt19_en_zh.py:1b,lora. Learning rate and batch size are the
method's own. --config.finetune_examples=N takes N examples.
"""

from ml_collections import ConfigDict

from finetune_scaling.runs.config_template import finetuning_template, size_and_method


def get_config(argument: str = "1b,lora") -> ConfigDict:
    size, method = size_and_method(argument)
    config = finetuning_template("wmt19_en_zh", method)
    config.name = f"wmt19_en_zh {size} {method}"
    config.base.run = f"runs/pretrain/en_zh/{size}"
    config.tokenizer = "runs/tokenizers/en_zh"
    config.sequence.length = 544  # 256 + 256 tokens and the template's own
    config.sequence.bidirectional_input = True  # as the base was pretrained
    config.sequence.mode = "S"
    config.sharding.fsdp = -1  # over all devices
    config.model.remat = "full"
    config.limits.max_steps = 300_000 if method == "full" else 200_000
    config.limits.max_epochs = 100
    config.evaluation.times = 20
    config.evaluation.generate_examples = None  # all
    return config
