"""Differences between our models and those of transformers on tiny random models: logits, loss, gradients, texts.

    python benchmarks/family_parity.py [--json]

The models are those of tests/public_models.py and the comparison that of tests/interop/test_families.py, which bounds
the differences; this prints them. It needs what the tests need (transformers, torch).
"""

import argparse
import json
import os
import runpy
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

TESTS = Path(__file__).parents[1] / "tests"
COLUMNS = ("family", "parameters", "logits", "loss", "gradients", "lora_logits", "lora_gradients", "texts_equal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print a JSON array instead of a table")
    arguments = parser.parse_args()
    made = runpy.run_path(str(TESTS / "interop" / "test_families.py"))
    rows = [measure(made, kind) for kind in made["MADE"]["KINDS"]]
    print(json.dumps(rows, indent=2) if arguments.json else table(rows))


def measure(made: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the differences of one kind of model: absolute for logits, relative for loss and gradients."""
    with tempfile.TemporaryDirectory() as folder:
        model = made["make_model"](kind, Path(folder))
    compute = made["compiled"](model.config)
    plain, tuned = (made["compare"](model, compute, kind, noise) for noise in (0.0, 0.3))
    return {
        "family": kind,
        "parameters": sum(weight.numel() for weight in model.reference.parameters()),
        "logits": plain.logits,
        "loss": plain.loss,
        "gradients": plain.gradients,
        "lora_logits": tuned.logits,
        "lora_gradients": tuned.gradients,
        "texts_equal": made["written"](model) == made["written_by_reference"](model),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return a line per family."""
    cells = [list(COLUMNS), *([_cell(row[name]) for name in COLUMNS] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def _cell(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, float | np.floating) else str(value)


if __name__ == "__main__":
    main()
