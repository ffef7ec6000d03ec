"""Pretrain a base on the artificial languages A and B: grammar.py:100k (a size of the ladder).

With the argument tokenizer it is the config of `prepare tokenizer`.
"""

from ml_collections import ConfigDict

from finetune_scaling.runs.config_template import pretraining_template, tokenizer_template

LENGTH = 128


def get_config(argument: str = "100k") -> ConfigDict:
    if argument == "tokenizer":
        return tokenizer_template(corpus(), vocab_size=384, byte_fallback=False, sentinels=32, max_sentences=5000)
    config = pretraining_template(argument, corpus())
    config.name = f"grammar {argument}"
    config.tokenizer = "runs/tokenizers/grammar"
    config.model.compute_dtype = "float32"
    config.model.max_length = 256
    config.sequence.length = LENGTH
    config.batch.size = 32
    config.limits.max_steps = 1000
    config.schedule.learning_rate = 0.02
    config.schedule.warmup_steps = 20
    config.schedule.final_fraction = 0.1
    config.evaluation.times = 4
    return config


def corpus() -> dict:
    return {"train": [text("train", 20_000)], "dev": [text("dev", 300)]}


def text(split: str, size: int) -> dict:
    source = {"kind": "grammar", "dataset": "monolingual", "split": split, "size": size, "languages": ("A", "B")}
    # A quarter of the records are a sentence and its translation.
    return {"source": {**source, "bilingual_share": 0.25}, "field": "text"}
