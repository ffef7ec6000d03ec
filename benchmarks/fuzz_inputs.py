"""Damage inputs at random and see how commands end: python benchmarks/fuzz_inputs.py --count=10000 --out=FILE.json

Every input must be accepted, or refused with exit code 2 (or an error's own code) and a message that names the file,
flag or field, within limits of time and memory. A refusal must leave all files as they were, a success all but its
results. --targets selects some targets, --only repeats one input and shows it. Prints counts per target and a line that
repeats each fault; exits with 1 if there are faults.
"""

import collections
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from absl import app, flags

import forking
import mutations
from fuzz_targets import Target, campaign_folder, targets

_COUNT = flags.DEFINE_integer("count", 1000, "Number of inputs.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the damage.")
_TARGETS = flags.DEFINE_list("targets", None, "Names of the targets; default: all.")
_ONLY = flags.DEFINE_string(
    "only", "", "TARGET:NUMBER, a single input, whose folder is kept and whose output is shown."
)
_SEEDS = flags.DEFINE_string("seeds", "", "Directory of the undamaged inputs, made if it is empty; default: temporary.")
_OUT = flags.DEFINE_string("out", "", "JSON file for counts, faults and the shapes of all messages.")

LIMITS = forking.Limits(cpu_seconds=60, seconds=900, memory=10 * 2**30)
MEMORY_MIB = 2000  # more than any of these small inputs needs
SECONDS_BETWEEN_REPORTS = 30.0
Counters: TypeAlias = dict[str, collections.Counter[str]]  # by target
ACCEPTED, REFUSED = "accepted", "refused"
FAULTS = ("traceback", "killed", "slow", "memory", "unnamed", "changed files", "left files")
_ERROR = re.compile(r"^(error|preempted): (.*)", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(
    r"\b(config|line|column|path|task|method|[a-z_]+\.[a-z_]+)\b|^\w+ = "
)  # or one of a config's fields


@dataclass(frozen=True)
class Outcome:
    """How one input ended: ACCEPTED, REFUSED or a fault; what was damaged; the message or the last line."""

    verdict: str
    damage: str
    message: str
    ended: forking.Ended


def main(_: Sequence[str]) -> None:
    """Run the campaign, or one input again."""
    with campaign_folder(_SEEDS.value) as (temporary, seeds):
        known = {target.name: target for target in targets(seeds)}
        if _ONLY.value:
            name, _, number = _ONLY.value.rpartition(":")
            _show(known[name], int(number), seeds)
            return
        chosen = [known[name] for name in _TARGETS.value or known]
        check_undamaged(chosen, seeds, temporary)
        report = campaign(chosen, seeds, temporary)
    print(_table(report))
    sys.exit(bool(report["faults"]))


def campaign(chosen: Sequence[Target], seeds: Path, temporary: Path) -> dict[str, Any]:
    """Run all inputs, interleaved over the targets by their weights; return counts, faults and messages."""
    total = sum(target.weight for target in chosen)
    counts = {target.name: max(1, round(_COUNT.value * target.weight / total)) for target in chosen}
    order = [
        (number / counts[target.name], target, number) for target in chosen for number in range(counts[target.name])
    ]
    verdicts: Counters = {target.name: collections.Counter() for target in chosen}
    shapes: Counters = {target.name: collections.Counter() for target in chosen}
    faults: list[dict[str, Any]] = []
    began = written = time.monotonic()
    with forking.progress(len(order), "inputs") as report:
        for done, (_, target, number) in enumerate(sorted(order, key=lambda one: one[0]), 1):
            case = temporary / "case"
            outcome = run_case(target, number, seeds, case)
            shutil.rmtree(case, ignore_errors=True)
            verdicts[target.name][outcome.verdict] += 1
            shapes[target.name][f"{outcome.verdict}: {_shape(outcome.message)}"] += 1
            if outcome.verdict in FAULTS:
                faults.append(_fault(target, number, outcome))
                print(json.dumps(faults[-1], ensure_ascii=True)[:1500], file=sys.stderr, flush=True)
            report(done, f"{len(faults)} faults")
            if time.monotonic() - written > SECONDS_BETWEEN_REPORTS or done == len(order):
                written = time.monotonic()
                found = _report(done, written - began, verdicts, faults, shapes)
                _write(found)
    return found


def _report(
    inputs: int, seconds: float, verdicts: Counters, faults: Sequence[dict[str, Any]], shapes: Counters
) -> dict[str, Any]:
    return {
        "seed": _SEED.value,
        "inputs": inputs,
        "seconds": round(seconds),
        "counts": verdicts,
        "faults": faults,
        "messages": {name: dict(found.most_common()) for name, found in shapes.items()},
    }


def _write(report: dict[str, Any]) -> None:
    if _OUT.value:
        Path(_OUT.value).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", errors="replace")


def check_undamaged(chosen: Sequence[Target], seeds: Path, temporary: Path) -> None:
    """Exit unless every target accepts its undamaged inputs; otherwise refusals would show nothing."""
    for number, target in enumerate(chosen, 1):
        outcome = run_case(target, None, seeds, temporary / "case")
        shutil.rmtree(temporary / "case", ignore_errors=True)
        if outcome.verdict != ACCEPTED:
            raise SystemExit(
                f"error: {target.name} does not accept its undamaged inputs: {outcome.ended.errors[-2000:]}"
            )
        seconds = f"{outcome.ended.cpu_seconds:.1f} CPU seconds"
        print(f"undamaged: {number} of {len(chosen)}, {target.name}, {seconds}", file=sys.stderr, flush=True)


def run_case(target: Target, number: int | None, seeds: Path, case: Path) -> Outcome:
    """Damage a copy of the target's inputs, run it and classify how it ended. number: None leaves it undamaged."""
    rng = None if number is None else random.Random(f"{_SEED.value} {target.name} {number}")
    case.mkdir(parents=True)
    for name in target.inputs:
        mutations.copy(seeds / name, case / name)
    damage = "" if rng is None else damage_files(rng, target, case)
    before = contents(case)
    log = case.with_name(f"{case.name}.log")
    log.unlink(missing_ok=True)

    def run() -> None:
        os.chdir(case)  # odd values may be relative paths
        target.run(rng, case)

    ended = forking.run(run, log, LIMITS)
    verdict, message = classify(ended, str(case))
    if verdict in (ACCEPTED, REFUSED):
        verdict, message = check_files(verdict, message, before, contents(case), target)
    return Outcome(verdict, damage, message, ended)


def damage_files(rng: random.Random, target: Target, case: Path) -> str:
    """Damage one to three files of a case; return what was done."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        victims = sorted({path for pattern in target.victims for path in case.glob(pattern)})
        victims = [path for path in victims if path.is_file() and not path.is_symlink()]
        if victims:
            done.append(mutations.mutate(rng, rng.choice(victims)))
    return "; ".join(done)


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of every file and link below a folder, and the names of its directories."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "directory"
    return found


def classify(ended: forking.Ended, case: str) -> tuple[str, str]:
    """Return the verdict of a child and its message."""
    last = ended.errors.strip().rpartition("\n")[2]
    error = _ERROR.search(ended.errors)
    if ended.timed_out or ended.code == -24 or ended.cpu_seconds > LIMITS.cpu_seconds:  # SIGXCPU
        return "slow", last
    if "Traceback (most recent call last)" in ended.errors:
        return "traceback", last
    if ended.code < 0:
        return "killed", f"signal {-ended.code}: {last}"
    if ended.peak_mib > MEMORY_MIB:
        return "memory", f"{ended.peak_mib} MiB: {last}"
    if ended.code == 0:
        return ACCEPTED, ""
    message = error[2].strip() if error else last
    if ended.code not in (1, 2) or not error or len(message) < 12 or "\n" in message:
        return "unnamed", f"exit code {ended.code}: {message or ended.errors[-300:]}"
    is_named = case in message or "--" in message or _FIELD.search(message)
    return (REFUSED if is_named else "unnamed"), message


def check_files(
    verdict: str, message: str, before: dict[str, str], after: dict[str, str], target: Target
) -> tuple[str, str]:
    """Return the verdict, or a fault where files were changed that had to stay, or temporary ones were left."""
    allowed = (*target.rewritten, *(target.results if verdict == ACCEPTED else ()))
    kept = set(after.values())
    changed = [
        name for name, digest in before.items()
        if after.get(name) != digest
        and not any(name == one or name.startswith(f"{one}/") for one in allowed)
        and not (digest in kept and any(name.startswith(f"{one}/") for one in target.moved))
    ]  # fmt: skip
    if changed:
        return "changed files", f"{', '.join(changed[:5])} after: {message or verdict}"
    left = [name for name in after.keys() - before.keys() if forking.TEMPORARY.search(name)]
    if left:
        return "left files", f"{', '.join(left[:5])} after: {message or verdict}"
    return verdict, message


def _fault(target: Target, number: int, outcome: Outcome) -> dict[str, Any]:
    again = f"--seed={_SEED.value} --only={shlex.quote(f'{target.name}:{number}')}"
    return {
        "target": target.name,
        "kind": outcome.verdict,
        "damage": outcome.damage,
        "message": outcome.message[:300],
        "end": outcome.ended.errors[-900:] if outcome.verdict in ("traceback", "unnamed", "killed") else "",
        "cpu_seconds": round(outcome.ended.cpu_seconds, 1),
        "peak_mib": outcome.ended.peak_mib,
        "again": f"python benchmarks/fuzz_inputs.py {again}",
    }


def _show(target: Target, number: int, seeds: Path) -> None:
    case = Path(tempfile.mkdtemp(prefix="fuzz-case-")) / "case"
    outcome = run_case(target, number, seeds, case)
    print(f"{case}\ndamage: {outcome.damage}\n{outcome.ended.errors}\n{outcome.verdict}: {outcome.message}")


def _shape(message: str) -> str:
    """Return a message without what differs between inputs."""
    text = re.sub(r"/\S*/", "", message)
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "''", text)
    return re.sub(r"\d[\d.,e+]*", "0", text)[:160]


def _table(report: dict[str, Any]) -> str:
    kinds = [ACCEPTED, REFUSED, *FAULTS]
    lines = [f"{'target':24}" + "".join(f"{kind:>15}" for kind in kinds)]
    for name, found in report["counts"].items():
        lines.append(f"{name:24}" + "".join(f"{found[kind]:>15}" for kind in kinds))
    totals = collections.Counter[str]()
    for found in report["counts"].values():
        totals.update(found)
    lines.append(f"{'all':24}" + "".join(f"{totals[kind]:>15}" for kind in kinds))
    lines += [f"{one['kind']}: {one['again']}  # {one['message'][:100]!r}" for one in report["faults"]]
    return "\n".join([*lines, f"{report['inputs']} inputs in {report['seconds']} s, {len(report['faults'])} faults"])


if __name__ == "__main__":
    app.run(main)
