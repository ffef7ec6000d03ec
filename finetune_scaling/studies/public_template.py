"""What configs of studies on public ladders share: tasks, methods' grids, and sweeps of the learning rate.

Public models are causal and have no mode tokens, so inputs are not seen both ways. Examples, rates and batch are ours,
not of any paper.
"""

from typing import Any

THOUSAND = 1_000

FULL_EXAMPLES = tuple(n * THOUSAND for n in (10, 30, 100, 300, 1000))
PET_EXAMPLES = tuple(n * THOUSAND for n in (1, 3, 10, 30, 100))
SWEEP_EXAMPLES = (30 * THOUSAND,)  # held out of no method: rates are not chosen by points that test the laws
RATES = {"full": (1e-5, 3e-5, 1e-4, 3e-4), "prompt": (0.03, 0.1, 0.3, 1.0), "lora": (1e-4, 3e-4, 1e-3, 3e-3)}
OWN_RATES = {"full": 3e-5, "prompt": 0.3, "lora": 1e-3}

ALL = {"examples": None, "generate": None}
EVALUATORS = {"zero_shot": ALL, "few_shot_1": {**ALL, "max_shot_tokens": 300}}


def translation(family: str, factors: tuple[str, ...], name: str = "wmt14_en_de") -> dict[str, Any]:
    """Translation of up to 256 tokens into up to 256, every test segment decoded."""
    return task(family, {"name": name}, sequence(256, 256), EVALUATORS, factors)


def summarization(family: str, factors: tuple[str, ...], name: str = "mlsum") -> dict[str, Any]:
    """Summaries of up to 256 tokens of articles cut at 512."""
    return task(family, {"name": name}, sequence(512, 256), {"few_shot_1": {**ALL, "max_shot_tokens": 600}}, factors)


def sequence(source_tokens: int, target_tokens: int) -> dict[str, int]:
    """The template's own tokens have room in 32."""
    length = source_tokens + target_tokens + 32
    return {"length": length, "max_source_tokens": source_tokens, "max_target_tokens": target_tokens}


def task(
    family: str, fields: dict[str, Any], sequence: dict[str, int], evaluators: dict[str, Any], factors: tuple[str, ...]
) -> dict[str, Any]:
    """Three methods, AdamW (as these models were pretrained), learning rates swept at every size.

    factors: those of the study; PET sizes are varied beside them where a method has any.
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
    """Numbers of examples, the largest held out, and the method's rates."""
    optimizer = {"name": "adafactor"} if method == "prompt" else {"name": "adamw"}
    return {
        "finetune_examples": examples,
        "held_out_examples": examples[-1:],
        "learning_rates": RATES[method],
        "sweep_examples": SWEEP_EXAMPLES,
        "config": {"schedule": {"name": "cosine", "learning_rate": OWN_RATES[method]}, "optimizer": optimizer},
    }
