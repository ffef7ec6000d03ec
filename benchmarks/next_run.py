"""Simulated studies that compare the advice of `recommend --next-run` with other acquisition policies.

Every study samples the laws of two methods around the published ones and measures an initial grid of small runs; then
each policy picks one run at a time, until a share of the full grid's cost is spent; the law is refitted after each.
Prints for each policy the cost until the choice is right and stays right (as a share of the grid's cost; studies that
never get there count with the full allowance), the true regret of the final choice, and how often it is right, each
with a 90 % interval over studies; and the paired differences from the advice.

    python benchmarks/next_run.py --studies=50
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from acquisition_simulation import POLICIES, Step, cost_until_right, run_policy, simulate_study
from finetune_scaling import process_setup
from finetune_scaling.recommendation.advice import NEGLIGIBLE


def main() -> None:
    """Print a Markdown table with one row per policy."""
    given = arguments()
    process_setup.enable_compilation_cache()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in given.policies.split(",")}
    started = time.perf_counter()
    for seed in range(given.first, given.first + given.studies):
        study = simulate_study(seed)
        total = sum(run.flops for run in study.runs)
        for name, rows in found.items():
            steps = run_policy(study, POLICIES[name], given.share * total, given.runs)
            rows.append(outcome(steps, given.share, total))
        print(f"study {seed}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        if given.json:
            Path(given.json).write_text(json.dumps(found, indent=1))
    print_table([{"policy": name, **summary(rows, found.get("advice"))} for name, rows in found.items()])


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="seed of the first study")
    parser.add_argument("--share", type=float, default=0.1, help="of the full grid's cost that may be spent")
    parser.add_argument("--runs", type=int, default=8, help="at most so many runs per policy")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--json", help="write every study's outcome here")
    return parser.parse_args()


def outcome(steps: list[Step], share: float, total: float) -> dict[str, float]:
    """Return the outcome of one policy in one study; costs are shares of the full grid's."""
    return {
        "cost until right": cost_until_right(steps, share * total, NEGLIGIBLE) / total,
        "spent": steps[-1].flops / total,
        "first regret": steps[0].regret,
        "final regret": steps[-1].regret,
        "right": float(steps[-1].regret <= NEGLIGIBLE),
        "runs": float(len(steps) - 1),
    }


def summary(rows: list[dict[str, float]], advice: list[dict[str, float]] | None) -> dict[str, Any]:
    """Return means with 90 % intervals over studies, and what the policy costs more than the advice."""
    found: dict[str, Any] = {name: interval([row[name] for row in rows]) for name in rows[0]}
    for name in ("cost until right", "final regret"):
        if advice is not None:
            found[f"{name}, beyond advice"] = interval(
                [row[name] - best[name] for row, best in zip(rows, advice, strict=True)]
            )
    return found


def interval(values: list[float]) -> str:
    """Return mean and 90 % bootstrap interval over studies."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), size=(5000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.05, 0.95])
    return f"{np.mean(values):.3g} [{low:.3g}, {high:.3g}]"


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table."""
    print("|", " | ".join(rows[0]), "|")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("|", " | ".join(map(str, row.values())), "|")


if __name__ == "__main__":
    main()
