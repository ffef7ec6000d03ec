"""Template of studies on public models: tasks, grids of the methods, and learning rate sweeps.

Public models are causal and have no mode tokens, so inputs are not attended to bidirectionally. Dataset sizes, learning
rates and batch size are this project's choice, not a paper's.
"""

from typing import Any

THOUSAND = 1_000

FULL_EXAMPLES = tuple(n * THOUSAND for n in (10, 30, 100, 300, 1000))
PET_EXAMPLES = tuple(n * THOUSAND for n in (1, 3, 10, 30, 100))
SWEEP_EXAMPLES = (30 * THOUSAND,)  # not held out for any method: held-out points must not select learning rates
RATES = {"full": (1e-5, 3e-5, 1e-4, 3e-4), "prompt": (0.03, 0.1, 0.3, 1.0), "lora": (1e-4, 3e-4, 1e-3, 3e-3)}
DEFAULT_RATES = {"full": 3e-5, "prompt": 0.3, "lora": 1e-3}

ALL = {"examples": None, "generate": None}
EVALUATORS = {"zero_shot": ALL, "few_shot_1": {**ALL, "max_shot_tokens": 300}}


def translation(family: str, factors: tuple[str, ...], name: str = "wmt14_en_de") -> dict[str, Any]:
    """Return a translation task: up to 256 source and 256 target tokens; every test example is decoded."""
    return task(family, {"name": name}, sequence(256, 256), EVALUATORS, factors)


def summarization(family: str, factors: tuple[str, ...], name: str = "mlsum") -> dict[str, Any]:
    """Return a summarization task: articles truncated to 512 tokens, summaries of up to 256."""
    return task(family, {"name": name}, sequence(512, 256), {"few_shot_1": {**ALL, "max_shot_tokens": 600}}, factors)


def sequence(source_tokens: int, target_tokens: int) -> dict[str, int]:
    """Return the group `sequence`, with room for 32 tokens of the template."""
    length = source_tokens + target_tokens + 32
    return {"length": length, "max_source_tokens": source_tokens, "max_target_tokens": target_tokens}


def task(
    family: str, fields: dict[str, Any], sequence: dict[str, int], evaluators: dict[str, Any], factors: tuple[str, ...]
) -> dict[str, Any]:
    """Return a task with three methods, AdamW (as in pretraining), and learning rates swept at every size.

    factors: those of full tuning; prompt tuning and LoRA also vary the PET size.
    """
    return {
        "family": family,
        "task": fields,
        "finetune": {
            "sequence": sequence,
            "batch": {"size": 64},
            "model": {"max_length": 2048, "remat": "full", "compute_dtype": "bfloat16"},  # Pythia files are float16
            "sharding": {"fsdp": -1},
            "limits": {"max_steps": 50_000, "max_epochs": 20},
            "evaluation": {"times": 20, "generate_examples": None, "evaluators": evaluators},
        },
        "methods": {
            "full": {**grid("full", FULL_EXAMPLES), "factors": factors},
            "prompt": {
                **grid("prompt", PET_EXAMPLES),
                "factors": (*factors, "pet"),
                "pet_size": 100,
                "pet_sizes": (50, 100, 200, 400),
                "held_out_pet_sizes": (400,),
            },
            "lora": {
                **grid("lora", PET_EXAMPLES),
                "factors": (*factors, "pet"),
                "pet_size": 4,
                "pet_sizes": (4, 16, 64, 128),
                "held_out_pet_sizes": (128,),
            },
        },
    }


def grid(method: str, examples: tuple[int, ...]) -> dict[str, Any]:
    """Return a method's dataset sizes, the largest held out, and its learning rates."""
    optimizer = {"name": "adafactor"} if method == "prompt" else {"name": "adamw"}
    return {
        "finetune_examples": examples,
        "held_out_examples": examples[-1:],
        "learning_rates": RATES[method],
        "sweep_examples": SWEEP_EXAMPLES,
        "config": {"schedule": {"name": "cosine", "learning_rate": DEFAULT_RATES[method]}, "optimizer": optimizer},
    }
