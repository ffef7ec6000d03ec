"""A study on real text of every Debian or Ubuntu machine: package descriptions in English and German.

Translation (model, pretraining-token and PET-size factors) and summarization (model factor) on bases of 30K to 800K
non-embedding parameters. Results and run time: docs/debian.md. Prepare the data once, on a machine with apt:

    python -m finetune_scaling.prepare corpus --config=configs/study/debian.py
"""

from ml_collections import ConfigDict

PRETRAINING_LENGTH = 128
TOKENS_PER_STEP = 32 * PRETRAINING_LENGTH
EXAMPLES = (250, 750, 2000, 5000)
HELD_OUT = (5000,)
TRANSLATION_TEMPLATE = {"input": "{source}\n", "target": "{target}"}

# Optimizers of short runs: with the paper's rates and parameter scaling, LoRA's zero-initialized factor changes too
# little in a few hundred steps.
LORA = {"schedule": {"learning_rate": 0.01}, "optimizer": {"parameter_scale": False}}
FULL = {"schedule": {"learning_rate": 0.005}}
PROMPT = {"schedule": {"learning_rate": 0.3}}


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "name": "debian",
            "seeds": (0,),
            "families": {"en_de": family()},
            "tasks": {"translation": translation(), "summarization": summarization()},
            "notes": (
                "Debian package descriptions; monolingual English and German pretraining in equal shares.",
                "Short runs of small models: the results may not hold at scale.",
            ),
        }
    )


def family() -> dict:
    return {
        "tokenizer": {"vocab_size": 2048, "byte_fallback": True, "sentinels": 32, "max_sentences": 40_000},
        "model": {"compute_dtype": "float32", "max_length": 256},
        "sizes": ("30k", "100k", "300k", "800k"),
        "factor_size": "100k",
        "tokens": tuple(steps * TOKENS_PER_STEP for steps in (250, 500, 1000)),
        "pretrain": {
            "corpus": {
                "train": [text("en", "train"), text("de", "train")],
                "dev": [text("en", "validation"), text("de", "validation")],
            },
            "objective": {"name": "ul2"},
            "sequence": {"length": PRETRAINING_LENGTH},
            "batch": {"size": 32},
            "schedule": {"learning_rate": 0.02, "warmup_steps": 50, "final_fraction": 0.1},
            "evaluation": {"times": 4, "batch_size": 32},
            "checkpoint": {"every_steps": 100},
        },
    }


def text(language: str, split: str) -> dict:
    source = {"kind": "debian", "dataset": f"text/{language}", "split": split}
    return {"source": source, "field": "text", "weight": 1.0}


def finetune(source_tokens: int, target_tokens: int, evaluators: dict) -> dict:
    return {
        "sequence": {
            "length": source_tokens + target_tokens + 8,
            "max_source_tokens": source_tokens,
            "max_target_tokens": target_tokens,
            "bidirectional_input": True,
            "mode": "S",
        },
        "batch": {"size": 16},
        "limits": {"max_steps": 320, "max_epochs": 20, "patience": 3},
        "evaluation": {
            "times": 8,
            "dev_examples": 256,
            "test_examples": 512,
            "generate_examples": 100,
            "batch_size": 64,
            "evaluators": evaluators,
        },
    }


def translation_evaluators() -> dict:
    """The reverse direction, and as many demonstrations as fit into 256 tokens with an example and a prompt of 20."""
    german_to_english = {
        "source": {"kind": "debian", "dataset": "translation/en-de", "split": "test"},
        "source_field": "de",
        "target_field": "en",
        "source_language": "de",
        "target_language": "en",
    }
    reversed_task = {
        "name": "debian_de_en",
        "kind": "translation",
        "template": TRANSLATION_TEMPLATE,
        "test": {"test": [german_to_english]},
    }
    return {
        "zero_shot": {"task": reversed_task},
        "few_shot_1": {},
        "few_shot_5": {"max_shot_tokens": 24},
        "pretraining": {},
    }


def translation() -> dict:
    examples = {"finetune_examples": EXAMPLES, "held_out_examples": HELD_OUT}
    return {
        "family": "en_de",
        "task": {"name": "debian_en_de", "template": TRANSLATION_TEMPLATE},
        "finetune": finetune(48, 56, translation_evaluators()),
        "methods": {
            "full": {**examples, "factors": ("model", "pretrain"), "config": FULL},
            "prompt": {
                **examples,
                "pet_size": 10,
                "pet_sizes": (5, 10, 15, 20),
                "held_out_pet_sizes": (20,),
                "config": PROMPT,
            },
            "lora": {
                **examples,
                "pet_size": 4,
                "pet_sizes": (2, 4, 8, 16),
                "held_out_pet_sizes": (16,),
                "config": LORA,
            },
        },
    }


def summarization() -> dict:
    def parts(split: str) -> list[dict]:
        source = {"kind": "debian", "dataset": "summarization/de", "split": split}
        fields = {"source_field": "document", "target_field": "summary"}
        return [{"source": source, **fields, "source_language": "de", "target_language": "de"}]

    method = {"finetune_examples": (250, 1000, 5000), "held_out_examples": HELD_OUT, "factors": ("model",)}
    return {
        "family": "en_de",
        "task": {
            "name": "debian_synopses",
            "kind": "summarization",
            "template": {"input": "{source}\nKurz: ", "target": "{target}"},
            "train": parts("train"),
            "dev": parts("validation"),
            "test": {"test": parts("test")},
        },
        "finetune": finetune(80, 24, {"few_shot_1": {}, "pretraining": {}}),  # five documents do not fit
        "methods": {
            "full": {**method, "config": FULL},
            "prompt": {**method, "pet_size": 10, "config": PROMPT},
            "lora": {**method, "pet_size": 4, "config": LORA},
        },
    }
