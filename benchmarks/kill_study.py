"""Kill a study at random moments and compare its points: python benchmarks/kill_study.py --kills=10

Run a study without interruption, then the same study in another directory, killed by SIGKILL and restarted until it
ends, and compare the two points.csv byte for byte. Prints a JSON summary; exits with 1 if they differ.
"""

import hashlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from finetune_scaling import command
from finetune_scaling.errors import EXIT_FAILED
from killing import finish, start, wait_for

_TINY_STUDY = Path(__file__).parents[1] / "tests" / "tiny.py"

_CONFIG = flags.DEFINE_string("config", f"{_TINY_STUDY}:study", "Config of the study to kill.")
_KILLS = flags.DEFINE_integer("kills", 10, "Number of kills.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random moments.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of both studies; default: a temporary one.")


class Undisturbed(NamedTuple):
    """An uninterrupted study: seconds until its config was written, seconds in total, and number of runs."""

    start_seconds: float
    seconds: float
    runs: int


def main() -> None:
    """Run both studies and print the summary."""
    if _WORKDIR.value:
        summary = compare(_CONFIG.value, Path(_WORKDIR.value), _KILLS.value, _SEED.value)
    else:
        with tempfile.TemporaryDirectory() as folder:
            summary = compare(_CONFIG.value, Path(folder), _KILLS.value, _SEED.value)
    print(json.dumps(summary, indent=2))
    if not summary["identical"]:
        sys.exit(EXIT_FAILED)


def compare(config: str, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Run both studies in `folder` and return the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    facts = run_undisturbed(config, undisturbed)
    began = time.monotonic()
    deaths = run_killed(config, killed, facts, moments(facts, kills, random.Random(seed)))
    digests = [hashlib.sha256((study / "points.csv").read_bytes()).hexdigest() for study in (undisturbed, killed)]
    return {
        "config": config,
        "seed": seed,
        "runs": facts.runs,
        "kills": len(deaths),
        "deaths": deaths,
        "identical": digests[0] == digests[1],
        "points_sha256": digests,
        "undisturbed_seconds": round(facts.seconds, 1),
        "killed_seconds": round(time.monotonic() - began, 1),
    }


def run_undisturbed(config: str, workdir: Path) -> Undisturbed:
    """Run the study once. Raises TrainingError if it fails."""
    began = time.monotonic()
    process = start(log_of(workdir), "study", *study_flags(config, workdir))
    wait_for(process, (workdir / "config.json").exists)
    started = time.monotonic() - began
    finish(process, log_of(workdir))
    return Undisturbed(started, time.monotonic() - began, finished_runs(workdir))


def moments(facts: Undisturbed, kills: int, rng: random.Random) -> list[tuple[int, float]]:
    """Return the moments of the kills: (number of finished runs, further seconds)."""
    per_run = facts.seconds / facts.runs
    finished = sorted(rng.randrange(max(1, facts.runs - 2)) for _ in range(kills))
    return [(count, rng.uniform(0, facts.start_seconds + 2 * per_run)) for count in finished]


def run_killed(
    config: str, workdir: Path, facts: Undisturbed, plan: list[tuple[int, float]]
) -> list[dict[str, float | int]]:
    """Run the study with a kill at every moment of `plan`, then to its end; return a record of each kill."""
    deaths: list[dict[str, float | int]] = []
    for count, delay in plan:
        began = time.monotonic()
        process = start(log_of(workdir), "study", *study_flags(config, workdir))
        wait_for(process, lambda count=count: finished_runs(workdir) >= count)  # type: ignore[misc]
        until = time.monotonic() + delay
        wait_for(process, lambda until=until: time.monotonic() >= until)  # type: ignore[misc]
        if process.poll() is not None:
            finish(process, log_of(workdir))
            break
        process.kill()
        process.wait()
        deaths.append({"after_seconds": round(time.monotonic() - began, 2), "finished_runs": finished_runs(workdir)})
    finish(start(log_of(workdir), "study", *study_flags(config, workdir)), log_of(workdir))
    return deaths


def study_flags(config: str, workdir: Path) -> list[str]:
    """Return the flags of the study command."""
    return [f"--config={config}", f"--workdir={workdir}"]


def log_of(workdir: Path) -> Path:
    """Return the log file of a study."""
    return workdir.with_name(f"{workdir.name}.log")


def finished_runs(workdir: Path) -> int:
    """Return the number of finetuning runs with a result."""
    return sum(1 for _ in workdir.glob("runs/*/*/*/result.json"))


if __name__ == "__main__":
    command.run(main)
