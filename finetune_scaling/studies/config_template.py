"""Template of studies on public models: tasks, the grid of each method, and learning rate sweeps.

Public models are causal and have no mode tokens, so inputs are not attended to bidirectionally. Dataset sizes, learning
rates and batch size are this project's choice, not a paper's.
"""

from typing import Any

from finetune_scaling.tuning.registry import METHODS

THOUSAND = 1_000
FULL_EXAMPLES = tuple(n * THOUSAND for n in (10, 30, 100, 300, 1000))
PET_EXAMPLES = tuple(n * THOUSAND for n in (1, 3, 10, 30, 100))

ALL = {"examples": None, "generate": None}
EVALUATORS = {"zero_shot": ALL, "few_shot_1": {**ALL, "max_shot_tokens": 300}}


def translation(family: str, factors: tuple[str, ...], name: str = "wmt14_en_de") -> dict[str, Any]:
    """Return a translation task: up to 256 source and 256 target tokens; every test example is decoded."""
    return task(family, {"name": name}, sequence(256, 256), EVALUATORS, factors)


def summarization(family: str, factors: tuple[str, ...]) -> dict[str, Any]:
    """Return summarization of MLSum: articles truncated to 512 tokens, summaries of up to 256."""
    return task(family, {"name": "mlsum"}, sequence(512, 256), {"few_shot_1": {**ALL, "max_shot_tokens": 600}}, factors)


def sequence(source_tokens: int, target_tokens: int) -> dict[str, int]:
    """Return the group `sequence`, with room for 32 tokens of the template."""
    length = source_tokens + target_tokens + 32
    return {"length": length, "max_source_tokens": source_tokens, "max_target_tokens": target_tokens}


def task(
    family: str, fields: dict[str, Any], sequence: dict[str, int], evaluators: dict[str, Any], factors: tuple[str, ...]
) -> dict[str, Any]:
    """Return a task with three methods, AdamW (as in pretraining), and learning rates swept at every size.

    factors: those of every method; methods that have a PET size vary it, too.
    """
    grids = {
        "full": grid(FULL_EXAMPLES, 3e-5, (1e-5, 3e-5, 1e-4, 3e-4)),
        "prompt": grid(
            PET_EXAMPLES, 0.3, (0.03, 0.1, 0.3, 1.0), "adafactor", pet_size=100, pet_sizes=(50, 100, 200, 400)
        ),
        "lora": grid(PET_EXAMPLES, 1e-3, (1e-4, 3e-4, 1e-3, 3e-3), pet_size=4, pet_sizes=(4, 16, 64, 128)),
    }
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
            name: {**grid, "factors": factors if METHODS[name].size_field is None else (*factors, "pet")}
            for name, grid in grids.items()
        },
    }


def grid(
    examples: tuple[int, ...],
    rate: float,
    rates: tuple[float, ...],
    optimizer: str = "adamw",
    pet_size: int | None = None,
    pet_sizes: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Return the grid of one method, with `rate` as its learning rate and `rates` swept.

    The largest dataset and PET size are held out.
    """
    return {
        "finetune_examples": examples,
        "held_out_examples": examples[-1:],
        "learning_rates": rates,
        "sweep_examples": (30 * THOUSAND,),  # not held out for any method: held-out points must not select rates
        "config": {"schedule": {"name": "cosine", "learning_rate": rate}, "optimizer": {"name": optimizer}},
        "pet_size": pet_size,
        "pet_sizes": pet_sizes,
        "held_out_pet_sizes": pet_sizes[-1:],
    }
