"""Pretrain a bilingual base as arXiv 2402.17193 does: bilingual.py:en_de,1b (en_de or en_zh, a size of the ladder).

With the argument en_de,tokenizer it is the config of `prepare tokenizer`.
"""

from ml_collections import ConfigDict

from finetune_scaling.errors import ConfigError
from finetune_scaling.runs.config_template import pretraining_template, tokenizer_template

STEPS = {"en_de": 135_000, "en_zh": 98_000}
LENGTH = 1024
TOKENS_PER_STEP = 2**21


def get_config(argument: str = "en_de,1b") -> ConfigDict:
    pair, _, size = argument.partition(",")
    if pair not in STEPS or not size:
        raise ConfigError(f"the config's argument is {argument!r}; set en_de or en_zh and a size, as in :en_de,1b")
    if size == "tokenizer":
        return tokenizer_template(corpus(pair), vocab_size=128_000, sentinels=128, max_sentences=10_000_000)
    config = pretraining_template(size, corpus(pair))
    config.name = f"{pair} {size}"
    config.tokenizer = f"runs/tokenizers/{pair}"
    config.sequence.length = LENGTH
    config.batch.size = TOKENS_PER_STEP // LENGTH
    config.sharding.fsdp = -1  # over all devices
    config.model.remat = "full"
    config.limits.max_steps = STEPS[pair]
    config.schedule.learning_rate = 0.01
    config.schedule.final_fraction = 0.1
    config.evaluation.every_steps = 5000
    return config


def corpus(pair: str) -> dict:
    languages = pair.split("_")
    return {
        "train": [text(language, language) for language in languages],
        "dev": [text(language, f"{language}-validation[:2000]") for language in languages],
    }


def text(language: str, split: str) -> dict:
    source = {"kind": "tfds", "name": "c4/multilingual", "split": split}
    return {"source": source, "field": "text", "weight": 1.0}  # equal shares
