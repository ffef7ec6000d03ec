"""Kills a study with SIGKILL at random moments and compares its points with those of the study left alone.

    python benchmarks/kill_study.py --kills=10 --out=DIR [--config=benchmarks/small_study.py] [--seed=0]

Prints one JSON object; exits with 1 where the two points.csv differ in a single byte.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Runs the campaign that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(Path(__file__).with_name("small_study.py")), help="the study")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, required=True, help="directory for the two studies; emptied first")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)

    began = time.monotonic()
    finish(arguments.config, arguments.out / "alone")
    seconds = time.monotonic() - began
    killed, restarts = kill_and_finish(arguments, seconds)
    points = [(arguments.out / name / "points.csv").read_bytes() for name in ("alone", "killed")]
    equal = points[0] == points[1]
    rows = points[0].count(b"\n") - 1
    print(json.dumps({"equal": equal, "rows": rows, "kills": killed, "starts": restarts, "alone_s": round(seconds, 1)}))
    sys.exit(not equal)


def kill_and_finish(arguments: argparse.Namespace, seconds: float) -> tuple[list[float], int]:
    """Starts the study again and again, each time killing it at a random moment, then lets it end.

    Returns the moments of the kills, in seconds after each start's first line, and the number of starts.
    """
    moments = random.Random(arguments.seed)
    killed: list[float] = []
    starts = 0
    while len(killed) < arguments.kills:
        if (arguments.out / "killed" / "points.csv").exists():
            raise SystemExit(f"the study ended after {len(killed)} kills; give a longer one or fewer kills")
        # Short enough that the kills fit into one study, whose restarts find their programs compiled.
        moment = moments.uniform(0, seconds / 3 / arguments.kills)
        starts += 1
        if kill_after(arguments, moment):
            killed.append(round(moment, 2))
    finish(arguments.config, arguments.out / "killed")
    return killed, starts + 1


def kill_after(arguments: argparse.Namespace, moment: float) -> bool:
    """Starts the study and kills it `moment` seconds after its first line; whether it was still running then."""
    process = subprocess.Popen(command(arguments.config, arguments.out / "killed"), stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.readline()
    try:
        process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def finish(config: str, workdir: Path) -> None:
    """Runs a study to its end; CalledProcessError where it fails."""
    subprocess.run(command(config, workdir), check=True, stdout=subprocess.DEVNULL)


def command(config: str, workdir: Path) -> list[str]:
    """The study command."""
    return [sys.executable, "-m", "finetune_scaling.study", f"--config={config}", f"--workdir={workdir}"]


if __name__ == "__main__":
    main()
