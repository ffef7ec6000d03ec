"""Write docs/planning_table.json and print it as a table: python benchmarks/plan_table.py [--prototype]

For each of the paper's sizes, methods and kinds of TPU: the smallest slice that the train step of
configs/finetune/wmt14_en_de.py fits, by the plan command with --search --smallest, which compiles it. Entries of the
file are kept unless --again is given. Each of the 60 entries takes about a minute of one core. --analytic fills missing
entries by the estimate, until the script is run again without it. --prototype prints another table: the memory of the
train step next to that of a plain prototype (scan, full remat, chunked loss, plain attention, Adafactor, FSDP only).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "planning_table.json"
SIZES, METHODS, KINDS = ("1b", "2b", "4b", "8b", "16b"), ("full", "lora", "prompt"), ("v5e", "v6e", "v4", "v5p")
GIB = 2**30
# (size, method, batch, length, slice): the prototype's arguments and temporaries in GiB per chip.
PROTOTYPE = {
    ("16b", "full", 128, 512, "v5e:8x8"): (0.91, 4.49),
    ("16b", "full", 128, 512, "v5p:2x2x2"): (7.20, 23.17),
    ("16b", "lora", 16, 768, "v5e:2x4"): (3.67, 2.53),
    ("16b", "prompt", 16, 768, "v5e:2x4"): (3.60, 2.42),
    ("8b", "lora", 16, 512, "v5e:2x2"): (3.83, 2.28),
    ("1b", "full", 128, 512, "v5e:2x2"): (1.14, 6.20),
    ("1b", "lora", 128, 512, "v5e:2x2"): (0.58, 4.33),
    ("1b", "prompt", 128, 512, "v5e:2x2"): (0.57, 4.39),
}


def main() -> None:
    arguments = parse_arguments()
    if arguments.prototype:
        print_prototype()
        return
    known = {} if arguments.again else stored()
    for name, size, method, kind in entries():
        if kind not in arguments.kinds.split(","):
            continue
        if name in known and (known[name]["compiled"] or arguments.analytic):
            continue
        found = smallest(size, method, kind, arguments.analytic)
        # Other entries are read again: another process may have added some.
        TABLE.write_text(json.dumps(stored() | {name: found}, indent=1) + "\n")
        print(f"{name}: {format_entry(found)}", file=sys.stderr, flush=True)
    if len(table := stored()) == len(entries()):
        print(as_markdown(table))


def stored() -> dict[str, Any]:
    """Return the entries of the file."""
    return json.loads(TABLE.read_text()) if TABLE.exists() else {}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prototype", action="store_true", help="print the comparison with the prototype instead")
    parser.add_argument("--kinds", default=",".join(KINDS), help="compute these kinds of chips only")
    parser.add_argument("--again", action="store_true", help="compute all entries again")
    parser.add_argument("--analytic", action="store_true", help="fill missing entries by the estimate")
    return parser.parse_args()


def entries() -> list[tuple[str, str, str, str]]:
    """Return (name, size, method, kind) of every entry."""
    return [(f"{size},{method},{kind}", size, method, kind) for kind in KINDS for size in SIZES for method in METHODS]


def smallest(size: str, method: str, kind: str, analytic: bool) -> dict[str, Any]:
    """Return the result of the plan command for one entry."""
    flags = [f"--topology={kind}", "--search", "--smallest", *(["--analytic"] if analytic else [])]
    return plan(size, method, *flags)[0]


def plan(size: str, method: str, *flags: str) -> Any:
    """Return the JSON of the plan command."""
    config = f"--config=configs/finetune/wmt14_en_de.py:{size},{method}"
    command = [sys.executable, "-m", "finetune_scaling.plan", config, "--json", *flags]
    done = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def print_prototype() -> None:
    """Print arguments + temporaries of the prototype and of the train step, and the step's peak and compile time."""
    print("| train step | slice | prototype | here | peak | compiled in |\n|---|---|---|---|---|---|")
    for (size, method, batch, length, topology), (arguments, temporaries) in PROTOTYPE.items():
        flags = (f"--topology={topology}", f"--batch={batch}", f"--length={length}", "--training-only")
        found = plan(size, method, *flags, "--config.sharding.fsdp=-1", "--config.model.remat=full")
        here = f"{found['argument_bytes'] / GIB:.2f} + {found['temporary_bytes'] / GIB:.2f}"
        print(
            f"| {size} {method}, {batch} x {length} | {topology} | {arguments:.2f} + {temporaries:.2f} | {here} "
            f"| {found['peak_bytes'] / GIB:.2f} | {found['compile_seconds']:.0f} s |",
            flush=True,
        )


def as_markdown(table: dict[str, Any]) -> str:
    """Return a Markdown table: sizes and methods as rows, kinds of chips as columns."""
    lines = [f"| size | method | {' | '.join(KINDS)} |", f"|---|---|{'---|' * len(KINDS)}"]
    for size in SIZES:
        for method in METHODS:
            row = " | ".join(format_entry(table[f"{size},{method},{kind}"]) for kind in KINDS)
            lines.append(f"| {size} | {method} | {row} |")
    return "\n".join(lines)


def format_entry(plan: dict[str, Any]) -> str:
    """Return slice, mesh (data x fsdp x tensor), microbatches, remat, and the peak per chip in GiB."""
    mesh = "x".join(str(plan["mesh"][axis]) for axis in ("data", "fsdp", "tensor"))
    microbatches = f", {plan['accumulation']} microbatches" if plan["accumulation"] > 1 else ""
    shape = plan["topology"].partition(":")[2]
    known = "" if plan["compiled"] else "estimated "
    return f"**{shape}** ({mesh}{microbatches}, remat {plan['remat']}; {known}{plan['peak_bytes'] / GIB:.1f})"


if __name__ == "__main__":
    main()
