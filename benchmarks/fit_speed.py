"""Speed of fits: Chinchilla's law from 4,500 starts next to SciPy in the same run, one law's bootstrap, a study.

    python benchmarks/fit_speed.py                        # all three, SciPy over a tenth of the starts, extrapolated
    python benchmarks/fit_speed.py --fraction=1           # SciPy over all starts
    python benchmarks/fit_speed.py --study                # `fit` and its report on the paper's three tasks only

The points are 245 extracted from Chinchilla's figure if FINETUNE_SCALING_DATA names their folder, otherwise 240
simulated with the published law and noise. SciPy runs L-BFGS-B from each start, in one process with numerical gradients
and in two with analytic ones. Our fit is timed after a first call, when its program is compiled.
"""

import argparse
import multiprocessing
import os
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from scipy.optimize import minimize

import synthetic_points
from finetune_scaling.laws.fitting.huber_fit import FitPoints, FitProblem, FitSettings, multistart_fit
from finetune_scaling.laws.fitting.two_stage import fit_joint
from finetune_scaling.laws.forms.declared import ParameterLayout
from finetune_scaling.laws.forms.library import CHINCHILLA, MULTIPLICATIVE
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.report.study_report import fit_study

DELTA, LARGEST_LEFT_OUT = 1e-3, 5
Points = tuple[np.ndarray, np.ndarray, np.ndarray]


def main() -> None:
    """Print one line per fit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fraction", type=float, default=0.1, help="of the starts that SciPy runs; 1: all")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--study", action="store_true", help="time a study's fit and report instead")
    given = parser.parse_args()
    if given.study:
        time_study()
        return
    points, starts = chinchilla_points(), ParameterLayout(CHINCHILLA).starts()
    ours = time_ours(points, starts)
    chosen = np.random.default_rng(0).permutation(starts)[: max(1, round(len(starts) * given.fraction))]
    for label, analytic, processes in (
        ("numerical gradients, 1 process", False, 1),
        ("analytic, 2 processes", True, 2),
    ):
        seconds, best = time_scipy(points, chosen, analytic, processes)
        total = seconds * len(starts) / len(chosen)
        print(
            f"SciPy, {label}: {total:.1f} s for {len(starts)} starts, {total / ours:.1f} x ours; objective {best:.6e}"
        )
    time_bootstrap(given.resamples)


def chinchilla_points() -> Points:
    """Return (N, D, loss) without the largest losses, as in Besiroglu et al. 2024."""
    folder = os.environ.get("FINETUNE_SCALING_DATA")
    if folder:
        table = pd.read_csv(Path(folder) / "scaling" / "chinchilla" / "svg_extracted_data.csv")
        table = table.sort_values("loss").iloc[:-LARGEST_LEFT_OUT]
        size = table["Model Size"].to_numpy(float)
        return size, table["Training FLOP"].to_numpy(float) / (6 * size), table["loss"].to_numpy(float)
    random = np.random.default_rng(0)
    size, tokens = 10 ** random.uniform(7.8, 10.2, 240), 10 ** random.uniform(9, 12, 240)
    loss = 482.01 / size**0.3478 + 2085.43 / tokens**0.3658 + 1.8172
    return size, tokens, loss * np.exp(random.normal(0, 0.005, 240))


def time_ours(points: Points, starts: np.ndarray) -> float:
    """Return the seconds of the fit from all starts, the least of three after a first."""
    size, tokens, loss = points
    problem = FitProblem(ParameterLayout(CHINCHILLA), FitPoints({"N": size, "D": tokens}, loss))
    times = []
    for _ in range(4):
        began = time.perf_counter()
        _, objectives = multistart_fit(problem.batch(), starts)
        times.append(time.perf_counter() - began)
    print(f"ours: {min(times[1:]):.2f} s for {len(starts)} starts ({times[0]:.1f} s with compilation or its cache)")
    print(f"objective {objectives[0]:.6e}")
    return min(times[1:])


def time_scipy(points: Points, starts: np.ndarray, analytic: bool, processes: int) -> tuple[float, float]:
    """Return the seconds of SciPy's loop over the starts, and the best objective."""
    tasks = [(points, start, analytic) for start in starts]
    context = multiprocessing.get_context("spawn")
    # Each process has one core: more threads slow down the small products of a fit.
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    with context.Pool(processes) as pool:
        pool.map(_scipy_fit, tasks[:processes])  # the processes have started
        began = time.perf_counter()
        values = pool.map(_scipy_fit, tasks, chunksize=16)
        return time.perf_counter() - began, min(values)


def _scipy_fit(task: tuple[Points, np.ndarray, bool]) -> float:
    (size, tokens, loss), start, analytic = task
    log_size, log_tokens, log_loss = np.log(size), np.log(tokens), np.log(loss)

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray] | float:
        e, a, b, alpha, beta = vector
        terms = np.exp(np.stack([np.full(len(loss), e), a - alpha * log_size, b - beta * log_tokens]))
        total = terms.sum(axis=0)
        gap = np.log(total) - log_loss
        clipped = np.clip(gap, -DELTA, DELTA)
        value = float((clipped * (gap - clipped / 2)).sum())
        if not analytic:
            return value
        pull = clipped * terms / total
        slopes = [pull[0].sum(), pull[1].sum(), pull[2].sum(), -(pull[1] @ log_size), -(pull[2] @ log_tokens)]
        return value, np.array(slopes)

    with np.errstate(all="ignore"):
        return float(minimize(objective, start, jac=analytic, method="L-BFGS-B").fun)


def time_study() -> None:
    """Print time and memory of `fit` with its defaults on synthetic points of three tasks with three seeds."""
    with TemporaryDirectory() as folder:
        rows = synthetic_points.rows(0.003, 3, tasks=tuple(synthetic_points.TASKS))
        points, out = synthetic_points.write(Path(folder) / "points.csv", rows), Path(folder) / "report"
        began = time.perf_counter()
        fit_study(points, out)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        page = (out / "report.html").stat().st_size / 1e6
    print(f"{len(rows)} runs: {seconds:.0f} s, {peak:.2f} GiB at most, report.html {page:.2f} MB")


def time_bootstrap(resamples: int) -> None:
    """Print the seconds of one law's fit to one task and method with that many replicates, after a first fit."""
    with TemporaryDirectory() as folder:
        rows = synthetic_points.rows(0.003, 3, methods=("lora",))
        settings = read_points(synthetic_points.write(Path(folder) / "points.csv", rows)).settings
    times = {}
    for count in (40, resamples):
        fit_joint(MULTIPLICATIVE, settings, FitSettings(), 256, Resampling("both", 40))
        began = time.perf_counter()
        fit_joint(MULTIPLICATIVE, settings, FitSettings(), 256, Resampling("both", count))
        times[count] = time.perf_counter() - began
    spent = times[resamples] - times[40]
    print(
        f"bootstrap of the multiplicative law, both stages and in one stage: {times[resamples]:.1f} s in total for "
        f"{resamples} replicates; all but 40 of them took {spent:.1f} s"
    )


if __name__ == "__main__":
    main()
