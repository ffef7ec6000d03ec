"""A complete study in a few minutes on two CPU cores: artificial languages with known entropy, three model sizes.

Translation from language A into B. The largest dataset size of every method is held out from the fits.
quickstart.py:short is a part of it for notebooks: the two smaller sizes, full tuning and LoRA.
"""

from ml_collections import ConfigDict

from finetune_scaling.errors import ConfigError

LANGUAGE = {"seed": 0, "lexicon_size": 40}
LENGTH = 40
SIZES = {"complete": ("30k", "100k", "300k"), "short": ("30k", "100k")}
METHODS = {"complete": ("full", "prompt", "lora"), "short": ("full", "lora")}
GRID = {"finetune_examples": (125, 250, 500, 1000, 2000), "held_out_examples": (2000,), "factors": ("model",)}

# Mostly prefix LM, the form of the task: a minute of pretraining is too short for a uniform mixture.
DENOISERS = (
    {"mode": "R", "rate": 0.15, "mean_span": 3, "weight": 0.2},
    {"mode": "X", "rate": 0.5, "mean_span": 3, "weight": 0.1},
    {"mode": "S", "rate": 0.5, "weight": 0.7},
)


def get_config(extent: str = "complete") -> ConfigDict:
    if extent not in SIZES:
        raise ConfigError(f"configs/study/quickstart.py:{extent}: set one of {', '.join(SIZES)}")
    methods = task()["methods"]
    return ConfigDict(
        {
            "name": "quickstart" if extent == "complete" else f"quickstart, {extent}",
            "seeds": (0,),
            "families": {"grammar": {**family(), "sizes": SIZES[extent]}},
            "tasks": {"translation": {**task(), "methods": {name: methods[name] for name in METHODS[extent]}}},
            "notes": ("Artificial languages; the entropy of a target given its source is known.",),
        }
    )


def family() -> dict:
    return {
        "tokenizer": {"vocab_size": 256, "byte_fallback": False, "sentinels": 16, "max_sentences": 5000},
        "model": {"compute_dtype": "float32", "max_length": 128},
        "factor_size": "100k",
        "tokens": (32 * LENGTH * 700,),
        "pretrain": {
            "corpus": {"train": [text("train", 20_000)], "dev": [text("dev", 300)]},
            "objective": {"name": "ul2", "denoisers": DENOISERS},
            "sequence": {"length": LENGTH},
            "batch": {"size": 32},
            "schedule": {"learning_rate": 0.02, "warmup_steps": 20, "final_fraction": 0.1},
            "evaluation": {"times": 2},
            "logging": {"every_steps": 100},
        },
    }


def text(split: str, size: int) -> dict:
    source = {"kind": "grammar", "dataset": "monolingual", "split": split, "size": size, "languages": ("A", "B")}
    return {"source": {**source, "bilingual_share": 0.5, "grammar": LANGUAGE}, "field": "text"}


def pairs(split: str, size: int) -> list[dict]:
    source = {"kind": "grammar", "dataset": "translation", "split": split, "size": size, "languages": ("A", "B")}
    part = {"source": {**source, "grammar": LANGUAGE}, "source_field": "source", "target_field": "target"}
    return [{**part, "source_language": "A", "target_language": "B"}]


def task() -> dict:
    return {
        "family": "grammar",
        "task": {
            "name": "grammar",
            "kind": "translation",
            "template": {"input": "{source} =", "target": " {target}"},
            "train": pairs("train", 4000),
            "dev": pairs("dev", 100),
            "test": {"test": pairs("test", 300)},
        },
        "finetune": {
            "sequence": {
                "length": LENGTH,
                "max_source_tokens": 18,
                "max_target_tokens": 20,
                "bidirectional_input": True,
                "mode": "S",
            },
            "batch": {"size": 16},
            "limits": {"max_steps": 180, "max_epochs": 30, "patience": 3},
            "evaluation": {"times": 5, "generate_examples": 100, "batch_size": 100},
            "logging": {"every_steps": 100},
        },
        "methods": {
            "full": {**GRID, "config": {"schedule": {"learning_rate": 0.004}}},
            "prompt": {**GRID, "pet_size": 10, "config": {"schedule": {"learning_rate": 0.3}}},
            "lora": {
                **GRID,
                "pet_size": 4,
                "config": {"schedule": {"learning_rate": 0.01}, "optimizer": {"parameter_scale": False}},
            },
        },
    }
