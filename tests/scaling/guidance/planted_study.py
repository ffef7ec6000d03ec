"""A small planted study with costs, PET sizes and a score: two methods on three models."""

from pathlib import Path
from typing import Any

import numpy as np

from finetune_scaling.scaling.points import planted

MODELS = (1e8, 3e8, 1e9)
EXAMPLES = (1e3, 2e3, 4e3, 8e3, 16e3)
RANKS = (2, 4, 8)
LAWS = {"full": (120.0, 0.30, 0.12, 1.0), "lora": (9.0, 0.18, 0.06, 0.9)}  # A, alpha, beta, E
PET = 0.02  # exponent of the rank
TOKENS = 100


def loss(method: str, size: float, examples: float, rank: float = 4.0, law: str = "multiplicative") -> float:
    """The planted loss."""
    scale, alpha, beta, offset = LAWS[method]
    if law == "additive":
        return offset + scale / size**alpha + examples**-beta + (rank**-PET - 4**-PET)
    return offset + scale / size**alpha / examples**beta * (rank / 4) ** -PET


def rows(noise: float = 0.001, law: str = "multiplicative", seed: int = 0, **left_out: bool) -> list[dict[str, Any]]:
    """Rows of points.csv, two seeds each; left_out: columns that are not written."""
    random = np.random.default_rng(seed)
    found = []
    places = [(m, "model", x, x, 4) for m in LAWS for x in MODELS] + [("lora", "pet", r, MODELS[0], r) for r in RANKS]
    for method, factor, x, size, rank in places:
        for examples in EXAMPLES:
            for one in range(2):
                measured = loss(method, size, examples, rank, law) + random.normal(0, noise)
                row = {"task": "planted", "method": method, "factor": factor, "x": x, "finetune_examples": examples}
                row |= {"loss": measured, "seed": one, "held_out": 0, "parameters": size}
                row |= {"pet_size": "" if method == "full" else rank, "bleu": 100 / (1 + np.exp(4 * (measured - 1.4)))}
                row |= {"flops": (6 if method == "full" else 4) * size * examples * TOKENS}
                row |= {"trainable_parameters": int(size if method == "full" else rank * size**0.5)}
                found.append({name: value for name, value in row.items() if not left_out.get(name)})
    return found


def write(path: Path, **options: Any) -> Path:
    """The study's points.csv."""
    return planted.write(path, rows(**options))
