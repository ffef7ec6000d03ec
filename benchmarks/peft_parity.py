"""Differences between our adapters and PEFT's on a tiny Llama: logits of one adapter, and losses of ten training steps.

    python benchmarks/peft_parity.py [--json]

The adapters are those of tests/peft_adapters.py and the comparison that of tests/interop, which bound the differences;
this prints them. It needs what the tests need (transformers, torch, peft).
"""

import argparse
import json
import os
import runpy
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest

TESTS = Path(__file__).parents[1] / "tests"
COLUMNS = ("adapter", "logits", "losses")


class Recorder:
    """A pytest plugin that collects the differences that the tests record."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties if report.when == "call" else ():
            kind = report.nodeid.partition("[")[2].removesuffix("]")
            self.rows.setdefault(kind, {})[name] = value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print a JSON array instead of a table")
    arguments = parser.parse_args()
    recorder = Recorder()
    names = [str(TESTS / "interop" / name) for name in ("test_peft.py", "test_peft_training.py")]
    options = ["-q", "-p", "no:cacheprovider", "-k", "exported_again or every_step"]
    with open(os.devnull, "w") as nowhere:
        stdout, sys.stdout = sys.stdout, nowhere
        try:
            status = pytest.main([*names, *options], plugins=[recorder])
        finally:
            sys.stdout = stdout
    kinds = runpy.run_path(str(TESTS / "peft_adapters.py"))["KINDS"]
    rows = [{"adapter": kind, **recorder.rows.get(kind, {})} for kind in kinds]
    print(json.dumps(rows, indent=2) if arguments.json else table(rows))
    sys.exit(status)


def table(rows: list[dict[str, float | str]]) -> str:
    """Return a line per adapter."""
    cell = lambda value: f"{value:.1e}" if isinstance(value, float) else str(value)  # noqa: E731
    cells = [COLUMNS, *([cell(row.get(name, "-")) for name in COLUMNS] for row in rows)]
    return "\n".join("  ".join(value.ljust(24) for value in row).rstrip() for row in cells)


if __name__ == "__main__":
    main()
