"""Configs that take seconds: `--config=tests/tiny.py:NAME`, where NAME is tokenizer, pretrain, a method, study, or
notebook (a part of the study that also generates texts).

Paths (tokenizer, base.run) are set on the command line or by the test.
"""

from ml_collections import ConfigDict

GRAMMAR = {"seed": 0, "lexicon_size": 40}
LENGTH = 32
MODEL = {"layers": 1, "compute_dtype": "float32", "max_length": 64}
TOKENIZER = {"vocab_size": 256, "byte_fallback": False, "sentinels": 16, "max_sentences": 1000}
TARGETS = ("query", "down")  # fewer adapters compile faster
OPTIONS = {  # methods without an entry have their own defaults
    "prompt": {"length": 3},
    "lora": {"rank": 2, "targets": TARGETS},
    "dora": {"rank": 2, "targets": TARGETS},
    "prefix": {"length": 3, "mlp_width": 4},
    "bottleneck": {"width": 4},
}


def get_config(what: str) -> ConfigDict:
    configs = {"study": study, "notebook": notebook, "pretrain": pretrain, "tokenizer": tokenizer}
    return ConfigDict(configs[what]() if what in configs else finetune(what))


def tokenizer() -> dict:
    return {"tokenizer": TOKENIZER, "corpus": corpus()}


def pretrain() -> dict:
    return {
        "name": "base",
        "model": {**MODEL, "name": "30k"},
        "tokenizer": "",
        "corpus": corpus(),
        "objective": {"name": "causal"},
        "sequence": {"length": LENGTH},
        "batch": {"size": 8},
        "limits": {"max_steps": 20},
        "checkpoint": {"every_steps": 1000, "keep_tokens": (10 * 8 * LENGTH,)},
        "schedule": {"learning_rate": 0.02},
        "evaluation": {"times": 2},
        "logging": {"every_steps": 5},
    }


def finetune(method: str) -> dict:
    return {
        "name": method,
        "tokenizer": "",
        "base": {"run": ""},
        "task": task(),
        "method": {"name": method, **OPTIONS.get(method, {})},
        "finetune_examples": 40,
        "sequence": sequence(),
        "batch": {"size": 8},
        "sharding": {"fsdp": 1, "tensor": 1},
        "limits": {"max_steps": 12},
        "checkpoint": {"every_steps": 3},
        "schedule": {"learning_rate": 0.01},
        "evaluation": {"every_steps": 4, "batch_size": 20, "generate_examples": 0},
        "logging": {"every_steps": 2},
    }


def study() -> dict:
    """2 sizes with full tuning and LoRA; at one of them 2 token counts with full tuning, 2 prompt lengths: 21 runs."""
    examples = {"finetune_examples": (10, 20, 40), "held_out_examples": (40,)}
    shared = finetune("full")
    return {
        "name": "tiny",
        "seeds": (0,),
        "families": {
            "grammar": {
                "tokenizer": TOKENIZER,
                "model": MODEL,
                "sizes": ("30k", "100k"),
                "factor_size": "30k",
                "tokens": (10 * 8 * LENGTH, 20 * 8 * LENGTH),
                "pretrain": {name: pretrain()[name] for name in _PRETRAINING},
            }
        },
        "tasks": {
            "translation": {
                "family": "grammar",
                "task": task(),
                "finetune": {name: shared[name] for name in _FINETUNING} | _SHORT,
                "methods": {
                    "full": {**examples, "factors": ("model", "pretrain")},
                    "prompt": {**examples, "pet_size": 3, "pet_sizes": (2, 3), "factors": ("pet",)},
                    "lora": {
                        **examples,
                        "pet_size": 2,
                        "factors": ("model",),
                        "config": {"method": {"targets": TARGETS}},
                    },
                },
            }
        },
    }


def notebook() -> dict:
    """A part of the study: full tuning and LoRA at 2 sizes, 12 runs that generate texts."""
    complete = study()
    task = complete["tasks"]["translation"]
    task["finetune"]["evaluation"] = {**task["finetune"]["evaluation"], "generate_examples": 6}
    task["methods"] = {name: {**task["methods"][name], "factors": ("model",)} for name in ("full", "lora")}
    return {**complete, "name": "notebook"}


_PRETRAINING = ("corpus", "objective", "sequence", "batch", "schedule", "evaluation", "logging")
_FINETUNING = ("sequence", "batch", "schedule", "logging")
_SHORT = {
    "limits": {"max_steps": 8, "tolerance": 10.0},  # far from converged, but laws need points
    "evaluation": {"times": 1, "batch_size": 20, "generate_examples": 0},
}


def corpus() -> dict:
    return {"train": [text("train", 400)], "dev": [text("dev", 30)]}


def text(split: str, size: int) -> dict:
    source = {"kind": "grammar", "dataset": "monolingual", "split": split, "size": size, "languages": ("A", "B")}
    return {"source": {**source, "bilingual_share": 0.5, "grammar": GRAMMAR}, "field": "text"}


def task() -> dict:
    return {
        "name": "tiny",
        "kind": "translation",
        "template": {"input": "{source} =", "target": " {target}"},
        "train": pairs("train", 60),
        "dev": pairs("dev", 20),
        "test": {"test": pairs("test", 20)},
    }


def pairs(split: str, size: int) -> list[dict]:
    source = {"kind": "grammar", "dataset": "translation", "split": split, "size": size, "languages": ("A", "B")}
    part = {"source": {**source, "grammar": GRAMMAR}, "source_field": "source", "target_field": "target"}
    return [{**part, "source_language": "A", "target_language": "B"}]


def sequence() -> dict:
    return {"length": LENGTH, "max_source_tokens": 12, "max_target_tokens": 12, "bidirectional_input": True}
