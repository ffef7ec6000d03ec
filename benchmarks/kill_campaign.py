"""Kill commands at random moments: python benchmarks/kill_campaign.py --kills=300 --out=FILE.json

Train, study, convert (import and export), prepare, evaluate and fit run on tiny inputs. Each is run undisturbed once;
then again and again in new directories, killed by SIGKILL at a random moment and repeated until it ends. Every end must
have the undisturbed results, and leave no temporary file and no lock. kill_run.py aims at the writing of checkpoints of
one run, of several processes, too. Prints a JSON summary; exits with 1 if anything differs.
"""

import hashlib
import json
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from absl import app, flags

import forking
from finetune_scaling.runs.metrics import MEASURED
from fuzz_targets import TINY, campaign_folder

_KILLS = flags.DEFINE_integer("kills", 30, "Number of kills.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random moments.")
_JOBS = flags.DEFINE_list("jobs", None, "Names of the commands to kill; default: all.")
_SEEDS = flags.DEFINE_string("seeds", "", "Directory of the inputs, made if it is empty; default: temporary.")
_OUT = flags.DEFINE_string("out", "", "JSON file for the summary.")

LIMITS = forking.Limits(cpu_seconds=600, seconds=1800, memory=32 * 2**30)
LATEST = 1.3  # moments are uniform up to this multiple of the undisturbed seconds
MOST_ATTEMPTS = 40  # in one directory, after which a command is left alone
_LEFT = re.compile(rf"{forking.TEMPORARY.pattern}|\.conversion$")
# Checkpoints are compared by their digests; a study's report shows the times of its runs.
_UNCOMPARED = re.compile(r"environment\.json$|\.lock$|checkpoints/|\.log$|tfevents|run_times\.|report\.html$")
_TIMES = frozenset(("seconds", "fit_seconds", "git_commit", "created", *MEASURED))


@dataclass(frozen=True)
class Job:
    """A command; OUT in its arguments is the directory that it writes. share: of the kills. inputs: copied to OUT."""

    name: str
    share: int
    command: str
    arguments: tuple[str, ...]
    inputs: Path | None = None


@dataclass
class Found:
    """What the kills of one job showed."""

    kills: int = 0
    ends: int = 0
    seconds: float = 0.0
    faults: list[dict[str, Any]] = field(default_factory=list)


def main(_: Sequence[str]) -> None:
    """Run the campaign and print the summary."""
    with campaign_folder(_SEEDS.value) as (temporary, seeds):
        known = {job.name: job for job in jobs(seeds)}
        chosen = [known[name] for name in _JOBS.value or known]
        summary = campaign(chosen, temporary, _KILLS.value, random.Random(_SEED.value))
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    if _OUT.value:
        Path(_OUT.value).write_text(f"{text}\n")
    print(text)
    sys.exit(bool(summary["faults"]))


def jobs(seeds: Path) -> list[Job]:
    """Return the commands that are killed."""
    paths = (f"--config.tokenizer={seeds / 'tokenizer'}", f"--config.base.run={seeds / 'base'}")
    return [
        Job("train", 8, "train", (
            f"--config={TINY}:lora", *paths, "--workdir=OUT", "--config.limits.max_steps=60",
            "--config.evaluation.generate_examples=3")),
        Job("study", 5, "study", (f"--config={seeds / 'configs' / 'small_study.py'}", "--workdir=OUT")),
        Job("convert, import", 5, "convert", (f"--from-hf={seeds / 'model'}", "--out=OUT")),
        Job("convert, export", 3, "convert", (f"--checkpoint={seeds / 'adapted'}", "--to-hf=OUT")),
        Job("prepare", 3, "prepare", ("tokenizer", f"--config={TINY}:tokenizer", "--out=OUT")),
        Job("evaluate", 3, "evaluate", ("--workdir=OUT", "--split=test", "--generate=3", "--again"), seeds / "run"),
        Job("fit", 3, "fit", (
            f"--points={seeds / 'points.csv'}", "--out=OUT", "--resamples=40", "--laws=additive"), seeds / "report"),
    ]  # fmt: skip


def campaign(chosen: Sequence[Job], folder: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill every job its share of times; return the summary."""
    total = sum(job.share for job in chosen)
    found: dict[str, Found] = {}
    began = time.monotonic()
    with forking.progress(kills, "kills") as report:
        for job in chosen:
            found[job.name] = Found()
            wanted = max(1, round(kills * job.share / total))
            expected = run_undisturbed(job, folder / "undisturbed", found[job.name])
            while found[job.name].kills < wanted:
                run_killed(job, folder / "killed", expected, found[job.name], rng, wanted)
                done = sum(one.kills for one in found.values())
                report(min(done, kills), f"{job.name}, {sum(len(one.faults) for one in found.values())} faults")
    return {
        "seed": _SEED.value,
        "kills": sum(one.kills for one in found.values()),
        "ends": sum(one.ends for one in found.values()),
        "seconds": round(time.monotonic() - began),
        "jobs": {
            name: {"kills": one.kills, "ends": one.ends, "undisturbed_seconds": round(one.seconds, 1)}
            for name, one in found.items()
        },
        "faults": [fault for one in found.values() for fault in one.faults],
    }


def run_undisturbed(job: Job, folder: Path, found: Found) -> dict[str, str]:
    """Run a job twice, the second time with compiled programs in the cache; return its results."""
    for _ in range(2):
        out = new_output(job, folder)
        log = folder / "log"
        ended = forking.run(action(job, out), log, LIMITS)
        if ended.code:
            raise SystemExit(f"error: {job.name} failed without a kill:\n{ended.errors[-2000:]}")
    found.seconds = ended.seconds
    return results(out)


def run_killed(job: Job, folder: Path, expected: dict[str, str], found: Found, rng: random.Random, wanted: int) -> None:
    """Run a job in a new directory with kills until it ends, and compare its results."""
    out, moments = new_output(job, folder), []
    log = folder / "log"
    while True:
        log.unlink(missing_ok=True)
        child = forking.start(action(job, out), log, LIMITS)
        moment = rng.uniform(0, LATEST * found.seconds)
        if found.kills < wanted and len(moments) < MOST_ATTEMPTS and forking.outlives(child, moment):
            forking.kill(child)
            forking.wait(child, log, LIMITS)
            found.kills += 1
            moments.append(round(moment, 2))
            continue
        ended = forking.wait(child, log, LIMITS)
        break
    found.ends += 1
    problem = fault_of(ended, expected, out, folder)
    if problem:
        found.faults.append({"job": job.name, "killed_after_seconds": moments, **problem})
        print(json.dumps(found.faults[-1])[:1500], file=sys.stderr, flush=True)


def fault_of(ended: forking.Ended, expected: dict[str, str], out: Path, folder: Path) -> dict[str, Any]:
    """Return what is wrong with the end of a command that was killed before; empty if nothing is."""
    if ended.code:
        return {"fault": f"not restored: exit code {ended.code}", "end": ended.errors[-900:]}
    found = results(out)
    if differing := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        return {"fault": "other results", "files": differing[:10]}
    if left := sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if _LEFT.search(path.name)):
        return {"fault": "temporary files", "files": left[:10]}
    return {}


def new_output(job: Job, folder: Path) -> Path:
    """Return a new output directory in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if job.inputs is not None:
        shutil.copytree(job.inputs, folder / "out")
    return folder / "out"


def action(job: Job, out: Path) -> Callable[[], None]:
    """Return the call that runs a job in a child."""
    arguments = [argument.replace("OUT", str(out)) for argument in job.arguments]
    return lambda: forking.run_command(job.command, arguments)


def results(out: Path) -> dict[str, str]:
    """Return the content of all result files without times and paths, and the digests of all checkpoints."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_file() and not _UNCOMPARED.search(name):
            found[name] = hashlib.sha256(_without_times(path, out)).hexdigest()
        elif path.name == "metadata" and path.parent.name == "facts":
            found[name] = json.loads(path.read_bytes())["arrays_digest"]
    return found


def _without_times(path: Path, out: Path) -> bytes:
    data = path.read_bytes().replace(str(out).encode(), b"OUT")
    if path.suffix == ".json":
        return json.dumps(_drop_times(json.loads(data))).encode()
    if path.suffix == ".jsonl":
        return "\n".join(json.dumps(_drop_times(json.loads(line))) for line in data.splitlines()).encode()
    return data


def _drop_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _drop_times(inner) for name, inner in value.items() if name not in _TIMES}
    return [_drop_times(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    app.run(main)
