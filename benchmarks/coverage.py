"""Coverage of the 90 % intervals of `fit` on synthetic points of the paper's Table 4, on its grid and with its noise.

Each simulation samples the points of one task (three seeds of normal noise), fits the law as `fit` does, and checks for
every parameter whether its interval contains the published value. Prints for each task, method and parameter: coverage
(over the simulations in which it is well determined, and over all), bias and standard deviation of the estimates, how
often it is well determined; and the mean held-out error by factor next to the error due to noise alone.

    python benchmarks/coverage.py --simulations=200
    python benchmarks/coverage.py --tasks=mlsum --methods=prompt --law=multiplicative --json=coverage.json
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import synthetic_points
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.fitting.two_stage import fit_joint
from finetune_scaling.laws.forms.declared import Law
from finetune_scaling.laws.forms.library import law_named
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.uncertainty.bootstrap import KINDS, Resampling

NOISE, SEEDS, PADDED = 0.003, 3, 256


def main() -> None:
    """Print one Markdown table of parameters and one of held-out errors."""
    given = arguments()
    how = Resampling(given.bootstrap, given.resamples)
    rows, errors = [], []
    for task in given.tasks.split(","):
        for method in given.methods.split(","):
            fits = list(simulations(law_named(given.law), task, method, given, how))
            rows += [{"task": task, "method": method, **row} for row in by_parameter(fits, task, method)]
            errors += [
                {"task": task, "method": method, **row} for row in by_factor(fits, given.noise / np.sqrt(given.seeds))
            ]
            if given.json:  # after every method, since all of them take hours
                Path(given.json).write_text(json.dumps({"parameters": rows, "errors": errors}, indent=2))
    print_table(rows)
    print_table(errors)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--tasks", default=",".join(synthetic_points.TASKS))
    parser.add_argument("--methods", default=",".join(synthetic_points.EN_DE))
    parser.add_argument("--law", default="multiplicative")
    parser.add_argument("--noise", type=float, default=NOISE, help="standard deviation between seeds, nats")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--bootstrap", choices=KINDS, default="both")
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--json", help="write the tables here too")
    return parser.parse_args()


def simulations(law: Law, task: str, method: str, given: argparse.Namespace, how: Resampling) -> Iterator[JointFit]:
    """Yield fits of one law to simulated points."""
    started = time.perf_counter()
    for seed in range(given.simulations):
        with TemporaryDirectory() as folder:
            rows = synthetic_points.rows(given.noise, given.seeds, (method,), (task,), seed)
            table = read_points(synthetic_points.write(Path(folder) / "points.csv", rows))
        fitted, _ = fit_joint(law, table.settings, FitSettings(), PADDED, how)
        if fitted is not None:
            yield fitted
        if (seed + 1) % 20 == 0:
            seconds = time.perf_counter() - started
            print(f"{task}, {method}: {seed + 1} simulations, {seconds:.0f} s", file=sys.stderr, flush=True)


def by_parameter(fits: list[JointFit], task: str, method: str) -> Iterator[dict[str, Any]]:
    """Yield one row per parameter: coverage, bias, standard deviation, and how often it is well determined."""
    for name, truth in published(task, method).items():
        values = np.array([fit.parameters[name] for fit in fits])
        determined = np.array([fit.is_well_determined(name) for fit in fits])
        contains = np.array([contains_truth(fit, name, truth) for fit in fits])
        yield {
            "parameter": name,
            "published": truth,
            "coverage": float(contains[determined].mean()) if determined.any() else None,
            "coverage, all": float(contains.mean()),
            "identified": float(determined.mean()),
            "bias": float(values.mean() - truth),
            "standard deviation": float(values.std(ddof=1)),
            "simulations": len(fits),
        }


def by_factor(fits: list[JointFit], noise: float) -> Iterator[dict[str, Any]]:
    """Yield one row per factor: held-out error over the simulations; noise: standard deviation of a setting's mean."""
    for factor in fits[0].factors:
        held_out = np.array([fit.errors["held_out"][factor] for fit in fits])
        fitted = np.array([fit.errors["fitted"][factor] for fit in fits])
        yield {
            "factor": factor,
            "held-out error": float(held_out.mean()),
            "its standard deviation": float(held_out.std(ddof=1)),
            "fitted error": float(fitted.mean()),
            "error of the noise alone": float(noise * np.sqrt(2 / np.pi)),
        }


def published(task: str, method: str) -> dict[str, float]:
    """Return the published values under the names of a fit."""
    law = synthetic_points.TASKS[task].laws[method]
    named = {"E": law["E"], "beta": law["beta"]}
    for factor, (scale, alpha) in law["factors"].items():
        named |= {f"A_{factor}": scale, f"alpha_{factor}": alpha}
    return named


def contains_truth(fit: JointFit, name: str, truth: float) -> bool:
    """Return whether the interval contains the truth; an open side has no bound."""
    interval = fit.interval(name)
    above = interval.low is None or interval.low <= truth
    return above and (interval.high is None or truth <= interval.high)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table."""
    print("|", " | ".join(rows[0]), "|")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("|", " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()), "|")
    print(flush=True)


if __name__ == "__main__":
    main()
