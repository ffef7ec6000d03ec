"""The grid of "When Scaling Meets LLM Finetuning" (arXiv 2402.17193): 1,273 settings with 3 data subsets each.

(assumed) marks what the paper does not state. Listing it needs no data; to run it, see docs/studies.md and
docs/data.md: ten bases of 1B to 16B parameters are pretrained on up to 283 billion tokens each.
"""

from ml_collections import ConfigDict

THOUSAND, MILLION = 1_000, 1_000_000

# Pretraining: 2^21 tokens a step; the split into rows is (assumed).
LENGTH = 1024
TOKENS_PER_STEP = 2**21
SIZES = ("1b", "2b", "4b", "8b", "16b")

PET_EXAMPLES = tuple(n * THOUSAND for n in (8, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100))
EN_DE_EXAMPLES = (100 * THOUSAND, *(n * THOUSAND for n in range(500, 4501, 500)))
EN_ZH_EXAMPLES = tuple(n * MILLION for n in (1, 2, 3, 4, 5, 10, 15, 20, 25))
MLSUM_EXAMPLES = tuple(n * THOUSAND for n in range(100, 901, 100))

# Parameter scaling follows from the learning rates. (assumed): gradients clipped to a global norm before Adafactor's
# own clipping, no weight decay, and factored moments of the model's matrices only.
OPTIMIZER = {"name": "adafactor", "parameter_scale": True, "clip_norm": 1.0, "weight_decay": 0.0}

# All examples; demonstrations are limited (assumed) so that they fit into 2,048 tokens with a prompt of 600.
ALL = {"examples": None, "generate": None}
TRANSLATION = {
    "zero_shot": ALL,  # FLORES-200
    "few_shot_1": ALL,
    "few_shot_5": {**ALL, "max_shot_tokens": 180},
    "pretraining": {},
}
SUMMARIZATION = {"few_shot_1": {**ALL, "max_shot_tokens": 600}, "pretraining": {}}


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "name": "paper",
            "seeds": (0, 1, 2),
            "families": {
                "en_de": family("en", "de", steps=(40, 60, 80, 100, 135), held_out=100),  # 84B ... 283B tokens
                "en_zh": family("en", "zh", steps=(40, 50, 60, 70, 80, 98), held_out=80),  # 84B ... 206B tokens
            },
            "tasks": {
                "wmt14_en_de": task("wmt14_en_de", "en_de", sequence(256, 256), TRANSLATION, EN_DE_EXAMPLES),
                "wmt19_en_zh": task(
                    "wmt19_en_zh", "en_zh", sequence(256, 256), TRANSLATION, EN_ZH_EXAMPLES, full_steps=300_000
                ),
                "mlsum": task("mlsum", "en_de", sequence(512, 256), SUMMARIZATION, MLSUM_EXAMPLES),  # base (assumed)
            },
            "notes": ("The grid of arXiv 2402.17193; pretraining text, template and lengths are assumed.",),
        }
    )


def family(*languages: str, steps: tuple[int, ...], held_out: int) -> dict:
    """Bilingual bases; steps and held_out: pretraining steps with a checkpoint, in thousands."""
    tokens = {thousands: thousands * THOUSAND * TOKENS_PER_STEP for thousands in steps}
    return {
        "tokenizer": {"vocab_size": 128_000, "sentinels": 128, "max_sentences": 10 * MILLION},  # size derived
        "model": {"max_length": 2048, "remat": "full", "compute_dtype": "bfloat16"},  # bfloat16 (assumed)
        "sizes": SIZES,
        "held_out_sizes": ("16b",),
        "factor_size": "1b",
        "tokens": tuple(tokens.values()),
        "held_out_tokens": (tokens[held_out],),
        "pretrain": {
            "corpus": {
                "train": [text(language, language) for language in languages],
                "dev": [text(language, f"{language}-validation[:2000]") for language in languages],
            },
            "objective": {"name": "ul2", "bidirectional_input": True},  # UL2's own mixture (assumed)
            "sequence": {"length": LENGTH},
            "batch": {"size": TOKENS_PER_STEP // LENGTH},
            "sharding": {"fsdp": -1},  # over all devices
            "optimizer": OPTIMIZER,
            "schedule": {"name": "cosine", "learning_rate": 0.01, "final_fraction": 0.1},  # no warm-up (assumed)
            "evaluation": {"every_steps": 5000},
        },
    }


def text(language: str, split: str) -> dict:
    """Monolingual web text, equal shares (assumed)."""
    return {"source": {"kind": "tfds", "name": "c4/multilingual", "split": split}, "field": "text", "weight": 1.0}


def sequence(source_tokens: int, target_tokens: int) -> dict:
    return {
        "length": source_tokens + target_tokens + 32,  # 32 for the tokens of the template
        "max_source_tokens": source_tokens,
        "max_target_tokens": target_tokens,
        "bidirectional_input": True,  # as pretrained (assumed)
        "mode": "S",
    }


def task(
    name: str,
    family: str,
    sequence: dict,
    evaluators: dict,
    full_examples: tuple[int, ...],
    full_steps: int = 200_000,
) -> dict:
    pet = {"finetune_examples": PET_EXAMPLES, "held_out_examples": (100 * THOUSAND,)}
    return {
        "family": family,
        "task": {"name": name},
        "finetune": {
            "sequence": sequence,
            "limits": {"max_steps": 200_000, "max_epochs": 100},
            "sharding": {"fsdp": -1},
            "optimizer": OPTIMIZER,
            # Every test example is decoded; how often the dev loss is measured is (assumed).
            "evaluation": {"times": 20, "generate_examples": None, "evaluators": evaluators},
        },
        "methods": {
            "full": {
                "finetune_examples": full_examples,
                "held_out_examples": full_examples[-1:],
                "factors": ("model", "pretrain"),
                "config": run(0.001, batch=128) | {"limits": {"max_steps": full_steps}},
            },
            "prompt": {
                **pet,
                "pet_size": 100,
                "pet_sizes": (50, 100, 150, 200, 300, 400, 600),
                "held_out_pet_sizes": (600,),
                # Initialized from the 5,000 most frequent tokens; attends to the input of a prefix LM (both assumed).
                "config": run(0.3, batch=16) | {"method": {"frequent": 5000, "attends_to_input": True}},
            },
            "lora": {
                **pet,
                "pet_size": 4,
                "pet_sizes": (4, 8, 16, 32, 48, 64, 128),
                "held_out_pet_sizes": (128,),
                "config": run(0.01, batch=16),  # alpha = rank and no dropout (assumed)
            },
        },
    }


def run(learning_rate: float, batch: int) -> dict:
    """Cosine to zero, without warm-up (both assumed)."""
    return {"schedule": {"name": "cosine", "learning_rate": learning_rate}, "batch": {"size": batch}}
