"""Kills a training run at random moments and asks for the same result: python benchmarks/kill_run.py --kills=30

Trains a small run undisturbed, then the same in another directory, killed by SIGKILL and started again until it is
done. Of the kills a share (--inside-writes) is aimed at the writing of a checkpoint, the others at any moment. With
--processes=2 the run is two processes, of which one is killed, and the other has to end by itself.

Both runs must end with the same bits: parameters and optimizer state, metrics, scores. Every process that lives long
enough must go on from the newest checkpoint that the killed one left, and find none damaged. Prints a JSON summary;
exits with 1 where anything differs.
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
from finetune_scaling.runs.run_directory import RunDirectory
from killing import finish, start, start_together, wait_for

_TINY = Path(__file__).parents[1] / "tests" / "tiny.py"

_METHOD = flags.DEFINE_enum("method", "full", ["full", "lora", "prompt"], "What the run trains.")
_KILLS = flags.DEFINE_integer("kills", 30, "How often it is killed.", lower_bound=1)
_INSIDE = flags.DEFINE_float("inside_writes", 0.5, "Share of kills aimed at a checkpoint's writing.", 0.0, 1.0)
_PROCESSES = flags.DEFINE_integer("processes", 1, "Processes that train together.", lower_bound=1)
_STEPS = flags.DEFINE_integer(
    "steps", 1500, "Length of the run; a checkpoint is saved every 10 steps.", lower_bound=100
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Where both runs go; default: a directory that is deleted afterwards.")

SAVE_EVERY = 10
SURVIVOR_SECONDS = 120  # within which the other processes must have ended
TEMPORARY = "*.orbax-checkpoint-tmp*"  # what Orbax calls a checkpoint that it writes


class Moment(NamedTuple):
    """When to kill: with a checkpoint of this step there, inside a write or not, and so many seconds after that."""

    step: int
    inside: bool
    delay: float


def main() -> None:
    """Runs the campaign and prints the summary."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(_WORKDIR.value or temporary)
        if (folder / "killed").exists():
            raise ConfigError(f"{folder / 'killed'} exists; give a new --workdir")
        summary = campaign(folder)
    print(json.dumps(summary, indent=2))
    if not (summary["identical"] and summary["all_went_on_from_the_newest"] and not summary["damaged"]):
        sys.exit(EXIT_FAILED)


def campaign(folder: Path) -> dict[str, Any]:
    """Both runs below `folder`; the summary as plain data."""
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
        "kills_before_the_run_went_on": sum(death["went_on_from"] is None for death in deaths),
        "all_went_on_from_the_newest": all(map(went_on, deaths, [*deaths[1:], None])),
        "damaged": sum(log.read_text().count("damaged") for log in folder.glob("killed-*.log")),
        "longest_seconds_of_a_survivor": max(death["survived_seconds"] for death in deaths),
        "same": same,
        "identical": all(same.values()),
        "undisturbed_seconds": round(seconds, 1),
        "killed_seconds": round(time.monotonic() - began - seconds, 1),
        "deaths": deaths,
    }


def prepare(folder: Path) -> None:
    """The tokenizer, and the base that the run starts from."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, log = folder / "tokenizer", folder / "prepare.log"
    finish(start(log, "prepare", "tokenizer", f"--config={_TINY}:tokenizer", f"--out={tokenizer}"), log)
    base = [f"--config={_TINY}:pretrain", f"--config.tokenizer={tokenizer}", f"--workdir={folder / 'base'}"]
    finish(start(log, "train", *base), log)


def start_run(folder: Path, name: str, number: int) -> tuple[list[subprocess.Popen], list[Path]]:
    """Starts the run's processes for the `number`th time; with the files that they log to."""
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
    """Runs until the end; returns the first process's log."""
    processes, logs = start_run(folder, name, number)
    for process, log in zip(processes, logs, strict=True):
        finish(process, log)
    return logs[0]


def moments(kills: int, steps: int, inside: float, rng: random.Random) -> list[Moment]:
    """Spread over the run; those inside writes among the others."""
    places = sorted(rng.randrange(steps - 10 * SAVE_EVERY) for _ in range(kills))
    chosen = set(rng.sample(range(kills), round(inside * kills)))
    delays = [rng.uniform(0, 0.03 if k in chosen else 0.3) for k in range(kills)]
    return [Moment(step, k in chosen, delay) for k, (step, delay) in enumerate(zip(places, delays, strict=True))]


def run_killed(folder: Path, plan: list[Moment]) -> list[dict[str, Any]]:
    """Trains with a kill at every moment of `plan`, then to the end; tells what came of each kill."""
    deaths: list[dict[str, Any]] = []
    rng = random.Random(_SEED.value)
    for number, moment in enumerate(plan):
        processes, logs = start_run(folder, "killed", number)
        deaths.append(kill(folder / "killed", moment, processes, rng.randrange(len(processes))))
        if number:
            deaths[number - 1]["went_on_from"] = went_on_from(logs[0])
    deaths[-1]["went_on_from"] = went_on_from(run_to_end(folder, "killed", len(plan)))
    return deaths


def kill(directory: Path, moment: Moment, processes: list[subprocess.Popen], victim: int) -> dict[str, Any]:
    """Kills one process at a moment and waits for the others' end."""
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
    """Whether the run has come as far as a moment says, and writes a checkpoint of its own where it says so."""
    if next(checkpoint_steps(directory), 0) < moment.step:
        return False
    return not moment.inside or bool(half_written(directory) - before)


def half_written(directory: Path) -> set[int]:
    """Checkpoints that are being written, or were when a process died, by their numbers in the file system."""
    found = set()
    for path in (directory / CHECKPOINTS).glob(TEMPORARY):
        try:
            found.add(path.stat().st_ino)
        except FileNotFoundError:  # it was finished meanwhile
            continue
    return found


def went_on_from(log: Path) -> int | None:
    """The step that a process says it goes on from."""
    found = re.search(r"resuming from step (\d+)", log.read_text())
    return int(found[1]) if found else None


def went_on(death: dict[str, Any], following: dict[str, Any] | None) -> bool:
    """Whether the next process went on from the newest checkpoint, or was itself killed before it came to that.

    Killed so early, it leaves what it found: no newer checkpoint, and no half-written one of its own.
    """
    if death["went_on_from"] is not None or following is None:
        return death["went_on_from"] == death["newest"]
    return following["newest"] == death["newest"] and not following["left_half_written"]


def outcome(directory: Path) -> dict[str, Any]:
    """All that a run leaves behind, but for times."""
    run = RunDirectory(directory)
    newest = next(checkpoint_steps(directory))
    return {
        "result": {name: value for name, value in (run.result or {}).items() if name != "seconds"},
        "metrics": [{name: value for name, value in line.items() if name != "time"} for line in run.metrics()],
        "arrays": read_metadata(directory / CHECKPOINTS / str(newest))["arrays_digest"],
        "rows": (directory / "evaluation" / "test.jsonl").read_text(encoding="utf-8"),
    }


if __name__ == "__main__":
    command.run(main)
