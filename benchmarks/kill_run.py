"""Kill a training run at random moments and compare its result: python benchmarks/kill_run.py --kills=30

Train a small run uninterrupted, then the same run in another directory, killed by SIGKILL and restarted until it ends.
A fraction of the kills (--inside-writes) hits the writing of a checkpoint, the others a random moment. With
--processes=2 the run has two processes; one is killed, and the other must end without help.

Both runs must end bitwise equal: parameters, optimizer state, metrics, scores. Every process that runs long enough must
resume from the newest checkpoint and find none damaged. Prints a JSON summary; exits with 1 if anything differs.
"""

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from finetune_scaling import command
from finetune_scaling.errors import EXIT_FAILED, ConfigError, TrainingError
from finetune_scaling.runs.checkpoints import CHECKPOINTS, checkpoint_steps, read_metadata
from finetune_scaling.runs.metrics import MEASURED
from finetune_scaling.runs.run_directory import RunDirectory
from killing import finish, start, start_together, wait_for

_TINY = Path(__file__).parents[1] / "tests" / "tiny.py"

_METHOD = flags.DEFINE_enum("method", "full", ["full", "lora", "prompt"], "Tuning method of the run.")
_KILLS = flags.DEFINE_integer("kills", 30, "Number of kills.", lower_bound=1)
_INSIDE = flags.DEFINE_float("inside_writes", 0.5, "Fraction of kills while a checkpoint is written.", 0.0, 1.0)
_PROCESSES = flags.DEFINE_integer("processes", 1, "Number of processes of the run.", lower_bound=1)
_STEPS = flags.DEFINE_integer(
    "steps", 1500, "Length of the run; a checkpoint is saved every 10 steps.", lower_bound=100
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random moments.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of both runs; default: a temporary one.")

SAVE_EVERY = 10
SURVIVOR_SECONDS = 120  # time for the other processes to end
TEMPORARY = "*.orbax-checkpoint-tmp*"  # name of an unfinished checkpoint of Orbax


class Moment(NamedTuple):
    """The moment of a kill: after a checkpoint of `step`, during a write if `inside`, and `delay` seconds later."""

    step: int
    inside: bool
    delay: float


def main() -> None:
    """Run both runs and print the summary."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(_WORKDIR.value or temporary)
        if (folder / "killed").exists():
            raise ConfigError(f"{folder / 'killed'} exists; give a new --workdir")
        summary = campaign(folder)
    print(json.dumps(summary, indent=2))
    if not (summary["identical"] and summary["all_resumed_from_the_newest"] and not summary["damaged"]):
        sys.exit(EXIT_FAILED)


def campaign(folder: Path) -> dict[str, Any]:
    """Run both runs in `folder` and return the summary."""
    prepare(folder)
    began = time.monotonic()
    run_to_end(folder, "undisturbed")
    seconds = time.monotonic() - began
    plan = moments(_KILLS.value, _STEPS.value, _INSIDE.value, random.Random(_SEED.value))
    deaths = run_killed(folder, plan)
    expected, found = outcome(folder / "undisturbed"), outcome(folder / "killed")
    same = {name: found[name] == value for name, value in expected.items()}
    return {
        "method": _METHOD.value,
        "steps": _STEPS.value,
        "seed": _SEED.value,
        "processes": _PROCESSES.value,
        "kills": len(deaths),
        "kills_that_left_a_half_written_checkpoint": sum(death["left_half_written"] for death in deaths),
        "kills_before_the_run_resumed": sum(death["resumed_from"] is None for death in deaths),
        "all_resumed_from_the_newest": all(map(resumed_from_newest, deaths, [*deaths[1:], None])),
        "damaged": sum(log.read_text().count("damaged") for log in folder.glob("killed-*.log")),
        "longest_seconds_of_a_survivor": max(death["survived_seconds"] for death in deaths),
        "same": same,
        "identical": all(same.values()),
        "undisturbed_seconds": round(seconds, 1),
        "killed_seconds": round(time.monotonic() - began - seconds, 1),
        "deaths": deaths,
    }


def prepare(folder: Path) -> None:
    """Make the tokenizer and the base model of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, log = folder / "tokenizer", folder / "prepare.log"
    finish(start(log, "prepare", "tokenizer", f"--config={_TINY}:tokenizer", f"--out={tokenizer}"), log)
    base = [f"--config={_TINY}:pretrain", f"--config.tokenizer={tokenizer}", f"--workdir={folder / 'base'}"]
    finish(start(log, "train", *base), log)


def start_run(folder: Path, name: str, number: int) -> tuple[list[subprocess.Popen], list[Path]]:
    """Start the processes of the run for the `number`th time; return them and their log files."""
    logs = [folder / f"{name}-{number}-{process}.log" for process in range(_PROCESSES.value)]
    run = [
        f"--config={_TINY}:{_METHOD.value}",
        f"--config.tokenizer={folder / 'tokenizer'}",
        f"--config.base.run={folder / 'base'}",
        f"--config.limits.max_steps={_STEPS.value}",
        f"--config.checkpoint.every_steps={SAVE_EVERY}",
        f"--config.evaluation.every_steps={_STEPS.value // 10}",
        f"--workdir={folder / name}",
    ]
    return start_together(logs, "train", *run), logs


def run_to_end(folder: Path, name: str, number: int = 0) -> Path:
    """Run to the end and return the log of process 0."""
    processes, logs = start_run(folder, name, number)
    for process, log in zip(processes, logs, strict=True):
        finish(process, log)
    return logs[0]


def moments(kills: int, steps: int, inside: float, rng: random.Random) -> list[Moment]:
    """Return random moments over the run; a fraction `inside` of them during a write."""
    chosen_steps = sorted(rng.randrange(steps - 10 * SAVE_EVERY) for _ in range(kills))
    chosen = set(rng.sample(range(kills), round(inside * kills)))
    delays = [rng.uniform(0, 0.03 if k in chosen else 0.3) for k in range(kills)]
    return [Moment(step, k in chosen, delay) for k, (step, delay) in enumerate(zip(chosen_steps, delays, strict=True))]


def run_killed(folder: Path, plan: list[Moment]) -> list[dict[str, Any]]:
    """Train with a kill at every moment of `plan`, then to the end; return a record of each kill."""
    deaths: list[dict[str, Any]] = []
    rng = random.Random(_SEED.value)
    for number, moment in enumerate(plan):
        processes, logs = start_run(folder, "killed", number)
        deaths.append(kill(folder / "killed", moment, processes, rng.randrange(len(processes))))
        if number:
            deaths[number - 1]["resumed_from"] = resumed_from(logs[0])
    deaths[-1]["resumed_from"] = resumed_from(run_to_end(folder, "killed", len(plan)))
    return deaths


def kill(directory: Path, moment: Moment, processes: list[subprocess.Popen], victim: int) -> dict[str, Any]:
    """Kill one process at a moment and wait until the others have ended."""
    began, before = time.monotonic(), half_written(directory)
    wait_for(processes[victim], lambda: is_due(directory, moment, before))
    time.sleep(moment.delay)
    if processes[victim].poll() is not None:
        raise TrainingError("a process ended before it was killed; give the run more --steps, or read the last log")
    processes[victim].kill()
    died = time.monotonic()
    for process in processes:
        process.wait(SURVIVOR_SECONDS)
    return {
        "after_seconds": round(died - began, 2),
        "victim": victim,
        "aimed_inside_a_write": moment.inside,
        "left_half_written": bool(half_written(directory) - before),
        "newest": next(checkpoint_steps(directory), None),
        "survived_seconds": round(time.monotonic() - died, 2),
    }


def is_due(directory: Path, moment: Moment, before: set[int]) -> bool:
    """Return whether the run has reached a moment, and writes a checkpoint if the moment requires it."""
    if next(checkpoint_steps(directory), 0) < moment.step:
        return False
    return not moment.inside or bool(half_written(directory) - before)


def half_written(directory: Path) -> set[int]:
    """Return the inodes of unfinished checkpoints."""
    found = set()
    for path in (directory / CHECKPOINTS).glob(TEMPORARY):
        try:
            found.add(path.stat().st_ino)
        except FileNotFoundError:  # finished meanwhile
            continue
    return found


def resumed_from(log: Path) -> int | None:
    """Return the step from which a process resumed, according to its log."""
    found = re.search(r"resuming from step (\d+)", log.read_text())
    return int(found[1]) if found else None


def resumed_from_newest(death: dict[str, Any], following: dict[str, Any] | None) -> bool:
    """Return whether the next process resumed from the newest checkpoint, or was killed before it could.

    In the second case it has left no newer and no unfinished checkpoint.
    """
    if death["resumed_from"] is not None or following is None:
        return death["resumed_from"] == death["newest"]
    return following["newest"] == death["newest"] and not following["left_half_written"]


def outcome(directory: Path) -> dict[str, Any]:
    """Return the results of a run without times."""
    run = RunDirectory(directory)
    newest = next(checkpoint_steps(directory))
    return {
        "result": {name: value for name, value in (run.result or {}).items() if name != "seconds"},
        "metrics": [{name: value for name, value in line.items() if name not in MEASURED} for line in run.metrics()],
        "arrays": read_metadata(directory / CHECKPOINTS / str(newest))["arrays_digest"],
        "rows": (directory / "evaluation" / "test.jsonl").read_text(encoding="utf-8"),
    }


if __name__ == "__main__":
    command.run(main)
