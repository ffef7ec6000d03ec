"""What the advice of `recommend --next-run` is worth: planted worlds, in which several orders of runs compete.

Every world plants two methods' laws about the paper's and measures a first grid of small runs; then each order picks
runs one after another, until a share of the whole grid's cost is spent, and the law is refitted after each. Prints, per
order, the cost until the choice is right and stays right (as a share of the grid's cost; those that never are count
with the whole allowance), the true regret of the final choice, and how often it is right, each with a 90 % interval
over worlds; and the differences to the advice, world by world.

    python benchmarks/next_run.py --worlds=50
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from finetune_scaling import command
from finetune_scaling.recommendation.advice import NEGLIGIBLE
from finetune_scaling.recommendation.rehearsal import ORDERS, Step, cost_until_right, plant, rehearse


def main() -> None:
    """Prints a Markdown table, a row an order."""
    given = arguments()
    command.enable_compilation_cache()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in given.orders.split(",")}
    started = time.perf_counter()
    for seed in range(given.first, given.first + given.worlds):
        world = plant(seed)
        whole = sum(run.flops for run in world.runs)
        for name, rows in found.items():
            steps = rehearse(world, ORDERS[name], given.share * whole, given.runs)
            rows.append(outcome(steps, given.share, whole))
        print(f"world {seed}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        if given.json:
            Path(given.json).write_text(json.dumps(found, indent=1))
    print_table([{"order": name, **summary(rows, found.get("advice"))} for name, rows in found.items()])


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--worlds", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="seed of the first world")
    parser.add_argument("--share", type=float, default=0.1, help="of the whole grid's cost that may be spent")
    parser.add_argument("--runs", type=int, default=8, help="at most so many runs an order")
    parser.add_argument("--orders", default=",".join(ORDERS))
    parser.add_argument("--json", help="write every world's outcome here")
    return parser.parse_args()


def outcome(steps: list[Step], share: float, whole: float) -> dict[str, float]:
    """One order in one world; costs as shares of the whole grid's."""
    return {
        "cost until right": cost_until_right(steps, share * whole, NEGLIGIBLE) / whole,
        "spent": steps[-1].flops / whole,
        "first regret": steps[0].regret,
        "final regret": steps[-1].regret,
        "right": float(steps[-1].regret <= NEGLIGIBLE),
        "runs": float(len(steps) - 1),
    }


def summary(rows: list[dict[str, float]], advice: list[dict[str, float]] | None) -> dict[str, Any]:
    """Means with 90 % intervals over worlds, and what the order costs more than the advice."""
    found: dict[str, Any] = {name: interval([row[name] for row in rows]) for name in rows[0]}
    for name in ("cost until right", "final regret"):
        if advice is not None:
            found[f"{name}, beyond advice"] = interval(
                [row[name] - best[name] for row, best in zip(rows, advice, strict=True)]
            )
    return found


def interval(values: list[float]) -> str:
    """Mean and 90 % bootstrap interval over worlds."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), size=(5000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.05, 0.95])
    return f"{np.mean(values):.3g} [{low:.3g}, {high:.3g}]"


def print_table(rows: list[dict[str, Any]]) -> None:
    """A Markdown table."""
    print("|", " | ".join(rows[0]), "|")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("|", " | ".join(map(str, row.values())), "|")


if __name__ == "__main__":
    main()
