"""Finetunes on summaries of documents in artificial language A.

Argument: size of the base and method, as in grammar_summarization.py:100k,lora.
"""

from ml_collections import ConfigDict

from finetune_scaling.runs.config_template import short_finetuning_template, size_and_method


def get_config(argument: str = "100k,lora") -> ConfigDict:
    size, method = size_and_method(argument)
    config = short_finetuning_template("grammar_summarization", method)
    config.name = f"grammar_summarization {size} {method}"
    config.base.run = f"runs/pretrain/grammar/{size}"
    config.tokenizer = "runs/tokenizers/grammar"
    config.finetune_examples = 4000
    config.sequence.length = 144
    config.sequence.max_source_tokens = 96
    config.sequence.max_target_tokens = 24
    config.sequence.bidirectional_input = True  # as the base was pretrained
    config.sequence.mode = "S"
    return config
