"""A study of a minute, for the kill campaign: one size, two token counts, three methods, four numbers of examples."""

from ml_collections import ConfigDict

LANGUAGE = {"seed": 0, "lexicon_size": 40}
MODEL = {"layers": 1, "model_dim": 16, "heads": 1, "head_dim": 16, "ffn_dim": 32}


def get_config() -> ConfigDict:
    grid = {"finetune_examples": (40, 60, 80, 100), "factors": ("pretrain",)}
    return ConfigDict(
        {
            "name": "small",
            "families": {"grammar": family()},
            "tasks": {
                "translation": {
                    "family": "grammar",
                    "task": {
                        "name": "grammar_translation",
                        "sources": {"grammar": LANGUAGE},
                        "template": {"input": "{source} =", "target": " {target}"},
                    },
                    "finetune": finetune(),
                    "methods": {
                        "full": grid,
                        "prompt": {**grid, "pet_size": 4},
                        "lora": {**grid, "pet_size": 2},
                    },
                }
            },
        }
    )


def family() -> dict:
    return {
        "tokenizer": {"vocab_size": 256, "byte_fallback": False, "sentinels": 16, "max_sentences": 2000},
        "model": {**MODEL, "compute_dtype": "float32", "max_length": 64},
        "sizes": ("30k",),
        "factor_size": "30k",
        "tokens": (8 * 32 * 30, 8 * 32 * 60),
        "pretrain": {
            "corpus": {"train": [text("train", 2000)], "dev": [text("dev", 50)]},
            "sequence": {"length": 32},
            "batch": {"size": 8},
            "evaluation": {"times": 3, "batch_size": 16},
            "checkpoint": {"every_steps": 10},
        },
    }


def text(split: str, size: int) -> dict:
    source = {"kind": "grammar", "dataset": "monolingual", "split": split, "size": size, "languages": ("A", "B")}
    return {"source": {**source, "bilingual_share": 0.5, "grammar": LANGUAGE}}


def finetune() -> dict:
    return {
        "sequence": {"length": 40, "max_source_tokens": 16, "max_target_tokens": 16, "bidirectional_input": True},
        "batch": {"size": 8},
        "limits": {"max_steps": 60},
        "evaluation": {
            "times": 4,
            "batch_size": 16,
            "dev_examples": 16,
            "test_examples": 16,
            "generate_examples": 16,
        },
        "checkpoint": {"every_steps": 5},
    }
