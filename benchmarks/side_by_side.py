"""Time our decoding and that of other programs in turns, and print a table over shapes and search methods:

    python benchmarks/side_by_side.py --out=decode.json \\
        --peer="Hugging Face, eager=python benchmarks/decode_hugging_face.py --shape {shape} --beams {beams}" ...

A peer is any program that, given --paced, prints "ready" after its warm-up, decodes once for each line on stdin and
answers "done", and prints a JSON line with "median_s" and "tokens_per_s" when stdin closes; {shape} and {beams} are
replaced. After warm-up the programs take turns, one call each, so that drift of the machine affects all of them alike;
before each call the script waits until the machine is idle. The JSON file contains the line of every program.
"""

import argparse
import itertools
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import measuring

OURS = "Finetune Scaling"
PAUSE, PATIENCE = 0.3, 10.0  # seconds: idle time before each turn; longest wait for it


class Peer:
    """A program that decodes on demand."""

    def __init__(self, command: str):
        self._command = command
        self._process = subprocess.Popen(
            [*shlex.split(command), "--paced"], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._wait_for("ready")

    def step(self) -> None:
        """Decode once and return when it is done."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        self._wait_for("done")

    def finish(self) -> dict[str, object]:
        """End the program and return its figures."""
        output, _ = self._process.communicate()
        if self._process.returncode or not output.strip():
            raise SystemExit(f"error: {self._command}: exited with {self._process.returncode} and printed no figures")
        return json.loads(output.strip().splitlines()[-1])

    def _wait_for(self, word: str) -> None:
        assert self._process.stdout is not None
        if not any(line.strip() == word for line in self._process.stdout):
            raise SystemExit(f"error: {self._command}: exited with {self._process.wait()} before it printed {word!r}")


def main() -> None:
    arguments = parse_arguments()
    results = {
        f"{shape}, {'greedy' if beams == 1 else f'{beams} beams'}": in_turns(arguments, shape, beams)
        for shape, beams in itertools.product(arguments.shapes, arguments.beams)
    }
    Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], help="NAME=COMMAND; may be given several times")
    parser.add_argument("--shapes", type=lambda text: text.split(","), default=["s1", "s2"])
    parser.add_argument("--beams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4])
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each program")
    parser.add_argument("--out", required=True, help="JSON file for all figures")
    arguments = parser.parse_args()
    for peer in arguments.peer:
        if "=" not in peer:
            parser.error(f"--peer={peer}: write NAME=COMMAND")
    return arguments


def in_turns(arguments: argparse.Namespace, shape: str, beams: int) -> dict[str, dict[str, object]]:
    """Return the figures of every program for one shape and search, ours first."""
    ours = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).with_name('decode.py')))}"
    commands = {OURS: f"{ours} --shape {{shape}} --beams {{beams}}"}
    commands |= dict(peer.split("=", 1) for peer in arguments.peer)
    peers = {}
    for name, command in commands.items():
        print(f"{shape}, {beams}: warming up {name}", file=sys.stderr, flush=True)
        peers[name] = Peer(command.format(shape=shape, beams=beams))
    order = list(peers.values())
    for turn in range(arguments.rounds):
        for offset in range(len(order)):  # each round begins with another program
            wait_for_quiet()
            order[(turn + offset) % len(order)].step()
    return {name: peer.finish() for name, peer in peers.items()}


def wait_for_quiet() -> None:
    give_up = time.monotonic() + PATIENCE
    while True:
        busy = measuring.busy_elsewhere()
        time.sleep(PAUSE)
        if measuring.busy_elsewhere() - busy <= measuring.DISTURBED * PAUSE + 0.02 or time.monotonic() > give_up:
            return


def table(results: dict[str, dict[str, dict[str, object]]]) -> str:
    """Return a Markdown table: tokens/s of each program, and the ratio of ours to the best other."""
    names = list(next(iter(results.values())))
    lines = [f"| tokens/s | {' | '.join(results)} |", f"|---|{'---|' * len(results)}"]
    for name in names:
        lines.append(f"| {name} | {' | '.join(str(figures[name]['tokens_per_s']) for figures in results.values())} |")
    if len(names) > 1:
        ratios = [_ratio(figures) for figures in results.values()]
        lines.append(f"| {OURS} to the best other | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return "\n".join(lines)


def _ratio(figures: dict[str, dict[str, object]]) -> float:
    seconds = {name: float(figure["median_s"]) for name, figure in figures.items()}  # type: ignore[arg-type]
    return min(value for name, value in seconds.items() if name != OURS) / seconds[OURS]


if __name__ == "__main__":
    main()
