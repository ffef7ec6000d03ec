"""Planted points: the printed laws of Zhang et al. 2024 (Table 4, WMT14 En-De) on its grid, with noise of a given size.

What a fit ought to find is known for them, so they show what a fit can find.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Method -> {factor: (A, alpha)}, E, beta, as printed.
EN_DE: dict[str, dict[str, Any]] = {
    "full": {"factors": {"model": (1.2e5, 0.52), "pretrain": (630, 0.21)}, "E": 0.75, "beta": 0.15},
    "prompt": {
        "factors": {"model": (3.9e3, 0.40), "pretrain": (270, 0.21), "pet": (1.0, 0.0027)},
        "E": 0.62,
        "beta": 0.051,
    },
    "lora": {
        "factors": {"model": (2.1e3, 0.36), "pretrain": (140, 0.18), "pet": (1.4, -0.0017)},
        "E": 0.62,
        "beta": 0.081,
    },
}
SIZES = (1218480128, 2188956160, 3601935360, 8107724800, 15440491520)
TOKENS = (84e9, 126e9, 167e9, 209e9, 283e9)
PET_SIZES = {"prompt": (50, 100, 150, 200, 300, 400, 600), "lora": (4, 8, 16, 32, 48, 64, 128)}
EXAMPLES = {
    "full": (1e5, *(i * 5e5 for i in range(1, 10))),
    "prompt": (8e3, *(i * 1e4 for i in range(1, 11))),
    "lora": (8e3, *(i * 1e4 for i in range(1, 11))),
}
HELD_OUT: dict[str, set[float]] = {"model": {SIZES[-1]}, "pretrain": {209e9}, "pet": {600, 128}}


def rows(noise: float = 0.0, seeds: int = 1, methods: Sequence[str] = tuple(EN_DE)) -> list[dict[str, Any]]:
    """Rows of points.csv; the loss is the printed law plus normal noise of that standard deviation."""
    random = np.random.default_rng(0)
    found = []
    for method, factor, x, examples in _settings(methods):
        law = EN_DE[method]
        scale, alpha = law["factors"][factor]
        loss = scale / x**alpha / examples ** law["beta"] + law["E"]
        row = {"task": "wmt14_en_de", "method": method, "factor": factor, "x": int(x)}
        row["finetune_examples"] = int(examples)
        row["held_out"] = int(x in HELD_OUT[factor] or examples == EXAMPLES[method][-1])
        found += [{**row, "loss": loss + random.normal(0, noise), "seed": seed} for seed in range(seeds)]
    return found


def _settings(methods: Sequence[str]) -> Iterator[tuple[str, str, float, float]]:
    for method in methods:
        for factor in EN_DE[method]["factors"]:
            values = {"model": SIZES, "pretrain": TOKENS}.get(factor) or PET_SIZES[method]
            yield from ((method, factor, x, examples) for x in values for examples in EXAMPLES[method])


def write(path: Path, table: list[dict[str, Any]]) -> Path:
    """Writes rows as CSV."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path
