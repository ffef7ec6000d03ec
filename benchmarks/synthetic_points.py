"""Synthetic points: the published laws of Zhang et al. 2024 (Table 4) on the paper's grid, with noise of a given size.

Their true parameters are known, so they show what a fit can recover.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Method -> {factor: (A, alpha)}, E, beta, as published.
PublishedLaws = Mapping[str, Mapping[str, Any]]
EN_DE: PublishedLaws = {
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
EN_ZH: PublishedLaws = {
    "full": {"factors": {"model": (3.3e3, 0.34), "pretrain": (240, 0.17)}, "E": 1.0, "beta": 0.14},
    "prompt": {
        "factors": {"model": (850, 0.33), "pretrain": (200, 0.20), "pet": (1.0, 0.0019)},
        "E": 0.77,
        "beta": 0.015,
    },
    "lora": {
        "factors": {"model": (660, 0.31), "pretrain": (130, 0.18), "pet": (1.2, 0.0044)},
        "E": 0.73,
        "beta": 0.025,
    },
}
MLSUM: PublishedLaws = {
    "full": {"factors": {"model": (330, 0.24), "pretrain": (42, 0.11)}, "E": 0.98, "beta": 0.087},
    "prompt": {
        "factors": {"model": (23, 0.10), "pretrain": (16, 0.069), "pet": (2.6, 0.0026)},
        "E": 0.00051,
        "beta": 0.025,
    },
    "lora": {
        "factors": {"model": (26, 0.11), "pretrain": (17, 0.073), "pet": (2.4, 0.00022)},
        "E": 0.20,
        "beta": 0.030,
    },
}
SIZES = (1218480128, 2188956160, 3601935360, 8107724800, 15440491520)
TOKENS = (84e9, 126e9, 167e9, 209e9, 283e9)
PET_SIZES = {"prompt": (50, 100, 150, 200, 300, 400, 600), "lora": (4, 8, 16, 32, 48, 64, 128)}
PET_EXAMPLES = (8e3, *(i * 1e4 for i in range(1, 11)))


@dataclass(frozen=True)
class Task:
    """Published laws and grid of one task; the last of `full_examples` and `held_out_tokens` are held out."""

    laws: PublishedLaws
    tokens: tuple[float, ...]
    held_out_tokens: float
    full_examples: tuple[float, ...]

    def examples(self, method: str) -> tuple[float, ...]:
        """Return the dataset sizes of a method."""
        return self.full_examples if method == "full" else PET_EXAMPLES

    def values(self, method: str, factor: str) -> tuple[float, ...]:
        """Return the values of a factor."""
        return {"model": SIZES, "pretrain": self.tokens, "pet": PET_SIZES.get(method, ())}[factor]

    def held_out(self, method: str, factor: str) -> float:
        """Return the value of a factor that is held out."""
        return self.held_out_tokens if factor == "pretrain" else self.values(method, factor)[-1]


TASKS = {
    "wmt14_en_de": Task(EN_DE, TOKENS, 209e9, (1e5, *(i * 5e5 for i in range(1, 10)))),
    "wmt19_en_zh": Task(
        EN_ZH,
        (84e9, 105e9, 126e9, 147e9, 167e9, 206e9),
        167e9,
        (*(i * 1e6 for i in range(1, 6)), 1e7, 1.5e7, 2e7, 2.5e7),
    ),
    "mlsum": Task(MLSUM, TOKENS, 209e9, tuple(i * 1e5 for i in range(1, 10))),
}
EXAMPLES = {method: TASKS["wmt14_en_de"].examples(method) for method in EN_DE}


def rows(
    noise: float = 0.0,
    seeds: int = 1,
    methods: Sequence[str] = tuple(EN_DE),
    tasks: Sequence[str] = ("wmt14_en_de",),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return rows of points.csv: losses of the published laws plus normal noise with that standard deviation."""
    random = np.random.default_rng(seed)
    found = []
    for name, method, factor, x, examples in _settings(tasks, methods):
        task = TASKS[name]
        scale, alpha = task.laws[method]["factors"][factor]
        loss = scale / x**alpha / examples ** task.laws[method]["beta"] + task.laws[method]["E"]
        row = {"task": name, "method": method, "factor": factor, "x": int(x)}
        row["finetune_examples"] = int(examples)
        row["held_out"] = int(x == task.held_out(method, factor) or examples == task.examples(method)[-1])
        found += [{**row, "loss": loss + random.normal(0, noise), "seed": one} for one in range(seeds)]
    return found


def thinned(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the En-De grid with half of its dataset sizes, which are fitted several times as fast."""
    kept = {(method, int(sizes[i])) for method, sizes in EXAMPLES.items() for i in (0, 1, 3, 6, -1)}
    return [row for row in table if (row["method"], row["finetune_examples"]) in kept]


def _settings(tasks: Sequence[str], methods: Sequence[str]) -> Iterator[tuple[str, str, str, float, float]]:
    for name in tasks:
        task = TASKS[name]
        for method in methods:
            for factor in task.laws[method]["factors"]:
                sizes = task.values(method, factor)
                yield from ((name, method, factor, x, n) for x in sizes for n in task.examples(method))


def write(path: Path, table: list[dict[str, Any]]) -> Path:
    """Write rows as CSV and return the path."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path
