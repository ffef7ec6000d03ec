"""Measure training and decoding on one accelerator, in at most eight minutes: python benchmarks/accelerator.py

It runs train_step.py and decode.py, each figure in a process of its own: train steps of a 1B model with full tuning,
LoRA, prompt tuning and DoRA, LoRA of an 8B model at length 4,096, the implementations of attention, greedy and beam
decoding. Every result is appended to --out (JSON lines) at once, so that a run that is cut short has the earlier ones;
at the end a table is printed. A part that fails or exceeds its time is named with its last line of output.

--peer="NAME=COMMAND" adds programs of others that print a JSON line with tokens_per_s, for example

    --peer="Hugging Face, full=python hf_train.py --shape h200-1b --device cuda --method fmt --variant compile"

--toy measures models of 30K parameters in seconds, to see that everything runs.
"""

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COLUMNS = {
    "tokens_per_s": "tokens/s", "median_s": "seconds", "mfu": "MFU", "warmup_s": "compile and warm-up, s",
    "peak_device_mib": "peak, MiB", "planned_peak_mib": "planned, MiB",
}  # fmt: skip
METHODS = ("full", "lora", "prompt", "dora")
FORMS = {  # implementations of attention on each platform
    "cpu": ("plain", "blockwise"),
    "gpu": ("plain", "blockwise", "cudnn"),
    "tpu": ("plain", "blockwise", "flash"),
}


@dataclasses.dataclass(frozen=True)
class Part:
    """A figure: its name, the command that prints it as a JSON line, and the seconds that it may take."""

    name: str
    command: Sequence[str]
    seconds: float = 75


def parts(platform: str, *, toy: bool) -> list[Part]:
    """Return the parts for a platform of JAX (gpu, tpu, cpu), the most important ones first."""
    small, large, length, long = ("30k", "30k", 64, 64) if toy else ("llama-1b", "llama-8b", 4096, 2048)
    steps = ("--warmup=1", "--steps=2") if toy else ("--warmup=3", "--steps=10")
    decoded = ("--batch=2", "--prompt=8", "--new-tokens=8") if toy else ()
    few = ("--batch=2", f"--length={length}") if toy else ()

    def train(shape: str, method: str, *arguments: str) -> list[str]:
        return _script("train_step", f"--shape={shape}", f"--method={method}", *few, *arguments, *steps)

    def decode(*arguments: str) -> list[str]:
        return _script("decode", f"--shape={small}", *decoded, *arguments, *steps)

    def attention(form: str) -> list[str]:
        return train(small, "lora", f"--attention={form}", "--batch=2", f"--length={long}")

    return [
        *(Part(f"{small}, {method}", train(small, method)) for method in METHODS),
        Part(f"{large}, LoRA of rank 16, length {length:,}", train(large, "lora", "--rank=16"), seconds=150),
        Part(f"{small}, greedy decoding", decode()),
        Part(f"{small}, 4 beams", decode("--beams=4")),
        *(Part(f"{small}, lora, length {long:,}, {form} attention", attention(form)) for form in FORMS[platform]),
    ]


def _script(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(HERE / f"{name}.py"), *arguments]


def run(part: Part, limit: float) -> dict[str, Any]:
    """Run one part; return its figures, or why there are none."""
    try:
        done = subprocess.run(part.command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"part": part.name, "error": f"not done after {limit:.0f} s"}
    except OSError as error:
        return {"part": part.name, "error": str(error)}
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["no output"]
    try:
        return {"part": part.name, **json.loads(lines[-1])} if done.returncode == 0 else _failure(part, lines[-1])
    except ValueError:
        return _failure(part, lines[-1])


def _failure(part: Part, line: str) -> dict[str, Any]:
    return {"part": part.name, "error": line[:300]}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for result in results:
        cells = [_cell(result.get(name)) for name in COLUMNS]
        if "error" in result:
            cells[0] = result["error"]
        lines.append(f"| {result['part']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def platform() -> str:
    """Return JAX's platform, found by another process, since a process that has seen the device holds its memory."""
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: JAX finds no device:\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    arguments = parse_arguments()
    end = time.monotonic() + 60 * arguments.minutes
    results = []
    with arguments.out.open("a") as out:
        for part in [*parts(platform(), toy=arguments.toy), *arguments.peer]:
            left = end - time.monotonic()
            result = run(part, min(part.seconds, left)) if left > 5 else _failure(part, "no time was left")
            results.append(result)
            print(json.dumps(result), file=out, flush=True)
            print(f"{part.name}: {result.get('error') or result['tokens_per_s']}", file=sys.stderr, flush=True)
    print(table(results))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("accelerator.jsonl"), help="file that results are appended to")
    parser.add_argument("--minutes", type=float, default=8, help="after which no part is started or continued")
    parser.add_argument("--toy", action="store_true", help="models of 30K parameters")
    parser.add_argument("--peer", type=_peer, action="append", default=[], help="NAME=COMMAND of another program")
    return parser.parse_args()


def _peer(text: str) -> Part:
    name, separator, command = text.partition("=")
    if not separator or not command.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COMMAND")
    return Part(name, shlex.split(command))


if __name__ == "__main__":
    main()
