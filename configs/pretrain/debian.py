"""Pretrain a base on English, German and Chinese package descriptions: debian.py:800k (a size of the ladder).

With the argument tokenizer it is the config of `prepare tokenizer`.
"""

from ml_collections import ConfigDict

from finetune_scaling.runs.config_template import pretraining_template, tokenizer_template

LANGUAGES = ("en", "de", "zh")
SPLITS = {"train": "train", "dev": "validation"}
LENGTH = 256


def get_config(argument: str = "800k") -> ConfigDict:
    if argument == "tokenizer":
        return tokenizer_template(corpus(), vocab_size=8000, sentinels=48, max_sentences=60_000)
    config = pretraining_template(argument, corpus())
    config.name = f"debian {argument}"
    config.tokenizer = "runs/tokenizers/debian"
    config.model.compute_dtype = "float32"  # bfloat16 is slow on CPUs
    config.model.max_length = 512
    config.sequence.length = LENGTH
    config.batch.size = 32
    config.limits.max_steps = 2000
    config.schedule.learning_rate = 0.02
    config.schedule.warmup_steps = 50
    config.schedule.final_fraction = 0.1
    config.evaluation.times = 4
    return config


def corpus() -> dict:
    return {split: [text(language, name) for language in LANGUAGES] for split, name in SPLITS.items()}


def text(language: str, split: str) -> dict:
    source = {"kind": "debian", "dataset": f"text/{language}", "split": split}
    return {"source": source, "field": "text"}  # all of it: 50 times more English than Chinese
